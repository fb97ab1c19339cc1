//! The streams of a connection and the exchanges on them, as they are reported.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use super::hpack::Head;
use super::seed::Seed;
use crate::{ExchangeEnd, ExchangeSink, ParseError, Side, Tracker};

/// Streams open at a time, pushed ones included: the most that weir's terminating engine would allow.
const MAX_STREAMS: usize = 1 << 16;

/// What the records of open streams may take together, in bytes of their texts: a header field of
/// 64 KiB needs to be sent but once, and each request that names it is one byte.
const MAX_TEXT: usize = 4 << 20;

/// Streams at a time whose room is kept for the next ones.
const MANY: usize = 1 << 9;

/// The open streams.
pub(super) struct Streams<S: ExchangeSink + ?Sized> {
    sink: Arc<S>,
    open: HashMap<u32, Stream<S>, Seed>,
    /// See [`MAX_TEXT`].
    text_bytes: usize,
    /// The highest that the client has opened.
    newest: u32,
    /// The upstream's GOAWAY: the last stream that it takes, and the error code.
    going_away: Option<(u32, u32)>,
    /// The client has ended its stream, before the upstream did.
    client_left: bool,
}

struct Stream<S: ExchangeSink + ?Sized> {
    /// `None` for one that the upstream has pushed.
    tracker: Option<Tracker<S>>,
    /// Bytes of what the request said of itself.
    text_bytes: usize,
    connect: bool,
    request_ended: bool,
    /// The final response head has come.
    answered: bool,
    response_ended: bool,
    /// How the exchange has ended once the response has.
    complete: ExchangeEnd,
}

// === impl Streams ===

impl<S: ExchangeSink + ?Sized> Streams<S> {
    pub(super) fn new(sink: Arc<S>) -> Self {
        let open = HashMap::with_hasher(Seed::new());
        Self { sink, open, text_bytes: 0, newest: 0, going_away: None, client_left: false }
    }

    /// Stream 1 is open, and half-closed by the client.
    pub(super) fn after_upgrade(sink: Arc<S>, request: Tracker<S>) -> Self {
        let mut streams = Self::new(sink);
        streams.newest = 1;
        streams.open.insert(1, Stream::new(Some(request), false, true));
        streams
    }

    /// Bytes of the heap that open streams take.
    pub(super) fn memory(&self) -> usize {
        self.text_bytes + self.open.capacity() * size_of::<(u32, Stream<S>)>()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// A header block of the client: a request's head, or its trailers.
    pub(super) fn request(&mut self, id: u32, head: Head, end: bool) -> Result<(), ParseError> {
        if id <= self.newest || id.is_multiple_of(2) {
            if end {
                self.data(Side::Client, id, 0, true);
            }
            return Ok(());
        }
        self.newest = id;
        let info = head.into_request();
        let (text_bytes, connect) = (info.text_bytes(), &*info.method == "CONNECT");
        let mut tracker = Tracker::start(&self.sink, info);
        if let Some((last, code)) = self.going_away
            && id > last
        {
            tracker.finish(ExchangeEnd::UpstreamReset(Some(code)));
            return Ok(());
        }
        self.insert(id, Stream { text_bytes, ..Stream::new(Some(tracker), connect, end) })
    }

    /// A header block of the upstream: a response's head, interim or final, or its trailers.
    pub(super) fn response(&mut self, id: u32, head: &Head, end: bool) {
        let Entry::Occupied(mut entry) = self.open.entry(id) else { return };
        let stream = entry.get_mut();
        if self.client_left && is_failure(head) {
            // gRPC servers end the streams of a client that is gone with UNAVAILABLE, for no
            // client.
            stream.complete = ExchangeEnd::ClientReset(None);
        } else {
            stream.head(head);
        }
        if end && stream.end_response() {
            let stream = entry.remove();
            self.closed(&stream);
            stream.complete();
        }
    }

    /// Content of a request or a response.
    pub(super) fn data(&mut self, from: Side, id: u32, count: usize, end: bool) {
        let Entry::Occupied(mut entry) = self.open.entry(id) else { return };
        let stream = entry.get_mut();
        if let Some(tracker) = &mut stream.tracker {
            match from {
                Side::Client => tracker.request_bytes(count as u64),
                Side::Upstream => tracker.response_bytes(count as u64),
            }
        }
        let over = end
            && match from {
                Side::Client => stream.end_request(),
                Side::Upstream => stream.end_response(),
            };
        if over {
            let stream = entry.remove();
            self.closed(&stream);
            stream.complete();
        }
    }

    /// RST_STREAM. Behind a complete response it changes nothing any more: the upstream does not
    /// want the rest of the request (RFC 9113 §8.1), or the client does not send it.
    pub(super) fn reset(&mut self, from: Side, id: u32, code: u32) {
        if let Some(stream) = self.open.remove(&id) {
            self.closed(&stream);
            stream.finish(match from {
                Side::Client => ExchangeEnd::ClientReset(Some(code)),
                Side::Upstream => self.caused(ExchangeEnd::UpstreamReset(Some(code))),
            });
        }
    }

    /// A stream that the upstream pushes (RFC 9113 §8.4): followed to its end, not reported.
    pub(super) fn promise(&mut self, id: u32) -> Result<(), ParseError> {
        if id.is_multiple_of(2) {
            return self.insert(id, Stream::new(None, false, true));
        }
        Ok(())
    }

    /// GOAWAY of the upstream, which has not looked at streams beyond `last` (RFC 9113 §6.8).
    pub(super) fn go_away(&mut self, last: u32, code: u32) {
        let last = self.going_away.map_or(last, |(earlier, _)| last.min(earlier));
        self.going_away = Some((last, code));
        let refused = |id: &u32, _: &mut Stream<S>| *id > last && !id.is_multiple_of(2);
        let refused: Vec<_> = self.open.extract_if(refused).collect();
        refused.iter().for_each(|(_, stream)| self.closed(stream));
        finish(refused, &self.caused(ExchangeEnd::UpstreamReset(Some(code))));
    }

    /// The client is gone: whatever else ends streams now, does it because of that.
    pub(super) fn client_left(&mut self) {
        self.client_left = true;
    }

    fn caused(&self, end: ExchangeEnd) -> ExchangeEnd {
        match end {
            ExchangeEnd::UpstreamReset(_) | ExchangeEnd::UpstreamClosed if self.client_left => {
                ExchangeEnd::ClientReset(None)
            }
            end => end,
        }
    }

    /// Ends every stream, in the order in which they were opened.
    pub(super) fn finish(mut self, end: ExchangeEnd) {
        let end = self.caused(end);
        finish(self.open.drain().collect(), &end);
    }

    /// Gives back what a stream, and many at a time, have needed.
    fn closed(&mut self, stream: &Stream<S>) {
        self.text_bytes -= stream.text_bytes;
        if self.open.capacity() > MANY && self.open.is_empty() {
            self.open.shrink_to(0);
        }
    }

    fn insert(&mut self, id: u32, stream: Stream<S>) -> Result<(), ParseError> {
        let full = self.open.len() >= MAX_STREAMS;
        self.text_bytes += stream.text_bytes;
        self.open.insert(id, stream);
        match (full, self.text_bytes > MAX_TEXT) {
            (true, _) => Err(ParseError::TooManyStreams),
            (_, true) => Err(ParseError::LargeRequests),
            _ => Ok(()),
        }
    }
}

#[inline]
fn is_failure(head: &Head) -> bool {
    head.status.is_some_and(|status| status >= 500)
        || head.grpc_status.flatten().is_some_and(|code| code != 0)
}

fn finish<S: ExchangeSink + ?Sized>(mut streams: Vec<(u32, Stream<S>)>, end: &ExchangeEnd) {
    streams.sort_unstable_by_key(|(id, _)| *id);
    for (_, stream) in streams {
        stream.finish(end.clone());
    }
}

// === impl Stream ===

impl<S: ExchangeSink + ?Sized> Stream<S> {
    fn new(tracker: Option<Tracker<S>>, connect: bool, request_ended: bool) -> Self {
        let complete = ExchangeEnd::Complete;
        Self {
            tracker,
            text_bytes: 0,
            connect,
            request_ended,
            answered: false,
            response_ended: false,
            complete,
        }
    }

    fn head(&mut self, head: &Head) {
        let Some(tracker) = &mut self.tracker else { return };
        if !self.answered {
            let Some(status) = head.status.filter(|status| *status >= 200) else { return };
            self.answered = true;
            tracker.head(status, head.grpc.unwrap_or_default());
            if self.connect && status < 300 {
                self.complete = ExchangeEnd::Tunnel;
            }
        }
        tracker.grpc_status(head.grpc_status.flatten());
    }

    /// True if that was the end of the exchange.
    fn end_request(&mut self) -> bool {
        self.request_ended = true;
        self.response_ended
    }

    /// True if that was the end of the exchange.
    fn end_response(&mut self) -> bool {
        self.response_ended = true;
        if let Some(tracker) = &mut self.tracker
            && !self.request_ended
        {
            tracker.response_ended(self.complete.clone());
        }
        self.request_ended
    }

    fn complete(mut self) {
        let end = std::mem::replace(&mut self.complete, ExchangeEnd::Complete);
        self.finish(end);
    }

    /// Ended like this, unless the response has ended before.
    fn finish(self, end: ExchangeEnd) {
        if let Some(mut tracker) = self.tracker {
            tracker.finish(end);
        }
    }
}
