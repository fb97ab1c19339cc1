//! A connection while it goes on, and what is written down of it when it is over.

use std::future::Future;
use std::io::{Error, ErrorKind};
use std::net::SocketAddr;
use std::time::Duration;

use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::time::timeout;
use weir_tests::load::{Kind, Outcome, PATIENCE, Trip};
use weir_tests::peer::plain;
use weir_tests::visits::now;

/// [`Outcome::Good`] or [`Outcome::Left`], or what went wrong.
pub(crate) type End = Result<Outcome, Outcome>;

/// No segment on a cable is longer, and those through loopback are (64 KiB).
const CABLE: u32 = 9000;

/// One connection.
pub(crate) struct Journey(Trip);

// === impl Journey ===

impl Journey {
    /// A client's, before it connects.
    pub(crate) fn begin(kind: Kind) -> Self {
        let begin = now().expect("there is a monotonic clock");
        let outcome = Outcome::Good;
        let (local, seen, loopback, rounds) = (None, None, false, 0);
        Self(Trip { kind, begin, end: begin, local, seen, loopback, rounds, outcome })
    }

    /// A server's.
    pub(crate) fn accepted(kind: Kind, stream: &TcpStream, client: SocketAddr) -> Self {
        let mut journey = Self::begin(kind);
        journey.connected(stream);
        journey.0.seen = Some(plain(client));
        journey
    }

    /// It has an address now.
    pub(crate) fn connected(&mut self, stream: &TcpStream) {
        self.0.local = stream.local_addr().ok().map(plain);
        self.0.loopback = SockRef::from(stream).tcp_mss().is_ok_and(|bytes| bytes > CABLE);
    }

    /// The other end has told how it sees this one.
    pub(crate) fn seen_as(&mut self, address: SocketAddr) {
        self.0.seen = Some(address);
    }

    /// The address of a client, as the server sees it.
    pub(crate) fn client(&self) -> SocketAddr {
        self.0.seen.expect("set at accept")
    }

    /// One more exchange is complete.
    pub(crate) fn round(&mut self) {
        self.0.rounds += 1;
    }

    /// How many exchanges are complete.
    pub(crate) fn rounds(&self) -> u64 {
        self.0.rounds
    }

    /// Waits for a part of an exchange.
    pub(crate) async fn step<T, F>(&self, name: &str, part: F) -> Result<T, Outcome>
    where
        F: Future<Output = Result<T, Error>>,
    {
        self.within(name, part).await?.map_err(|error| match error.kind() {
            ErrorKind::UnexpectedEof => Outcome::Truncated(name.to_owned()),
            _ => Outcome::Broken(format!("{name}: {error}")),
        })
    }

    /// Waits for something, with patience.
    pub(crate) async fn within<F: Future>(
        &self,
        name: &str,
        part: F,
    ) -> Result<F::Output, Outcome> {
        timeout(PATIENCE, part).await.map_err(|_| Outcome::Hung(name.to_owned()))
    }

    /// Waits for as long as it takes until something can be read, which is not taken: false for the
    /// end of the stream.
    pub(crate) async fn has_more(&self, stream: &TcpStream) -> Result<bool, Outcome> {
        match stream.peek(&mut [0]).await {
            Ok(bytes) => Ok(bytes > 0),
            Err(error) => Err(Outcome::Broken(format!("while waiting: {error}"))),
        }
    }

    /// The end.
    pub(crate) fn over(mut self, end: End) -> Trip {
        self.0.outcome = end.unwrap_or_else(|outcome| outcome);
        self.0.end = now().expect("there is a monotonic clock");
        self.0
    }
}

// === helpers ===

/// From now on the socket is reset when it is closed, by whatever.
pub(crate) fn reset_unless_done(stream: &TcpStream) {
    let _ = stream.set_nodelay(true);
    let _gone = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

/// From now on a close is a close.
pub(crate) fn done(stream: &TcpStream) {
    let _gone = SockRef::from(stream).set_linger(None);
}
