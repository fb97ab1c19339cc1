//! Reports of connections that went direct: the kernel writes one when such a socket closes. It
//! does not wake the proxy for each (see `wake_up` in `proxy-ebpf/src/stream.rs`).

use std::time::Duration;

use aya::maps::{MapData, RingBuf};
use tokio::io::unix::AsyncFd;
use weir_common::{CloseEvent, Reason, maps};

use super::{CaptureError, Captured, Instance};

/// How long an event may wait where the buffer does not fill.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// How a connection that went direct ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirectClose {
    /// Destination, port state and source.
    pub captured: Captured,
    /// Why it went direct.
    pub reason: Reason,
    /// Bytes that the peer acknowledged.
    pub bytes_sent: u64,
    /// Bytes received.
    pub bytes_received: u64,
    /// From connect to close.
    pub duration: Duration,
    /// Smoothed round-trip time.
    pub srtt: Duration,
    /// Segments sent again.
    pub retransmits: u32,
    /// False where the handshake never completed.
    pub established: bool,
}

/// The stream of close events.
pub struct Events {
    ring: AsyncFd<RingBuf<MapData>>,
}

// === impl Events ===

impl Events {
    /// Takes the ring buffer out of the instance. Needs a tokio runtime.
    ///
    /// # Errors
    /// Where the object has no such map, or its descriptor cannot be watched.
    pub fn new(instance: &Instance) -> Result<Self, CaptureError> {
        let ring = instance.take(maps::EVENTS)?;
        // SAFETY: the ring buffer owns its descriptor and keeps it for as long as it lives.
        let ring = unsafe { AsyncFd::register(ring) }.map_err(|error| CaptureError::Map {
            action: "watch",
            map: maps::EVENTS,
            source: error.into(),
        })?;
        Ok(Self { ring })
    }

    /// Calls `handle` for each event, for ever; at most [`LOOK_EVERY`] after it happened.
    pub async fn run(&mut self, mut handle: impl FnMut(DirectClose)) {
        loop {
            match tokio::time::timeout(LOOK_EVERY, self.ring.readable_mut()).await {
                Ok(Ok(mut ready)) => {
                    drain(ready.get_inner_mut(), &mut handle);
                    ready.clear_ready();
                }
                Ok(Err(_)) => return,
                Err(_) => self.drain(&mut handle),
            }
        }
    }

    /// Calls `handle` for each event that is already there.
    pub fn drain(&mut self, mut handle: impl FnMut(DirectClose)) {
        drain(self.ring.get_mut(), &mut handle);
    }
}

// === helpers ===

fn drain(ring: &mut RingBuf<MapData>, handle: &mut impl FnMut(DirectClose)) {
    while let Some(item) = ring.next() {
        if let Some(event) = parse(&item) {
            handle(event);
        }
    }
}

fn parse(item: &[u8]) -> Option<DirectClose> {
    if item.len() < size_of::<CloseEvent>() {
        return None;
    }
    // SAFETY: long enough, and CloseEvent is plain old data for which every bit pattern is valid.
    let event = unsafe { item.as_ptr().cast::<CloseEvent>().read_unaligned() };
    let reason =
        Reason::ALL.into_iter().find(|r| *r as u32 == u32::from(event.destination.reason))?;
    Some(DirectClose {
        captured: Captured::from(&event.destination),
        reason,
        bytes_sent: event.bytes_sent,
        bytes_received: event.bytes_received,
        duration: Duration::from_nanos(event.duration_ns),
        srtt: Duration::from_micros(event.srtt_us.into()),
        retransmits: event.retransmits,
        established: event.established != 0,
    })
}
