//! Whether a namespace is still that of a cgroup's processes.

use std::{fs, os::unix::fs::MetadataExt, path::Path};

use crate::host::cgroup::processes;

/// Where the processes of a cgroup are, seen from a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Residence {
    /// One of them at least is in it, or that is not known.
    Here,
    /// None of them is in it.
    Elsewhere,
    /// There are none.
    Empty,
}

/// Where the processes in a cgroup and below it are, seen from the namespace with this inode number.
/// Ends with the first one that is inside.
#[must_use]
pub fn residence(cgroup: &Path, netns: u64) -> Residence {
    let Ok(processes) = processes(cgroup) else { return Residence::Here };
    let mut found = Residence::Empty;
    for pid in processes {
        // cgroups(7): processes of other PID namespaces are listed as 0.
        if pid == 0 {
            return Residence::Here;
        }
        // One that has just ended is in none.
        let Ok(file) = fs::metadata(format!("/proc/{pid}/ns/net")) else { continue };
        if file.ino() == netns {
            return Residence::Here;
        }
        found = Residence::Elsewhere;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::{super::testing::fresh, *};
    use crate::{capture::Netns, host::cgroup::Transient};

    #[test]
    fn a_cgroup_without_processes_has_no_residents() {
        let cgroup = Transient::create(&format!("weirt-{}-residents", std::process::id())).unwrap();
        let own = Netns::own().unwrap().inode();
        assert_eq!(residence(cgroup.path(), own), Residence::Empty);
        let mut command = std::process::Command::new("sleep");
        command.arg("60");
        cgroup.enter(&mut command).unwrap();
        let mut sleeper = command.spawn().unwrap();
        assert_eq!(residence(cgroup.path(), own), Residence::Here);
        assert_eq!(residence(cgroup.path(), fresh().inode()), Residence::Elsewhere);
        sleeper.kill().unwrap();
        sleeper.wait().unwrap();
    }
}
