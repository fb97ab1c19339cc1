//! Reports of connections that went direct: the kernel writes one when such a socket closes. It
//! does not wake the proxy for each (see `wake_up` in `proxy-ebpf/src/stream.rs`).

use std::time::Duration;

use aya::maps::{MapData, RingBuf};
use tokio::io::unix::AsyncFd;
use weir_common::{CloseEvent, Reason, maps, tcp_state};

use super::{CaptureError, Captured, Instance, bpf};

/// How long an event may wait where the buffer does not fill.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// How a connection that went direct ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirectClose {
    /// Destination, port state and source.
    pub captured: Captured,
    /// Why it went direct.
    pub reason: Reason,
    /// Payload sent, each byte once.
    pub bytes_sent: u64,
    /// Payload received.
    pub bytes_received: u64,
    /// From connect to close.
    pub duration: Duration,
    /// Smoothed round-trip time.
    pub srtt: Duration,
    /// Segments sent again.
    pub retransmits: u32,
    /// How it ended.
    pub end: End,
}

/// How a connection that went direct ended, seen from the workload's socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The handshake never completed; an `errno`, or 0 where the workload gave up.
    NotEstablished(i32),
    /// Both sides closed in order.
    Finished,
    /// The workload's socket was closed with a reset.
    OwnReset,
    /// The peer sent a reset.
    PeerReset,
    /// Any other error; an `errno`.
    Error(i32),
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
        Ok(Self { ring: instance.ring(maps::EVENTS)? })
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

// === impl End ===

impl End {
    /// By the state that the socket left for the closed one, and its error.
    pub(super) fn of(state: u32, error: u32) -> Self {
        let errno = error.cast_signed();
        let is_known = error != CloseEvent::ERROR_UNKNOWN;
        match (state, errno) {
            (tcp_state::SYN_SENT, _) => Self::NotEstablished(if is_known { errno } else { 0 }),
            // What tells a reset is not known.
            _ if !is_known => Self::Finished,
            // `tcp_reset` in net/ipv4/tcp_input.c.
            (_, libc::ECONNRESET) | (tcp_state::CLOSE_WAIT, libc::EPIPE) => Self::PeerReset,
            (
                tcp_state::ESTABLISHED
                | tcp_state::SYN_RECV
                | tcp_state::FIN_WAIT1
                | tcp_state::CLOSE_WAIT,
                0,
            ) => Self::OwnReset,
            (_, 0) => Self::Finished,
            (_, errno) => Self::Error(errno),
        }
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
    let event: CloseEvent = bpf::event(item)?;
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
        end: End::of(event.state, event.error),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_told_by_the_error_and_the_state_that_the_socket_left() {
        use tcp_state::{
            CLOSE_WAIT, CLOSING, ESTABLISHED, FIN_WAIT1, FIN_WAIT2, LAST_ACK, SYN_RECV, SYN_SENT,
        };
        let unknown = CloseEvent::ERROR_UNKNOWN;
        let (refused, reset, pipe, timeout) = (
            libc::ECONNREFUSED.cast_unsigned(),
            libc::ECONNRESET.cast_unsigned(),
            libc::EPIPE.cast_unsigned(),
            libc::ETIMEDOUT.cast_unsigned(),
        );
        for (state, error, end) in [
            (SYN_SENT, refused, End::NotEstablished(libc::ECONNREFUSED)),
            (SYN_SENT, 0, End::NotEstablished(0)),
            (SYN_SENT, unknown, End::NotEstablished(0)),
            // Closed in order, by either side first.
            (FIN_WAIT2, 0, End::Finished),
            (CLOSING, 0, End::Finished),
            (LAST_ACK, 0, End::Finished),
            // Closed with bytes unread, or with SO_LINGER and no time.
            (ESTABLISHED, 0, End::OwnReset),
            (CLOSE_WAIT, 0, End::OwnReset),
            (SYN_RECV, 0, End::OwnReset),
            // More came behind a close(2).
            (FIN_WAIT1, 0, End::OwnReset),
            (ESTABLISHED, reset, End::PeerReset),
            (FIN_WAIT1, reset, End::PeerReset),
            (CLOSE_WAIT, pipe, End::PeerReset),
            (ESTABLISHED, timeout, End::Error(libc::ETIMEDOUT)),
            (ESTABLISHED, unknown, End::Finished),
        ] {
            assert_eq!(End::of(state, error), end, "{state} {error}");
        }
    }
}
