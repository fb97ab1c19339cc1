//! What an engine that balances requests is given: who chooses their endpoints, and how it gets to them.

use std::{fmt, future::Future, io, net::SocketAddr, pin::Pin, time::Duration};

use tokio::net::TcpStream;
use weir_http::{Endpoints, Lease};

use crate::budget::Taken;

/// Chooses an endpoint for each request to one destination; behind the last one, once, the original
/// destination.
pub trait Requests: Endpoints<Lease = BoxedLease> + Send + Sync + fmt::Debug {
    /// Whether requests may go there still. Connections without requests to one that is not used are
    /// closed.
    fn is_used(&self, address: SocketAddr) -> bool;

    /// Whether requests are to be balanced still: the mode can change.
    fn is_current(&self) -> bool;

    /// A connection that requests share is open; counted at the endpoint until this is dropped. `None` for
    /// the original destination.
    fn connected(&self, address: SocketAddr) -> Option<Counted>;

    /// The upstream connection that was made for the client is shared from now on: only requests count as
    /// in flight, and the client's connection does not.
    fn shares(&self);
}

/// A request at the endpoint of any service.
pub type BoxedLease = Box<dyn Lease + Send>;

/// A connection at the endpoint of any service.
#[derive(Debug)]
pub struct Counted(pub Box<dyn fmt::Debug + Send + Sync>);

/// Makes upstream connections.
pub trait Connect: Send + Sync {
    /// Connects to an endpoint, within `limit` if that is shorter than the configured time. The socket
    /// is armed (`transport/abort.rs`). [`Requests`] learns of the outcome.
    ///
    /// # Errors
    /// What the kernel says; `ETIMEDOUT` after that time.
    fn connect(&self, to: SocketAddr, limit: Option<Duration>) -> Connecting<'_>;
}

/// The upstream connection, when there is one.
pub type Connecting<'a> = Pin<Box<dyn Future<Output = io::Result<Connected>> + Send + 'a>>;

/// An upstream connection.
#[derive(Debug)]
pub struct Connected {
    /// Its socket.
    pub stream: TcpStream,
    /// What it takes of the workload's budget, unless a client's connection has taken it.
    pub descriptor: Option<Taken>,
}
