//! Network namespaces, and work done inside them. No thread of the runtime ever changes its
//! namespace: setns(2) is for the two helper threads alone.

use std::{
    collections::HashSet,
    fmt, fs, io,
    net::{Ipv4Addr, UdpSocket},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{Arc, OnceLock, mpsc},
    thread,
};

use nix::sched::{CloneFlags, setns};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{runtime::Handle, sync::oneshot};

use super::CaptureError;

/// linux/asm-generic/socket.h, since 5.14.
const SO_NETNS_COOKIE: libc::c_int = 71;
/// The namespace of the process: a runtime's thread is never in another one.
const OWN: &str = "/proc/self/ns/net";
/// Where iproute2 keeps names (ip-netns(8)).
const NAMED: &str = "/run/netns";

/// A network namespace, held open. Cheap to clone.
#[derive(Clone)]
pub struct Netns {
    inner: Arc<Inner>,
}

struct Inner {
    file: OwnedFd,
    path: PathBuf,
    inode: u64,
    cookie: u64,
    own: bool,
}

type Job = Box<dyn FnOnce() + Send>;

/// A thread that enters namespaces.
struct Helper {
    jobs: mpsc::Sender<(Arc<Inner>, Job)>,
}

/// For what a connection waits for: a few microseconds each.
static SOCKETS: OnceLock<Helper> = OnceLock::new();
/// For everything else, which may take its time.
static ERRANDS: OnceLock<Helper> = OnceLock::new();

// === impl Netns ===

impl Netns {
    /// The namespace that weir itself is in.
    ///
    /// # Errors
    /// Where `/proc` is not mounted, or the kernel is older than 5.14.
    pub fn own() -> Result<Self, CaptureError> {
        Self::open(Path::new(OWN))
    }

    /// The namespace behind a file such as `/run/netns/NAME` or `/proc/PID/ns/net`.
    ///
    /// # Errors
    /// Where there is no such file, it is none of a network namespace, or may not be entered.
    pub fn open(path: &Path) -> Result<Self, CaptureError> {
        let error = |source, hint| CaptureError::Netns { path: path.into(), source, hint };
        let file = fs::File::open(path).map_err(|source| {
            error(source, "; name a file such as /run/netns/NAME or /proc/PID/ns/net")
        })?;
        let inode = file.metadata().map_err(|source| error(source, ""))?.ino();
        let own = fs::metadata(OWN).is_ok_and(|metadata| metadata.ino() == inode);
        let mut inner =
            Inner { file: file.into(), path: path.into(), inode, cookie: 0, own };
        let inside = || -> Result<u64, CaptureError> {
            netns_cookie(&UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).map_err(|source| {
                CaptureError::Socket { action: "make a socket", source, hint: "" }
            })?)
        };
        inner.cookie = if own {
            inside()?
        } else {
            // A thread of its own, once: the helpers want a whole namespace.
            thread::scope(|scope| {
                let visit = scope.spawn(|| {
                    setns(&inner.file, CloneFlags::CLONE_NEWNET).map_err(|errno| {
                        error(errno.into(), "; it must be a network namespace, and weir run as root")
                    })?;
                    inside()
                });
                visit.join().unwrap_or_else(|_| Err(error(io::Error::other("a panic"), "")))
            })?
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The namespace that the processes in a cgroup and below it are in; `None` where there are
    /// none.
    ///
    /// # Errors
    /// Where they are in different ones: then it must be named.
    pub fn of_cgroup(cgroup: &Path) -> Result<Option<Self>, CaptureError> {
        let mut first: Option<(String, u64)> = None;
        for pid in processes(cgroup) {
            // One that has just ended has none.
            let Ok(metadata) = fs::metadata(format!("/proc/{pid}/ns/net")) else { continue };
            match &first {
                None => first = Some((pid, metadata.ino())),
                Some((_, inode)) if *inode == metadata.ino() => {}
                Some((other, _)) => {
                    return Err(CaptureError::SeveralNetns {
                        cgroup: cgroup.into(),
                        pids: [other.clone(), pid],
                    });
                }
            }
        }
        let Some((pid, _)) = first else { return Ok(None) };
        Self::open(Path::new(&format!("/proc/{pid}/ns/net"))).map(Some)
    }

    /// The namespace with this inode, by its name or through a process in it.
    #[must_use]
    pub fn find(inode: u64) -> Option<Self> {
        let entries = |directory: &str| fs::read_dir(directory).into_iter().flatten().flatten();
        let named = entries(NAMED).map(|entry| entry.path());
        let processes = entries("/proc").map(|entry| entry.path().join("ns/net"));
        let mut all = std::iter::once(PathBuf::from(OWN)).chain(named).chain(processes);
        let path = all.find(|path| fs::metadata(path).is_ok_and(|it| it.ino() == inode))?;
        Self::open(&path).ok()
    }

    /// `SO_NETNS_COOKIE` of every socket in it; never used twice until the machine starts anew.
    #[must_use]
    pub fn cookie(&self) -> u64 {
        self.inner.cookie
    }

    /// Inode of its file.
    #[must_use]
    pub fn inode(&self) -> u64 {
        self.inner.inode
    }

    /// True for the one that weir itself is in, however it was opened.
    #[must_use]
    pub fn is_own(&self) -> bool {
        self.inner.own
    }

    /// The path that it was opened by.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// Its file, for attaching programs to it.
    #[must_use]
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.file.as_fd()
    }

    /// Runs `f` inside and waits; not for a thread of the runtime that has anything else to do.
    ///
    /// # Errors
    /// Where the namespace cannot be entered, or `f` panics.
    pub fn enter<T: Send + 'static>(
        &self,
        f: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, CaptureError> {
        if self.inner.own {
            return Ok(f());
        }
        let (sender, receiver) = mpsc::channel();
        self.send(&ERRANDS, "weir-netns", move || {
            let _ = sender.send(f());
        })?;
        receiver.recv().map_err(|_| self.not_entered())
    }

    /// Runs `f` inside, with the current runtime for what it registers.
    ///
    /// # Errors
    /// As [`Self::enter`].
    pub async fn run<T: Send + 'static>(
        &self,
        f: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, CaptureError> {
        let runtime = Handle::current();
        let (sender, receiver) = oneshot::channel();
        self.send(&ERRANDS, "weir-netns", move || {
            let _entered = runtime.enter();
            let _ = sender.send(f());
        })?;
        receiver.await.map_err(|_| self.not_entered())
    }

    /// A TCP socket inside, non-blocking and closed on exec.
    ///
    /// # Errors
    /// As socket(2); `ENXIO` where the namespace cannot be entered.
    pub async fn tcp_socket(&self, v6: bool) -> io::Result<Socket> {
        let domain = if v6 { Domain::IPV6 } else { Domain::IPV4 };
        let kind = Type::STREAM.nonblocking().cloexec();
        if self.inner.own {
            return Socket::new(domain, kind, Some(Protocol::TCP));
        }
        let (sender, receiver) = oneshot::channel();
        let gone = |_| io::Error::from_raw_os_error(libc::ENXIO);
        self.send(&SOCKETS, "weir-sockets", move || {
            let _ = sender.send(Socket::new(domain, kind, Some(Protocol::TCP)));
        })
        .map_err(gone)?;
        receiver.await.map_err(|_| io::Error::from_raw_os_error(libc::ENXIO))?
    }

    fn send(
        &self,
        helper: &'static OnceLock<Helper>,
        name: &str,
        job: impl FnOnce() + Send + 'static,
    ) -> Result<(), CaptureError> {
        let helper = helper.get_or_init(|| Helper::start(name));
        helper.jobs.send((Arc::clone(&self.inner), Box::new(job))).map_err(|_| self.not_entered())
    }

    fn not_entered(&self) -> CaptureError {
        CaptureError::Netns {
            path: self.inner.path.clone(),
            source: io::Error::from_raw_os_error(libc::ENXIO),
            hint: "; see the log for what kept weir from entering it",
        }
    }
}

impl fmt::Debug for Netns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Netns({} {})", self.inner.path.display(), self.inner.inode)
    }
}

// === impl Helper ===

impl Helper {
    fn start(name: &str) -> Self {
        let (jobs, queue) = mpsc::channel::<(Arc<Inner>, Job)>();
        let thread = thread::Builder::new().name(name.to_owned());
        let started = thread.stack_size(256 * 1024).spawn(move || {
            // The namespace that the thread is in: entering costs a system call.
            let mut inside = 0;
            for (netns, job) in queue {
                if netns.inode != inside {
                    if let Err(error) = setns(netns.file.as_fd(), CloneFlags::CLONE_NEWNET) {
                        tracing::error!(%error, netns = %netns.path.display(), "not entered");
                        continue;
                    }
                    inside = netns.inode;
                }
                // Whoever waits for the job finds its channel closed.
                let _ = catch_unwind(AssertUnwindSafe(job));
            }
        });
        if let Err(error) = started {
            tracing::error!(%error, "no thread for namespaces");
        }
        Self { jobs }
    }
}

// === helpers ===

/// The cookie of a socket's network namespace (`SO_NETNS_COOKIE`, Linux 5.14).
///
/// # Errors
/// `ENOPROTOOPT` on older kernels.
pub(super) fn netns_cookie(socket: &impl AsFd) -> Result<u64, CaptureError> {
    let mut cookie: u64 = 0;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: both pointers are to live locals of the sizes given.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            std::ptr::from_mut(&mut cookie).cast(),
            &raw mut length,
        )
    };
    if result == 0 {
        return Ok(cookie);
    }
    Err(CaptureError::Socket {
        action: "read the network namespace cookie",
        source: io::Error::last_os_error(),
        hint: "; weir needs Linux 5.15 or newer",
    })
}

/// Ids of the processes in a cgroup and below it.
fn processes(cgroup: &Path) -> HashSet<String> {
    let text = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    let mut pids: HashSet<String> = text.lines().map(str::to_owned).collect();
    for child in super::pins::directories(cgroup) {
        pids.extend(processes(&child));
    }
    pids
}

#[cfg(test)]
mod tests {
    use nix::sched::unshare;

    use super::*;

    /// A namespace of a thread that keeps it alive; needs root.
    fn other() -> (Netns, mpsc::Sender<()>) {
        let (ready, path) = mpsc::channel();
        let (keep, until) = mpsc::channel::<()>();
        thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).expect("run the tests as root");
            // SAFETY: a bare system call.
            let tid = unsafe { libc::gettid() };
            ready.send(format!("/proc/self/task/{tid}/ns/net")).unwrap();
            let _ = until.recv();
        });
        (Netns::open(Path::new(&path.recv().unwrap())).unwrap(), keep)
    }

    #[tokio::test]
    async fn work_is_done_inside_and_the_caller_stays_where_it_is() {
        let (netns, _keep) = other();
        let own = Netns::own().unwrap();
        assert!(own.is_own() && !netns.is_own());
        assert_ne!(netns.cookie(), own.cookie());
        let socket = netns.tcp_socket(false).await.unwrap();
        assert_eq!(netns_cookie(&socket).unwrap(), netns.cookie());
        let here = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        assert_eq!(netns_cookie(&here).unwrap(), own.cookie());
        let inside = netns
            .run(|| netns_cookie(&UdpSocket::bind("0.0.0.0:0").unwrap()).unwrap())
            .await
            .unwrap();
        assert_eq!(inside, netns.cookie());
        assert_eq!(Netns::find(own.inode()).unwrap().inode(), own.inode());
    }

    #[tokio::test]
    async fn a_panic_inside_ends_neither_the_helper_nor_the_next_job() {
        let (netns, _keep) = other();
        assert!(netns.run(|| panic!("on purpose")).await.is_err());
        assert_eq!(netns.run(|| 7).await.unwrap(), 7);
        assert_eq!(netns.enter(|| 8).unwrap(), 8);
    }

    #[test]
    fn what_is_no_namespace_is_refused_by_name() {
        for path in ["/proc/self/ns/uts", "/etc/passwd", "/run/netns/there-is-none"] {
            let error = Netns::open(Path::new(path)).unwrap_err().to_string();
            assert!(error.contains(path) && error.contains("netns"), "{error}");
        }
    }
}
