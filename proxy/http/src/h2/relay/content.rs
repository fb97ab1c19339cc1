//! Content and trailers on their way from a sender to a receiver, within the receiver's windows.

use super::peer::{MAX_WINDOW, StreamKey};
use super::stream::{Half, Next};
use super::{Code, Endpoints, PeerId, Relay, Violation, peer_of};
use crate::{ExchangeEnd, ExchangeSink, Side};

/// Content is written while no more than this waits to be written.
const OUTPUT: usize = 64 << 10;
/// What may be held for a client, and come for it, before its streams get the least window only.
const MOST_OWED: i64 = 8 << 20;
/// Streams on a list that are over, besides as many as are open.
const STALE: usize = 32;
/// Of one stream at a time: others are to have their turn.
const TURN: usize = 16 << 10;

// === impl Relay ===

impl<S: ExchangeSink + ?Sized, E: Endpoints> Relay<S, E> {
    /// Content has come; `flow` is what it takes of the window.
    #[inline]
    pub(super) fn content(
        &mut self,
        from: Side,
        key: StreamKey,
        (bytes, flow): (&[u8], u32),
        end: bool,
    ) {
        let Some(stream) = self.streams.get_mut(key) else { return };
        if from == Side::Upstream && !stream.is_answered {
            return self.break_stream(from, key, Code::PROTOCOL_ERROR);
        }
        let half = stream.half(from);
        if half.is_ended {
            return self.break_stream(from, key, Code::STREAM_CLOSED);
        }
        let is_allowed = half.received(flow);
        if from == Side::Upstream
            && let Some(client) = self.clients.get_mut(stream.client)
        {
            client.owed -= i64::from(flow);
        }
        if !is_allowed {
            return self.break_stream(from, key, Code::FLOW_CONTROL_ERROR);
        }
        let half = stream.half(from);
        if !half.is_expected(bytes.len(), end) {
            return self.break_stream(from, key, Code::PROTOCOL_ERROR);
        }
        half.is_ended = end;
        match from {
            Side::Client => stream.tracker.request_bytes(bytes.len() as u64),
            Side::Upstream => stream.tracker.response_bytes(bytes.len() as u64),
        }
        if stream.unwanted.is_some() && from == Side::Client {
            return;
        }
        // Padding, or nothing.
        if bytes.is_empty() && !end {
            return self.grant(from, key);
        }
        let receiver = Self::receiver(stream, from);
        if !receiver.is_some_and(|to| self.pass(from, key, to, bytes)) {
            self.hold(from, key, bytes);
            if let Some(receiver) = receiver {
                self.pump(receiver);
            }
        }
        self.grant(from, key);
        self.settle_stream(key);
    }

    /// Writes content at once, if nothing is in its way.
    #[inline]
    fn pass(&mut self, from: Side, key: StreamKey, to: PeerId, bytes: &[u8]) -> bool {
        let Self { streams, clients, upstreams, .. } = self;
        let peer = peer_of(clients, upstreams, to);
        let (Some(stream), Some(peer)) = (streams.get_mut(key), peer) else { return false };
        let number = if from == Side::Client { stream.upstream_id } else { stream.client_id };
        let half = stream.half(from);
        let count = bytes.len() as i64;
        let is_allowed = count == 0 || (count <= half.window && count <= peer.window);
        let fits = half.is_clear()
            && is_allowed
            && bytes.len() <= peer.remote.max_frame
            && peer.out.len() < OUTPUT;
        if !fits {
            return false;
        }
        let end = half.is_ended;
        peer.out.data(number, bytes, end);
        peer.window -= count;
        half.sent(bytes.len());
        half.is_sent = end;
        if from == Side::Client {
            stream.keep(bytes);
        }
        self.mark(to);
        true
    }

    /// Keeps content for its receiver.
    fn hold(&mut self, from: Side, key: StreamKey, bytes: &[u8]) {
        let Some(stream) = self.streams.get_mut(key) else { return };
        stream.half(from).hold(bytes);
        if let Some(client) = self.clients.get_mut(stream.client) {
            match from {
                Side::Client => client.held += bytes.len(),
                Side::Upstream => client.owed += bytes.len() as i64,
            }
        }
        self.make_ready(from, key);
    }

    /// Puts a stream on the list of those that have something for their receiver.
    pub(super) fn make_ready(&mut self, from: Side, key: StreamKey) {
        let Some(stream) = self.streams.get_mut(key) else { return };
        let Some(to) = Self::receiver(stream, from) else { return };
        let half = stream.half(from);
        let is_end = half.held() == 0;
        if std::mem::replace(&mut half.is_ready, true) {
            return;
        }
        let Some(peer) = self.peer_mut(to) else { return };
        let list = if is_end { &mut peer.ends } else { &mut peer.ready };
        list.push_back(key);
        if list.len() > 2 * peer.streams.len() + STALE {
            self.tidy(to, from);
        }
    }

    /// Takes streams from the lists of a peer that are over, or elsewhere.
    #[cold]
    fn tidy(&mut self, to: PeerId, from: Side) {
        let Some(peer) = self.peer_mut(to) else { return };
        let mut lists = [std::mem::take(&mut peer.ready), std::mem::take(&mut peer.ends)];
        let streams = &mut self.streams;
        for list in &mut lists {
            // A number may be there twice, if it was used again.
            list.retain(|key| {
                streams.get_mut(*key).is_some_and(|stream| {
                    Self::receiver(stream, from) == Some(to)
                        && std::mem::take(&mut stream.half(from).is_ready)
                })
            });
        }
        for key in lists.iter().flatten() {
            if let Some(stream) = streams.get_mut(*key) {
                stream.half(from).is_ready = true;
            }
        }
        let [ready, ends] = lists;
        if let Some(peer) = self.peer_mut(to) {
            (peer.ready, peer.ends) = (ready, ends);
        }
    }

    /// Sends to a peer what it may be sent, of each stream in its turn.
    pub(super) fn pump(&mut self, to: PeerId) {
        let from = to.side().other();
        loop {
            let Some(peer) = self.peer_mut(to) else { return };
            if peer.out.len() >= OUTPUT {
                return;
            }
            let end = peer.ends.pop_front();
            let Some(key) = end.or_else(|| match peer.window {
                1.. => peer.ready.pop_front(),
                _ => None,
            }) else {
                return;
            };
            let is_its = self.streams.get_mut(key).is_some_and(|stream| {
                Self::receiver(stream, from) == Some(to)
                    && (end.is_none() || stream.half(from).held() == 0)
                    && std::mem::take(&mut stream.half(from).is_ready)
            });
            if is_its {
                self.send(to, from, key);
            }
        }
    }

    /// Sends one frame of a stream.
    fn send(&mut self, to: PeerId, from: Side, key: StreamKey) {
        let Self { streams, clients, upstreams, .. } = self;
        let peer = peer_of(clients, upstreams, to);
        let (Some(stream), Some(peer)) = (streams.get_mut(key), peer) else { return };
        let number = if from == Side::Client { stream.upstream_id } else { stream.client_id };
        let window = usize::try_from(peer.window).unwrap_or(0);
        let half = stream.half(from);
        let is_content = match half.next(window.min(TURN).min(peer.remote.max_frame)) {
            // One that has no window is put on the list again when it grows.
            Next::Nothing => return,
            Next::Content(count, end) => {
                peer.out.data(number, half.first(count), end);
                peer.window -= count as i64;
                half.is_sent = end;
                Some(count)
            }
            Next::Trailers(trailers) => {
                let max = peer.remote.max_frame;
                peer.out.headers(number, trailers, true, (&mut peer.encoder, max));
                half.is_sent = true;
                None
            }
        };
        match is_content {
            Some(count) => self.passed(from, key, count),
            None => self.trailers_sent(from, key),
        }
        self.mark(to);
        self.grant(from, key);
        self.settle_stream(key);
    }

    /// Content that was held has gone on.
    fn passed(&mut self, from: Side, key: StreamKey, count: usize) {
        let Some(stream) = self.streams.get_mut(key) else { return };
        if from == Side::Client {
            stream.keep_held(count);
        }
        let half = stream.half(from);
        half.advance(count);
        let has_more = !half.is_sent && (half.is_ended || !half.is_clear());
        let client = stream.client;
        match from {
            Side::Client => self.let_go(client, count),
            Side::Upstream => {
                if let Some(client) = self.clients.get_mut(client) {
                    client.owed -= count as i64;
                }
            }
        }
        if has_more {
            self.hand_on(from, key);
        }
    }

    /// So much that a client has sent is not held any more.
    pub(super) fn let_go(&mut self, client: usize, count: usize) {
        let Some(it) = self.clients.get_mut(client) else { return };
        it.held -= count;
        if count > 0 && !it.peer.is_closing && it.grant() {
            self.mark(PeerId::Client(client));
        }
    }

    /// Has a stream send what it holds, in its turn; trailers, which need no window, at once.
    fn hand_on(&mut self, from: Side, key: StreamKey) {
        let Some(stream) = self.streams.get_mut(key) else { return };
        let Some(to) = Self::receiver(stream, from) else { return };
        let is_end = stream.half(from).held() == 0;
        if is_end && self.peer(to).is_some_and(|peer| peer.out.len() < OUTPUT) {
            self.send(to, from, key);
        } else {
            self.make_ready(from, key);
        }
    }

    fn trailers_sent(&mut self, from: Side, key: StreamKey) {
        let Some(stream) = self.streams.get_mut(key) else { return };
        let trailers = stream.half(from).take_trailers();
        if from == Side::Client
            && let Some(again) = &mut stream.again
        {
            again.trailers = trailers;
        }
    }

    /// Lets the sender of a stream send more, if enough has gone on.
    #[inline]
    pub(super) fn grant(&mut self, from: Side, key: StreamKey) {
        let Some(stream) = self.streams.get_mut(key) else { return };
        let (to, number) = match (from, stream.upstream) {
            (Side::Client, _) => (PeerId::Client(stream.client), stream.client_id),
            (Side::Upstream, Some(id)) if stream.upstream_id != 0 => {
                (PeerId::Upstream(id), stream.upstream_id)
            }
            (Side::Upstream, _) => return,
        };
        let is_crowded = from == Side::Upstream
            && self.clients.get(stream.client).is_some_and(|client| client.owed > MOST_OWED);
        let by = stream.half(from).grant(is_crowded);
        if by == 0 {
            return;
        }
        if from == Side::Upstream
            && let Some(client) = self.clients.get_mut(stream.client)
        {
            client.owed += i64::from(by);
        }
        if let Some(peer) = self.peer_mut(to) {
            peer.out.window_update(number, by);
            self.mark(to);
        }
    }

    /// Trailers have come, which are in `list`.
    pub(super) fn trailers(&mut self, from: Side, key: StreamKey, end: bool, is_too_large: bool) {
        let Some(stream) = self.streams.get_mut(key) else { return };
        let half = stream.half(from);
        if half.is_ended {
            return self.break_stream(from, key, Code::STREAM_CLOSED);
        }
        let is_whole = half.expected.is_none_or(|left| left == 0);
        if !end || is_too_large || !is_whole || self.list.check_trailers().is_err() {
            return self.break_stream(from, key, Code::PROTOCOL_ERROR);
        }
        if half.is_sent {
            half.is_ended = true;
            return;
        }
        let list = Box::new(std::mem::take(&mut self.list));
        half.end_with(Some(list));
        if from == Side::Upstream {
            let status = half.trailers_head().and_then(|head| head.grpc_status.flatten());
            stream.tracker.grpc_status(status);
        }
        self.hand_on(from, key);
    }

    /// WINDOW_UPDATE of a stream by the receiver of what `from` sends.
    pub(super) fn widen(&mut self, from: Side, key: StreamKey, by: u32) {
        let Some(stream) = self.streams.get_mut(key) else { return };
        let half = stream.half(from);
        half.window += i64::from(by);
        let code = match by {
            0 => Code::PROTOCOL_ERROR,
            _ if half.window > MAX_WINDOW => Code::FLOW_CONTROL_ERROR,
            _ => return self.resume(from, key),
        };
        self.break_stream(from.other(), key, code);
    }

    /// The window of a stream has grown.
    pub(super) fn resume(&mut self, from: Side, key: StreamKey) {
        self.grant(from, key);
        let Some(stream) = self.streams.get_mut(key) else { return };
        if stream.half(from).is_clear() {
            return;
        }
        self.make_ready(from, key);
        let Some(stream) = self.streams.get(key) else { return };
        if let Some(receiver) = Self::receiver(stream, from) {
            self.pump(receiver);
        }
    }

    /// The windows of all streams of a peer grow, or shrink (RFC 9113 §6.9.2).
    pub(super) fn resize_windows(&mut self, peer: PeerId, by: i64) -> Result<(), Violation> {
        if by == 0 {
            return Ok(());
        }
        let from = peer.side().other();
        let Some(it) = self.peer_mut(peer) else { return Ok(()) };
        let keys: Vec<_> = it.streams.values().copied().collect();
        for key in keys {
            let Some(stream) = self.streams.get_mut(key) else { continue };
            let half: &mut Half = stream.half(from);
            half.window += by;
            if half.window > MAX_WINDOW {
                let reason = "a window that is too large";
                return Err(Violation::new(Code::FLOW_CONTROL_ERROR, reason));
            }
            if by > 0 {
                self.resume(from, key);
            }
        }
        Ok(())
    }

    /// Ends a stream whose exchange is complete.
    #[inline]
    pub(super) fn settle_stream(&mut self, key: StreamKey) {
        let Some(stream) = self.streams.get_mut(key) else { return };
        if stream.response.is_sent && !stream.request.is_sent {
            let end = stream.complete();
            stream.tracker.response_ended(end);
        }
        if stream.is_over() {
            let (end, is_ended) = (stream.complete(), stream.request.is_ended);
            if let Some(code) = stream.unwanted.filter(|_| !is_ended) {
                self.reset_at_client(key, code);
            }
            self.finish(key, end);
        }
    }

    /// A sender has broken the rules of a stream: it is told with `code`, and the other side that nothing
    /// more comes.
    #[cold]
    pub(super) fn break_stream(&mut self, by: Side, key: StreamKey, code: Code) {
        match by {
            Side::Client => self.break_by_client(key, code),
            Side::Upstream => {
                self.reset_at_client(key, Code::INTERNAL_ERROR);
                self.reset_at_endpoint(key, code);
                self.finish(key, ExchangeEnd::UpstreamReset(Some(code.0)));
            }
        }
    }
}
