//! A connection while it goes on, and what is written down of it when it is over.

use std::future::Future;
use std::io::{Error, ErrorKind};
use std::net::SocketAddr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::time::timeout;
use weir_tests::load::{Kind, Outcome, PATIENCE, Trip};
use weir_tests::peer::{is_loopback, plain};
use weir_tests::process::patience;
use weir_tests::visits::now;

/// [`Outcome::Good`] or [`Outcome::Left`], or what went wrong.
pub(crate) type End = Result<Outcome, Outcome>;

/// One connection.
pub(crate) struct Journey {
    trip: Trip,
    seen: OnceLock<SocketAddr>,
    compared: AtomicU64,
}

// === impl Journey ===

impl Journey {
    /// A client's, before it connects.
    pub(crate) fn begin(kind: Kind) -> Self {
        let begin = now().expect("there is a monotonic clock");
        let outcome = Outcome::Good;
        let (local, seen, connected) = (None, None, None);
        let (loopback, rounds, bytes) = (false, 0, 0);
        let end = begin;
        let trip =
            Trip { kind, begin, connected, end, local, seen, loopback, rounds, bytes, outcome };
        Self { trip, seen: OnceLock::new(), compared: AtomicU64::new(0) }
    }

    /// A server's.
    pub(crate) fn accepted(kind: Kind, stream: &TcpStream, client: SocketAddr) -> Self {
        let mut journey = Self::begin(kind);
        journey.connected(stream);
        journey.seen_as(plain(client));
        journey
    }

    /// It has an address now.
    pub(crate) fn connected(&mut self, stream: &TcpStream) {
        self.trip.connected = now().ok();
        self.trip.local = stream.local_addr().ok().map(plain);
        self.trip.loopback = is_loopback(stream).unwrap_or(false);
    }

    /// The other end has told how it sees this one.
    pub(crate) fn seen_as(&self, address: SocketAddr) {
        let _the_same_as_before = self.seen.set(address);
    }

    /// The address of a client, as the server sees it.
    pub(crate) fn client(&self) -> SocketAddr {
        *self.seen.get().expect("set at accept")
    }

    /// One more exchange is complete.
    pub(crate) fn round(&mut self) {
        self.trip.rounds += 1;
    }

    /// So many bytes have come and were right.
    pub(crate) fn compared(&self, bytes: usize) {
        self.compared.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// How many exchanges are complete.
    pub(crate) fn rounds(&self) -> u64 {
        self.trip.rounds
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
        timeout(patience(PATIENCE), part).await.map_err(|_| Outcome::Hung(name.to_owned()))
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
        self.trip.outcome = end.unwrap_or_else(|outcome| outcome);
        self.trip.end = now().expect("there is a monotonic clock");
        self.trip.seen = self.seen.into_inner();
        self.trip.bytes = self.compared.into_inner();
        self.trip
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
