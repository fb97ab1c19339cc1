//! HTTP as bytes that pass by: HTTP/1 heads and bodies, HTTP/2 frames and header blocks, in any
//! segmentation, and the exchanges that they make up. Knows no sockets, no timers and no runtime: a
//! caller shows it bytes, and it says what they mean. Used by protocol detection, by the passthrough
//! engine's observer and by the terminating engine.

#![forbid(unsafe_code)]

mod connection;
mod endpoints;
mod error;
mod exchange;
pub mod h1;
pub mod h2;
mod routing;
mod trace;
mod tracker;

pub use self::connection::Connection;
pub use self::endpoints::{Choice, Endpoints, Lease};
pub use self::error::ParseError;
pub use self::exchange::{
    Exchange, ExchangeEnd, ExchangeSink, Repeat, RequestInfo, Side, Untracked,
};
pub use self::routing::{
    Came, Deadlines, FieldEdit, Limit, OwnAnswer, Plan, RequestEdits, RequestView, Retries,
    RetryBudget, RetryOn, RetryPolicy, RouteName, RouteTo, Routed, TIMEOUT, TimeLimits, Verdict,
    Withheld, edit_request, edit_response, head_length,
};
pub use self::trace::TraceParent;
pub use self::tracker::{Tracker, is_grpc};

/// The header that names the reason of an answer of weir's own.
pub const ERROR_HEADER: &str = "x-weir-error";

/// The reason of an answer that sends the client elsewhere.
pub const REDIRECT: &str = "redirect";

/// gRPC `UNAVAILABLE`: the client may retry.
pub const GRPC_UNAVAILABLE: u32 = 14;

/// Largest part of a method, a path or a host that is kept, in bytes. No server of note takes a
/// longer one.
pub const LONGEST_TEXT: usize = 8 << 10;
