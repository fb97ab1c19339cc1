//! What clients send.

use std::sync::Arc;
use std::time::Duration;

use super::keep_alive::Asked;
use super::offers::Offers;
use super::peer::{
    ENABLE_CONNECT_PROTOCOL, Headers, INITIAL_WINDOW_SIZE, MAX_CONCURRENT_STREAMS,
    MAX_HEADER_LIST_SIZE, Peer, StreamKey,
};
use super::reader::FrameReader;
use super::stream::{FIRST_WINDOW, Half, LEAST_WINDOW, Stream};
use super::{Code, End, Endpoints, Limits, PeerId, Relay, Violation};
use crate::{ExchangeEnd, ExchangeSink, Side, Tracker};

/// What a client may have on its way, on all streams. The window is kept open whatever is held for
/// endpoints that do not take it, as other streams may have to go on before they do.
const WINDOW: i64 = 1 << 20;
/// So much is held for endpoints at most, besides what is on its way.
const MOST_HELD: usize = 16 << 20;
/// Streams that are reset before they are answered, and sooner than a deadline would be.
const PREMATURE: Duration = Duration::from_millis(100);
/// So many of them are an attack, if they are most of all (rapid reset, CVE-2023-44487).
const MOST_PREMATURE: u32 = 200;

/// A client's connection.
pub(super) struct Client<S: ExchangeSink + ?Sized> {
    pub(super) peer: Peer,
    pub(super) sink: Arc<S>,
    /// The highest stream that was taken from it.
    pub(super) last: u32,
    /// The highest stream that it has opened.
    pub(super) highest: u32,
    opened: u32,
    premature: u32,
    /// Content that it has sent and that is held.
    pub(super) held: usize,
    /// Content of responses that is held for it, and that may come for it.
    pub(super) owed: i64,
    /// Why it was given up.
    pub(super) violation: Option<Violation>,
    /// It has been sent the last GOAWAY.
    pub(super) is_leaving: bool,
    pub(super) asked: Asked,
}

// === impl Client ===

impl<S: ExchangeSink + ?Sized> Client<S> {
    pub(super) fn new(sink: Arc<S>, limits: Limits, offers: Offers) -> Self {
        let mut peer = Peer::new(FrameReader::of_client());
        let settings = [
            (MAX_CONCURRENT_STREAMS, limits.streams),
            (INITIAL_WINDOW_SIZE, FIRST_WINDOW as u32),
            (MAX_HEADER_LIST_SIZE, offers.list),
            (ENABLE_CONNECT_PROTOCOL, 1),
        ];
        let count = if offers.connect_protocol { settings.len() } else { settings.len() - 1 };
        peer.out.settings(&settings[..count]);
        peer.grant(WINDOW);
        Self {
            peer,
            sink,
            last: 0,
            highest: 0,
            opened: 0,
            premature: 0,
            held: 0,
            owed: 0,
            violation: None,
            is_leaving: false,
            asked: Asked::default(),
        }
    }

    /// Gives back what of the window has gone on; false if that is little.
    pub(super) fn grant(&mut self) -> bool {
        self.held < MOST_HELD && self.peer.grant(WINDOW)
    }

    /// It has had a stream reset that was not answered, for which it has not waited long.
    fn premature(&mut self) -> Result<(), Violation> {
        self.premature += 1;
        if self.premature > MOST_PREMATURE && self.premature > self.opened / 2 {
            return Err(Violation::new(Code::ENHANCE_YOUR_CALM, "too many streams are reset"));
        }
        Ok(())
    }
}

// === impl Relay ===

impl<S: ExchangeSink + ?Sized, E: Endpoints> Relay<S, E> {
    pub(super) fn request_headers(&mut self, id: usize, headers: Headers) -> Result<(), Violation> {
        let Headers { stream, end, is_too_large } = headers;
        let Some(client) = self.clients.get_mut(id) else { return Ok(()) };
        if let Some(key) = client.peer.streams.get(&stream).copied() {
            self.trailers(Side::Client, key, end, is_too_large);
            return Ok(());
        }
        if stream.is_multiple_of(2) {
            return Err(Violation::new(Code::PROTOCOL_ERROR, "a stream with a server's number"));
        }
        // One that was reset, or refused.
        if stream <= client.highest {
            return Ok(());
        }
        client.highest = stream;
        if client.is_leaving {
            return Ok(());
        }
        client.last = stream;
        client.opened = client.opened.saturating_add(1);
        let refusal = if is_too_large {
            Some(Code::ENHANCE_YOUR_CALM)
        } else if client.peer.streams.len() >= self.limits.streams as usize {
            Some(Code::REFUSED_STREAM)
        } else if self.list.check_request().is_err()
            || self.list.content_length().map_or(true, |it| end && it.is_some_and(|it| it > 0))
            || (self.list.protocol() && !self.offers.connect_protocol)
        {
            Some(Code::PROTOCOL_ERROR)
        } else {
            None
        };
        if let Some(code) = refusal {
            client.peer.out.reset(stream, code);
            return Ok(());
        }
        self.open(id, stream, end);
        Ok(())
    }

    /// A request has come whose head is in `list`.
    fn open(&mut self, id: usize, number: u32, end: bool) {
        let Some(client) = self.clients.get_mut(id) else { return };
        let mut again = self.spare.pop().unwrap_or_default();
        std::mem::swap(&mut again.head, &mut self.list);
        let info = again.head.head().clone().into_request();
        let mut request = Half::new(0, FIRST_WINDOW);
        request.is_ended = end;
        request.expected = again.head.content_length().ok().flatten();
        let stream = Stream {
            client: id,
            client_id: number,
            upstream: None,
            upstream_id: 0,
            request,
            response: Half::new(client.peer.remote.initial_window, LEAST_WINDOW),
            is_answered: false,
            is_connect: again.head.is_connect(),
            is_tunnel: false,
            is_head: &*info.method == "HEAD",
            is_grpc: info.grpc,
            tracker: Tracker::start(&client.sink, info),
            lease: None,
            unwanted: None,
            repeat: None,
            to: None,
            again: Some(again),
        };
        let key = self.streams.insert(stream);
        client.peer.streams.insert(number, key);
        client.owed += LEAST_WINDOW;
        if !self.endpoints.is_routed() || self.route(key) {
            self.place(key);
        }
    }

    /// RST_STREAM of a client.
    pub(super) fn client_reset(
        &mut self,
        id: usize,
        key: StreamKey,
        code: Code,
    ) -> Result<(), Violation> {
        let is_premature = self.is_premature(key);
        self.reset_at_endpoint(key, code);
        self.finish(key, ExchangeEnd::ClientReset(Some(code.0)));
        match self.clients.get_mut(id) {
            Some(client) if is_premature => client.premature(),
            _ => Ok(()),
        }
    }

    /// A reset of the stream would be sooner than one by a deadline.
    fn is_premature(&self, key: StreamKey) -> bool {
        let stream = self.streams.get(key);
        stream.is_some_and(|it| !it.is_answered && it.tracker.elapsed() < PREMATURE)
    }

    /// A client has broken the rules of a stream (RFC 9113 §5.4.2). That is a reset, of either side
    /// (CVE-2025-8671).
    #[cold]
    pub(super) fn break_by_client(&mut self, key: StreamKey, code: Code) {
        let Some(id) = self.streams.get(key).map(|stream| stream.client) else { return };
        let is_premature = self.is_premature(key);
        self.reset_at_endpoint(key, Code::CANCEL);
        self.reset_at_client(key, code);
        self.finish(key, ExchangeEnd::ClientReset(Some(code.0)));
        if is_premature
            && let Some(client) = self.clients.get_mut(id)
            && let Err(violation) = client.premature()
        {
            self.give_up(PeerId::Client(id), violation);
        }
    }

    /// Tells the client that nothing more comes, and nothing is wanted.
    pub(super) fn reset_at_client(&mut self, key: StreamKey, code: Code) {
        let Some(stream) = self.streams.get(key) else { return };
        let (client, number) = (PeerId::Client(stream.client), stream.client_id);
        if let Some(peer) = self.peer_mut(client) {
            peer.out.reset(number, code);
            self.mark(client);
        }
    }

    pub(super) fn client_ended(&mut self, id: usize, end: End) {
        let Some(client) = self.clients.get_mut(id) else { return };
        client.peer.has_ended = true;
        if !matches!(end, End::Closed { .. }) {
            client.peer.is_closing = true;
            self.end_streams_of_client(id, &ExchangeEnd::ClientReset(None));
        } else {
            // The rest of these requests cannot come any more.
            self.end_streams_of(id, &ExchangeEnd::ClientReset(None), |it| !it.request.is_ended);
            let Some(client) = self.clients.get_mut(id) else { return };
            client.peer.is_closing |= client.peer.streams.is_empty();
        }
        self.mark(PeerId::Client(id));
    }

    /// All streams of a client end: their endpoints are told.
    pub(super) fn end_streams_of_client(&mut self, id: usize, end: &ExchangeEnd) {
        self.end_streams_of(id, end, |_| true);
    }

    fn end_streams_of(
        &mut self,
        id: usize,
        end: &ExchangeEnd,
        which: impl Fn(&Stream<S, E::Lease>) -> bool,
    ) {
        let Some(client) = self.clients.get(id) else { return };
        let all = client.peer.streams.iter().map(|(id, key)| (*id, *key));
        let is_one = |key| self.streams.get(key).is_some_and(&which);
        let mut keys: Vec<_> = all.filter(|(_, key)| is_one(*key)).collect();
        keys.sort_unstable();
        for (_, key) in keys {
            self.reset_at_endpoint(key, Code::CANCEL);
            self.finish(key, end.clone());
        }
    }

    pub(super) fn remove_client(&mut self, id: usize, end: &ExchangeEnd) {
        self.end_streams_of_client(id, end);
        self.clients.try_remove(id);
    }

    /// Tells the endpoint that nothing more comes, and nothing is wanted.
    pub(super) fn reset_at_endpoint(&mut self, key: StreamKey, code: Code) {
        let Some(stream) = self.streams.get(key) else { return };
        if stream.upstream_id == 0 || (stream.request.is_sent && stream.response.is_ended) {
            return;
        }
        let (number, Some(id)) = (stream.upstream_id, stream.upstream) else { return };
        if let Some(upstream) = self.upstreams.get_mut(id) {
            upstream.peer.out.reset(number, code);
            self.mark(PeerId::Upstream(id));
        }
    }
}
