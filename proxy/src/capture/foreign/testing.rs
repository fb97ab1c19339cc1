//! cgroups and programs for tests; they need root.

use std::{
    fs::{self, File},
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    path::{Path, PathBuf},
};

use crate::{
    capture::{
        bpf::AttachType,
        query,
        trial::{Instruction, load},
    },
    host::cgroup,
};

const BPF_LINK_CREATE: libc::c_long = 28;
pub(crate) const CGROUP_SOCK_ADDR: u32 = 18;
/// `enum bpf_prog_type`.
pub(crate) const CGROUP_SKB: u32 = 8;

/// A cgroup; removed on drop.
pub(crate) struct Group(pub(crate) PathBuf);

impl Group {
    pub(crate) fn new(parent: &Path, name: &str) -> Self {
        let path = parent.join(name);
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    /// Below the root, with the process id in its name.
    pub(crate) fn top(name: &str) -> Self {
        Self::new(&cgroup::mount_point().unwrap(), &format!("weirt-{}-{name}", std::process::id()))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        fs::remove_dir(&self.0).unwrap();
    }
}

/// A connect4 program that lets everything pass, attached by a link until dropped.
pub(crate) fn attached(cgroup: &Path, name: &str) -> (u32, OwnedFd) {
    attached_to(cgroup, (CGROUP_SOCK_ADDR, AttachType::Connect4), name)
}

/// The same on any hook.
pub(crate) fn attached_to(
    cgroup: &Path,
    (kind, at): (u32, AttachType),
    name: &str,
) -> (u32, OwnedFd) {
    let pass = [Instruction::answer(1), Instruction::EXIT];
    let hook = at as u32;
    let program = load((kind, hook), name, &pass).unwrap();
    let dir = File::open(cgroup).unwrap();
    let [program_fd, dir_fd] =
        [program.as_raw_fd(), dir.as_raw_fd()].map(|fd| u32::try_from(fd).unwrap());
    let attr: [u32; 4] = [program_fd, dir_fd, hook, 0];
    // SAFETY: `link_create` of `union bpf_attr`: program, target, attach type, flags.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, BPF_LINK_CREATE, attr.as_ptr(), 16) };
    assert!(fd >= 0, "{}", io::Error::last_os_error());
    // SAFETY: just made.
    let link = unsafe { OwnedFd::from_raw_fd(i32::try_from(fd).unwrap()) };
    // The newest comes last.
    let id = query::cgroup_programs(cgroup, at, false).unwrap().pop().unwrap().id;
    (id, link)
}
