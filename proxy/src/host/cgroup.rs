//! cgroup v2: where it is mounted, weir's own cgroup, and transient cgroups for `weir exec`.

use std::{
    fs, io,
    os::unix::{fs::MetadataExt, process::CommandExt},
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    sys::{
        statfs::{CGROUP_SUPER_MAGIC, statfs},
        statvfs::{FsFlags, statvfs},
    },
};

use super::{HostError, mounts, pods};

/// A cgroup made by weir, removed when dropped. Processes still in it are moved to its parent.
#[derive(Debug)]
pub struct Transient {
    path: PathBuf,
}

// === impl Transient ===

impl Transient {
    /// Makes a cgroup below weir's own.
    ///
    /// # Errors
    /// Without a cgroup2 mount, or where the directory cannot be made.
    pub fn create(name: &str) -> Result<Self, HostError> {
        let path = own()?.join(name);
        fs::create_dir(&path).map_err(|source| HostError::Cgroup {
            action: "create",
            path: path.clone(),
            source,
            hint: "; run as root",
        })?;
        Ok(Self { path })
    }

    /// The cgroup's directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes `command` start inside this cgroup, so that not even its first connection is missed.
    ///
    /// # Errors
    /// Where the cgroup cannot be entered.
    pub fn enter(&self, command: &mut Command) -> Result<(), HostError> {
        let procs = fs::OpenOptions::new()
            .write(true)
            .open(self.path.join("cgroup.procs"))
            .map_err(|source| HostError::Cgroup {
                action: "enter",
                path: self.path.clone(),
                source,
                hint: "",
            })?;
        // SAFETY: write(2) is async-signal-safe, and the closure owns the descriptor.
        unsafe {
            command
                .pre_exec(move || nix::unistd::write(&procs, b"0").map(drop).map_err(Into::into));
        }
        Ok(())
    }

    /// Releases the processes: moves them to the parent cgroup, whose connections no weir
    /// captures, and removes this one.
    pub fn release(self) {}

    fn evacuate(&self) {
        let Some(parent) = self.path.parent() else { return };
        let Ok(pids) = fs::read_to_string(self.path.join("cgroup.procs")) else { return };
        for pid in pids.lines() {
            let _ = fs::write(parent.join("cgroup.procs"), pid);
        }
    }
}

impl Drop for Transient {
    fn drop(&mut self) {
        // A process that forks while it is moved can leave a child behind: look again.
        for _ in 0..100 {
            self.evacuate();
            match fs::remove_dir(&self.path) {
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                    std::thread::sleep(std::time::Duration::from_millis(10));
                }
                _ => return,
            }
        }
        tracing::warn!(cgroup = %self.path.display(), "cannot remove cgroup: still in use");
    }
}

// === helpers ===

/// The first cgroup2 mount point.
///
/// # Errors
/// Where there is none.
pub fn mount_point() -> Result<PathBuf, HostError> {
    mounts::first("cgroup2")?.ok_or(HostError::NoCgroup2)
}

/// Whether a process may be in a cgroup or below it. The cgroup at the root does not say, and has some; one
/// that was removed has none.
#[must_use]
pub fn may_have_processes(path: &Path) -> bool {
    match fs::read_to_string(path.join("cgroup.events")) {
        Ok(events) => events.lines().any(|line| line == "populated 1"),
        Err(_) => path.exists(),
    }
}

/// Where cgroup2 is mounted privately: the first that is a directory. A `/sys` that was mounted anew has
/// the second; where the second has the hierarchies of version 1, the first is there too.
const PRIVATE: [&str; 3] = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup", "/mnt"];

/// Makes cgroup v2 visible where it is not, as inside `ip netns exec`, which mounts another `/sys`: in
/// a mount namespace of the calling thread's own, and of those that it starts from now on. To be
/// called on the first thread: `/proc/self` shows its mounts.
///
/// # Errors
/// [`HostError::NoCgroup2`] where that is not permitted.
pub fn reveal() -> Result<(), HostError> {
    if !mounts::all("cgroup2")?.is_empty() {
        return Ok(());
    }
    let none = None::<&str>;
    let point = PRIVATE.iter().find(|path| Path::new(path).is_dir()).ok_or(HostError::NoCgroup2)?;
    let mounted = unshare(CloneFlags::CLONE_NEWNS)
        .and_then(|()| mount(none, "/", none, MsFlags::MS_SLAVE | MsFlags::MS_REC, none))
        .and_then(|()| mount(Some("cgroup2"), *point, Some("cgroup2"), MsFlags::empty(), none));
    mounted.map_err(|_| HostError::NoCgroup2)
}

/// The directory of weir's own cgroup.
///
/// # Errors
/// Without cgroup v2, and where no mount of it shows weir's own.
pub fn own() -> Result<PathBuf, HostError> {
    let text = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let relative = text
        .lines()
        .find_map(|line| line.strip_prefix("0::"))
        .unwrap_or("/")
        .trim_start_matches('/');
    let error = match mount_point() {
        Ok(mount) => return Ok(mount.join(relative)),
        Err(error) => error,
    };
    // In a cgroup namespace of its own, with nothing but the node's hierarchy mounted, the path
    // says nothing. All of the node's cgroups are looked through, once: containers are not moved.
    static FOUND: OnceLock<PathBuf> = OnceLock::new();
    if let Some(own) = FOUND.get() {
        return Ok(own.clone());
    }
    let pid = std::process::id();
    let own = mounts::all("cgroup2")?.iter().find_map(|mount| holder(mount, pid)).ok_or(error)?;
    Ok(FOUND.get_or_init(|| own).clone())
}

/// Whether no cgroup can be made below weir's own, because it is mounted read-only: as in a container
/// that is not privileged.
#[must_use]
pub fn is_read_only() -> bool {
    own().is_ok_and(|own| {
        statvfs(&own).is_ok_and(|found| found.flags().contains(FsFlags::ST_RDONLY))
    })
}

/// The cgroup of a process, at or below another.
pub(super) fn holder(cgroup: &Path, pid: u32) -> Option<PathBuf> {
    // Threads only, gone, or not ours to read: then it is not there that we are.
    let listed = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    if listed.lines().any(|line| line.parse() == Ok(pid)) {
        return Some(cgroup.to_owned());
    }
    let below = pods::containers(cgroup).unwrap_or_default();
    below.iter().find_map(|below| holder(below, pid))
}

/// All cgroups below a cgroup, each before those below it. What was removed meanwhile, or cannot be read,
/// is left out with what is below it.
pub(crate) fn descendants(cgroup: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for below in pods::containers(cgroup).unwrap_or_default() {
        let deeper = descendants(&below);
        found.push(below);
        found.extend(deeper);
    }
    found
}

/// The processes in a cgroup and below; 0 for each that is in another PID namespace.
///
/// # Errors
/// Where the cgroup is not there or may not be read.
pub fn processes(cgroup: &Path) -> Result<Vec<u32>, HostError> {
    let read = match fs::read_to_string(cgroup.join("cgroup.procs")) {
        // A threaded cgroup (cgroups(7)) names threads only; those have namespaces too.
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
            fs::read_to_string(cgroup.join("cgroup.threads"))
        }
        read => read,
    };
    let text = read.map_err(|source| HostError::Cgroup {
        action: "list the processes of",
        path: cgroup.into(),
        source,
        hint: "; use the directory of an existing cgroup below the cgroup2 mount",
    })?;
    let mut found: Vec<u32> = text.lines().filter_map(|pid| pid.parse().ok()).collect();
    for below in pods::containers(cgroup).unwrap_or_default() {
        match processes(&below) {
            Ok(more) => found.extend(more),
            // It was removed meanwhile, and so had no processes.
            Err(HostError::Cgroup { source, .. }) if is_gone(&source) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// True of the errors that a process or cgroup gives which has just ended.
pub(crate) fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH | libc::ENODEV))
}

/// The kernel's id of a cgroup: the inode of its directory on 64-bit machines
/// (kernel/cgroup/cgroup.c, `cgroup_id`).
///
/// # Errors
/// Where the directory is not there or is no cgroup.
pub fn id(path: &Path) -> Result<u64, HostError> {
    let error =
        |source, hint| HostError::Cgroup { action: "open", path: path.into(), source, hint };
    let metadata = fs::metadata(path).map_err(|source| {
        error(source, "; use the directory of an existing cgroup below the cgroup2 mount")
    })?;
    if is_first_version(path) {
        return Err(error(
            io::Error::new(io::ErrorKind::InvalidInput, "a cgroup of version 1"),
            "; weir captures cgroups of version 2: use a directory below the cgroup2 mount, which \
             `findmnt -t cgroup2` shows",
        ));
    }
    if !path.join("cgroup.procs").exists() {
        return Err(error(
            io::Error::new(io::ErrorKind::InvalidInput, "not a cgroup"),
            "; use a directory below the cgroup2 mount",
        ));
    }
    Ok(metadata.ino())
}

/// Whether a cgroup can come into being at a path: the nearest directory above that exists is one.
#[must_use]
pub fn is_possible(path: &Path) -> bool {
    let above = path.ancestors().skip(1).find(|above| above.exists());
    above.is_some_and(|above| above.join("cgroup.procs").exists() && !is_first_version(above))
}

/// Whether a directory is in a hierarchy of cgroups of version 1, which no program can be attached to.
fn is_first_version(path: &Path) -> bool {
    statfs(path).is_ok_and(|found| found.filesystem_type() == CGROUP_SUPER_MAGIC)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_below_a_cgroup_one_can_come_into_being() {
        let root = mount_point().unwrap();
        assert!(is_possible(&root.join("no-such-slice/no-such.service")));
        assert!(!is_possible(Path::new("/no-such-directory/no-such.service")));
        assert!(!is_possible(&std::env::temp_dir().join("no-such.service")));
    }

    #[test]
    fn a_process_is_found_wherever_it_is_below() {
        let root = tempfile::tempdir().unwrap();
        let own = root.path().join("pods/this");
        for path in [root.path().join("pods/other"), own.clone()] {
            fs::create_dir_all(&path).unwrap();
            fs::write(path.join("cgroup.procs"), "1\n").unwrap();
        }
        fs::write(own.join("cgroup.procs"), "1\n4711\n").unwrap();
        assert_eq!(holder(root.path(), 4711), Some(own));
        assert_eq!(holder(root.path(), 471), None);
    }
}
