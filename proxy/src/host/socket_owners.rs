//! Listening sockets of other processes: which process has each open, and a copy of the descriptor.
//!
//! pidfd_getfd(2), since Linux 5.6, asks for the right to trace the process (`CAP_SYS_PTRACE`, or
//! the same user; `__pidfd_fget` in kernel/pid.c). Processes that cannot be seen or asked are skipped.

use std::{
    collections::{HashMap, HashSet},
    fs, io,
    os::fd::{OwnedFd, RawFd},
    path::Path,
};

use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use socket2::SockRef;

use super::cgroup::processes;

/// What sock_diag(7) tells of a socket, to know it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct SocketId {
    /// Its inode in sockfs, as `/proc/PID/fd` shows it. Numbers come again after 2³² sockets.
    pub(crate) inode: u32,
    /// Its cookie (`SO_COOKIE`): no other socket ever has it.
    pub(crate) cookie: u64,
}

/// Hands a copy of each wanted socket that some process has open to `found`, which closes it by
/// dropping it. Looks among the processes of the cgroup and below, and for what none of those has
/// (a socket that was handed on, a process that was moved) among all.
pub(crate) fn visit(
    wanted: &HashSet<SocketId>,
    cgroup: &Path,
    mut found: impl FnMut(SocketId, &OwnedFd),
) {
    let mut missing: HashMap<u32, u64> = wanted.iter().map(|id| (id.inode, id.cookie)).collect();
    let classes = network_classes("self");
    for processes in [members, |_: &Path| everybody()] {
        for pid in if missing.is_empty() { Vec::new() } else { processes(cgroup) } {
            // No classes could be read: as good as different ones.
            if network_classes(&pid.to_string()) == classes && classes.is_some() {
                visit_process(pid, &mut missing, &mut found);
            }
        }
    }
}

// === helpers ===

fn visit_process(
    pid: i32,
    missing: &mut HashMap<u32, u64>,
    found: &mut impl FnMut(SocketId, &OwnedFd),
) {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { return };
    let mut process = None;
    for entry in entries.filter_map(Result::ok) {
        let Some(inode) = fs::read_link(entry.path()).ok().as_deref().and_then(socket_inode) else {
            continue;
        };
        let Some(cookie) = missing.get(&inode).copied() else { continue };
        let Some(number) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        match copy(pid, number, &mut process) {
            // Descriptor and process may be others' by now.
            Ok(socket) if is_listener(&socket, cookie) => {
                missing.remove(&inode);
                found(SocketId { inode, cookie }, &socket);
            }
            Ok(_) => {}
            Err(error) => tracing::debug!(pid, fd = number, %error, "cannot duplicate the \
                 descriptor of a socket"),
        }
    }
}

/// The inode in `socket:[INODE]`.
pub(crate) fn socket_inode(link: &Path) -> Option<u32> {
    link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

fn is_listener(socket: &OwnedFd, cookie: u64) -> bool {
    let socket = SockRef::from(socket);
    socket.cookie().is_ok_and(|own| own == cookie)
        && socket.is_listener().is_ok_and(|listens| listens)
}

/// The processes of a cgroup and of all below it, as far as they are visible.
fn members(cgroup: &Path) -> Vec<i32> {
    let found = processes(cgroup).unwrap_or_default().into_iter();
    found.filter(|pid| *pid != 0).filter_map(|pid| pid.try_into().ok()).collect()
}

fn everybody() -> Vec<i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().filter_map(Result::ok);
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// A process's places in the hierarchies of net_cls and net_prio (cgroup v1). A process that receives a
/// socket gives it its own classes (`__receive_sock` in net/core/scm.c or fs/file.c), so that a socket
/// of other classes must be left alone. Empty where they are not mounted; `None` where the process
/// is gone or hidden.
fn network_classes(pid: &str) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let of_network = |line: &&str| {
        let controllers = line.split(':').nth(1).unwrap_or_default();
        controllers.split(',').any(|name| matches!(name, "net_cls" | "net_prio"))
    };
    Some(text.lines().filter(of_network).map(str::to_owned).collect())
}

/// A copy of a process's descriptor, with close-on-exec. `process` keeps its pidfd.
fn copy(pid: i32, number: RawFd, process: &mut Option<OwnedFd>) -> io::Result<OwnedFd> {
    let process = match process {
        Some(process) => process,
        None => {
            let pid = Pid::from_raw(pid).ok_or(io::ErrorKind::NotFound)?;
            process.insert(pidfd_open(pid, PidfdFlags::empty())?)
        }
    };
    Ok(pidfd_getfd(&*process, number, PidfdGetfdFlags::empty())?)
}

#[cfg(test)]
mod tests {
    use std::{
        net::TcpListener,
        os::{fd::AsRawFd, unix::fs::MetadataExt},
        process::{Child, Command, Stdio},
    };

    use super::*;
    use crate::host::cgroup::Transient;

    fn id(listener: &TcpListener) -> SocketId {
        let link = fs::read_link(format!("/proc/self/fd/{}", listener.as_raw_fd())).unwrap();
        let cookie = SockRef::from(listener).cookie().unwrap();
        SocketId { inode: socket_inode(&link).unwrap(), cookie }
    }

    fn seen(wanted: &[SocketId], cgroup: &Path) -> Vec<SocketId> {
        let mut seen = Vec::new();
        visit(&wanted.iter().copied().collect(), cgroup, |id, socket| {
            let inode = u64::from(id.inode);
            assert_eq!(
                fs::metadata(format!("/proc/self/fd/{}", socket.as_raw_fd())).unwrap().ino(),
                inode
            );
            seen.push(id);
        });
        seen
    }

    /// A process in a cgroup that has a listener open as its standard input, and no other has.
    fn holder(cgroup: &Transient) -> (Child, SocketId) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let id = id(&listener);
        let mut command = Command::new("sleep");
        cgroup.enter(&mut command).unwrap();
        command.arg("1000").stdin(Stdio::from(OwnedFd::from(listener)));
        (command.spawn().unwrap(), id)
    }

    #[test]
    fn sockets_are_found_in_the_cgroup_and_elsewhere() {
        let cgroup = Transient::create("weir-test-holders").unwrap();
        let (mut child, theirs) = holder(&cgroup);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let own = id(&listener);
        assert_eq!(seen(&[theirs], cgroup.path()), [theirs]);
        // This process is not in the cgroup.
        assert_eq!(seen(&[own], cgroup.path()), [own]);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(seen(&[theirs], cgroup.path()), []);
    }

    #[test]
    fn another_socket_with_the_same_inode_is_not_taken() {
        let cgroup = Transient::create("weir-test-holders-other").unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let other = SocketId { cookie: id(&listener).cookie + 1, ..id(&listener) };
        assert_eq!(seen(&[other], cgroup.path()), []);
    }

    #[test]
    fn only_socket_links_have_an_inode() {
        assert_eq!(socket_inode(Path::new("socket:[4026532]")), Some(4_026_532));
        for other in ["pipe:[4026532]", "/tmp/socket:[1]", "socket:[1] (deleted)", "socket:[]"] {
            assert_eq!(socket_inode(Path::new(other)), None, "{other}");
        }
    }
}
