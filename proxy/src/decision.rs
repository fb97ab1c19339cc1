//! What weir decided about a connection, and why: the answer to "why was this connection treated
//! so?". It decides nothing itself.

use std::fmt;

use serde::{Deserialize, Serialize};
use weir_common::Reason;
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

/// What a connection is, and why: what was found in its bytes, or what spared it that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detection {
    /// Went direct in the kernel.
    Direct {
        /// The hook's reason.
        reason: Reason,
        /// Who asked for it; [`Source::Default`] if nothing did.
        source: Source,
    },
    /// Its bytes are not looked at; where that is set.
    Opaque(Source),
    /// An HTTP/1 request line.
    Http1,
    /// The HTTP/2 connection preface.
    Http2,
    /// A TLS `ClientHello`.
    Tls {
        /// False if it broke off: its beginning was certain, its labels are not known.
        settled: bool,
    },
    /// Nothing that is looked for.
    Tcp(Why),
}

/// Why a connection whose protocol was to be detected is raw TCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// No server of a known protocol does, but for HTTP/2's.
    ServerFirst,
    /// The client's first message was not complete.
    ServerBeforeTheRest,
    /// A side ended its stream before there was enough to decide.
    Ended {
        /// By the client.
        by_client: bool,
        /// The client had said something.
        said: bool,
    },
    /// The client's first message is longer than what is looked at.
    PeekLimit,
    /// The client's bytes cannot be the beginning of anything known; in the words of the grammar that
    /// held out longest, for people.
    Bytes(&'static str),
}

// === impl Detection ===

impl Detection {
    /// What the connection is treated as.
    #[must_use]
    pub const fn treatment(self) -> Treatment {
        match self {
            Self::Direct { .. } => Treatment::Skip,
            Self::Opaque(_) => Treatment::Opaque,
            Self::Http1 => Treatment::Http1,
            Self::Http2 => Treatment::Http2,
            Self::Tls { .. } => Treatment::Tls,
            Self::Tcp(_) => Treatment::Tcp,
        }
    }

    /// Who said so.
    #[must_use]
    pub const fn source(self) -> Source {
        match self {
            Self::Direct { source, .. } | Self::Opaque(source) => source,
            Self::Http1 | Self::Http2 | Self::Tls { .. } | Self::Tcp(_) => Source::Detected,
        }
    }

    /// The kernel's reason, where no rule asks for the connection to go direct, and
    /// nothing learned.
    #[must_use]
    pub fn unasked(self) -> Option<Reason> {
        match self {
            Self::Direct { reason, source: Source::Default } => Some(reason),
            _ => None,
        }
    }

    /// Whether detection ended before the client's first message was complete: more bytes might have
    /// made something else of it.
    #[must_use]
    pub const fn is_incomplete(self) -> bool {
        match self {
            Self::Tls { settled } => !settled,
            Self::Tcp(Why::Ended { said, .. }) => said,
            Self::Tcp(Why::PeekLimit | Why::ServerBeforeTheRest) => true,
            Self::Tcp(Why::ServerFirst | Why::Bytes(_))
            | Self::Direct { .. }
            | Self::Opaque(_)
            | Self::Http1
            | Self::Http2 => false,
        }
    }

    /// Why, as a clause: "server spoke first".
    #[must_use]
    pub const fn why(self) -> &'static str {
        match self {
            Self::Direct { reason, .. } => skip_clause(reason),
            Self::Opaque(Source::Default) => "port is opaque by default",
            Self::Opaque(Source::Learned) => "destination was opaque before",
            Self::Opaque(_) => "port is opaque",
            Self::Http1 => "HTTP/1 request line",
            Self::Http2 => "HTTP/2 connection preface",
            Self::Tls { .. } => "TLS ClientHello",
            Self::Tcp(why) => why.text(),
        }
    }
}

// === impl Why ===

impl Why {
    /// As a clause.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::ServerFirst => "server spoke first",
            Self::ServerBeforeTheRest => {
                "server spoke before the client's first words were complete"
            }
            Self::Ended { by_client: true, .. } => "client closed its side first",
            Self::Ended { by_client: false, .. } => "server closed its side first",
            Self::PeekLimit => "peek limit reached",
            Self::Bytes(text) => text,
        }
    }
}

// === helpers ===

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

/// Why the kernel let a connection pass, as a clause.
const fn skip_clause(reason: Reason) -> &'static str {
    match reason {
        Reason::Redirected => "handed to the proxy",
        Reason::NotTcp => "not a tcp stream",
        Reason::Loopback => "loopback destination",
        Reason::OwnTraffic => "weir's own connection",
        Reason::SkipPort => "port is skipped",
        Reason::SkipCidr => "address is in a skipped prefix",
        Reason::NotIncluded => "port is not on the include list",
        Reason::NoRoute => "no route",
        Reason::NoListener => "no proxy was listening",
        Reason::Stale => "the heartbeat was stale",
        Reason::BoundDevice => "socket is bound to a device",
        Reason::Unconfigured => "workload not configured yet",
        Reason::HookError => "a kernel helper failed",
        Reason::PendingFull => "the workload's share of pending connections was used up",
        Reason::OwnListener => "weir's own listener",
        Reason::LinkLocal => "link-local destination",
        Reason::FailedBefore => "a recent connection attempt failed",
        Reason::FailClosed => "no proxy was listening and fail is closed: refused",
        Reason::Learned => "learned to be raw tcp",
        Reason::FromInside => "came from inside the namespace",
        Reason::NotListening => "no socket is listening",
        Reason::OtherNetns => "socket is in another network namespace",
        Reason::ListeningFull => "the workload's share of listening sockets was used up",
        Reason::ReportLost => "its report was lost",
        Reason::BoundPort => "socket is bound to a source port",
        Reason::Signed => "segments are signed (TCP-MD5 or TCP-AO)",
        Reason::Filtered => "a packet filter of the cgroup does not see weir's connections",
        Reason::OptionLost => "a socket option was lost",
        Reason::Tapped => "seen by the tap, which does not proxy",
        Reason::TapLost => "the tap's buffer was full when it began",
        Reason::ShortOfPorts => "no source ports were left for weir's listeners",
    }
}
