//! Why a stream or a connection is given up, as its peer is told (RFC 9113 §5.4 and §7).

use std::fmt;

/// An error code (RFC 9113 §7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Code(pub u32);

/// What a peer has done that it must not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Violation {
    /// What it is told.
    pub code: Code,
    /// For people.
    pub reason: &'static str,
}

// === impl Code ===

impl Code {
    /// Not an error.
    pub const NO_ERROR: Self = Self(0);
    /// The protocol was broken.
    pub const PROTOCOL_ERROR: Self = Self(1);
    /// The other side of the relay has failed.
    pub const INTERNAL_ERROR: Self = Self(2);
    /// More was sent than the window allows.
    pub const FLOW_CONTROL_ERROR: Self = Self(3);
    /// A frame on a stream that its sender has ended.
    pub const STREAM_CLOSED: Self = Self(5);
    /// A frame of a wrong size.
    pub const FRAME_SIZE_ERROR: Self = Self(6);
    /// The request was not processed.
    pub const REFUSED_STREAM: Self = Self(7);
    /// The stream is not wanted any more.
    pub const CANCEL: Self = Self(8);
    /// A header block cannot be decoded.
    pub const COMPRESSION_ERROR: Self = Self(9);
    /// A peer makes too much work.
    pub const ENHANCE_YOUR_CALM: Self = Self(11);
}

// === impl Violation ===

impl Violation {
    pub(super) const fn new(code: Code, reason: &'static str) -> Self {
        Self { code, reason }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason)
    }
}
