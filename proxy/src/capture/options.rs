//! Options that applications set on captured sockets after connect(2): what the kernel tells of them
//! (`weir_setsockopt` in `proxy-ebpf/src/option.rs`). The connections decide which upstream gets
//! them.
//!
//! The program is attached by each process for itself, and has a ring buffer of each process: a
//! predecessor that finishes its connections is told of their options still, and no socket is told
//! where no weir is there.

use std::{
    net::SocketAddr,
    os::fd::{AsFd, BorrowedFd},
    path::Path,
    sync::{Mutex, MutexGuard},
    time::Duration,
};

use aya::maps::{MapData, RingBuf};
use tokio::{io::unix::AsyncFd, time::sleep};
use weir_common::{OptionEvent, WorkloadId, maps};

use super::{
    CaptureError, Captured, Instance, attach::OPTION_HOOK, bpf, entries::Entries, links::Attached,
    table::lock,
};

/// How many are taken before others of the thread have their turn: an application can set options
/// faster than they are read.
const BATCH: usize = 256;
/// How long those have it. As long is waited for more to come: applications set several at once, and
/// the kernel wakes no reader for those that come before all are read.
const PAUSE: Duration = Duration::from_millis(1);

/// What is lost where the kernel does not tell.
pub const WITHOUT: &str =
    "options that an application sets after connect(2) are not copied to weir's connections";

/// Names a captured connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConnectionId {
    workload: WorkloadId,
    /// When it was asked for, `bpf_ktime_get_ns` clock.
    connected_ns: u64,
    /// The application's own port.
    port: u16,
}

/// An option with its value, as the application has given it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketOption {
    /// As in setsockopt(2).
    pub level: libc::c_int,
    /// As in setsockopt(2).
    pub name: libc::c_int,
    value: [u8; OptionEvent::VALUE_BYTES as usize],
    length: usize,
}

/// The stream of what the kernel tells.
pub struct Options {
    ring: AsyncFd<RingBuf<MapData>>,
}

/// The program that tells of options, on one workload's cgroup.
pub(super) struct OptionLink {
    entries: Entries,
    link: Mutex<Option<Attached>>,
}

// === impl ConnectionId ===

impl ConnectionId {
    /// Of a connection that the application has opened from `peer`.
    #[must_use]
    pub const fn of(captured: &Captured, peer: SocketAddr) -> Self {
        Self { workload: captured.workload, connected_ns: captured.connected_ns, port: peer.port() }
    }

    /// The workload that it is of.
    #[must_use]
    pub const fn workload(&self) -> WorkloadId {
        self.workload
    }
}

// === impl SocketOption ===

impl SocketOption {
    /// `None` for a value that is longer than those of the options that are followed.
    #[must_use]
    pub fn new(level: libc::c_int, name: libc::c_int, value: &[u8]) -> Option<Self> {
        let mut bytes = [0; OptionEvent::VALUE_BYTES as usize];
        bytes.get_mut(..value.len())?.copy_from_slice(value);
        Some(Self { level, name, value: bytes, length: value.len() })
    }

    /// As setsockopt(2) takes it.
    #[must_use]
    pub fn value(&self) -> &[u8] {
        &self.value[..self.length]
    }

    /// A value that is a number.
    #[must_use]
    pub fn number(&self) -> Option<libc::c_int> {
        Some(libc::c_int::from_ne_bytes(self.value().first_chunk().copied()?))
    }

    /// Whether both are of one option, whatever its value.
    #[must_use]
    pub const fn is_same(&self, other: &Self) -> bool {
        self.level == other.level && self.name == other.name
    }
}

// === impl Options ===

impl Options {
    /// Takes the ring buffer out of the instance. Needs a tokio runtime.
    ///
    /// # Errors
    /// Where the object has no such map, or its descriptor cannot be watched.
    pub fn new(instance: &Instance) -> Result<Self, CaptureError> {
        Ok(Self { ring: instance.ring(maps::OPTIONS)? })
    }

    /// Calls `handle` for each option, in the order in which they were set, for ever.
    pub async fn run(&mut self, mut handle: impl FnMut(ConnectionId, SocketOption)) {
        while let Ok(mut ready) = self.ring.readable_mut().await {
            ready.clear_ready();
            loop {
                sleep(PAUSE).await;
                // The kernel wakes for what comes after the last look.
                if !drain(ready.get_inner_mut(), &mut handle) {
                    break;
                }
            }
        }
    }
}

// === impl OptionLink ===

impl OptionLink {
    pub(super) fn new(entries: Entries) -> Self {
        Self { entries, link: Mutex::default() }
    }

    /// Has the kernel tell of options that are set in a cgroup with this id. Without it everything else
    /// works.
    pub(super) fn attach(&self, cgroup: &Path, dir: BorrowedFd<'_>, id: u64) {
        let mut options = lock(&self.link);
        if options.as_ref().is_some_and(|it| it.target == id && !it.has_changed()) {
            return;
        }
        *options = None;
        match self.entries.instance.attach_beside(&OPTION_HOOK, cgroup, dir) {
            Ok(link) => *options = Some(Attached::new(OPTION_HOOK, link, id)),
            Err(error) => {
                tracing::warn!(%error, workload.number = self.entries.workload, "{WITHOUT}");
            }
        }
    }

    /// The kernel tells of no options any more.
    pub(super) fn detach(&self) {
        if let Some(Attached { link, .. }) = lock(&self.link).take() {
            let _ = bpf::link_detach(link.as_fd());
        }
    }

    /// Where it is attached.
    pub(super) fn attached(&self) -> MutexGuard<'_, Option<Attached>> {
        lock(&self.link)
    }
}

// === helpers ===

/// Takes a batch; false where there is nothing more.
fn drain(ring: &mut RingBuf<MapData>, handle: &mut impl FnMut(ConnectionId, SocketOption)) -> bool {
    for _ in 0..BATCH {
        let Some(item) = ring.next() else { return false };
        if let Some((id, option)) = parse(&item) {
            handle(id, option);
        }
    }
    true
}

fn parse(item: &[u8]) -> Option<(ConnectionId, SocketOption)> {
    let OptionEvent { connected_ns, value, workload, level, name, length, port } =
        bpf::event(item)?;
    let [first, second] = value.map(u64::to_ne_bytes);
    let value = [first, second].concat();
    let option = SocketOption::new(level, name, value.get(..length.into())?)?;
    Some((ConnectionId { workload, connected_ns, port }, option))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        capture::{
            AttachOptions, InstanceOptions, WorkloadMaps, bpf::AttachType, query::cgroup_programs,
        },
        host::cgroup::Transient,
    };

    /// Needs root. Each process has its own, and a guard has to see what others do to it.
    #[test]
    fn a_hook_that_was_taken_off_is_seen_and_put_back() {
        let cgroup = Transient::create(&format!("weir-options-{}", std::process::id())).unwrap();
        let programs =
            || cgroup_programs(cgroup.path(), AttachType::Setsockopt, false).unwrap().len();
        let instance = Arc::new(Instance::open(&InstanceOptions::default()).unwrap());
        let [old, new] =
            [true, false].map(|fresh| WorkloadMaps::new(Arc::clone(&instance), 7, fresh));
        let attach = |kernel: &WorkloadMaps| {
            kernel.attach(cgroup.path(), AttachOptions::default(), |_| Ok(())).unwrap();
        };
        attach(&old);
        assert_eq!((programs(), old.links.hooks()[0].as_str()), (1, "setsockopt"));
        bpf::link_detach(old.links.options.attached().as_ref().unwrap().link.as_fd()).unwrap();
        assert_eq!((programs(), old.links.changed_hook()), (0, Some("setsockopt")));
        attach(&old);
        assert_eq!((programs(), old.links.changed_hook()), (1, None));
        attach(&old);
        assert_eq!(programs(), 1);
        attach(&new);
        assert_eq!(programs(), 2);
        old.links.let_go();
        assert_eq!(programs(), 1);
        new.links.detach();
        assert_eq!((programs(), new.links.hooks().len()), (0, 0));
    }

    fn bytes(event: &OptionEvent) -> &[u8] {
        // SAFETY: `repr(C)`, integers only and no padding.
        unsafe {
            std::slice::from_raw_parts(
                std::ptr::from_ref(event).cast::<u8>(),
                size_of::<OptionEvent>(),
            )
        }
    }

    #[test]
    fn what_the_kernel_tells_has_its_value_as_it_was_given() {
        let value = [u64::from_ne_bytes(*b"cubic\0\0\0"), 0];
        let event = OptionEvent {
            connected_ns: 7,
            value,
            workload: 3,
            level: 6,
            name: 13,
            length: 5,
            port: 9,
        };
        let (id, option) = parse(bytes(&event)).unwrap();
        assert_eq!(id, ConnectionId { workload: 3, connected_ns: 7, port: 9 });
        assert_eq!((option.level, option.name, option.value()), (6, 13, &b"cubic"[..]));
        let number = OptionEvent { value: [600, 0], length: 4, ..event };
        assert_eq!(parse(bytes(&number)).unwrap().1.number(), Some(600));
        let short = OptionEvent { value: [9, 0], length: 1, ..event };
        assert_eq!(parse(bytes(&short)).unwrap().1.number(), None);
        assert_eq!(parse(bytes(&OptionEvent { length: 17, ..event })), None);
        assert_eq!(parse(&bytes(&event)[1..]), None);
    }
}
