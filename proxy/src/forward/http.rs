//! The narrow interface that every HTTP engine implements: two connected byte streams in, the
//! exchanges it saw and one outcome out.

use std::time::{Duration, SystemTime};

/// One request and its response, as it ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Exchange {
    /// 10, 11 or 20: the version the client spoke.
    pub version: u8,
    /// The method, as sent.
    pub method: String,
    /// `:authority`, `Host` or the authority of the target.
    pub authority: Option<String>,
    /// The path without its query. Never a label.
    pub path: String,
    /// The final status; `None` if no response head arrived.
    pub status: Option<u16>,
    /// `grpc-status` of the trailers (or of a trailers-only response).
    pub grpc_status: Option<u32>,
    /// True for `content-type: application/grpc…`.
    pub grpc: bool,
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
}

/// How an exchange ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExchangeEnd {
    /// The response was forwarded to its end.
    Complete,
    /// The client went away or reset the stream (HTTP/2 error code, RFC 9113 §7).
    ClientReset(Option<u32>),
    /// The upstream went away or reset the stream.
    UpstreamReset(Option<u32>),
    /// weir answered itself; the value of `x-weir-error`.
    Answered(&'static str),
    /// The exchange became a tunnel (101 or 2xx to CONNECT); bytes are the connection's.
    Tunnel,
}

/// Takes what an engine reports. Called on the data path: must not block.
pub trait ExchangeSink: Send + Sync + 'static {
    /// A request head has arrived.
    fn request_started(&self);
    /// The exchange is over.
    fn exchange(&self, exchange: Exchange);
}
