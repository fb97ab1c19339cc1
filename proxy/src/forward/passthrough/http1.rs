//! Follows HTTP/1 messages (RFC 9112) beside bytes that pass as they came. Heads may have any size
//! and any number of fields: of what is not reported, nothing is kept. What the bytes mean is
//! [`weir_http::h1`]'s.

#[cfg(test)]
mod tests;

use std::sync::Arc;

use weir_http::h1::{Edit, Session, UpstreamEnd};

use super::http2::Http2Observer;
use super::{OVER_BUDGET, Observer};
use crate::budget::Charge;
use crate::forward::Side;
use crate::forward::http::{ExchangeEnd, ExchangeSink, Untracked};

/// Follows both directions of an HTTP/1 connection.
pub(crate) struct Http1Observer {
    session: Session<dyn ExchangeSink>,
    /// The client's bytes that were shown last, and how many of them were read: the others are
    /// requests behind the last response.
    shown: usize,
    read: usize,
    /// For what is kept here.
    charge: Charge,
    /// Set once the connection has become HTTP/2.
    http2: Option<Box<Http2Observer>>,
}

// === impl Http1Observer ===

impl Http1Observer {
    /// Starts at the first byte of both streams.
    pub(crate) fn new(sink: Arc<dyn ExchangeSink>) -> Self {
        let charge = Charge::to(sink.share());
        Self { session: Session::passing(sink), shown: 0, read: 0, charge, http2: None }
    }

    fn switch(&mut self, rest: &[u8]) {
        let sink = Arc::clone(self.session.sink());
        let Some((tracker, held)) = self.session.switch() else { return };
        let mut http2 = Http2Observer::after_upgrade(sink, tracker);
        http2.bytes(Side::Client, &held);
        if self.session.has_client_ended() {
            http2.ended(Side::Client);
        }
        http2.bytes(Side::Upstream, rest);
        self.http2 = Some(Box::new(http2));
    }

    fn settle(&mut self, from: Side) {
        if !self.charge.keep(self.session.memory()) {
            self.session.lose_track(from, OVER_BUDGET);
            // Nothing is kept any more.
            let _ = self.charge.keep(0);
        }
    }
}

impl Observer for Http1Observer {
    fn bytes(&mut self, from: Side, bytes: &[u8]) {
        match (&mut self.http2, from) {
            (Some(http2), _) => return http2.bytes(from, bytes),
            (None, Side::Client) => {
                self.shown = bytes.len();
                self.read = self.session.requests(bytes);
            }
            (None, Side::Upstream) => {
                if let Some(at) = self.session.responses(bytes, 0) {
                    self.switch(&bytes[at..]);
                }
            }
        }
        self.settle(from);
    }

    fn ended(&mut self, from: Side) {
        match (&mut self.http2, from) {
            (Some(http2), _) => http2.ended(from),
            (None, Side::Client) => self.session.client_ended(),
            (None, Side::Upstream) => {
                if self.session.upstream_ended(false) != UpstreamEnd::Raw {
                    self.session.close_unanswered();
                }
            }
        }
    }

    fn is_idle(&self) -> bool {
        match &self.http2 {
            Some(http2) => http2.is_idle(),
            None => self.session.is_idle(),
        }
    }

    fn farewell(&self) -> Option<&'static [u8]> {
        self.http2.as_ref()?.farewell()
    }

    fn edit(&mut self, from: Side) -> Option<Edit> {
        match from {
            _ if self.http2.is_some() => None,
            Side::Client if self.read == self.shown => None,
            Side::Client => Some(Edit { start: self.read, end: self.shown, text: b"" }),
            Side::Upstream => self.session.say_close(),
        }
    }

    fn untracked(&self) -> Option<Untracked> {
        match &self.http2 {
            Some(http2) => http2.untracked(),
            None => self.session.untracked(),
        }
    }

    fn finish(&mut self, end: ExchangeEnd) {
        if let Some(http2) = &mut self.http2 {
            return http2.finish(end);
        }
        // weir answers the first; the others get no answer.
        let rest = match end {
            ExchangeEnd::Answered(_) => ExchangeEnd::UpstreamReset(None),
            _ => end.clone(),
        };
        self.session.finish(end, rest);
    }
}
