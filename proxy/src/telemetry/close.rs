//! Why a connection ended, under names that records and dashboards can rely on.

use std::borrow::Cow;

use nix::errno::Errno;

/// Why a proxied connection ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// Both sides closed in order.
    Finished,
    /// The client closed it before the upstream was connected.
    ClientClosed,
    /// The client reset it.
    ClientReset,
    /// The upstream reset it.
    UpstreamReset,
    /// The upstream could not be reached; an `errno`.
    ConnectFailed(i32),
    /// A direct connection whose handshake did not complete; an `errno`, or 0 where it was given up.
    NotEstablished(i32),
    /// One side had closed, and the other stayed silent for too long.
    HalfClosedTimeout,
    /// Still open when the drain's time was up.
    DrainDeadline,
    /// Its destination was weir itself.
    Loop,
    /// The kernel knew no original destination for it.
    NoOriginalDestination,
    /// Any other error of a socket; an `errno`.
    Error(i32),
    /// The HTTP engine gave up; its words.
    Http(String),
    /// A tapped connection whose end was not seen: weir ended before, or has missed it.
    TapEnded,
    /// The task that owned it went away without a word.
    Aborted,
}

// === impl CloseReason ===

impl CloseReason {
    /// The reason for an I/O error that neither side's reset explains.
    #[must_use]
    pub fn from_io(error: &std::io::Error) -> Self {
        Self::Error(error.raw_os_error().unwrap_or(0))
    }

    /// The stable name.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Finished => "finished",
            Self::ClientClosed => "client_closed",
            Self::ClientReset => "client_reset",
            Self::UpstreamReset => "upstream_reset",
            Self::ConnectFailed(_) => "connect_failed",
            Self::NotEstablished(_) => "not_established",
            Self::HalfClosedTimeout => "half_closed_timeout",
            Self::DrainDeadline => "drain_deadline",
            Self::Loop => "loop",
            Self::NoOriginalDestination => "no_original_destination",
            Self::Error(_) => "error",
            Self::Http(_) => "http",
            Self::TapEnded => "tap_ended",
            Self::Aborted => "aborted",
        }
    }

    /// The error in words, where there is one: `ECONNREFUSED`, or the engine's message.
    #[must_use]
    pub fn error(&self) -> Option<Cow<'_, str>> {
        match self {
            Self::Http(message) => Some(message.as_str().into()),
            other => other.client_errno().or_else(|| other.upstream_errno()).map(Cow::from),
        }
    }

    /// The `errno` label on the client's side.
    pub(super) fn client_errno(&self) -> Option<String> {
        match self {
            Self::ClientReset => Some(errno_name(libc::ECONNRESET)),
            Self::NotEstablished(0) => None,
            Self::ConnectFailed(errno) | Self::NotEstablished(errno) | Self::Error(errno) => {
                Some(errno_name(*errno))
            }
            Self::HalfClosedTimeout => Some(errno_name(libc::ETIMEDOUT)),
            _ => None,
        }
    }

    /// The `errno` label on the upstream's side.
    pub(super) fn upstream_errno(&self) -> Option<String> {
        match self {
            Self::UpstreamReset => Some(errno_name(libc::ECONNRESET)),
            Self::NotEstablished(0) => None,
            Self::ConnectFailed(errno) | Self::NotEstablished(errno) | Self::Error(errno) => {
                Some(errno_name(*errno))
            }
            Self::HalfClosedTimeout => Some(errno_name(libc::ETIMEDOUT)),
            _ => None,
        }
    }
}

/// `ECONNREFUSED` for 111; bounded, since unknown numbers share one name.
pub(super) fn errno_name(errno: i32) -> String {
    format!("{:?}", Errno::from_raw(errno))
}
