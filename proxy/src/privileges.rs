//! What weir may do, reduced at its start to what it needs until its end: capabilities, and
//! no_new_privs. The one list of capabilities, with the reason for each.
//!
//! The kernel keeps both per thread and a new thread has its maker's (capabilities(7)), so that
//! [`reduce`] comes before every other thread. `weir exec` gives its command what it was started
//! with itself: the command is started by a thread that is older, see [`Original`].

use std::{
    io,
    net::SocketAddr,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
};

use caps::{CapSet, Capability, CapsHashSet};

/// A capability that weir keeps.
#[derive(Clone, Copy, Debug)]
pub struct Need {
    /// Which one.
    pub capability: Capability,
    /// What weir does with it, as a clause.
    pub reason: &'static str,
    /// Whether nothing can be captured without it.
    pub required: bool,
    /// What is worse without it, as a clause; empty where it is required.
    pub without: &'static str,
}

/// Without the one that sends segments by hand.
pub const CONNECTS_AT_ONCE: &str = "connect(2) succeeds before the destination has accepted";
/// Without those that look at other users' processes.
pub const CANNOT_FOLLOW: &str = "when a server that listened before weir started exits, its next \
                             client is reset instead of refused";
/// Without those that make sockets for others.
pub const NOT_THE_OWNERS: &str = "packet filter and routing rules by user or group see weir's user \
                              and group, not the application's";

/// What is kept in every case, as far as the process has it.
pub const NEEDS: [Need; 8] = [
    Need {
        capability: Capability::CAP_BPF,
        reason: "loads programs and maps",
        required: true,
        without: "",
    },
    Need {
        capability: Capability::CAP_NET_ADMIN,
        reason: "attaches to sockets of cgroups",
        required: true,
        without: "",
    },
    Need {
        capability: Capability::CAP_SYS_ADMIN,
        reason: "enters network namespaces",
        required: true,
        without: "",
    },
    Need {
        capability: Capability::CAP_NET_RAW,
        reason: "answers held connections",
        required: false,
        without: CONNECTS_AT_ONCE,
    },
    Need {
        capability: Capability::CAP_SYS_PTRACE,
        reason: "finds namespaces and listening sockets of other users",
        required: false,
        without: CANNOT_FOLLOW,
    },
    Need {
        capability: Capability::CAP_DAC_READ_SEARCH,
        reason: "lists the descriptors of other users' processes",
        required: false,
        without: CANNOT_FOLLOW,
    },
    Need {
        capability: Capability::CAP_SETUID,
        reason: "creates sockets with the user of the application",
        required: false,
        without: NOT_THE_OWNERS,
    },
    Need {
        capability: Capability::CAP_SETGID,
        reason: "creates sockets with the group of the application",
        required: false,
        without: NOT_THE_OWNERS,
    },
];

/// What the configuration asks for on top of [`NEEDS`].
#[derive(Debug, Default)]
pub struct Extra {
    /// Paths that are changed while weir runs or when it ends. Where another user owns them, root
    /// cannot do that without `CAP_DAC_OVERRIDE`.
    pub paths: Vec<PathBuf>,
    /// An address that is listened on, perhaps on a port below 1024: `CAP_NET_BIND_SERVICE`.
    pub address: Option<SocketAddr>,
    /// Signals are passed on to a command, which may have become another user: `CAP_KILL`.
    pub signals: bool,
}

/// Privileges could not be reduced.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action}: {cause}; check that the seccomp profile allows capset(2) and prctl(2)")]
pub struct PrivilegeError {
    action: &'static str,
    cause: String,
}

/// Gives up every capability that is not needed, for good, and with execve(2) to gain any
/// (prctl(2), `PR_SET_NO_NEW_PRIVS`). For the calling thread and those that it starts later.
///
/// # Errors
/// Where the kernel refuses. Nothing that weir needs is lost then.
pub fn reduce(extra: &Extra) -> Result<(), PrivilegeError> {
    let failed = |action| {
        move |error: caps::errors::CapsError| PrivilegeError { action, cause: error.to_string() }
    };
    nix::sys::prctl::set_no_new_privs()
        .map_err(|error| PrivilegeError { action: "set no_new_privs", cause: error.to_string() })?;
    let mine = caps::read(None, CapSet::Permitted).map_err(failed("read capabilities"))?;
    let kept: CapsHashSet = mine.intersection(&wanted(extra)).copied().collect();
    // What no permitted set has needs no bound either; without CAP_SETPCAP there is none.
    if mine.contains(&Capability::CAP_SETPCAP) {
        for capability in caps::runtime::thread_all_supported() {
            if !kept.contains(&capability) {
                caps::drop(None, CapSet::Bounding, capability)
                    .map_err(failed("bound capabilities"))?;
            }
        }
    }
    caps::clear(None, CapSet::Ambient).map_err(failed("clear ambient capabilities"))?;
    // What has been inherited goes first: capset(2) wants it below the rest.
    caps::clear(None, CapSet::Inheritable).map_err(failed("clear inheritable capabilities"))?;
    for set in [CapSet::Effective, CapSet::Permitted] {
        caps::set(None, set, &kept).map_err(failed("drop capabilities"))?;
    }
    Ok(())
}

fn wanted(extra: &Extra) -> CapsHashSet {
    let mut wanted: CapsHashSet = NEEDS.iter().map(|need| need.capability).collect();
    if extra.paths.iter().any(|path| is_closed(path)) {
        wanted.insert(Capability::CAP_DAC_OVERRIDE);
    }
    if extra.address.is_some_and(|address| (1..1024).contains(&address.port())) {
        wanted.insert(Capability::CAP_NET_BIND_SERVICE);
    }
    if extra.signals {
        wanted.insert(Capability::CAP_KILL);
    }
    wanted
}

/// Whether a path, or the nearest directory above it that there is, may not be written by its owner
/// or is another user's. (The root of a cgroup hierarchy has mode 0555.)
fn is_closed(path: &Path) -> bool {
    let own = nix::unistd::geteuid().as_raw();
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let look = |path: &Path| std::fs::metadata(path).ok();
    let above = path.ancestors().skip(1).find_map(look);
    let closed = |found: std::fs::Metadata| found.uid() != own || found.mode() & 0o200 == 0;
    look(&path).into_iter().chain(above).any(closed)
}

/// A thread with the privileges that the process was started with, for one piece of work.
#[derive(Debug)]
pub struct Original {
    work: mpsc::SyncSender<Work>,
}

type Work = Box<dyn FnOnce() + Send>;

// === impl Original ===

impl Original {
    /// Starts the thread. To be called before [`reduce`].
    ///
    /// # Errors
    /// Where no thread can be started.
    pub fn keep() -> io::Result<Self> {
        let (work, asked) = mpsc::sync_channel::<Work>(1);
        let wait = move || {
            if let Ok(work) = asked.recv() {
                work();
            }
        };
        thread::Builder::new().name("weir-original".into()).spawn(wait)?;
        Ok(Self { work })
    }

    /// Does the work there and waits for it; the thread ends with it.
    ///
    /// # Errors
    /// Where the work panicked.
    pub fn run<T: Send + 'static>(
        self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<T> {
        let gone = || io::Error::other("the thread with the original privileges has ended");
        let (reply, result) = mpsc::sync_channel(1);
        self.work.send(Box::new(move || drop(reply.send(work())))).map_err(|_| gone())?;
        result.recv().map_err(|_| gone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_is_kept_and_nothing_else() {
        let extra = |extra: Extra| -> Vec<String> {
            let needs: CapsHashSet = NEEDS.iter().map(|need| need.capability).collect();
            let more: CapsHashSet = wanted(&extra).difference(&needs).copied().collect();
            more.into_iter().map(|capability| capability.to_string()).collect()
        };
        assert_eq!(extra(Extra::default()), [""; 0]);
        let at = |port| Extra { address: Some(([127, 0, 0, 1], port).into()), ..Extra::default() };
        assert_eq!(extra(at(80)), ["CAP_NET_BIND_SERVICE"]);
        assert_eq!((extra(at(1024)), extra(at(0))), (vec![], vec![]));
        assert_eq!(extra(Extra { signals: true, ..Extra::default() }), ["CAP_KILL"]);
    }

    #[test]
    fn a_directory_that_root_may_not_write_is_seen_where_nothing_is_yet() {
        let directory = tempfile::tempdir().unwrap();
        let deep = directory.path().join("a/b/control.sock");
        assert!(!is_closed(&deep));
        let mode = std::os::unix::fs::PermissionsExt::from_mode;
        std::fs::set_permissions(directory.path(), mode(0o555)).unwrap();
        assert!(is_closed(&deep));
        std::fs::set_permissions(directory.path(), mode(0o755)).unwrap();
        let root = nix::unistd::geteuid().is_root();
        if root {
            std::os::unix::fs::chown(directory.path(), Some(65_534), None).unwrap();
        }
        assert_eq!(is_closed(&deep), root);
    }

    #[test]
    fn work_is_done_on_a_thread_of_its_own_and_a_panic_is_an_error() {
        let caller = thread::current().id();
        let there = Original::keep().unwrap().run(|| thread::current().id()).unwrap();
        assert_ne!(there, caller);
        let panicked = Original::keep().unwrap().run(|| panic!("on purpose"));
        assert!(panicked.is_err());
    }
}
