//! A network namespace held open, and work done inside of it without ever switching a shared
//! thread. It makes no namespaces and configures nothing in them.

mod helper;
mod owner;
mod pool;
mod residents;

use std::{
    collections::HashSet,
    fmt,
    fs::{self, File, OpenOptions},
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd},
        unix::fs::{MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    time::Duration,
};

use futures_util::future::Either;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    runtime,
    sync::{OnceCell, oneshot},
};

use self::{
    helper::{Helper, JOBS, SOCKETS},
    pool::Pool,
};
pub use self::{
    owner::Owner,
    residents::{Residence, residence},
};
use super::{CaptureError, netns_cookie};
use crate::host::cgroup::{is_gone, processes};

/// The namespace of the process: that of every thread that was not moved.
const PROCESS: &str = "/proc/self/ns/net";
/// The namespace of the calling thread.
const THREAD: &str = "/proc/thread-self/ns/net";
/// That of the first process there is. A security module may keep it even from root.
const FIRST: &str = "/proc/1/ns/net";
/// That of the kernel's own threads, where weir sees them: process 2 is their parent then.
const KERNEL: [&str; 2] = ["/proc/2/ns/net", "/proc/2/comm"];

/// Where ip-netns(8) keeps namespaces.
const NAMED: &str = "/run/netns";
const LOCAL_PORTS: &str = "/proc/sys/net/ipv4/ip_local_port_range";
const NEEDS_ROOT: &str = "; run as root or grant CAP_SYS_ADMIN and CAP_SYS_PTRACE";

/// A network namespace. It lives at least as long as the last clone of this.
#[derive(Clone)]
pub struct Netns {
    inner: Arc<Inner>,
}

struct Inner {
    door: Door,
    path: Option<PathBuf>,
    inode: u64,
    cookie: u64,
    /// For IPv4 and IPv6.
    pools: [Pool; 2],
    local_ports: OnceCell<(u16, u16)>,
}

/// What it takes to enter.
#[derive(Clone)]
struct Door {
    file: Arc<File>,
    /// True where there is nothing to enter.
    own: bool,
}

type Asked<T> = oneshot::Receiver<io::Result<T>>;

// === impl Netns ===

impl Netns {
    /// The calling thread's namespace, which is the process's unless the thread was moved.
    ///
    /// # Errors
    /// Without `/proc`, or where there is no namespace cookie (before Linux 5.14).
    pub fn own() -> Result<Self, CaptureError> {
        Self::from_file(open(Path::new(THREAD))?, None)
    }

    /// The namespace behind a file: `/run/netns/NAME`, `/proc/PID/ns/net`.
    ///
    /// # Errors
    /// Where the file is not there, may not be opened or is none of a network namespace (such as
    /// what is left in `/run/netns` of a namespace whose mount is gone), and where the namespace
    /// cannot be entered.
    pub fn open(path: &Path) -> Result<Self, CaptureError> {
        Self::from_file(open(path)?, Some(path.into()))
    }

    /// The namespace of the processes in a cgroup and below; `None` where there are none.
    ///
    /// # Errors
    /// Where processes are in different namespaces (two of them are named), where none of them is
    /// visible from weir's PID namespace, and as [`Self::open`].
    pub fn of_cgroup(cgroup: &Path) -> Result<Option<Self>, CaptureError> {
        Self::of_processes(cgroup, &HashSet::new())
    }

    /// The namespace of a pod by its cgroup; `None` where no process is in one of its own. Those in
    /// the node's are passed over: a container runtime puts a process into the cgroup before it
    /// enters the pod's namespaces (runc, `libcontainer/process_linux.go`).
    ///
    /// # Errors
    /// As [`Self::of_cgroup`].
    pub fn of_pod(cgroup: &Path) -> Result<Option<Self>, CaptureError> {
        Self::of_processes(cgroup, &Self::of_node())
    }

    /// The inodes of the node's own: of weir's, and of the [machine's](Self::of_machine). With
    /// hostPID alone they differ.
    #[must_use]
    pub fn of_node() -> HashSet<u64> {
        let own = fs::metadata(PROCESS).ok().map(|found| found.ino());
        own.into_iter().chain(Self::of_machine()).collect()
    }

    /// The inodes of the namespaces of the machine's first process and of its kernel, which are one
    /// unless weir's PID namespace is a container's. Empty where neither may be looked at.
    #[must_use]
    pub fn of_machine() -> HashSet<u64> {
        let [kernel, name] = KERNEL;
        let is_kernel = fs::read_to_string(name).is_ok_and(|name| name.trim() == "kthreadd");
        let paths = [Some(FIRST), is_kernel.then_some(kernel)];
        let inode = |path| fs::metadata(path).ok().map(|found| found.ino());
        paths.into_iter().flatten().filter_map(inode).collect()
    }

    /// `but`: inodes of namespaces whose processes are passed over.
    fn of_processes(cgroup: &Path, but: &HashSet<u64>) -> Result<Option<Self>, CaptureError> {
        let mut found: Option<(u32, File, u64)> = None;
        let processes = processes(cgroup)?;
        for pid in processes.iter().copied().filter(|pid| *pid != 0) {
            let path = PathBuf::from(format!("/proc/{pid}/ns/net"));
            // Held open while others are compared: an inode number is free again after the end of
            // its namespace.
            let file = match File::open(&path) {
                Ok(file) => file,
                Err(error) if is_gone(&error) => continue,
                Err(error) => return Err(failed("open network namespace", &path, error)),
            };
            let inode = inode(&file, &path)?;
            if but.contains(&inode) {
                continue;
            }
            match &found {
                None => found = Some((pid, file, inode)),
                Some((_, _, first)) if *first == inode => {}
                Some((other, ..)) => {
                    let message = format!(
                        "processes {other} and {pid} are in different namespaces; capture a \
                         separate cgroup for each"
                    );
                    return Err(failed(
                        "find the network namespace of cgroup",
                        cgroup,
                        io::Error::new(io::ErrorKind::InvalidInput, message),
                    ));
                }
            }
        }
        match found {
            Some((pid, file, _)) => {
                let path = PathBuf::from(format!("/proc/{pid}/ns/net"));
                Self::from_file(file, Some(path)).map(Some)
            }
            // cgroups(7): processes of other PID namespaces are listed as 0.
            None if processes.contains(&0) => Err(failed(
                "find the network namespace of cgroup",
                cgroup,
                io::Error::new(
                    io::ErrorKind::NotFound,
                    "its processes are outside of weir's PID namespace; run weir in the PID \
                     namespace of the host",
                ),
            )),
            None => Ok(None),
        }
    }

    /// Looks for a namespace by its inode number in `/run/netns` and among the processes.
    /// Numbers are given out again after the end of a namespace: compare the [cookie](Self::cookie)
    /// too.
    #[must_use]
    pub fn find(inode: u64) -> Option<Self> {
        let named = list(Path::new(NAMED));
        let processes = list(Path::new("/proc"))
            .filter(|path| {
                path.file_name().is_some_and(|name| name.as_encoded_bytes()[0].is_ascii_digit())
            })
            .map(|path| path.join("ns/net"));
        [PathBuf::from(PROCESS)]
            .into_iter()
            .chain(named)
            .chain(processes)
            .filter(|path| fs::metadata(path).is_ok_and(|found| found.ino() == inode))
            .filter_map(|path| Self::open(&path).ok())
            .find(|found| found.inode() == inode)
    }

    fn from_file(file: File, path: Option<PathBuf>) -> Result<Self, CaptureError> {
        let name = path.as_deref().unwrap_or(Path::new(THREAD));
        let inode = inode(&file, name)?;
        let process =
            fs::metadata(PROCESS).map_err(|error| failed("read", Path::new(PROCESS), error))?;
        let door = Door { file: Arc::new(file), own: process.ino() == inode };
        let cookie = door
            .enter(|| tcp_socket(false).map(|socket| netns_cookie(&socket)))
            .flatten()
            .map_err(|error| failed("work in network namespace", name, error))??;
        Ok(Self {
            inner: Arc::new(Inner {
                door,
                path,
                inode,
                cookie,
                pools: Default::default(),
                local_ports: OnceCell::new(),
            }),
        })
    }

    /// The kernel's name for the namespace (`SO_NETNS_COOKIE`), unique until the next boot.
    #[must_use]
    pub fn cookie(&self) -> u64 {
        self.inner.cookie
    }

    /// The inode number of the namespace's file, by which [`Self::find`] finds it.
    #[must_use]
    pub fn inode(&self) -> u64 {
        self.inner.inode
    }

    /// True for the process's own namespace, however it was opened.
    #[must_use]
    pub fn is_own(&self) -> bool {
        self.inner.door.own
    }

    /// The file it was opened from; `None` from [`Self::own`].
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        self.inner.path.as_deref()
    }

    /// The namespace's file, to attach BPF links to.
    #[must_use]
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.door.file.as_fd()
    }

    /// Does work inside the namespace, on the helper thread, and waits for its end. The work may
    /// use the runtime (register with its reactor, spawn) if the caller could.
    ///
    /// # Errors
    /// Where the namespace cannot be entered, where the work panicked, and on the helper thread
    /// itself.
    pub fn enter<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, CaptureError> {
        self.inner.door.enter(work).map_err(|error| self.not_entered(error))
    }

    /// The same as [`Self::enter`], awaited. Work that has been asked for is done even if the
    /// caller no longer waits.
    ///
    /// # Errors
    /// As [`Self::enter`].
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, CaptureError> {
        let asked = self.inner.door.ask(&JOBS, work).map_err(|error| self.not_entered(error))?;
        answer(asked).await.map_err(|error| self.not_entered(error))
    }

    /// A TCP socket of the namespace, non-blocking and closed on exec. In the process's own it is
    /// made directly; for others it was made ahead, or is waited for.
    ///
    /// # Errors
    /// What socket(2) says, and `EPERM` where the namespace cannot be entered.
    pub async fn tcp_socket(&self, v6: bool) -> io::Result<Socket> {
        self.tcp_socket_of(v6, None).await
    }

    /// The same for a socket that belongs to a user; `None` for weir itself.
    ///
    /// # Errors
    /// As [`Self::tcp_socket`].
    pub async fn tcp_socket_of(&self, v6: bool, owner: Option<Owner>) -> io::Result<Socket> {
        let owner = owner.unwrap_or_else(Owner::own);
        if self.is_own() {
            return owner.make(|| tcp_socket(v6));
        }
        let (ready, order) = self.pool(v6).take(owner);
        let socket = match ready {
            Some(socket) => Either::Left(socket),
            None => {
                let make = move || owner.make(|| tcp_socket(v6));
                Either::Right(self.inner.door.ask(&SOCKETS, make))
            }
        };
        // Behind the socket that is waited for, and before the wait, which may be given up.
        if order {
            self.fill(v6, owner);
        }
        match socket {
            Either::Left(socket) => Ok(socket),
            Either::Right(asked) => answer(asked?).await.flatten(),
        }
    }

    /// First and last of the ports that the kernel chooses from (ip(7), `ip_local_port_range`), as
    /// of the first call: a change by the operator is seen by the next weir.
    ///
    /// # Errors
    /// Where the sysctl cannot be read.
    pub(super) async fn local_ports(&self) -> io::Result<(u16, u16)> {
        let read = async || answer(self.inner.door.ask(&JOBS, local_ports)?).await.flatten();
        self.inner.local_ports.get_or_try_init(read).await.copied()
    }

    /// Has the pool filled, without waiting for it.
    fn fill(&self, v6: bool, owner: Owner) {
        let (pool, netns) = (self.clone(), self.clone());
        let work = move || pool.pool(v6).fill(owner, || owner.make(|| tcp_socket(v6)));
        let done = move |result: io::Result<()>| {
            if result.is_err() {
                netns.pool(v6).not_ordered();
            }
        };
        if self.inner.door.send(&SOCKETS, work, done).is_err() {
            self.pool(v6).not_ordered();
        }
    }

    fn pool(&self, v6: bool) -> &Pool {
        &self.inner.pools[usize::from(v6)]
    }

    fn not_entered(&self, error: io::Error) -> CaptureError {
        failed("work in network namespace", self.path().unwrap_or(Path::new(THREAD)), error)
    }
}

impl fmt::Debug for Netns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Netns")
            .field("path", &self.path())
            .field("inode", &self.inode())
            .field("cookie", &self.cookie())
            .finish()
    }
}

// === impl Door ===

impl Door {
    fn enter<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
        let (reply, result) = mpsc::sync_channel(1);
        self.send(&JOBS, work, move |result| drop(reply.send(result)))?;
        result.recv().unwrap_or_else(|_| Err(helper::stopped()))
    }

    /// Queues the work; [`answer`] waits for it.
    fn ask<T: Send + 'static>(
        &self,
        helper: &Helper,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<Asked<T>> {
        let (reply, result) = oneshot::channel();
        self.send(helper, work, move |result| drop(reply.send(result)))?;
        Ok(result)
    }

    fn send<T: 'static>(
        &self,
        helper: &Helper,
        work: impl FnOnce() -> T + Send + 'static,
        reply: impl FnOnce(io::Result<T>) + Send + 'static,
    ) -> io::Result<()> {
        let door = self.clone();
        let runtime = runtime::Handle::try_current().ok();
        helper.send(move |home| {
            let _entered = runtime.as_ref().map(runtime::Handle::enter);
            let namespace = (!door.own).then(|| door.file.as_fd());
            reply(home.visit(namespace, work));
        })
    }
}

// === helpers ===

async fn answer<T>(asked: Asked<T>) -> io::Result<T> {
    asked.await.unwrap_or_else(|_| Err(helper::stopped()))
}

/// Opens a namespace's file, and nothing else.
fn open(path: &Path) -> Result<File, CaptureError> {
    let error = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::InvalidInput => {
            CaptureError::NoNetns { path: path.into(), source: error }
        }
        _ => failed("open network namespace", path, error),
    };
    // Without O_NONBLOCK a named pipe would be waited for.
    let file =
        OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(error)?;
    // SAFETY: the request takes no argument (ioctl_ns(2)), and the descriptor is open.
    let kind = unsafe { libc::ioctl(file.as_raw_fd(), libc::NS_GET_NSTYPE) };
    if kind == libc::CLONE_NEWNET {
        return Ok(file);
    }
    // Files of /run/netns outlive their mounts, as ordinary empty files.
    Err(error(io::Error::new(io::ErrorKind::InvalidInput, "not a network namespace")))
}

fn tcp_socket(v6: bool) -> io::Result<Socket> {
    let domain = if v6 { Domain::IPV6 } else { Domain::IPV4 };
    let socket = Socket::new(domain, Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))?;
    // Armed from the first moment on, see `connection/reset.rs`.
    socket.set_linger(Some(Duration::ZERO))?;
    Ok(socket)
}

fn local_ports() -> io::Result<(u16, u16)> {
    let text = fs::read_to_string(LOCAL_PORTS)?;
    let mut ports = text.split_whitespace().map(str::parse);
    match (ports.next(), ports.next()) {
        (Some(Ok(first)), Some(Ok(last))) => Ok((first, last)),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, format!("{LOCAL_PORTS}: {text}"))),
    }
}

/// What is in a directory; nothing if it cannot be read.
fn list(directory: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    fs::read_dir(directory).into_iter().flatten().filter_map(Result::ok).map(|entry| entry.path())
}

fn inode(file: &File, path: &Path) -> Result<u64, CaptureError> {
    let metadata = file.metadata().map_err(|error| failed("read", path, error))?;
    Ok(metadata.ino())
}

/// An error about a namespace, with its object.
fn failed(action: &'static str, object: &Path, error: io::Error) -> CaptureError {
    let denied = error.kind() == io::ErrorKind::PermissionDenied;
    CaptureError::Socket {
        action,
        source: io::Error::new(error.kind(), format!("{}: {error}", object.display())),
        hint: if denied { NEEDS_ROOT } else { "" },
    }
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
