//! Success or failure of an exchange, by Linkerd's rules (linkerd2-proxy
//! `linkerd/app/core/src/classify.rs`), so that success rates mean what people are used to.

use super::codes::GrpcLabel;
use crate::forward::http::{Exchange, ExchangeEnd};

/// The verdict on one exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Class {
    Success,
    Failure,
}

/// What an exchange says of the endpoint that it was sent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It works. What it has said may still be an error of the request.
    Served,
    /// It has failed.
    Failed,
    /// It works, and asks for fewer requests: 429 (RFC 6585 §4), or RESOURCE_EXHAUSTED of gRPC.
    Limited,
}

/// Too Many Requests.
const TOO_MANY: u16 = 429;
/// gRPC's RESOURCE_EXHAUSTED.
const EXHAUSTED: u32 = 8;

/// gRPC codes that are the server's fault: UNKNOWN, DEADLINE_EXCEEDED, INTERNAL, UNAVAILABLE,
/// DATA_LOSS. The others (NOT_FOUND, say) are answers.
const GRPC_FAILURES: [u32; 5] = [2, 4, 13, 14, 15];

/// RFC 9113 §7.
const H2_NO_ERROR: u32 = 0;

// === impl Class ===

impl Class {
    /// `None` where there was no response to judge: the client left before one.
    pub(super) fn of(exchange: &Exchange) -> Option<Self> {
        match exchange.end {
            ExchangeEnd::UpstreamClosed | ExchangeEnd::TimedOut => return Some(Self::Failure),
            // Of weir's own answers a redirect is none, and a path without a rule is the client's fault.
            ExchangeEnd::Answered(_) if exchange.status.is_none() => return Some(Self::Failure),
            ExchangeEnd::UpstreamReset(code) if code != Some(H2_NO_ERROR) => {
                return Some(Self::Failure);
            }
            _ => {}
        }
        Some(Self::of_status(exchange.status?, exchange.grpc_status))
    }

    fn of_status(status: u16, grpc_status: Option<u32>) -> Self {
        match grpc_status {
            // gRPC's libraries take a code that they do not know for UNKNOWN.
            Some(code) if GRPC_FAILURES.contains(&code) || GrpcLabel::is_other(code) => {
                Self::Failure
            }
            Some(_) => Self::Success,
            None if status >= 500 => Self::Failure,
            None => Self::Success,
        }
    }

    /// The value of the `classification` label.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failure => "failure",
        }
    }
}

// === impl Answer ===

impl Answer {
    /// Of an exchange that has ended.
    pub(crate) fn of(exchange: &Exchange) -> Self {
        match (Class::of(exchange), exchange.status) {
            (Some(Class::Failure), _) => Self::Failed,
            (_, Some(status)) => Self::of_status(status, exchange.grpc_status),
            (_, None) => Self::Served,
        }
    }

    /// Of a response that is whole.
    pub(crate) fn of_status(status: u16, grpc_status: Option<u32>) -> Self {
        let is_limit = match grpc_status {
            Some(code) => code == EXHAUSTED,
            None => status == TOO_MANY,
        };
        match Class::of_status(status, grpc_status) {
            Class::Failure => Self::Failed,
            Class::Success if is_limit => Self::Limited,
            Class::Success => Self::Served,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::tests::exchange, *};

    #[test]
    fn exchanges_are_judged_as_linkerd_does() {
        use Class::{Failure, Success};
        use ExchangeEnd::{Answered, ClientReset, Complete, UpstreamClosed, UpstreamReset};
        for (status, grpc, end, class) in [
            (Some(200), None, Complete, Some(Success)),
            (Some(404), None, Complete, Some(Success)),
            (Some(500), None, Complete, Some(Failure)),
            (Some(200), Some(0), Complete, Some(Success)),
            (Some(200), Some(5), Complete, Some(Success)),
            (Some(200), Some(14), Complete, Some(Failure)),
            (Some(200), Some(17), Complete, Some(Failure)),
            (Some(101), None, ExchangeEnd::Tunnel, Some(Success)),
            (None, None, ClientReset(Some(8)), None),
            (Some(200), None, ClientReset(Some(8)), Some(Success)),
            (None, None, UpstreamReset(None), Some(Failure)),
            (None, None, UpstreamClosed, Some(Failure)),
            (Some(200), None, UpstreamReset(Some(2)), Some(Failure)),
            (Some(200), None, UpstreamReset(Some(0)), Some(Success)),
            (Some(502), None, Answered("connect"), Some(Failure)),
            (Some(302), None, Answered("redirect"), Some(Success)),
            (Some(504), None, Answered("timeout"), Some(Failure)),
            (Some(200), None, ExchangeEnd::TimedOut, Some(Failure)),
            (Some(404), None, Answered("no-route"), Some(Success)),
            (Some(200), Some(12), Answered("no-route"), Some(Success)),
            (None, None, Answered("connect"), Some(Failure)),
        ] {
            let what = format!("{status:?} {grpc:?} {end:?}");
            let exchange = Exchange { status, grpc_status: grpc, end, ..exchange() };
            assert_eq!(Class::of(&exchange), class, "{what}");
        }
    }

    #[test]
    fn a_limit_is_neither_a_failure_nor_a_usual_answer() {
        use Answer::{Failed, Limited, Served};
        for (status, grpc, end, answer) in [
            (Some(200), None, ExchangeEnd::Complete, Served),
            (Some(404), None, ExchangeEnd::Complete, Served),
            (Some(429), None, ExchangeEnd::Complete, Limited),
            (Some(200), Some(8), ExchangeEnd::Complete, Limited),
            (Some(200), Some(5), ExchangeEnd::Complete, Served),
            (Some(429), Some(0), ExchangeEnd::Complete, Served),
            (Some(503), None, ExchangeEnd::Complete, Failed),
            (Some(429), None, ExchangeEnd::UpstreamReset(Some(2)), Failed),
            (None, None, ExchangeEnd::ClientReset(None), Served),
        ] {
            let what = format!("{status:?} {grpc:?} {end:?}");
            let exchange = Exchange { status, grpc_status: grpc, end, ..exchange() };
            assert_eq!(Answer::of(&exchange), answer, "{what}");
        }
    }
}
