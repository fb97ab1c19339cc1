//! What is reported: a request and its response, and that messages are not followed any more.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crate::{Limit, RouteName, TraceParent, Withheld};

/// One of a connection's two peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// The downstream client.
    Client,
    /// The upstream server.
    Upstream,
}

/// One request and its response, as it ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Exchange {
    /// 10, 11 or 20: the version the client spoke.
    pub version: u8,
    /// The method, as sent.
    pub method: Arc<str>,
    /// `:authority`, the authority of the target, or `Host`.
    pub authority: Option<Arc<str>>,
    /// The path without its query and fragment. Never a label.
    pub path: Arc<str>,
    /// The final status; `None` if no response head arrived.
    pub status: Option<u16>,
    /// `grpc-status` of the trailers (or of a trailers-only response).
    pub grpc_status: Option<u32>,
    /// True for `content-type: application/grpc…`.
    pub grpc: bool,
    /// The `traceparent` of the request, if it is valid.
    pub trace: Option<Arc<TraceParent>>,
    /// When the request head was complete.
    pub started: SystemTime,
    /// From the request head to the final response head.
    pub time_to_head: Option<Duration>,
    /// From the request head to the end of the response.
    pub duration: Duration,
    /// Bytes of the request's body, framing excluded.
    pub request_bytes: u64,
    /// Bytes of the response's body, framing excluded.
    pub response_bytes: u64,
    /// How it ended.
    pub end: ExchangeEnd,
    /// Where it was sent last, if an endpoint is chosen for each request; otherwise it went where its
    /// connection went.
    pub upstream: Option<SocketAddr>,
    /// How many connections it was sent on; more than one where requests are retried.
    pub attempts: u8,
    /// The route that it has taken, if its destination has any.
    pub route: Option<Arc<RouteName>>,
}

/// How an exchange ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExchangeEnd {
    /// The response was forwarded to its end.
    Complete,
    /// The client closed, or reset the stream (HTTP/2 error code, RFC 9113 §7). An exchange is
    /// attributed to the side that ended first: what the upstream does when it learns of it counts
    /// as the client's.
    ClientReset(Option<u32>),
    /// The upstream reset its connection or the stream, or ended inside the response.
    UpstreamReset(Option<u32>),
    /// The upstream closed in order, without a response.
    UpstreamClosed,
    /// weir answered itself; the value of `x-weir-error`.
    Answered(&'static str),
    /// The exchange became a tunnel (101 or 2xx to CONNECT); bytes are the connection's.
    Tunnel,
    /// The messages could not be followed any more: the bytes passed on unchanged, unread.
    Untracked,
    /// weir dropped the connection, for example because a drain ran out of time.
    Cancelled,
    /// A time limit of its route has passed within the response. Before that it is [`Self::Answered`].
    TimedOut,
}

/// From here on, bytes were forwarded without being read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Untracked {
    /// Whose bytes were not understood.
    pub side: Side,
    /// Why, for people.
    pub reason: &'static str,
}

/// What a request head says about its exchange.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestInfo {
    /// 10, 11 or 20.
    pub version: u8,
    /// The method, as sent.
    pub method: Arc<str>,
    /// `:authority`, the authority of the target, or `Host`.
    pub authority: Option<Arc<str>>,
    /// Without its query.
    pub path: Arc<str>,
    /// The content is gRPC's.
    pub grpc: bool,
    /// `traceparent`, if it is valid.
    pub trace: Option<Arc<TraceParent>>,
}

/// Why a request could be sent once more: its endpoint has certainly not processed it, or that is no matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Repeat {
    /// No connection could be made.
    NotConnected,
    /// The endpoint has refused the stream, or had gone away before it (RFC 9113 §8.7).
    Refused,
    /// The connection had ended before the endpoint's kernel had any of it.
    Unacknowledged,
    /// Its route says so.
    Route,
}

/// Takes what is reported. Called on the data path: must not block.
pub trait ExchangeSink {
    /// The authority of a request head that has arrived. Called before
    /// [`ExchangeSink::request_started`], where there is one.
    fn authority(&self, _authority: &str) {}
    /// A request head has arrived.
    fn request_started(&self);
    /// The exchange is over. Called once for each [`ExchangeSink::request_started`].
    fn exchange(&self, exchange: Exchange);
    /// A request that was sent once more is over, with a response or without; one of
    /// [`Repeat::Route`] with one that is no failure. Called before [`ExchangeSink::exchange`].
    fn repeated(&self, _why: Repeat, _is_answered: bool) {}
    /// A request was not sent once more, though its route says so.
    fn not_repeated(&self, _why: Withheld) {}
    /// A time limit of a request has passed.
    fn timed_out(&self, _limit: Limit) {}
    /// The messages of the connection are not followed any more. Called at most once for each.
    fn downgraded(&self, untracked: Untracked);
    /// When the bytes passed that are being read, where that is not now.
    fn moment(&self) -> Option<Instant> {
        None
    }
}

// === impl Side ===

impl Side {
    /// The opposite side.
    pub const fn other(self) -> Self {
        match self {
            Self::Client => Self::Upstream,
            Self::Upstream => Self::Client,
        }
    }

    /// The name used in records and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Upstream => "upstream",
        }
    }
}

// === impl Repeat ===

impl Repeat {
    /// The level as users know it, the safest first: the value of the label `level`. The numbers are those
    /// of docs/SERVICES.md.
    #[must_use]
    pub const fn level(self) -> &'static str {
        match self {
            Self::NotConnected => "0",
            Self::Refused => "1",
            Self::Unacknowledged => "2",
            Self::Route => "3",
        }
    }
}

// === impl Untracked ===

impl Untracked {
    /// The reason as the value of a metric's label. Reasons are constants, so that the values are
    /// bounded.
    pub fn label(&self) -> String {
        self.reason.replace([' ', '/', '-'], "_").to_ascii_lowercase()
    }
}

// === impl RequestInfo ===

impl RequestInfo {
    /// Bytes of its texts.
    #[inline]
    pub fn text_bytes(&self) -> usize {
        self.method.len() + self.authority.as_ref().map_or(0, |text| text.len()) + self.path.len()
    }
}
