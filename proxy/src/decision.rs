//! What weir decided about a connection, and why: the answer to "why was this connection treated
//! so?". It decides nothing itself.

use std::fmt;

use serde::{Deserialize, Serialize};
pub use weir_common::{Direction, PortState, Source};

/// What a connection was treated as.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum Treatment {
    /// Not captured: went direct in the kernel.
    Skip,
    /// Proxied as raw TCP without detection.
    Opaque,
    /// HTTP/1.0 or HTTP/1.1.
    Http1,
    /// HTTP/2 with prior knowledge (RFC 9113 §3.3), including gRPC.
    Http2,
    /// TLS, passed through.
    Tls,
    /// Raw TCP: detection found nothing else.
    Tcp,
}

impl Treatment {
    /// The name used in records, metrics and tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Skip => "skip",
            Self::Opaque => "opaque",
            Self::Http1 => "http1",
            Self::Http2 => "http2",
            Self::Tls => "tls",
            Self::Tcp => "tcp",
        }
    }
}

impl fmt::Display for Treatment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What a decision rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// Nothing that was read: settings, or the end of a side that had said nothing.
    None,
    /// Bytes that settle it.
    Bytes,
    /// Bytes that more of them might have made something else: detection ended before they were
    /// complete.
    Incomplete,
}

/// A treatment with its source and the reason in words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// What the connection is treated as.
    pub treatment: Treatment,
    /// Who said so.
    pub source: Source,
    /// Why, as a clause: "server spoke first".
    pub why: &'static str,
    /// What it rests on.
    pub evidence: Evidence,
}

impl Decision {
    /// A decision read off the connection's own bytes.
    #[must_use]
    pub const fn detected(treatment: Treatment, why: &'static str) -> Self {
        Self { treatment, source: Source::Detected, why, evidence: Evidence::Bytes }
    }

    /// The same, resting on something else than bytes that settle it.
    #[must_use]
    pub const fn resting_on(self, evidence: Evidence) -> Self {
        Self { evidence, ..self }
    }
}

/// The name of a source in records and tables.
#[must_use]
pub const fn source_name(source: Source) -> &'static str {
    match source {
        Source::Default => "default",
        Source::Config => "config",
        Source::Annotation => "annotation",
        Source::Cli => "cli",
        Source::Learned => "learned",
        Source::Detected => "detected",
    }
}

/// The name of a direction in records, metrics and tables.
#[must_use]
pub const fn direction_name(direction: Direction) -> &'static str {
    match direction {
        Direction::Outbound => "outbound",
        Direction::Inbound => "inbound",
    }
}

/// The name of a port state in records and tables.
#[must_use]
pub const fn state_name(state: PortState) -> &'static str {
    match state {
        PortState::Detect => "detect",
        PortState::Opaque => "opaque",
        PortState::Skip => "skip",
    }
}
