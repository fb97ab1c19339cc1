//! The narrow interface that every HTTP engine implements: two connected byte streams in, the
//! exchanges it saw and one outcome out.

mod answer;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;
use weir_http::Withheld;
pub use weir_http::h1::{HeadLimits, Unpoolable};
pub(crate) use weir_http::{ERROR_HEADER, GRPC_UNAVAILABLE, RequestInfo, is_grpc};
pub use weir_http::{Exchange, ExchangeEnd, Limit, Side, TraceParent, Untracked};

pub(crate) use self::answer::bad_gateway;
use super::retries::{Repeat, Retry, RetryOutcome};
use crate::budget::Share;

/// See [`HttpLimits::drain_idle`].
pub(crate) const DRAIN_IDLE: Duration = Duration::from_secs(1);
/// See [`HttpLimits::linger`].
pub(crate) const LINGER: Duration = Duration::from_secs(2);
/// How long a draining connection may be at work until its client is asked to begin nothing new.
pub(crate) const DRAIN_BUSY: Duration = Duration::from_secs(5);

/// One exchange in flight.
pub(crate) type Tracker = weir_http::Tracker<dyn ExchangeSink>;

/// Takes what an engine reports. Called on the data path: must not block.
pub trait ExchangeSink: Send + Sync + 'static {
    /// The authority of a request head that has arrived. Called before
    /// [`ExchangeSink::request_started`], where there is one.
    fn authority(&self, _authority: &str) {}
    /// A request head has arrived.
    fn request_started(&self);
    /// The exchange is over. Called once for each [`ExchangeSink::request_started`].
    fn exchange(&self, exchange: Exchange);
    /// The engine stopped following the messages of the connection. Called at most once for each.
    fn downgraded(&self, untracked: Untracked);
    /// A message cannot share a connection: from here on the client's connection has an upstream
    /// connection of its own. Called at most once for each.
    fn unpoolable(&self, _reason: Unpoolable) {}
    /// A request was to be sent once more.
    fn retried(&self, _retry: Retry) {}
    /// A time limit of a request has passed.
    fn timed_out(&self, _limit: Limit) {}
    /// The share that memory for what the peers have sent is charged to.
    fn share(&self) -> Option<Share> {
        None
    }
    /// When the bytes passed that are being read, where that is not now.
    fn moment(&self) -> Option<Instant> {
        None
    }
}

/// What the client speaks, as detection found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpVersion {
    /// HTTP/1.0 or HTTP/1.1.
    Http1,
    /// HTTP/2 with prior knowledge (RFC 9113 §3.3).
    Http2,
}

/// Called just before a stream is dropped abnormally, so that its owner can make the close a reset
/// (`SO_LINGER` 0). Without it the peer sees whatever dropping the stream does.
pub type AbortHook = Arc<dyn Fn(Side) + Send + Sync>;

/// Everything an engine needs besides the two streams.
#[derive(Clone)]
pub struct HttpContext {
    /// Where exchanges are reported.
    pub sink: Arc<dyn ExchangeSink>,
    /// Cancelled when weir wants to stop: HTTP/1 ends after the next response, which says so, or
    /// after [`HttpLimits::drain_idle`] without a request; HTTP/2 sends GOAWAY. Tunnels go on until
    /// their peers close or the future is dropped.
    pub drain: CancellationToken,
    /// Bounds.
    pub limits: HttpLimits,
    /// See [`AbortHook`].
    pub on_abort: Option<AbortHook>,
}

/// Bounds of the engine. Exceeding one never breaks HTTP/1 traffic: the connection goes on as raw
/// TCP. HTTP/2 has to refuse, because its header compression is stateful.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpLimits {
    /// Largest HTTP/1 head. Its bytes also bound an HTTP/2 header list, as RFC 9113 §6.5.2 counts
    /// it.
    pub head: HeadLimits,
    /// How long a connection that has said its last word waits for the client to close, so that
    /// the client can read it before unread data turns the close into a reset.
    pub linger: Duration,
    /// How long a draining HTTP/1 connection may be idle until it is closed. A request that crosses
    /// with the close is lost, so that it must be unlikely that one comes just then: clients that
    /// are at work send the next one within a fraction of this.
    pub drain_idle: Duration,
    /// How long a half-closed tunnel may be silent.
    pub half_closed_idle: Duration,
    /// How long HTTP/2 waits for the upstream's SETTINGS before it answers the client with its own
    /// defaults in place of the upstream's.
    pub settings_wait: Duration,
    /// HTTP/2 flow-control window of a stream, in bytes: what one slow reader can make weir hold.
    pub stream_window: u32,
    /// HTTP/2 flow-control window of a connection, in bytes: several streams' worth, so that a few
    /// stalled streams don't stall the others.
    pub connection_window: u32,
    /// Largest HTTP/2 frame accepted, in bytes (16 384 to 16 777 215, RFC 9113 §6.5.2).
    pub max_frame: u32,
    /// HTTP/2 bytes buffered for sending, per stream.
    pub send_buffer: usize,
    /// HTTP/2 bytes that may be wasted on small DATA frames that have arrived and not been looked
    /// at (h2 counts up to 255 for each); more closes the connection with `ENHANCE_YOUR_CALM`.
    pub frame_overhead: usize,
    /// HTTP/2 streams that a client may reset before weir has looked at them; one more closes the
    /// connection with `ENHANCE_YOUR_CALM` (rapid reset, CVE-2023-44487).
    pub max_pending_resets: usize,
    /// HTTP/2 concurrent streams where the upstream sets no limit of its own.
    pub max_streams: u32,
}

impl Default for HttpLimits {
    fn default() -> Self {
        Self {
            head: HeadLimits::default(),
            linger: LINGER,
            drain_idle: DRAIN_IDLE,
            half_closed_idle: super::tcp::TcpOptions::default().half_closed_idle,
            settings_wait: Duration::from_secs(1),
            stream_window: 1 << 20,
            connection_window: 16 << 20,
            max_frame: 64 << 10,
            send_buffer: 256 << 10,
            frame_overhead: 32 << 20,
            max_pending_resets: 200,
            max_streams: 1 << 16,
        }
    }
}

/// How a connection ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpEnd {
    /// What ended it.
    pub cause: EndCause,
    /// Set if HTTP/1 messages could not be followed to the end.
    pub untracked: Option<Untracked>,
}

/// What ended a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndCause {
    /// In order; the side named closed first.
    Closed(Side),
    /// The side named reset its connection.
    Reset(Side),
    /// The upstream closed inside a response.
    Truncated,
    /// weir answered in the upstream's place, and closed; the value of `x-weir-error`.
    Answered(&'static str),
    /// The drain ended it.
    Drained,
    /// A half-closed tunnel was silent for too long.
    Idle,
    /// HTTP/2: a peer broke the protocol, or told the other that it did.
    Protocol {
        /// Whose connection failed.
        side: Side,
        /// The error.
        text: String,
    },
}

/// Forwards one client connection over one upstream connection until both are done.
///
/// Both streams start with the bytes that detection has read. Nothing is added to what the peers
/// say, except where weir has to answer itself (see [`EndCause::Answered`]). Dropping the future
/// drops both streams; exchanges in flight are reported as [`ExchangeEnd::Cancelled`].
pub async fn serve<C, U>(
    version: HttpVersion,
    client: C,
    upstream: U,
    context: HttpContext,
) -> HttpEnd
where
    C: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    U: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    match version {
        HttpVersion::Http1 => super::http1::serve(client, upstream, context).await,
        HttpVersion::Http2 => super::http2::serve(client, upstream, context).await,
    }
}

/// The number in a `grpc-status` header or trailer.
pub(crate) fn grpc_status(headers: &http::HeaderMap) -> Option<u32> {
    headers.get("grpc-status")?.to_str().ok()?.trim().parse().ok()
}

// === impl ExchangeSink ===

impl weir_http::ExchangeSink for dyn ExchangeSink {
    fn authority(&self, authority: &str) {
        ExchangeSink::authority(self, authority);
    }

    fn request_started(&self) {
        ExchangeSink::request_started(self);
    }

    fn exchange(&self, exchange: Exchange) {
        ExchangeSink::exchange(self, exchange);
    }

    fn repeated(&self, why: Repeat, is_answered: bool) {
        let outcome = if is_answered { RetryOutcome::Success } else { RetryOutcome::Failure };
        self.retried(Retry { why, outcome });
    }

    fn not_repeated(&self, why: Withheld) {
        self.retried(Retry { why: Repeat::Route, outcome: why.into() });
    }

    fn timed_out(&self, limit: Limit) {
        ExchangeSink::timed_out(self, limit);
    }

    fn downgraded(&self, untracked: Untracked) {
        ExchangeSink::downgraded(self, untracked);
    }

    fn moment(&self) -> Option<Instant> {
        ExchangeSink::moment(self)
    }
}

// === impl HttpContext ===

impl HttpContext {
    /// No drain, default bounds, no hook.
    pub fn new(sink: Arc<dyn ExchangeSink>) -> Self {
        Self {
            sink,
            drain: CancellationToken::new(),
            limits: HttpLimits::default(),
            on_abort: None,
        }
    }

    pub(crate) fn abort(&self, side: Side) {
        if let Some(hook) = &self.on_abort {
            hook(side);
        }
    }
}

impl fmt::Debug for HttpContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpContext").field("limits", &self.limits).finish_non_exhaustive()
    }
}

// === impl HttpEnd ===

impl From<EndCause> for HttpEnd {
    fn from(cause: EndCause) -> Self {
        Self { cause, untracked: None }
    }
}
