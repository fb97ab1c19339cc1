//! What can go wrong on the kernel side, each with its object and the next step.

use std::{io, path::PathBuf};

use crate::host::{HostError, mounts::Unreadable};

/// An error of the capture layer.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The BPF object could not be loaded.
    #[error("cannot load the BPF object: {0}; {advice}", advice = load_advice(.0))]
    Load(#[from] aya::EbpfError),
    /// The kernel lacks what nothing can stand for.
    #[error(
        "this kernel ({release}) is too old: its sockops programs cannot read the network \
         namespace of a socket; use Linux 5.15 or later, and see `weir check`"
    )]
    TooOld {
        /// As `uname -r` says it.
        release: String,
    },
    /// One program was refused.
    #[error("cannot load BPF program {name}: {source}; {}", load_advice(&**source))]
    Program {
        /// The program.
        name: &'static str,
        /// What aya or the verifier said.
        source: Box<aya::programs::ProgramError>,
    },
    /// One program could not be attached.
    #[error("cannot attach {name} to {target}: {source}{hint}")]
    Attach {
        /// The program.
        name: &'static str,
        /// The cgroup or the network namespace.
        target: String,
        /// What the kernel said.
        source: io::Error,
        /// The next step, with its separator.
        hint: String,
    },
    /// A map operation failed.
    #[error("cannot {action} BPF map {map}: {source}{}", full(source))]
    Map {
        /// What was tried.
        action: &'static str,
        /// The map.
        map: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// More entries of a table that all workloads share than are one workload's.
    #[error(
        "too many {entries} for one workload: {count}, limit {limit}; {advice}, or capture it with \
         another instance (--instance)"
    )]
    Share {
        /// What they are.
        entries: &'static str,
        /// How many were to be kept.
        count: usize,
        /// How many there is room for.
        limit: usize,
        /// The next step.
        advice: &'static str,
    },
    /// The object has no such map or program: it does not belong to this binary.
    #[error(
        "the BPF object has no {0}: versions of object and binary differ; unset WEIR_BPF_OBJECT or \
         rebuild with `cargo xtask ebpf`"
    )]
    Missing(&'static str),
    /// No process tells which network namespace a pod is in.
    #[error(
        "cgroup {} has no process, or none that is visible to weir; in a container, weir needs the \
         host's PID namespace (hostPID)", .0.display()
    )]
    NoProcess(PathBuf),
    /// There is no network namespace of this name.
    #[error(
        "cannot open network namespace {}: {source}; use one from `ip netns list` or `lsns -t net`", path.display()
    )]
    NoNetns {
        /// What was named.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// No bpffs mount, and none could be made.
    #[error(
        "no bpffs is mounted: run `mount -t bpf bpf /sys/fs/bpf` as root (in a container, mount the host's)"
    )]
    NoBpffs,
    /// What is pinned could not be read or changed.
    #[error("cannot {action} {path}: {source}{hint}")]
    Pins {
        /// What was tried.
        action: &'static str,
        /// The pin or its directory.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
        /// The next step, with its separator; may be empty.
        hint: &'static str,
    },
    /// Another process serves the instance.
    #[error(
        "instance {instance:?} is in use by another weir{holder}; stop that one, take over from it \
         with --upgrade, or choose another --instance"
    )]
    Running {
        /// The instance.
        instance: String,
        /// ` (pid N)` where it is known.
        holder: String,
    },
    /// The pins were removed while weir runs.
    #[error(
        "the pinned state of this weir has been removed (`weir detach --force`); restart weir to \
         capture"
    )]
    Unpinned,
    /// What is to be detached is being served.
    #[error(
        "instance {instance:?} is in use by a running weir{holder}; stop it first (SIGTERM), or \
         detach it with --force"
    )]
    Served {
        /// The instance.
        instance: String,
        /// ` (pid N)` where it is known.
        holder: String,
    },
    /// Another process captures the cgroup.
    #[error(
        "cgroup {cgroup} is captured by another weir{holder}; stop that one, or take over from it with --upgrade"
    )]
    Taken {
        /// The cgroup.
        cgroup: PathBuf,
        /// ` (pid N)` where it is known.
        holder: String,
    },
    /// The machine could not be looked at.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The cgroup to capture is the one that weir itself runs in.
    #[error(
        "cgroup {0} is weir's own: capturing it would capture the proxy; start weir in another cgroup, or use `weir exec`"
    )]
    OwnCgroup(PathBuf),
    /// A socket of the workload could not be made.
    #[error("cannot {action}: {source}{hint}")]
    Socket {
        /// What was tried.
        action: &'static str,
        /// What the kernel said.
        source: io::Error,
        /// The next step, with its separator; may be empty.
        hint: &'static str,
    },
    /// `preserve_client_ip` on a kernel that could not tell weir's own connections from others.
    #[error(
        "--preserve-client-ip needs Linux 5.17: sk_lookup programs of this kernel cannot read the \
         ingress interface"
    )]
    NoIngressIfindex,
    /// Routes could not be read.
    #[error("cannot read the routing table: {0}")]
    Routes(String),
    /// The start-up self-test of `sk_msg` failed.
    #[error("sk_msg self-test failed: {0}; start with --sk-msg off")]
    SelfTest(String),
    /// The start-up self-test of the tap failed.
    #[error("self-test of the tap failed: {0}; use --http-engine passthrough")]
    TapSelfTest(String),
    /// A cgroup could not be asked for its programs.
    #[error(
        "cannot query the programs attached to {cgroup}: {source}; run as root or grant \
         CAP_NET_ADMIN and CAP_SYS_ADMIN"
    )]
    Query {
        /// The cgroup.
        cgroup: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

impl CaptureError {
    /// Another process captures the cgroup.
    #[must_use]
    pub fn taken(cgroup: PathBuf) -> Self {
        let holder = super::pins::lock_holder(&cgroup).map_or_else(String::new, |pid| {
            // The instance says more than a number, but not every weir has one.
            let instances = super::pins::existing_instances().unwrap_or_default();
            let of_pid = |root: &PathBuf| super::pins::lock_holder(root) == Some(pid);
            let instance = instances.into_iter().find(of_pid);
            let instance = instance.as_ref().and_then(|root| root.file_name()?.to_str());
            instance.map_or_else(
                || format!(" (pid {pid})"),
                |instance| format!(" (pid {pid}, instance {instance})"),
            )
        });
        Self::Taken { cgroup, holder }
    }

    pub(crate) fn map(
        action: &'static str,
        map: &'static str,
    ) -> impl FnOnce(aya::maps::MapError) -> Self {
        move |error| Self::Map { action, map, source: into_io(error) }
    }

    /// As connect(2) would say it. Never `ENOSPC` and its like, which stand for a lack of the whole
    /// process.
    pub(crate) fn into_refusal(self) -> io::Error {
        tracing::debug!(error = %self, "connection to the application refused");
        io::Error::from_raw_os_error(libc::E2BIG)
    }

    pub(crate) fn workers(source: io::Error) -> Self {
        Self::Socket { action: "start the worker threads", source, hint: "" }
    }

    pub(super) fn clock(source: io::Error) -> Self {
        Self::Socket { action: "read the monotonic clock", source, hint: "" }
    }
}

impl From<Unreadable> for CaptureError {
    fn from(error: Unreadable) -> Self {
        Self::Host(error.into())
    }
}

fn errno(cause: &(dyn std::error::Error + 'static)) -> Option<i32> {
    let of_program = || match cause.downcast_ref::<aya::programs::ProgramError>()? {
        // It stands for the error in it, which is therefore none of its causes.
        aya::programs::ProgramError::IOError(error) => Some(error),
        _ => None,
    };
    cause.downcast_ref::<io::Error>().or_else(of_program)?.raw_os_error()
}

/// The next step after the kernel has refused a map or a program, by the errno in its causes.
fn load_advice(error: &(dyn std::error::Error + 'static)) -> &'static str {
    let causes = std::iter::successors(Some(error), |cause| cause.source());
    match causes.filter_map(errno).last() {
        Some(libc::EMFILE | libc::ENFILE) => {
            "raise the limit of open files (`ulimit -n`, LimitNOFILE=)"
        }
        Some(libc::ENOMEM) => "free memory, or raise the limit of weir's cgroup",
        Some(libc::EROFS) => "mount the bpffs writable: it is read-only",
        Some(libc::EPERM | libc::EACCES) => {
            "run as root or grant CAP_BPF and CAP_NET_ADMIN, and see `weir check`"
        }
        _ => "`weir check` lists missing kernel features",
    }
}

/// What a map without room says: E2BIG of hashes, ENOSPC of longest-prefix matches.
fn full(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::E2BIG | libc::ENOSPC) => {
            "; the map is full: shorten the lists of the workloads, or divide them between two \
             instances (--instance)"
        }
        _ => "",
    }
}

/// The errno inside a map error, where there is one.
pub(super) fn into_io(error: aya::maps::MapError) -> io::Error {
    match error {
        aya::maps::MapError::SyscallError(e) => e.io_error,
        aya::maps::MapError::KeyNotFound => io::Error::from_raw_os_error(libc::ENOENT),
        other => io::Error::other(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guards against an advice that does not fit: to run as root, given to root.
    #[test]
    fn the_advice_fits_the_errno() {
        for (errno, word) in [
            (libc::EMFILE, "ulimit -n"),
            (libc::ENOMEM, "memory"),
            (libc::EROFS, "read-only"),
            (libc::EPERM, "run as root"),
            (libc::EINVAL, "weir check"),
        ] {
            let cause = aya::programs::ProgramError::IOError(io::Error::from_raw_os_error(errno));
            let error = CaptureError::Program { name: "weir_connect4", source: Box::new(cause) };
            let text = error.to_string();
            assert!(text.contains(word), "{text}");
            assert_eq!(text.contains("run as root"), errno == libc::EPERM, "{text}");
        }
    }
}
