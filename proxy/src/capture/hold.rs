//! Connections whose SYN is held (`proxy-ebpf/src/hold.rs`): what the kernel tells of them, how far
//! they have come, and the packets that answer them. The workload decides for which to dial.

pub mod packet;
mod raw;

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd, AsRawFd, BorrowedFd},
};

use aya::maps::{MapData, RingBuf};
use tokio::io::unix::AsyncFd;
use weir_common::{ConnectionKey, HoldEvent, hold, maps};

use self::packet::Syn;
pub use self::raw::RawSockets;
use super::{
    CaptureError, Captured, Instance, Originals, bpf, listener::shortage, original::to_ip, sockopt,
    words,
};

/// linux/asm-generic/socket.h, since 3.19.
const SO_ATTACH_BPF: libc::c_int = 50;
/// The same, for whatever filter there is.
const SO_DETACH_FILTER: libc::c_int = 27;

/// A connection whose SYN the kernel has dropped and told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeldSyn {
    /// The connection.
    pub key: ConnectionKey,
    /// The SYN.
    pub syn: Syn,
    /// When it was asked for, `bpf_ktime_get_ns` clock: tells it from another one under the same key.
    pub connected_ns: u64,
    /// The SYN's sequence number.
    pub sequence: u32,
}

/// What the kernel tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// A SYN is held.
    Syn(HeldSyn),
    /// The application has given up a connection that was told before.
    GivenUp {
        /// The connection.
        key: ConnectionKey,
        /// As in [`HeldSyn`].
        connected_ns: u64,
    },
}

/// The stream of what the kernel tells.
pub struct Holds {
    ring: AsyncFd<RingBuf<MapData>>,
}

/// Whether connections can be held, as far as privileges go.
///
/// # Errors
/// Without `CAP_NET_RAW`.
pub fn support() -> Result<(), CaptureError> {
    RawSockets::open().map(drop).map_err(not_opened)
}

/// Has `filter` see every segment that comes to a socket.
///
/// # Errors
/// What setsockopt(2) says.
pub(super) fn attach_filter(socket: &impl AsFd, filter: BorrowedFd<'_>) -> io::Result<()> {
    sockopt::set(socket, SO_ATTACH_BPF, filter.as_raw_fd())
}

/// Takes the filter off that an accepted socket has from its hold listener: it has nothing more to
/// say, and would cost each segment about 0.1 µs.
pub fn detach_filter(accepted: &impl AsFd) {
    // Where there is none (ENOENT) it is done.
    let _ = sockopt::set(accepted, SO_DETACH_FILTER, 0);
}

// === impl HeldSyn ===

impl HeldSyn {
    /// The application's own end.
    #[must_use]
    pub fn peer(&self) -> SocketAddr {
        SocketAddr::new(to_ip(self.key.addr), self.key.port)
    }

    /// Whether both are of one connection.
    #[must_use]
    pub const fn is_same(&self, other: &Self) -> bool {
        self.connected_ns == other.connected_ns && self.sequence == other.sequence
    }
}

// === impl Holds ===

impl Holds {
    /// Takes the ring buffer out of the instance. Needs a tokio runtime.
    ///
    /// # Errors
    /// Where the object has no such map, or its descriptor cannot be watched.
    pub fn new(instance: &Instance) -> Result<Self, CaptureError> {
        Ok(Self { ring: instance.ring(maps::HOLDS)? })
    }

    /// Calls `handle` for whatever is told, for ever.
    pub async fn run(&mut self, mut handle: impl FnMut(Told)) {
        while let Ok(mut ready) = self.ring.readable_mut().await {
            // The kernel wakes for each event: what comes after the last look is not missed.
            ready.clear_ready();
            let ring = ready.get_inner_mut();
            while let Some(item) = ring.next() {
                let told = parse(&item);
                // Room for the next one, before anything else is done.
                drop(item);
                if let Some(told) = told {
                    handle(told);
                }
            }
        }
    }
}

// === impl Originals ===

impl Originals {
    /// What is noted of a connection that is held; `None` where the application has given it up, or
    /// it has been accepted.
    #[must_use]
    pub fn held(&self, held: &HeldSyn) -> Option<Captured> {
        let note = self.taken.get(&held.key).ok()?;
        (note.connected_ns == held.connected_ns).then(|| Captured::from(&note))
    }

    /// Lets the SYN pass that is held. `source` is the address that the connection has on the wire: the
    /// hooks tell the application. False where the connection is none any more.
    #[must_use]
    pub fn let_pass(&self, held: &HeldSyn, source: Option<IpAddr>) -> bool {
        self.set_hold(held, hold::READY, source)
    }

    /// Has the next SYN told anew. False as in [`Self::let_pass`].
    pub fn ask_again(&self, held: &HeldSyn) -> bool {
        self.set_hold(held, hold::NEW, None)
    }

    fn set_hold(&self, held: &HeldSyn, state: u32, source: Option<IpAddr>) -> bool {
        // Between the two calls another connection could get the key. It would hang then, until its
        // application gives up: no SYN of another number passes.
        let Ok(mut note) = self.taken.get(&held.key) else { return false };
        if note.connected_ns != held.connected_ns {
            return false;
        }
        note.hold = state;
        if let Some(source) = source.filter(|_| note.bound == 0) {
            note.source = words(source);
        }
        note.sequence = held.sequence;
        self.taken.replace(&held.key, &note).is_ok()
    }
}

// === helpers ===

pub(super) fn not_opened(source: io::Error) -> CaptureError {
    let hint = match source.raw_os_error() {
        Some(libc::EPERM) => "; grant CAP_NET_RAW, or use --connect immediate",
        _ => shortage(&source),
    };
    CaptureError::Socket { action: "open the raw socket for held connections", source, hint }
}

fn parse(item: &[u8]) -> Option<Told> {
    let HoldEvent { key, connected_ns, sequence, length, packet } = bpf::event(item)?;
    if length == 0 {
        return Some(Told::GivenUp { key, connected_ns });
    }
    let syn = Syn::parse(packet.get(..length as usize)?)?;
    Some(Told::Syn(HeldSyn { key, syn, connected_ns, sequence }))
}
