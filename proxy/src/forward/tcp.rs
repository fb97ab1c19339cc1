//! Raw TCP between two sockets: bytes, half-closes and resets pass as if there were no proxy.
//! An observer may be shown what is copied. How a connection ended is the return value.
//!
//! A close in order stays a FIN. A reset becomes a reset of the other side, after what was
//! received before it has been delivered, as on a direct connection: Linux lets a receiver read
//! what is queued before it reports ECONNRESET. Anything else that cuts a stream short (a drain
//! deadline, the idle bound) is a reset too, because a FIN would make it look complete.

mod buffer;
mod lane;
mod leave;
mod reset;
mod socket;
mod splice;

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::os::fd::BorrowedFd;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use self::lane::{Fault, Lane, Watch};
use self::leave::{Leave, Leaving};
use super::passthrough::Observer;
use super::transport::{Abort as _, Raw, TransportIo};
use super::{ByteCounters, Side};
use crate::budget::Share;
use crate::stop::Stop;
pub(crate) use leave::{close, end};
pub(crate) use reset::reset_behind;
pub use reset::{arm, disarm, reset};
pub(crate) use socket::{Socket, leave_out_urgent};

/// Settings of raw TCP.
#[derive(Clone, Debug)]
pub struct TcpOptions {
    /// How long a connection may live that one side has closed and over which the other sends
    /// nothing. One hour by default, like Envoy's `idle_timeout`, and longer than the long polls
    /// and batch jobs that half-close and wait. Connections open on both sides have no bound.
    pub half_closed_idle: Duration,
    /// Whether bulk may be moved by splice(2). It hangs on a socket whose data was redirected by
    /// `sk_msg` (see docs/ARCHITECTURE.md).
    pub splice: bool,
    /// Whom buffers are charged to that are larger than the usual one; without room for them the
    /// usual one does.
    pub memory: Option<Share>,
    /// Who wants to see the upstream's socket at the end.
    pub at_close: Option<Arc<dyn UpstreamClosing>>,
}

/// Looks at an upstream's socket before it is closed. Called on the data path: must not block.
pub trait UpstreamClosing: Send + Sync + fmt::Debug {
    /// The socket, which has failed, or is closed next: that sends its end, if it was not sent before.
    fn closing(&self, socket: BorrowedFd<'_>);
}

/// One side as it is handed over.
#[derive(Debug)]
pub struct Endpoint<T = TcpStream> {
    /// The stream.
    pub stream: T,
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
    /// Cut, because `cancel` was.
    Cancelled,
    /// Observed connections only: a drain found nothing under way.
    Quiet,
    /// Another error, such as ETIMEDOUT from keep-alive; errno as the kernel gave it, 0 if it
    /// gave none.
    Io(Side, i32),
}

// === impl TcpOptions ===

impl Default for TcpOptions {
    fn default() -> Self {
        Self {
            half_closed_idle: Duration::from_secs(3600),
            splice: true,
            memory: None,
            at_close: None,
        }
    }
}

// === impl Endpoint ===

impl<T> From<T> for Endpoint<T> {
    fn from(stream: T) -> Self {
        Self { stream, prefix: BytesMut::new(), eof: false }
    }
}

// === impl TcpEnd ===

impl TcpEnd {
    /// The errno for metrics; `None` for ends that no system call reported.
    #[must_use]
    pub const fn errno(self) -> Option<i32> {
        match self {
            Self::Finished | Self::HalfClosedTimeout | Self::Cancelled | Self::Quiet => None,
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

// === impl Forwarded ===

impl Forwarded {
    fn failed(self, side: Side, error: &io::Error) -> Self {
        Self { end: TcpEnd::from_error(side, error), ..self }
    }
}

/// How to look on, and when to leave.
pub(crate) struct Observing<'a> {
    /// Is shown every byte.
    pub(crate) observer: &'a mut dyn Observer,
    /// From then on the connection is left as soon as nothing is under way.
    pub(crate) drain: &'a Stop,
}

/// What has become of an observed connection.
pub(crate) enum Observed<C = TcpStream, U = TcpStream> {
    /// It has ended; both sockets are closed.
    Over(Forwarded),
    /// A drain found nothing under way: both sockets are as they were, and everything that was
    /// read from one has been written to the other.
    Quiet(C, U),
}

/// Copies between `client` and `upstream` until both have closed, one of them fails, or `cancel`
/// is cancelled. `counters` grow as bytes are written to their destination, and tell when one side
/// has ended and the other has not. Both sockets are closed on return.
pub(crate) async fn forward<C: Raw, U: Raw>(
    client: Endpoint<C>,
    upstream: Endpoint<U>,
    options: &TcpOptions,
    counters: &ByteCounters,
    cancel: &Stop,
) -> Forwarded {
    let mut watch = Watch::new(counters, None);
    match pass(client, upstream, options, &mut watch, None, cancel).await {
        Passed::Over(forwarded) | Passed::Left(forwarded, _) => forwarded,
    }
}

/// The same as [`forward`], with an observer.
pub(crate) async fn forward_observed<C: Raw, U: Raw>(
    client: Endpoint<C>,
    upstream: Endpoint<U>,
    options: &TcpOptions,
    counters: &ByteCounters,
    cancel: &Stop,
    observing: Observing<'_>,
) -> Observed<Owned<C>, Owned<U>> {
    let leave = Some(Leave::new(observing.drain.cancelled()));
    let mut watch = Watch::new(counters, Some(observing.observer));
    match pass(client, upstream, options, &mut watch, leave, cancel).await {
        Passed::Over(forwarded) => Observed::Over(forwarded),
        Passed::Left(forwarded, (client, upstream)) => {
            match (client.into_transport(), upstream.into_transport()) {
                (Ok(client), Ok(upstream)) => Observed::Quiet(client, upstream),
                // epoll_ctl(2) lacks memory. What was not sent an end is reset.
                (Err(error), _) => Observed::Over(forwarded.failed(Side::Client, &error)),
                (_, Err(error)) => Observed::Over(forwarded.failed(Side::Upstream, &error)),
            }
        }
    }
}

/// A raw side as an engine owns it.
type Owned<T> = <<T as Raw>::Io as TransportIo>::Transport;

/// What has become of two sockets.
enum Passed<C, U> {
    /// They are closed.
    Over(Forwarded),
    /// They are as they were: the client's and the upstream's.
    Left(Forwarded, (C, U)),
}

async fn pass<C: Raw, U: Raw>(
    client: Endpoint<C>,
    upstream: Endpoint<U>,
    options: &TcpOptions,
    watch: &mut Watch<'_>,
    leave: Option<Leave>,
    cancel: &Stop,
) -> Passed<C::Io, U::Io> {
    let none = Forwarded { end: TcpEnd::Cancelled, closed_first: None };
    let near = match client.stream.into_raw() {
        Ok(socket) => socket,
        Err(error) => return Passed::Over(none.failed(Side::Client, &error)),
    };
    let far = match upstream.stream.into_raw() {
        Ok(socket) => socket,
        Err(error) => return Passed::Over(none.failed(Side::Upstream, &error)),
    };
    let forwarded = {
        let mut up = Lane::new(Side::Client, &near, &far, options);
        let mut down = Lane::new(Side::Upstream, &far, &near, options);
        up.begin_with(client.prefix, client.eof, watch);
        down.begin_with(upstream.prefix, upstream.eof, watch);
        let copy = copy(&mut up, &mut down, options, watch, leave);
        tokio::select! {
            biased;
            forwarded = copy => forwarded,
            () = cancel.cancelled() => none,
        }
    };
    match forwarded.end {
        TcpEnd::Finished => {}
        TcpEnd::Quiet => return Passed::Left(forwarded, (near, far)),
        // A stream was cut.
        _ => {
            near.arm();
            far.arm();
        }
    }
    if let (Some(listener), Some(socket)) = (&options.at_close, far.splicing()) {
        listener.closing(socket);
    }
    Passed::Over(forwarded)
}

async fn copy<C: TransportIo, U: TransportIo>(
    up: &mut Lane<'_, C, U>,
    down: &mut Lane<'_, U, C>,
    options: &TcpOptions,
    watch: &mut Watch<'_>,
    mut leave: Option<Leave>,
) -> Forwarded {
    let first = poll_fn(|cx| {
        loop {
            if let Poll::Ready(result) = up.poll(cx, watch) {
                return Poll::Ready(result.map(|()| Some(up.from)));
            }
            if let Poll::Ready(result) = down.poll(cx, watch) {
                return Poll::Ready(result.map(|()| Some(down.from)));
            }
            let Some(leave) = &mut leave else { return Poll::Pending };
            match ready!(leave.poll(cx, up, down, watch)) {
                Leaving::Said => {}
                Leaving::Quiet => return Poll::Ready(Ok(None)),
            }
        }
    })
    .await;
    let closed = match first {
        Ok(Some(side)) => side,
        Ok(None) => return Forwarded { end: TcpEnd::Quiet, closed_first: None },
        Err(fault) => return fail(up, down, fault, None, watch).await,
    };
    let end = match closed {
        Side::Client => finish(up, down, options, watch).await,
        Side::Upstream => finish(down, up, options, watch).await,
    };
    match end {
        Ok(end) => Forwarded { end, closed_first: Some(closed) },
        Err(fault) => fail(up, down, fault, Some(closed), watch).await,
    }
}

/// The second half of a connection: `closed` has forwarded its end, `open` goes on.
async fn finish<R: TransportIo, W: TransportIo>(
    closed: &Lane<'_, R, W>,
    open: &mut Lane<'_, W, R>,
    options: &TcpOptions,
    watch: &mut Watch<'_>,
) -> Result<TcpEnd, Fault> {
    let _half_closed = watch.counters.half_close();
    open.is_last();
    let mut idle = pin!(sleep(options.half_closed_idle));
    let rest = poll_fn(|cx| {
        let before = open.forwarded;
        if let Poll::Ready(result) = open.poll(cx, watch) {
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
        // Reading no longer tells after the end, and without this the other side would learn of a
        // reset only when it sends.
        error = closed.source.failure() => Err(Fault { side: closed.from, error }),
    }
}

/// Delivers what the failed side had sent before, for as long as [`reset::GRACE`] allows. The
/// caller then resets the other side.
async fn fail<C: TransportIo, U: TransportIo>(
    up: &mut Lane<'_, C, U>,
    down: &mut Lane<'_, U, C>,
    fault: Fault,
    closed_first: Option<Side>,
    watch: &mut Watch<'_>,
) -> Forwarded {
    let Fault { side, error } = fault;
    // Past the grace period, or if the other side is gone too, the rest is undeliverable.
    let _ = match side {
        Side::Client => tokio::time::timeout(reset::GRACE, up.deliver(watch)).await,
        Side::Upstream => tokio::time::timeout(reset::GRACE, down.deliver(watch)).await,
    };
    Forwarded {
        end: TcpEnd::from_error(side, &error),
        closed_first: Some(closed_first.unwrap_or(side)),
    }
}

#[cfg(test)]
mod tests;
