//! Where the upstream connection of an accepted connection goes: the seam between the pipeline
//! (`connection.rs`) and services with several endpoints. It dials nothing itself.
//!
//! # Order of calls
//!
//! For each connection that is not refused outright, on the thread that serves it:
//!
//! 1. [`Upstream::select`], once, before the first dial. `None` costs nothing: only the original
//!    destination is dialled. This is the one virtual call of such a connection.
//! 2. [`Selection::next`]: the first endpoint. weir dials it at once, in the workload's network
//!    namespace, with the application's mark, bound address and socket options, as it dials the
//!    original destination. The protocol is not known yet: a server that speaks first is not
//!    delayed.
//! 3. [`Selection::attempted`]: how that dial ended. After a failure, from 2. After a success, 5.
//! 4. When `next` returns `None`, the original destination is dialled (and `attempted` called with
//!    it): an empty, stale or dead list of endpoints degrades to a connection as without weir. Its
//!    error is the one that the application gets.
//! 5. [`Selection::closed`], once, when the connection is over, however far it has come.
//! 6. `Drop`. It is the only call that is certain: a task can be dropped at a shutdown. Count what is
//!    in flight in a field that counts down when it is dropped, not in `closed`.
//!
//! Connections whose SYN is held and those accepted first differ only in what the application sees
//! of it: a held one waits in connect(2) while endpoints are tried, and its connect(2) fails with the
//! error of the last dial. The application's own time limit bounds both: when it gives up, the dial
//! under way is dropped without `attempted`, and `closed` follows.
//!
//! # What the pipeline does itself
//!
//! - An endpoint that leads back to one of weir's listeners is not dialled: `attempted` with `ELOOP`.
//! - Without file descriptors or memory no endpoint is at fault: the dial waits for them as usual,
//!   and if there are none, the connection ends without `attempted` and without another endpoint.
//! - getpeername(2) stays the original destination; getsockname(2) of a held connection is the source
//!   address of the upstream connection, where its family is the application's.
//! - Records of connections name the endpoint beside the original destination.
//! - Metrics, learning and the hooks' list of unreachable destinations keep to the original
//!   destination.
//!
//! # Requests
//!
//! Where requests are balanced ([`Selection::requests`]), 1 to 5 hold for the first upstream
//! connection, which is made before the protocol is known. If it is HTTP of a version that is
//! balanced, that connection becomes one of several that an engine keeps for the clients of the
//! workload; for each request the engine asks [`Requests::choose`], and reports what came of it to the
//! lease that it got.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use crate::{
    decision::Direction,
    forward::requests::Requests,
    telemetry::{ChosenEndpoint, CloseReason},
};

/// What a connection is to reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// Seen from the workload. The destination of an inbound connection is the workload itself.
    pub direction: Direction,
    /// The address that the client asked for.
    pub destination: SocketAddr,
}

/// Knows endpoints of destinations. One for all connections of a workload.
pub trait Upstream: Send + Sync {
    /// The endpoints for one connection; `None` if it has only its original destination. Called for
    /// each connection, on the thread that serves it: must not block, and should be a look-up.
    fn select(&self, target: &Target) -> Option<Box<dyn Selection>>;
}

/// The endpoints of one connection, one after the other; lives as long as the connection.
pub trait Selection: Send {
    /// The next endpoint to dial. `None` for the original destination, which ends the search: nothing
    /// is asked for behind it. Must not block.
    ///
    /// Each endpoint has the whole [`Endpoint::connect_timeout`], and nothing else bounds their number.
    fn next(&mut self) -> Option<Endpoint>;

    /// Who learns from the answers of the endpoint that was connected to, if any is. Asked once, after
    /// the dial that has succeeded; HTTP exchanges are told to it as they end.
    fn chosen(&self) -> Option<ChosenEndpoint> {
        None
    }

    /// How the requests of the connection are balanced, if they are. Asked once, after the dial that
    /// has succeeded.
    fn requests(&self) -> Option<ByRequest> {
        None
    }

    /// A dial has ended; also that of the original destination.
    fn attempted(&mut self, attempt: &Attempt<'_>);

    /// The connection is over.
    fn closed(&mut self, outcome: &Outcome<'_>);
}

/// Balances the requests of a connection.
#[derive(Clone, Debug)]
pub struct ByRequest {
    /// Also those of HTTP/1; those of HTTP/2 always.
    pub http1: bool,
    /// Chooses an endpoint for each.
    pub requests: Arc<dyn RequestUpstream>,
}

/// Chooses endpoints, and learns of the dials that follow.
pub trait RequestUpstream: Requests {
    /// A dial for requests has ended.
    fn attempted(&self, attempt: &Attempt<'_>);
}

/// An address to dial in place of the original destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Of either family.
    pub address: SocketAddr,
    /// After which the next one is tried; never longer than the configured time
    /// (`forward.connect_timeout`). `None` for that one.
    pub connect_timeout: Option<Duration>,
}

/// One dial.
#[derive(Clone, Copy, Debug)]
pub struct Attempt<'a> {
    /// The address that was dialled.
    pub address: SocketAddr,
    /// What came of it: the error of connect(2), `ETIMEDOUT` also where weir has given up, and
    /// `EADDRNOTAVAIL` where the workload has no source port left for this address, for which it is
    /// not to blame.
    pub result: Result<(), &'a io::Error>,
    /// From the first system call to the result.
    pub took: Duration,
    /// The round-trip time of the handshake, as the kernel has measured it.
    pub round_trip: Option<Duration>,
}

/// How a connection ended.
#[derive(Clone, Copy, Debug)]
pub struct Outcome<'a> {
    /// The address that the upstream connection was made to; `None` if there was none.
    pub upstream: Option<SocketAddr>,
    /// As it is recorded.
    pub reason: &'a CloseReason,
    /// Bytes from the client to the upstream.
    pub bytes_sent: u64,
    /// Bytes from the upstream to the client.
    pub bytes_received: u64,
    /// From accept (from the SYN, if it was held) to close.
    pub duration: Duration,
}

/// Every connection goes to its original destination.
#[cfg(test)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ToOriginal;

// === impl Endpoint ===

impl From<SocketAddr> for Endpoint {
    fn from(address: SocketAddr) -> Self {
        Self { address, connect_timeout: None }
    }
}

// === impl ToOriginal ===

#[cfg(test)]
impl Upstream for ToOriginal {
    fn select(&self, _: &Target) -> Option<Box<dyn Selection>> {
        None
    }
}
