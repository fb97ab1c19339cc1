//! Reports of the hooks to userspace about connections.

use crate::{ConnectionKey, OriginalDestination};

/// Sent when a connection that went direct has ended.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CloseEvent {
    /// The destination, and the hook's decision.
    pub destination: OriginalDestination,
    /// Payload sent, each byte once.
    pub bytes_sent: u64,
    /// Payload received from the peer.
    pub bytes_received: u64,
    /// Nanoseconds from connect to close.
    pub duration_ns: u64,
    /// Smoothed round-trip time in microseconds.
    pub srtt_us: u32,
    /// Segments sent again.
    pub retransmits: u32,
    /// The state that the socket left (`enum` in include/net/tcp_states.h): see [`tcp_state`].
    pub state: u32,
    /// The socket's error as an `errno`, 0 for none; [`CloseEvent::ERROR_UNKNOWN`] where the kernel does
    /// not let it be read.
    pub error: u32,
}

impl CloseEvent {
    /// In place of an error that is not known.
    pub const ERROR_UNKNOWN: u32 = u32::MAX;
}

/// States of a TCP socket (include/net/tcp_states.h) that are told apart.
pub mod tcp_state {
    /// Both directions are open.
    pub const ESTABLISHED: u32 = 1;
    /// Its SYN is on the way.
    pub const SYN_SENT: u32 = 2;
    /// A SYN has come.
    pub const SYN_RECV: u32 = 3;
    /// Its FIN is on the way.
    pub const FIN_WAIT1: u32 = 4;
    /// Its FIN has been acknowledged.
    pub const FIN_WAIT2: u32 = 5;
    /// Closed.
    pub const CLOSE: u32 = 7;
    /// The peer's FIN has come.
    pub const CLOSE_WAIT: u32 = 8;
    /// The peer's FIN has come, then its own was sent.
    pub const LAST_ACK: u32 = 9;
    /// It listens.
    pub const LISTEN: u32 = 10;
    /// Its FIN was sent, then the peer's has come.
    pub const CLOSING: u32 = 11;
}

/// Bytes of the longest IP and TCP headers that are told: IPv6 with every TCP option, or IPv4.
pub const HELD_BYTES: usize = 104;

/// What the proxy is told of a connection whose SYN is held.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HoldEvent {
    /// The connection.
    pub key: ConnectionKey,
    /// [`OriginalDestination::connected_ns`]: tells it from another one under the same key.
    pub connected_ns: u64,
    /// Of the SYN, host order.
    pub sequence: u32,
    /// Bytes of `packet` that count; 0: it has been given up, and there is no packet.
    pub length: u32,
    /// IP and TCP header of the SYN, and nothing of what follows.
    pub packet: [u8; HELD_BYTES],
}
