//! A connection whose bytes pass on as they come: HTTP/1 or HTTP/2, and from one to the other (h2c).

use std::sync::Arc;

use crate::h1::{self, Edit, UpstreamEnd};
use crate::{ExchangeEnd, ExchangeSink, ParseError, Side, Untracked, h2};

/// Follows both directions of a connection.
pub struct Connection<S: ExchangeSink + ?Sized> {
    sink: Arc<S>,
    protocol: Protocol<S>,
    /// The client's bytes that were read last, and how many of them have a meaning: the others are
    /// requests behind the last response.
    shown: usize,
    read: usize,
    /// Set once HTTP/2 is not followed any more.
    untracked: Option<Untracked>,
}

enum Protocol<S: ExchangeSink + ?Sized> {
    Http1(Box<h1::Session<S>>),
    Http2(Box<h2::Session<S>>),
    /// Not followed any more.
    Done,
}

// === impl Connection ===

impl<S: ExchangeSink + ?Sized> Connection<S> {
    /// HTTP/1, at the first byte of both streams.
    #[must_use]
    pub fn http1(sink: Arc<S>) -> Self {
        let session = h1::Session::passing(Arc::clone(&sink));
        Self::new(sink, Protocol::Http1(Box::new(session)))
    }

    /// HTTP/2, at the client's connection preface (prior knowledge, RFC 9113 §3.3).
    #[must_use]
    pub fn http2(sink: Arc<S>) -> Self {
        let session = h2::Session::new(Arc::clone(&sink));
        Self::new(sink, Protocol::Http2(Box::new(session)))
    }

    /// HTTP/1 that another has followed up to here; from here on bytes pass on as they come.
    #[must_use]
    pub fn following(sink: Arc<S>, mut session: h1::Session<S>) -> Self {
        session.pass();
        Self::new(sink, Protocol::Http1(Box::new(session)))
    }

    fn new(sink: Arc<S>, protocol: Protocol<S>) -> Self {
        Self { sink, protocol, shown: 0, read: 0, untracked: None }
    }

    /// Bytes that `from` has sent: each once, in order, and requests before their responses. `keep` is
    /// asked whether so many bytes of the heap may be kept; where they may not, nothing is followed
    /// any more.
    pub fn bytes(&mut self, from: Side, bytes: &[u8], keep: &mut impl FnMut(usize) -> bool) {
        let kept = match (&mut self.protocol, from) {
            (Protocol::Http1(session), Side::Client) => {
                self.shown = bytes.len();
                self.read = session.requests(bytes);
                keep(session.memory())
            }
            (Protocol::Http1(session), Side::Upstream) => {
                if let Some(at) = session.responses(bytes, 0) {
                    return self.switch(&bytes[at..], keep);
                }
                keep(session.memory())
            }
            (Protocol::Http2(session), _) => match session.read(from, bytes, &mut *keep) {
                Ok(()) => true,
                Err(error) => return self.lose_track(from, error.reason(), keep),
            },
            (Protocol::Done, _) => true,
        };
        if !kept {
            self.lose_track(from, ParseError::OverBudget.reason(), keep);
        }
    }

    /// So many bytes of `from` have passed that are not shown. Where they can be anything but content,
    /// nothing is followed any more.
    pub fn passed(&mut self, from: Side, mut count: u64, keep: &mut impl FnMut(usize) -> bool) {
        const UNSEEN: [u8; 16_384] = [0; 16_384];
        while count > 0 {
            let ahead = match &self.protocol {
                Protocol::Http1(session) => session.content_ahead(from),
                Protocol::Http2(session) => session.content_ahead(from),
                Protocol::Done => return,
            };
            let now = count.min(ahead).min(UNSEEN.len() as u64);
            if now == 0 {
                return self.lose_track(from, ParseError::Unseen.reason(), keep);
            }
            self.bytes(from, &UNSEEN[..now as usize], keep);
            count -= now;
        }
    }

    /// Nothing is followed from here on.
    pub fn lose(&mut self, reason: &'static str, keep: &mut impl FnMut(usize) -> bool) {
        self.lose_track(Side::Upstream, reason, keep);
    }

    /// `from` has ended its stream in order; the other side may go on.
    pub fn ended(&mut self, from: Side) {
        match (&mut self.protocol, from) {
            (Protocol::Http1(session), Side::Client) => session.client_ended(),
            (Protocol::Http1(session), Side::Upstream) => {
                if session.upstream_ended(false) != UpstreamEnd::Raw {
                    session.close_unanswered();
                }
            }
            (Protocol::Http2(session), _) => session.ended(from),
            (Protocol::Done, _) => {}
        }
    }

    /// Nothing is under way.
    pub fn is_idle(&self) -> bool {
        match &self.protocol {
            Protocol::Http1(session) => session.is_idle(),
            Protocol::Http2(session) => session.is_idle(),
            Protocol::Done => false,
        }
    }

    /// What to change in the bytes of `from` that were read last, so that the connection ends with an
    /// HTTP/1 response that has begun there, and that requests behind it are dropped. From then on
    /// it has to be done.
    pub fn edit(&mut self, from: Side) -> Option<Edit> {
        let Protocol::Http1(session) = &mut self.protocol else { return None };
        match from {
            Side::Upstream => session.say_close(),
            Side::Client if self.read == self.shown => None,
            Side::Client => Some(Edit { start: self.read, end: self.shown, text: b"" }),
        }
    }

    /// What may be put behind the last byte of the upstream so that an HTTP/2 client opens no more
    /// streams.
    pub fn shutdown_notice(&self) -> Option<&'static [u8]> {
        match &self.protocol {
            Protocol::Http2(session) if session.may_insert() => Some(h2::SHUTDOWN_NOTICE),
            _ => None,
        }
    }

    /// Set once the messages are not followed any more.
    pub fn untracked(&self) -> Option<Untracked> {
        match &self.protocol {
            Protocol::Http1(session) => session.untracked(),
            Protocol::Http2(_) | Protocol::Done => self.untracked,
        }
    }

    /// Bytes of the heap that are held for it.
    pub fn memory(&self) -> usize {
        match &self.protocol {
            Protocol::Http1(session) => session.memory(),
            Protocol::Http2(session) => session.memory(),
            Protocol::Done => 0,
        }
    }

    /// The connection is over: exchanges in flight are reported as ended like this.
    pub fn finish(&mut self, end: ExchangeEnd) {
        match &mut self.protocol {
            Protocol::Http1(session) => {
                // weir answers the first; the others get no answer.
                let rest = match end {
                    ExchangeEnd::Answered(_) => ExchangeEnd::UpstreamReset(None),
                    _ => end.clone(),
                };
                session.finish(end, rest);
            }
            Protocol::Http2(_) => {
                if let Protocol::Http2(session) =
                    std::mem::replace(&mut self.protocol, Protocol::Done)
                {
                    session.finish(end);
                }
            }
            Protocol::Done => {}
        }
    }

    /// The upstream's bytes go on with `rest` as HTTP/2.
    fn switch(&mut self, rest: &[u8], keep: &mut impl FnMut(usize) -> bool) {
        let Protocol::Http1(session) = &mut self.protocol else { return };
        let client_ended = session.has_client_ended();
        let Some((tracker, held)) = session.switch() else { return };
        let session = h2::Session::after_upgrade(Arc::clone(&self.sink), tracker);
        self.protocol = Protocol::Http2(Box::new(session));
        self.bytes(Side::Client, &held, keep);
        if client_ended {
            self.ended(Side::Client);
        }
        self.bytes(Side::Upstream, rest, keep);
    }

    #[cold]
    fn lose_track(
        &mut self,
        side: Side,
        reason: &'static str,
        keep: &mut impl FnMut(usize) -> bool,
    ) {
        let untracked = Untracked { side, reason };
        match &mut self.protocol {
            Protocol::Http1(session) => session.lose_track(side, untracked.reason),
            Protocol::Http2(_) => {
                self.untracked = Some(untracked);
                self.sink.downgraded(untracked);
                self.finish(ExchangeEnd::Untracked);
            }
            Protocol::Done => {}
        }
        // Nothing is kept any more.
        let _ = keep(0);
    }
}
