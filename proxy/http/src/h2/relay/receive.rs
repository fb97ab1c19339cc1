//! What peers send, frame by frame: what clients and endpoints have in common.

use std::time::Instant;

use super::peer::{Headers, MOST_OUTPUT, StreamKey};
use super::reader::{Frame, FrameReader};
use super::{Code, Endpoints, PeerId, Relay, Violation, peer_of, upstreams};
use crate::{ExchangeSink, Side};

// === impl Relay ===

impl<S: ExchangeSink + ?Sized, E: Endpoints> Relay<S, E> {
    pub(super) fn receive(&mut self, from: PeerId, mut bytes: &[u8]) -> Result<(), Violation> {
        let Some(peer) = self.peer_mut(from) else { return Ok(()) };
        if peer.is_closing {
            return Ok(());
        }
        // Taken out, so that frames can borrow from it.
        let mut reader = std::mem::replace(&mut peer.reader, FrameReader::of_upstream());
        let result = loop {
            match reader.next(&mut bytes) {
                Ok(None) => break Ok(()),
                Ok(Some(frame)) => {
                    if let Err(violation) = self.frame(from, frame) {
                        break Err(violation);
                    }
                }
                Err(violation) => break Err(violation),
            }
        };
        match from {
            PeerId::Client(id) => _ = self.clients.get_mut(id).map(|client| client.grant()),
            PeerId::Upstream(id) => {
                if let Some(upstream) = self.upstreams.get_mut(id) {
                    upstream.asking.heard();
                    upstream.peer.grant(upstreams::WINDOW);
                }
            }
        }
        let Some(peer) = self.peer_mut(from) else { return Ok(()) };
        peer.reader = reader;
        let waiting = peer.out.len();
        if waiting > MOST_OUTPUT {
            let reason = match from {
                PeerId::Client(_) => "the client does not read",
                PeerId::Upstream(_) => "the endpoint does not read",
            };
            return Err(Violation::new(Code::ENHANCE_YOUR_CALM, reason));
        }
        if waiting > 0 {
            self.mark(from);
        }
        result
    }

    #[inline]
    fn frame(&mut self, from: PeerId, frame: Frame<'_>) -> Result<(), Violation> {
        let Self { clients, upstreams, shared, list, limits, .. } = self;
        let Some(peer) = peer_of(clients, upstreams, from) else { return Ok(()) };
        if peer.is_closing {
            return Ok(());
        }
        let decoding = (limits.list, shared, list);
        match frame {
            Frame::Data { stream, bytes, flow, end } => {
                peer.received(flow)?;
                if let Some(key) = self.stream_of(from, stream)? {
                    self.content(from.side(), key, (bytes, flow), end);
                }
            }
            Frame::Headers { stream, fragment, end_headers, end_stream } => {
                let block = (stream, fragment, end_headers, end_stream);
                if let Some(headers) = peer.headers(block, decoding)? {
                    self.headers(from, headers)?;
                }
            }
            Frame::Continuation { fragment, end_headers } => {
                if let Some(headers) = peer.continuation(fragment, end_headers, decoding)? {
                    self.headers(from, headers)?;
                }
            }
            Frame::Reset { stream, code } => {
                let code = Code(code);
                match (self.stream_of(from, stream)?, from) {
                    (Some(key), PeerId::Client(id)) => self.client_reset(id, key, code)?,
                    (Some(key), PeerId::Upstream(_)) => self.upstream_reset(key, code),
                    (None, _) => {}
                }
            }
            Frame::Settings(payload) => {
                let wider = peer.settings(payload)?;
                self.resize_windows(from, wider)?;
                if let PeerId::Upstream(id) = from {
                    self.greeted(id);
                }
            }
            Frame::Ping(opaque) => match from {
                PeerId::Client(id) => self.pinged(id, opaque, Instant::now()),
                PeerId::Upstream(_) => peer.out.ping_ack(opaque),
            },
            Frame::WindowUpdate { stream: 0, by } => {
                peer.window_update(by)?;
                self.pump(from);
            }
            Frame::WindowUpdate { stream, by } => {
                if let Some(key) = self.stream_of(from, stream)? {
                    self.widen(from.side().other(), key, by);
                }
            }
            Frame::GoAway { last, code } => {
                if let PeerId::Upstream(id) = from {
                    self.go_away(id, last, Code(code));
                }
            }
            Frame::Push => {
                let reason = match from {
                    PeerId::Client(_) => "PUSH_PROMISE of a client",
                    PeerId::Upstream(_) => "PUSH_PROMISE was not allowed",
                };
                return Err(Violation::new(Code::PROTOCOL_ERROR, reason));
            }
            Frame::Other => {}
        }
        Ok(())
    }

    fn headers(&mut self, from: PeerId, headers: Headers) -> Result<(), Violation> {
        match from {
            PeerId::Client(id) => self.request_headers(id, headers),
            PeerId::Upstream(_) => {
                if let Some(key) = self.stream_of(from, headers.stream)? {
                    self.response_headers(key, headers);
                }
                Ok(())
            }
        }
    }

    /// The open stream that a peer means by this number; `None` for one that is over.
    ///
    /// # Errors
    /// Where there was none (RFC 9113 §5.1, "idle").
    #[inline]
    pub(super) fn stream_of(
        &self,
        from: PeerId,
        number: u32,
    ) -> Result<Option<StreamKey>, Violation> {
        let open = self.peer(from).and_then(|peer| peer.streams.get(&number).copied());
        let is_known = || match from {
            PeerId::Client(id) => self.clients.get(id).is_some_and(|it| number <= it.highest),
            PeerId::Upstream(id) => self.upstreams.get(id).is_some_and(|it| number < it.next),
        };
        if open.is_none() && (number.is_multiple_of(2) || !is_known()) {
            return Err(Violation::new(Code::PROTOCOL_ERROR, "a frame on an idle stream"));
        }
        Ok(open)
    }
}

// === impl PeerId ===

impl PeerId {
    pub(super) const fn side(self) -> Side {
        match self {
            Self::Client(_) => Side::Client,
            Self::Upstream(_) => Side::Upstream,
        }
    }
}
