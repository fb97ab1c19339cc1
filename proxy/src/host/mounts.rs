//! Which file systems are mounted where: never guessed, always read from mountinfo.

use std::{
    ffi::CStr,
    fs, io,
    os::fd::{AsFd as _, OwnedFd},
    path::{Path, PathBuf},
};

use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, FsType, statfs};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

/// The table of mounts cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {TABLE}: {0}; check that /proc is mounted")]
pub struct Unreadable(#[source] io::Error);

const TABLE: &str = "/proc/self/mountinfo";

/// Where the root of a file system of this type (`bpf`, `cgroup2`) is mounted first, from
/// `/proc/self/mountinfo` (proc_pid_mountinfo(5)), and nothing else over it; `None` where it is not.
///
/// # Errors
/// Where mountinfo cannot be read.
pub(crate) fn first(kind: &str) -> Result<Option<PathBuf>, Unreadable> {
    Ok(find(&table()?, kind).find(|path| is(path, kind)))
}

/// Every place where a file system of this type, or a part of it, is mounted and nothing over it.
///
/// # Errors
/// As [`first`].
pub(crate) fn all(kind: &str) -> Result<Vec<PathBuf>, Unreadable> {
    let mut found: Vec<PathBuf> = Vec::new();
    for (path, _) in mounts(&table()?, kind) {
        if !found.contains(&path) && is(&path, kind) {
            found.push(path);
        }
    }
    Ok(found)
}

fn table() -> Result<String, Unreadable> {
    fs::read_to_string(TABLE).map_err(Unreadable)
}

/// A new file system of this type that is mounted nowhere and goes with the descriptor (fsopen(2),
/// fsmount(2), since Linux 5.2).
///
/// # Errors
/// What the kernel says: EPERM without `CAP_SYS_ADMIN`, ENODEV for a type that it does not have.
pub(crate) fn detached(kind: &CStr) -> io::Result<OwnedFd> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(context.as_fd())?;
    let flags = FsMountFlags::FSMOUNT_CLOEXEC;
    Ok(fsmount(context.as_fd(), flags, MountAttrFlags::empty())?)
}

/// Whether what is seen at a path is of this type.
fn is(path: &Path, kind: &str) -> bool {
    let magic = match kind {
        "bpf" => FsType(libc::BPF_FS_MAGIC),
        _ => CGROUP2_SUPER_MAGIC,
    };
    statfs(path).is_ok_and(|found| found.filesystem_type() == magic)
}

fn find<'a>(mountinfo: &'a str, kind: &'a str) -> impl Iterator<Item = PathBuf> + 'a {
    mounts(mountinfo, kind).filter_map(|(path, root)| (root == "/").then_some(path))
}

/// Mount points, each with what of the file system is mounted there.
fn mounts<'a>(mountinfo: &'a str, kind: &'a str) -> impl Iterator<Item = (PathBuf, &'a str)> + 'a {
    mountinfo.lines().filter_map(move |line| {
        let (left, right) = line.split_once(" - ")?;
        (right.split(' ').next()? == kind).then_some(())?;
        let mut fields = left.split(' ').skip(3);
        let root = fields.next()?;
        Some((PathBuf::from(unescape(fields.next()?)), root))
    })
}

/// Undoes the octal escapes of mountinfo (`\040` is a space).
fn unescape(field: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(field.to_owned(), |text, (escape, plain)| text.replace(escape, plain))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd as _;

    use super::*;

    #[test]
    fn the_mount_is_found_wherever_it_is() {
        let text = "30 24 0:26 / /sys/fs/cgroup ro - tmpfs tmpfs ro\n\
                    31 30 0:27 / /sys/fs/cgroup/uni\\040fied rw shared:9 - cgroup2 cgroup2 rw\n";
        let first = |text, kind| find(text, kind).next();
        assert_eq!(first(text, "cgroup2"), Some(PathBuf::from("/sys/fs/cgroup/uni fied")));
        assert_eq!(first(text, "bpf"), None);
        assert_eq!(first("1 2 0:3 /sub /x rw - cgroup2 c rw\n", "cgroup2"), None);
        assert_eq!(first("", "bpf"), None);
    }

    /// As in a container with a cgroup namespace of its own and the node's hierarchy beside it.
    #[test]
    fn parts_of_a_file_system_are_mounts_too() {
        let text = "31 30 0:27 / /sys/fs/cgroup ro - cgroup2 cgroup ro\n\
                    32 30 0:27 /../../.. /host/cgroup ro - cgroup2 cgroup2 rw\n";
        let all: Vec<_> = mounts(text, "cgroup2").collect();
        assert_eq!(all, [("/sys/fs/cgroup".into(), "/"), ("/host/cgroup".into(), "/../../..")]);
        assert_eq!(find(text, "cgroup2").collect::<Vec<_>>(), [PathBuf::from("/sys/fs/cgroup")]);
    }

    #[test]
    fn a_file_system_that_is_mounted_nowhere_can_be_read() {
        if !nix::unistd::geteuid().is_root() {
            assert!(detached(c"proc").is_err());
            return;
        }
        let proc = detached(c"proc").unwrap();
        let version = format!("/proc/self/fd/{}/version", proc.as_raw_fd());
        assert_eq!(fs::read(version).unwrap(), fs::read("/proc/version").unwrap());
        assert!(detached(c"no such file system").is_err());
    }

    #[test]
    fn what_is_mounted_over_counts() {
        assert!(!is(Path::new("/proc"), "bpf"));
        let cgroup2 = first("cgroup2").unwrap();
        assert!(cgroup2.is_none_or(|path| is(&path, "cgroup2") && !is(&path, "bpf")));
    }
}
