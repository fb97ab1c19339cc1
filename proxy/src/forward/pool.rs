//! HTTP/1 balanced by request: the requests of one client's connection go, one after the other, to
//! endpoints that are chosen for each, on upstream connections that clients share. Bytes stay as they are.
//!
//! A message shares a connection only if all recipients find its end at the same byte and nothing in it is
//! bound to the connection ([`Unpoolable`] has the reasons; `weir_http` reads as strictly as that). With
//! the first one that does not, the client gets an upstream connection of its own, and the passthrough
//! engine forwards everything from there on ([`Served::Pinned`]).
//!
//! | file | what it knows |
//! |---|---|
//! | `client.rs` | one client's connection: its requests, one after the other |
//! | `exchange.rs` | one request on one upstream connection |
//! | `acquire.rs` | how a request gets an upstream connection |
//! | `routed.rs` | requests that are routed by their heads |
//! | `retry.rs` | whether a request may be sent once more, as none of it was taken |
//! | `again.rs` | requests that are sent once more as their route says so |
//! | `limits.rs` | how long a request may take |
//! | `idle.rs`, `member.rs` | upstream connections, and those that are idle |
//! | `upload.rs` | what the client has sent |
//! | `report.rs` | where each exchange was |

mod acquire;
mod again;
mod client;
mod exchange;
mod idle;
mod limits;
mod member;
mod report;
mod retry;
mod routed;
#[cfg(test)]
mod tests;
mod upload;

use std::sync::Arc;

use tokio::net::TcpStream;

use self::client::Client;
pub(crate) use self::idle::Pool;
use super::ByteCounters;
use super::http::{ExchangeSink, HeadLimits};
use super::passthrough::HttpObserver;
use super::requests::Requests;
use super::tcp::Endpoint;
use crate::budget::Taken;
#[cfg(doc)]
use weir_http::h1::Unpoolable;

/// What the engine needs of a client's connection besides its two streams.
pub(crate) struct PoolContext {
    /// Chooses endpoints for its requests.
    pub(crate) requests: Arc<dyn Requests>,
    /// Where exchanges are reported.
    pub(crate) sink: Arc<dyn ExchangeSink>,
    /// Where bytes are counted.
    pub(crate) counters: Arc<ByteCounters>,
    /// Heads that are larger are not followed.
    pub(crate) head: HeadLimits,
}

/// What has become of a client's connection.
pub(crate) enum Served {
    /// It has ended.
    Over(End),
    /// It has an upstream connection of its own, and is to be passed through.
    Pinned(Box<Pinned>),
}

/// How a client's connection has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Between two requests, by the client or by the drain.
    Finished,
    /// The client has reset it.
    ClientReset,
    /// The upstream has reset the connection of a request.
    UpstreamReset,
    /// No upstream could be reached; an `errno`.
    Unreachable(i32),
    /// A time limit of a request has passed.
    TimedOut,
}

/// A client's connection and its upstream connection.
pub(crate) struct Pinned {
    pub(crate) client: Endpoint,
    pub(crate) upstream: Endpoint,
    /// Has followed both up to here.
    pub(crate) observer: HttpObserver,
    /// What the upstream connection takes of the budget.
    pub(crate) descriptor: Option<Taken>,
}

/// Serves a client's connection, both of whose sides are armed. `upstream` is the connection that was made
/// for it, on which nothing has been sent.
pub(crate) async fn serve(
    pool: Arc<Pool>,
    client: Endpoint,
    upstream: Endpoint<(TcpStream, Option<Taken>)>,
    context: PoolContext,
) -> Served {
    Client::new(pool, client, upstream, context).serve().await
}
