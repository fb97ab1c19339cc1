//! Raw TCP between two sockets: bytes, half-closes and resets pass as if there were no proxy.
//! What is copied is never looked at. How a connection ended is the return value.
//!
//! A close in order stays a FIN. A reset becomes a reset of the other side, after what was
//! received before it has been delivered, as on a direct connection: Linux lets a receiver read
//! what is queued before it reports ECONNRESET. Anything else that cuts a stream short (a drain
//! deadline, the idle bound) is a reset too, because a FIN would make it look complete.

mod buffer;
mod lane;
mod reset;

use std::future::{pending, poll_fn};
use std::io;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::{ByteCounters, Side};
use lane::{Fault, Lane};
pub use reset::{arm, disarm, reset};

/// Settings of raw TCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpOptions {
    /// How long a connection may live that one side has closed and over which the other sends
    /// nothing. One hour by default, like Envoy's `idle_timeout`, and longer than the long polls
    /// and batch jobs that half-close and wait. Connections open on both sides have no bound.
    pub half_closed_idle: Duration,
}

/// One side as it is handed over.
#[derive(Debug)]
pub struct Endpoint {
    /// The socket.
    pub stream: TcpStream,
    /// What was read from it already.
    pub prefix: BytesMut,
    /// True if its end was read already.
    pub eof: bool,
}

/// How a forwarded connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forwarded {
    /// Why it ended.
    pub end: TcpEnd,
    /// The side that ended its stream first, in order or by an error; `None` if weir did.
    pub closed_first: Option<Side>,
}

/// Why a forwarded connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TcpEnd {
    /// Both sides closed.
    Finished,
    /// The client reset the connection, or was gone when it was written to.
    ClientReset,
    /// The upstream did.
    UpstreamReset,
    /// Half-closed and silent for [`TcpOptions::half_closed_idle`].
    HalfClosedTimeout,
    /// Cut by the cancellation token.
    Cancelled,
    /// Another error, such as ETIMEDOUT from keep-alive; errno as the kernel gave it, 0 if it
    /// gave none.
    Io(Side, i32),
}

// === impl TcpOptions ===

impl Default for TcpOptions {
    fn default() -> Self {
        Self { half_closed_idle: Duration::from_secs(3600) }
    }
}

// === impl Endpoint ===

impl From<TcpStream> for Endpoint {
    fn from(stream: TcpStream) -> Self {
        Self { stream, prefix: BytesMut::new(), eof: false }
    }
}

// === impl TcpEnd ===

impl TcpEnd {
    /// The errno for metrics; `None` for ends that no system call reported.
    #[must_use]
    pub const fn errno(self) -> Option<i32> {
        match self {
            Self::Finished | Self::HalfClosedTimeout | Self::Cancelled => None,
            Self::ClientReset | Self::UpstreamReset => Some(libc::ECONNRESET),
            Self::Io(_, errno) => Some(errno),
        }
    }

    fn from_error(side: Side, error: &io::Error) -> Self {
        use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected};
        match (error.kind(), side) {
            (BrokenPipe | ConnectionAborted | ConnectionReset | NotConnected, Side::Client) => {
                Self::ClientReset
            }
            (BrokenPipe | ConnectionAborted | ConnectionReset | NotConnected, Side::Upstream) => {
                Self::UpstreamReset
            }
            _ => Self::Io(side, error.raw_os_error().unwrap_or(0)),
        }
    }
}

/// Copies between `client` and `upstream` until both have closed, one of them fails, or `cancel`
/// is cancelled. `counters` grow as bytes are written to their destination, and tell when one side
/// has ended and the other has not. Both sockets are closed on return.
pub async fn forward(
    mut client: Endpoint,
    mut upstream: Endpoint,
    options: &TcpOptions,
    counters: &ByteCounters,
    cancel: &CancellationToken,
) -> Forwarded {
    // Fails only on sockets that are gone, which the first read reports.
    let _ = client.stream.set_nodelay(true);
    let _ = upstream.stream.set_nodelay(true);

    let forwarded = {
        let (client_read, client_write) = client.stream.split();
        let (upstream_read, upstream_write) = upstream.stream.split();
        let mut up = Lane::new(Side::Client, client_read, upstream_write);
        up.begin_with(client.prefix, client.eof);
        let mut down = Lane::new(Side::Upstream, upstream_read, client_write);
        down.begin_with(upstream.prefix, upstream.eof);

        let copy = copy(&mut up, &mut down, options, counters);
        cancel
            .run_until_cancelled(copy)
            .await
            .unwrap_or(Forwarded { end: TcpEnd::Cancelled, closed_first: None })
    };
    if forwarded.end != TcpEnd::Finished {
        reset(client.stream);
        reset(upstream.stream);
    }
    forwarded
}

async fn copy<'a>(
    up: &mut Lane<'a>,
    down: &mut Lane<'a>,
    options: &TcpOptions,
    counters: &ByteCounters,
) -> Forwarded {
    let first = poll_fn(|cx| {
        for lane in [&mut *up, &mut *down] {
            if let Poll::Ready(result) = lane.poll(cx, counters) {
                return Poll::Ready(result.map(|()| lane.from));
            }
        }
        Poll::Pending
    })
    .await;
    let closed = match first {
        Ok(side) => side,
        Err(fault) => return fail(up, down, fault, None, counters).await,
    };
    let end = match closed {
        Side::Client => finish(up, down, options, counters).await,
        Side::Upstream => finish(down, up, options, counters).await,
    };
    match end {
        Ok(end) => Forwarded { end, closed_first: Some(closed) },
        Err(fault) => fail(up, down, fault, Some(closed), counters).await,
    }
}

/// The second half of a connection: `closed` has forwarded its end, `open` goes on.
async fn finish<'a>(
    closed: &Lane<'a>,
    open: &mut Lane<'a>,
    options: &TcpOptions,
    counters: &ByteCounters,
) -> Result<TcpEnd, Fault> {
    let _half_closed = counters.half_close();
    let mut idle = pin!(sleep(options.half_closed_idle));
    let rest = poll_fn(|cx| {
        let before = open.forwarded;
        if let Poll::Ready(result) = open.poll(cx, counters) {
            return Poll::Ready(result.map(|()| TcpEnd::Finished));
        }
        if open.forwarded != before {
            idle.as_mut().reset(Instant::now() + options.half_closed_idle);
        }
        idle.as_mut().poll(cx).map(|()| Ok(TcpEnd::HalfClosedTimeout))
    });
    tokio::select! {
        biased;
        end = rest => end,
        error = failure(closed.source.as_ref()) => Err(Fault { side: closed.from, error }),
    }
}

/// Resolves when `stream` is reset. Reading no longer tells after its end, and without this the
/// other side would learn of it only when it sends.
async fn failure(stream: &TcpStream) -> io::Error {
    match stream.ready(Interest::ERROR).await.and_then(|_| stream.take_error()) {
        Ok(Some(error)) | Err(error) => error,
        Ok(None) => pending().await,
    }
}

/// Delivers what the failed side had sent before, for as long as [`reset::GRACE`] allows. The
/// caller then resets the other side.
async fn fail<'a>(
    up: &mut Lane<'a>,
    down: &mut Lane<'a>,
    fault: Fault,
    closed_first: Option<Side>,
    counters: &ByteCounters,
) -> Forwarded {
    let Fault { side, error } = fault;
    let lane = match side {
        Side::Client => up,
        Side::Upstream => down,
    };
    // Past the grace period, or if the other side is gone too, the rest is undeliverable.
    let _ = tokio::time::timeout(reset::GRACE, async {
        lane.drain(counters).await;
        reset::delivered(lane.sink.as_ref()).await;
    })
    .await;
    Forwarded {
        end: TcpEnd::from_error(side, &error),
        closed_first: Some(closed_first.unwrap_or(side)),
    }
}

#[cfg(test)]
mod tests;
