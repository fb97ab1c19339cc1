//! Who speaks first: watches client and upstream from accept on, until there is a decision and an
//! upstream connection. Owns the only timer of detection. It forwards nothing; what it read is
//! handed on, with the ends of streams it met.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use thiserror::Error;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::{Sleep, sleep};

use super::{DEFAULT_PEEK_LIMIT, Detector, TlsInfo, Verdict, http2};
use crate::budget::{Charge, Share};
use crate::decision::{Decision, Treatment};

const OVER_BUDGET: &str = "over the memory budget of the workload";
const SERVER_FIRST: &str = "server spoke first";
/// Read at a time, on the stack: a connection that says nothing costs no buffer.
const CHUNK: usize = 2048;

/// Settings of detection.
#[derive(Clone, Debug)]
pub struct Options {
    /// Bytes of the client looked at, and held while the upstream is being dialled.
    pub peek_limit: usize,
    /// How long a prefix may stay incomplete, from its first byte. Runs at no other time.
    pub prefix_timeout: Duration,
    /// Whom the bytes that are held are charged to.
    pub memory: Option<Share>,
}

/// One side's stream up to the decision.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Peeked {
    /// What was read and has to be forwarded first.
    pub prefix: BytesMut,
    /// True if the side has closed its direction after these bytes.
    pub eof: bool,
}

/// A decided connection.
#[derive(Debug)]
pub struct Outcome<U> {
    /// HTTP/1, HTTP/2, TLS or raw TCP, and why.
    pub decision: Decision,
    /// The labels of a `ClientHello`, if it was one.
    pub tls: Option<TlsInfo>,
    /// What the client sent.
    pub client: Peeked,
    /// What the upstream sent: empty unless it spoke first.
    pub server: Peeked,
    /// The connection that was dialled.
    pub upstream: U,
}

/// A connection that ended before it was decided. Whoever gets this resets the side that is left.
#[derive(Debug, Error)]
pub enum RaceError<U> {
    /// The upstream could not be reached.
    #[error("cannot connect to upstream: {0}")]
    Dial(#[source] io::Error),
    /// The client's connection failed, typically by a reset.
    #[error("client connection failed before detection: {source}")]
    Client {
        /// What reading said.
        source: io::Error,
        /// The upstream, if it was connected by then.
        upstream: Option<U>,
    },
    /// The upstream's connection failed, typically by a reset.
    #[error("upstream connection failed before detection: {0}")]
    Upstream(#[source] io::Error),
}

/// What woke the race.
enum Event<U> {
    Dialled(io::Result<U>),
    Server(io::Result<usize>),
    Client(io::Result<usize>),
    PrefixTimeout,
}

/// The client's side of the race.
struct Client {
    options: Options,
    detector: Detector,
    peeked: Peeked,
    decided: Option<(Decision, Option<TlsInfo>)>,
    timer: Option<Pin<Box<Sleep>>>,
    /// The server has sent what may be the beginning of HTTP/2.
    server_preface: bool,
}

// === impl Options ===

impl Default for Options {
    fn default() -> Self {
        Self {
            peek_limit: DEFAULT_PEEK_LIMIT,
            prefix_timeout: Duration::from_secs(1),
            memory: None,
        }
    }
}

/// Runs until there is both a decision and an upstream connection.
///
/// `dial` is polled from the start and brings its own deadline. Without a byte from either side
/// there is none: an idle connection is left alone. Bytes from the upstream decide before bytes
/// from the client do, because no server of a protocol that is looked for speaks before it was
/// sent something, except one of HTTP/2 (see `server_spoke`).
///
/// # Errors
///
/// See [`RaceError`]; bytes read by then are dropped, there is no one left to get them.
pub async fn race<C, U, D>(
    client: &mut C,
    dial: D,
    options: &Options,
) -> Result<Outcome<U>, RaceError<U>>
where
    C: AsyncRead + Unpin,
    U: AsyncRead + Unpin,
    D: Future<Output = io::Result<U>>,
{
    let mut dial = pin!(dial);
    let mut upstream: Option<U> = None;
    let mut server = Peeked::default();
    let mut side = Client::new(options.clone());
    let mut charge = Charge::to(options.memory.clone());

    loop {
        if upstream.is_some()
            && let Some((decision, tls)) = side.decided.take()
            && let Some(upstream) = upstream.take()
        {
            return Ok(Outcome { decision, tls, client: side.peeked, server, upstream });
        }
        let event = poll_fn(|cx| {
            match &mut upstream {
                None => {
                    if let Poll::Ready(result) = dial.as_mut().poll(cx) {
                        return Poll::Ready(Event::Dialled(result));
                    }
                }
                Some(stream) => {
                    let room = side.options.peek_limit.saturating_sub(server.prefix.len());
                    if room > 0
                        && let Poll::Ready(n) = poll_read(cx, stream, &mut server.prefix, room)
                    {
                        return Poll::Ready(Event::Server(n));
                    }
                }
            }
            side.poll(cx, client)
        })
        .await;
        match event {
            Event::Dialled(Ok(stream)) => upstream = Some(stream),
            Event::Dialled(Err(error)) => return Err(RaceError::Dial(error)),
            Event::Client(Err(source)) => return Err(RaceError::Client { source, upstream }),
            Event::Server(Err(error)) => return Err(RaceError::Upstream(error)),
            Event::Server(Ok(0)) => {
                server.eof = true;
                side.decide_tcp("server closed its side first");
            }
            Event::Server(Ok(_)) => side.server_spoke(&server.prefix),
            Event::Client(Ok(n)) => side.received(n),
            Event::PrefixTimeout => {
                side.give_up("prefix stayed incomplete for the detect timeout");
            }
        }
        if !charge.keep(side.peeked.prefix.len() + server.prefix.len()) {
            side.hold_no_more();
        }
    }
}

// === impl Client ===

impl Client {
    fn new(options: Options) -> Self {
        Self {
            detector: Detector::new(options.peek_limit),
            options,
            peeked: Peeked::default(),
            decided: None,
            timer: None,
            server_preface: false,
        }
    }

    /// Reads on, even once decided, as long as there is room: that is how a reset is noticed
    /// while the upstream is being dialled.
    fn poll<C: AsyncRead + Unpin, U>(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut C,
    ) -> Poll<Event<U>> {
        let room = self.options.peek_limit.saturating_sub(self.peeked.prefix.len());
        if !self.peeked.eof
            && room > 0
            && let Poll::Ready(n) = poll_read(cx, client, &mut self.peeked.prefix, room)
        {
            return Poll::Ready(Event::Client(n));
        }
        match &mut self.timer {
            Some(timer) => timer.as_mut().poll(cx).map(|()| Event::PrefixTimeout),
            None => Poll::Pending,
        }
    }

    /// Takes notice of `n` more bytes in the prefix, or of its end.
    fn received(&mut self, n: usize) {
        self.peeked.eof |= n == 0;
        if self.decided.is_some() {
            return;
        }
        let verdict = self.detector.update(&self.peeked.prefix);
        if verdict.is_final() {
            self.decide(verdict);
        } else if self.peeked.eof {
            self.give_up("client closed its side first");
        } else if self.server_preface && !http2::may_be_preface(&self.peeked.prefix) {
            self.decide_tcp(SERVER_FIRST);
        } else {
            self.start_timer();
        }
    }

    /// Takes notice of what the server sent before the client's bytes decided anything. Servers of
    /// one protocol that is looked for may do so: an HTTP/2 server's SETTINGS need not wait for
    /// the client's preface (RFC 9113 §3.4). Everything else is raw TCP at once.
    fn server_spoke(&mut self, seen: &[u8]) {
        if http2::may_be_server_preface(seen) && http2::may_be_preface(&self.peeked.prefix) {
            self.server_preface = true;
            self.start_timer();
        } else {
            self.decide_tcp(SERVER_FIRST);
        }
    }

    fn start_timer(&mut self) {
        if self.timer.is_none() && self.decided.is_none() {
            self.timer = Some(Box::pin(sleep(self.options.prefix_timeout)));
        }
    }

    /// The workload may not keep more: nothing more is read. Undecided it is not looked at any more,
    /// and says nothing about what its destination speaks.
    fn hold_no_more(&mut self) {
        self.options.peek_limit = 0;
        let decision = Decision::detected(Treatment::Opaque, OVER_BUDGET);
        self.decided.get_or_insert((decision, None));
        self.timer = None;
    }

    fn give_up(&mut self, why: &'static str) {
        self.decide(self.detector.give_up(why));
    }

    fn decide_tcp(&mut self, why: &'static str) {
        self.decide(Verdict::Tcp(why));
    }

    fn decide(&mut self, verdict: Verdict) {
        let verdict = match verdict {
            Verdict::Http1 | Verdict::Tls(_) if self.server_preface => Verdict::Tcp(SERVER_FIRST),
            verdict => verdict,
        };
        let (treatment, why, tls) = match verdict {
            Verdict::NeedMore => return,
            Verdict::Http1 => (Treatment::Http1, "HTTP/1 request line", None),
            Verdict::Http2 => (Treatment::Http2, "HTTP/2 connection preface", None),
            Verdict::Tls(info) => (Treatment::Tls, "TLS ClientHello", Some(info)),
            Verdict::Tcp(why) => (Treatment::Tcp, why, None),
        };
        self.decided = Some((Decision::detected(treatment, why), tls));
        self.timer = None;
    }
}

/// Appends what can be read at once, at most `limit` bytes; `Ok(0)` is the end of the stream.
fn poll_read<S: AsyncRead + Unpin>(
    cx: &mut Context<'_>,
    stream: &mut S,
    into: &mut BytesMut,
    limit: usize,
) -> Poll<io::Result<usize>> {
    let mut chunk = [0; CHUNK];
    let mut buffer = ReadBuf::new(&mut chunk[..limit.min(CHUNK)]);
    Pin::new(stream).poll_read(cx, &mut buffer).map_ok(|()| {
        into.extend_from_slice(buffer.filled());
        buffer.filled().len()
    })
}

#[cfg(test)]
mod tests;
