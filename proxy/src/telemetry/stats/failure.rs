//! Why a request or a connection has failed, in a number that a row keeps without a lock.

use std::fmt;

use crate::{
    decision::Treatment,
    forward::http::{Exchange, ExchangeEnd},
    telemetry::{CloseReason, close::errno_name, event::Connection},
};

/// The last failure of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// An error of a socket.
    Errno(i32),
    /// A status code.
    Status(u16),
    /// A status code of gRPC.
    Grpc(u32),
    /// The upstream has reset the connection or the stream.
    Reset,
    /// The upstream has closed without a response.
    Closed,
    /// Anything else, without a response.
    NoResponse,
}

// === impl Failure ===

impl Failure {
    /// Of a request that is classified as a failure.
    pub(super) fn of_exchange(exchange: &Exchange) -> Self {
        match (&exchange.end, exchange.grpc_status, exchange.status) {
            (ExchangeEnd::UpstreamClosed, ..) => Self::Closed,
            (ExchangeEnd::UpstreamReset(_), ..) => Self::Reset,
            (_, Some(code), Some(200)) => Self::Grpc(code),
            (_, _, Some(status)) => Self::Status(status),
            _ => Self::NoResponse,
        }
    }

    /// Of a connection through weir. What its client has ended has not failed; of HTTP, what ends with an
    /// error behind the first byte is a failure of requests.
    pub(super) fn of_connection(connection: &Connection, reason: &CloseReason) -> Option<Self> {
        let treatment = connection.detection().map(|it| it.treatment());
        let is_http = matches!(treatment, Some(Treatment::Http1 | Treatment::Http2));
        match reason {
            CloseReason::ConnectFailed(errno) => Some(Self::Errno(*errno)),
            CloseReason::Loop => Some(Self::Errno(libc::ELOOP)),
            CloseReason::NoOriginalDestination => Some(Self::Errno(libc::ENOENT)),
            _ if is_http => None,
            CloseReason::UpstreamReset => Some(Self::Reset),
            CloseReason::HalfClosedTimeout => Some(Self::Errno(libc::ETIMEDOUT)),
            CloseReason::Error(errno) => Some(Self::Errno(*errno)),
            _ => None,
        }
    }

    /// Of a connection that went direct.
    pub(super) const fn of_direct(end: &CloseReason) -> Option<Self> {
        match end {
            CloseReason::NotEstablished(errno) if *errno != 0 => Some(Self::Errno(*errno)),
            CloseReason::UpstreamReset => Some(Self::Reset),
            CloseReason::Error(errno) => Some(Self::Errno(*errno)),
            _ => None,
        }
    }

    /// As a row keeps it; never 0.
    pub(super) fn number(self) -> u64 {
        let (kind, value) = match self {
            Self::Errno(errno) => (1, errno.unsigned_abs()),
            Self::Status(status) => (2, u32::from(status)),
            Self::Grpc(code) => (3, code),
            Self::Reset => (4, 0),
            Self::Closed => (5, 0),
            Self::NoResponse => (6, 0),
        };
        (kind << 32) | u64::from(value)
    }

    /// What [`Self::number`] has made of it.
    pub(super) fn numbered(number: u64) -> Option<Self> {
        let value = number as u32;
        Some(match number >> 32 {
            1 => Self::Errno(value.cast_signed()),
            2 => Self::Status(u16::try_from(value).ok()?),
            3 => Self::Grpc(value),
            4 => Self::Reset,
            5 => Self::Closed,
            6 => Self::NoResponse,
            _ => return None,
        })
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Errno(errno) => f.write_str(&errno_name(*errno)),
            Self::Status(status) => write!(f, "{status}"),
            Self::Grpc(code) => write!(f, "grpc {code}"),
            Self::Reset => f.write_str("reset"),
            Self::Closed => f.write_str("closed"),
            Self::NoResponse => f.write_str("no response"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::tests::exchange;

    #[test]
    fn a_failure_is_what_its_number_says() {
        for (failure, text) in [
            (Failure::Errno(libc::ECONNREFUSED), "ECONNREFUSED"),
            (Failure::Errno(0), "UnknownErrno"),
            (Failure::Status(503), "503"),
            (Failure::Grpc(14), "grpc 14"),
            (Failure::Grpc(u32::MAX), "grpc 4294967295"),
            (Failure::Reset, "reset"),
            (Failure::Closed, "closed"),
            (Failure::NoResponse, "no response"),
        ] {
            assert_eq!(Failure::numbered(failure.number()), Some(failure));
            assert_eq!(failure.to_string(), text);
        }
        assert_eq!(Failure::numbered(0), None);
    }

    #[test]
    fn a_requests_failure_is_what_the_server_said_or_did() {
        use ExchangeEnd::{Answered, Complete, UpstreamClosed, UpstreamReset};
        for (status, grpc_status, end, failure) in [
            (Some(503), None, Complete, Failure::Status(503)),
            (Some(200), Some(14), Complete, Failure::Grpc(14)),
            (Some(502), None, Answered("connect"), Failure::Status(502)),
            (None, None, Answered("connect"), Failure::NoResponse),
            (Some(200), None, UpstreamReset(None), Failure::Reset),
            (None, None, UpstreamClosed, Failure::Closed),
        ] {
            let exchange = Exchange { status, grpc_status, end, ..exchange() };
            assert_eq!(Failure::of_exchange(&exchange), failure, "{exchange:?}");
        }
    }
}
