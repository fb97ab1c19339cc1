//! What the tap tells userspace: the bytes of connections that go direct, as the workload sends and
//! reads them. Each event is a [`TapEvent`], and what its kind says behind it.

use crate::OriginalDestination;

/// What an event tells: [`TapEvent::kind`].
pub mod tap_kind {
    /// A connection is established: [`super::TapOpened`] follows.
    pub const OPENED: u8 = 1;
    /// `length` bytes of one side follow.
    pub const BYTES: u8 = 2;
    /// The connection is not followed any more: `reason`.
    pub const LOST: u8 = 3;
    /// The kernel has closed the connection; bytes may still be read: [`super::TapFigures`] follows.
    pub const CLOSED: u8 = 4;
    /// The socket is gone: [`super::TapEnded`] follows.
    pub const ENDED: u8 = 5;
}

/// Why bytes are not seen: [`TapEvent::reason`], [`TapSocket::lost`].
pub mod tap_lost {
    /// They are.
    pub const NONE: u8 = 0;
    /// The ring buffer was full.
    pub const FULL: u8 = 1;
    /// Bytes went past the tap: splice(2) from the socket, or zero-copy receive.
    pub const HOLE: u8 = 2;
    /// A multipath connection (MPTCP): its data are read from another socket.
    pub const MPTCP: u8 = 3;
    /// Data were sent with the SYN (TCP Fast Open).
    pub const FAST_OPEN: u8 = 4;
    /// The kernel's buffer could not be read.
    pub const UNREADABLE: u8 = 5;
    /// A buffer is longer than what is copied at once.
    pub const TOO_LONG: u8 = 6;
}

/// Of events with bytes: the side has sent its FIN behind them.
pub const TAP_FIN: u8 = 1;

/// The head of each event.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TapEvent {
    /// The socket's cookie (`SO_COOKIE`).
    pub id: u64,
    /// When it happened, `bpf_ktime_get_ns` clock.
    pub time_ns: u64,
    /// Bytes of the side since its last event that are not shown.
    pub skipped: u64,
    /// Sequence number of the first byte that follows, host order.
    pub sequence: u32,
    /// Bytes that follow.
    pub length: u32,
    /// See [`tap_kind`].
    pub kind: u8,
    /// 0: sent by the workload, 1: read by it.
    pub side: u8,
    /// See [`TAP_FIN`].
    pub flags: u8,
    /// See [`tap_lost`].
    pub reason: u8,
    /// Padding.
    pub _pad: u32,
}

/// A connection that is followed from now on.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TapOpened {
    /// Its destination, and what the connect hook has decided.
    pub destination: OriginalDestination,
    /// The address of the workload's end.
    pub addr: crate::AddrWords,
    /// Sequence number of the first byte of each side, host order.
    pub first: [u32; 2],
    /// Its port, host order.
    pub port: u32,
    /// See [`tap_lost`]: not [`tap_lost::NONE`] where it cannot be followed.
    pub lost: u32,
}

/// What a connection has carried when the kernel closes it: as in [`crate::CloseEvent`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TapFigures {
    /// Payload sent, each byte once.
    pub bytes_sent: u64,
    /// Payload received from the peer, read or not.
    pub bytes_received: u64,
    /// The state that the socket left.
    pub state: u32,
    /// Its error as an `errno`, or [`crate::CloseEvent::ERROR_UNKNOWN`].
    pub error: u32,
    /// 1 if the peer's FIN has come.
    pub peer_ended: u32,
    /// Padding.
    pub _pad: u32,
}

/// How far a connection was followed when its socket went.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TapEnded {
    /// Sequence number behind the last byte of each side that was seen, host order.
    pub next: [u32; 2],
    /// Bytes of each side behind the last event that are not shown.
    pub skipped: [u64; 2],
    /// See [`tap_lost`].
    pub lost: u8,
    /// Padding.
    pub _pad: [u8; 7],
}

/// How far one side of a connection was followed.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TapSide {
    /// Bytes to come that are content and not shown.
    pub content: u64,
    /// Bytes since the last event that were not shown.
    pub skipped: u64,
    /// Bytes shown, where only the first are.
    pub shown: u32,
    /// Sequence number of the next byte, host order.
    pub next: u32,
    /// Of HTTP/2: bytes of the frame's payload that are to come.
    pub left: u32,
    /// Of HTTP/2: bytes of the frame's head, or of the client's preface, that have come.
    pub have: u32,
    /// Of HTTP/2: the frame's head, as it stands in the stream; the rest is padding.
    pub head: [u8; 16],
    /// Of HTTP/1: the head that is being read.
    pub scan: TapScan,
}

/// How far the beginning of a buffer has been read that may be a head.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TapScan {
    /// The value of Content-Length.
    pub value: u64,
    /// Bytes that have been read.
    pub read: u32,
    /// Where the head ends; 0 for nowhere yet.
    pub end: u32,
    /// The last four bytes.
    pub last: u32,
    /// Bytes of the line that are the field's name.
    pub matched: u32,
    /// Digits of the value.
    pub digits: u32,
    /// Fields of this name.
    pub lengths: u32,
    /// Not 0: something is not understood.
    pub odd: u32,
    /// Padding.
    pub _pad: u32,
}

/// What the tap keeps with a socket.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TapSocket {
    /// As in [`TapEvent::id`]; 0 for none.
    pub id: u64,
    /// What the workload sends, and what it reads.
    pub sides: [TapSide; 2],
    /// See [`tap_protocol`].
    pub protocol: u32,
    /// See [`tap_lost`].
    pub lost: u8,
    /// 1 once userspace knows of the loss.
    pub told: u8,
    /// 1 where lengths in heads cannot be relied on.
    pub shows_all: u8,
    /// Padding.
    pub _pad: u8,
    /// Sequence number of the first byte that is received, host order.
    pub first_received: u32,
    /// Padding.
    pub _pad2: u32,
}

/// What a connection's bytes look like: [`TapSocket::protocol`].
pub mod tap_protocol {
    /// Not known.
    pub const UNKNOWN: u32 = 0;
    /// May be HTTP/1.
    pub const HTTP1: u32 = 1;
    /// HTTP/2.
    pub const HTTP2: u32 = 2;
    /// Neither: its first bytes are shown, for detection.
    pub const OTHER: u32 = 3;
    /// Its bytes are not looked at.
    pub const OPAQUE: u32 = 4;
}

/// Bytes of each side that are shown of a connection that is not HTTP: what detection looks at.
pub const TAP_SHOWN: u32 = 65_536;

const _: () = {
    assert!(size_of::<TapEvent>() == 40);
    assert!(size_of::<TapOpened>() == 184);
    assert!(size_of::<TapFigures>() == 32);
    assert!(size_of::<TapEnded>() == 32);
    assert!(size_of::<TapSide>() == 88);
    assert!(size_of::<TapSocket>() == 200);
};
