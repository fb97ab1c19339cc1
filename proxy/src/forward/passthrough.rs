//! The passthrough engine: bytes are forwarded as they came (that is [`super::tcp`]'s work), and an
//! observer beside them follows the messages and reports exchanges. An observer never delays a byte,
//! and changes none but where a drain ends the connection ([`Observer::edit`],
//! [`Observer::farewell`]); one that loses track says so once and is asked no more.

#[cfg(test)]
mod tests;

use std::sync::Arc;

use weir_http::Connection;
use weir_http::h1::Edit;

use super::Side;
use super::http::{ExchangeEnd, ExchangeSink, HttpVersion, Untracked};
use crate::budget::Charge;

/// Follows the messages of one connection whose bytes pass by.
pub(crate) trait Observer: Send {
    /// Bytes that `from` has sent: each exactly once, in the order of its stream, in any
    /// segmentation. The two sides are interleaved as their bytes were read, and bytes are shown
    /// before they are written to the other side, so that a request is always shown before the
    /// response to it.
    fn bytes(&mut self, from: Side, bytes: &[u8]);

    /// So many bytes of `from` have passed at this place that are not shown. Where they are anything but
    /// content, the observer loses track.
    fn passed(&mut self, _from: Side, _count: u64) {}

    /// Nothing more is shown; why, as a label and for people.
    fn lose(&mut self, _reason: &'static str) {}

    /// `from` has ended its stream in order (FIN); the other side may go on.
    fn ended(&mut self, from: Side);

    /// Whether nothing is under way: both streams are between messages, and every request has got
    /// its response. A draining connection may be ended here.
    fn is_idle(&self) -> bool;

    /// What weir may put into the stream to the client right behind the last byte shown from the
    /// upstream, to say that it wants no new requests: HTTP/2's GOAWAY, where both the place and
    /// the state of the connection allow it. `None` where there is no such word.
    fn farewell(&self) -> Option<&'static [u8]>;

    /// Asked of a draining connection once bytes of `from` have been shown: what to change in them.
    /// HTTP/1 says `connection: close` in a response that has begun there, and drops the requests
    /// behind it. `None` leaves them as they are.
    fn edit(&mut self, _from: Side) -> Option<Edit> {
        None
    }

    /// Set once the observer has stopped interpreting; it need not be shown bytes any more.
    fn untracked(&self) -> Option<Untracked>;

    /// It need not be shown anything any more.
    fn is_done(&self) -> bool {
        self.untracked().is_some()
    }

    /// False if the rest of what this side sends need not be shown.
    fn looks_at(&self, _side: Side) -> bool {
        true
    }

    /// The connection is over: exchanges in flight are reported as ended like this. Without it
    /// they are reported as [`ExchangeEnd::Cancelled`] when the observer is dropped.
    fn finish(&mut self, end: ExchangeEnd);
}

/// Follows HTTP, and charges what is kept for that to the workload.
pub(crate) struct HttpObserver {
    connection: Connection<dyn ExchangeSink>,
    charge: Charge,
    /// How many bytes of each side's next ones have been read already.
    read: [usize; 2],
}

// === impl HttpObserver ===

impl HttpObserver {
    /// For a connection whose client speaks `version`, from its first byte on.
    pub(crate) fn new(version: HttpVersion, sink: Arc<dyn ExchangeSink>) -> Self {
        let charge = Charge::to(sink.share());
        let connection = match version {
            HttpVersion::Http1 => Connection::http1(sink),
            HttpVersion::Http2 => Connection::http2(sink),
        };
        Self { connection, charge, read: [0; 2] }
    }

    /// Goes on for an engine that has followed the connection so far, and charged what is kept. The first
    /// bytes that it is shown have been read already: so many of the client, and of the upstream.
    pub(crate) const fn following(
        connection: Connection<dyn ExchangeSink>,
        charge: Charge,
        read: [usize; 2],
    ) -> Self {
        Self { connection, charge, read }
    }
}

impl Observer for HttpObserver {
    fn bytes(&mut self, from: Side, bytes: &[u8]) {
        let read = &mut self.read[usize::from(from == Side::Upstream)];
        let (_, new) = bytes.split_at((*read).min(bytes.len()));
        *read -= bytes.len() - new.len();
        if !new.is_empty() {
            self.connection.bytes(from, new, &mut |kept| self.charge.keep(kept));
        }
    }

    fn passed(&mut self, from: Side, count: u64) {
        self.connection.passed(from, count, &mut |kept| self.charge.keep(kept));
    }

    fn lose(&mut self, reason: &'static str) {
        self.connection.lose(reason, &mut |kept| self.charge.keep(kept));
    }

    fn ended(&mut self, from: Side) {
        self.connection.ended(from);
    }

    fn is_idle(&self) -> bool {
        self.connection.is_idle()
    }

    fn farewell(&self) -> Option<&'static [u8]> {
        self.connection.shutdown_notice()
    }

    fn edit(&mut self, from: Side) -> Option<Edit> {
        self.connection.edit(from)
    }

    fn untracked(&self) -> Option<Untracked> {
        self.connection.untracked()
    }

    fn finish(&mut self, end: ExchangeEnd) {
        self.connection.finish(end);
    }
}
