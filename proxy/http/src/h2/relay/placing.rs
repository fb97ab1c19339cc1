//! Where a request goes, and goes once more.

use std::net::SocketAddr;

use super::peer::StreamKey;
use super::upstreams::{State, Upstream};
use super::{Choice, Code, Dial, Endpoints, PeerId, Relay};
use crate::{ExchangeEnd, ExchangeSink, Side};

/// The highest number of a stream (RFC 9113 §5.1.1).
const LAST_NUMBER: u32 = (1 << 31) - 1;

/// Why a request may be sent once more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Proof {
    /// There was no connection to send it on.
    NotSent,
    /// The endpoint has said that it has not processed it.
    Refused,
    /// The endpoint's kernel had none of it when the connection ended.
    Unacknowledged,
}

// === impl Relay ===

impl<S: ExchangeSink + ?Sized, E: Endpoints> Relay<S, E> {
    /// Chooses an endpoint for a stream, and sends the request there, or has it wait for a connection.
    pub(super) fn place(&mut self, key: StreamKey) {
        let Some(stream) = self.streams.get_mut(key) else { return };
        let tried = stream.again.as_ref().map_or(&[][..], |again| &again.tried);
        let Some(choice) = self.endpoints.choose(tried) else {
            return self.answer(key, "no-endpoint");
        };
        let Choice { address, connect_timeout, lease } = choice;
        let is_repeated = stream.again.as_ref().is_some_and(|again| again.is_repeated);
        stream.tracker.sent_to(address, is_repeated);
        stream.lease = Some(lease);
        let to = self.connection_to(address);
        let id = match to {
            Some(id) => id,
            None => {
                let upstream = self.insert_upstream(address);
                self.dials.push(Dial { upstream, address, timeout: connect_timeout });
                upstream
            }
        };
        if let Some(stream) = self.streams.get_mut(key) {
            stream.upstream = Some(id);
        }
        if let Some(upstream) = self.upstreams.get_mut(id) {
            upstream.waiting.push_back(key);
            self.settle_upstream(id);
        }
    }

    /// A connection to an endpoint that has room for a stream, or is to be waited for; `None` if another
    /// one is to be made.
    pub(super) fn connection_to(&self, address: SocketAddr) -> Option<usize> {
        let all = self.by_address.get(&address)?;
        let usable = || {
            let known = all.iter().filter_map(|id| Some((*id, self.upstreams.get(*id)?)));
            known.filter(|(_, it)| it.state != State::Leaving)
        };
        let with_room = usable().find(|(_, it)| it.load() < it.room());
        if let Some((id, _)) = with_room {
            return Some(id);
        }
        let is_full = usable().count() >= self.limits.connections;
        usable().filter(|_| is_full).min_by_key(|(_, it)| it.load()).map(|(id, _)| id)
    }

    /// Sends the streams that wait for a connection, as far as it has room; closes it where it is done.
    pub(super) fn settle_upstream(&mut self, id: usize) {
        loop {
            let Some(upstream) = self.upstreams.get_mut(id) else { return };
            let has_room = upstream.peer.streams.len() < upstream.room();
            if upstream.state != State::Open || !has_room {
                break;
            }
            let Some(key) = upstream.waiting.pop_front() else { break };
            self.send_request(id, key);
        }
        let Some(upstream) = self.upstreams.get_mut(id) else { return };
        if upstream.state != State::Leaving {
            return;
        }
        // What waits for it goes elsewhere.
        let waiting = std::mem::take(&mut upstream.waiting);
        if upstream.peer.streams.is_empty() && !upstream.peer.is_closing {
            upstream.peer.is_closing = true;
            self.mark(PeerId::Upstream(id));
        }
        for key in waiting {
            self.place_elsewhere(key, Proof::NotSent);
        }
    }

    /// Sends a request, or as much of it as has come.
    fn send_request(&mut self, id: usize, key: StreamKey) {
        let Self { upstreams, streams, .. } = self;
        let (Some(upstream), Some(stream)) = (upstreams.get_mut(id), streams.get_mut(key)) else {
            return;
        };
        let Some(again) = &mut stream.again else { return };
        let number = upstream.next;
        upstream.next += 2;
        if upstream.next >= LAST_NUMBER {
            upstream.state = State::Leaving;
        }
        let Upstream { peer, .. } = upstream;
        peer.streams.insert(number, key);
        stream.upstream_id = number;
        stream.request.window = peer.remote.initial_window;
        again.position = peer.out.position();
        let end = stream.request.is_ended && stream.request.is_clear();
        peer.out.headers(number, &again.head, end, (&mut peer.encoder, peer.remote.max_frame));
        stream.request.is_sent = end;
        self.mark(PeerId::Upstream(id));
        self.grant(Side::Upstream, key);
        if !end {
            self.resume(Side::Client, key);
        }
    }

    /// A stream cannot stay where it is: it goes to another endpoint if it may, or else ends with `lost`.
    pub(super) fn move_or_end(&mut self, key: StreamKey, proof: Option<Proof>, lost: ExchangeEnd) {
        let may_move = self.streams.get(key).is_some_and(|stream| {
            stream.again.as_ref().is_some_and(|again| {
                proof == Some(Proof::NotSent) || (proof.is_some() && !again.is_repeated)
            })
        });
        match proof {
            Some(proof) if may_move => self.place_elsewhere(key, proof),
            // It may be sent once more, and was before.
            Some(_) => self.lose(key, Code::REFUSED_STREAM, lost),
            None => self.lose(key, Code::INTERNAL_ERROR, lost),
        }
    }

    /// Sends a request to another endpoint than the one where it is.
    fn place_elsewhere(&mut self, key: StreamKey, proof: Proof) {
        match proof {
            Proof::NotSent => {}
            Proof::Refused => self.repeated.refused += 1,
            Proof::Unacknowledged => self.repeated.unacknowledged += 1,
        }
        let Some(stream) = self.streams.get_mut(key) else { return };
        stream.lease = None;
        let address = stream.upstream.and_then(|id| self.upstreams.get(id)).map(|it| it.address);
        let (upstream, number) = (stream.upstream.take(), std::mem::take(&mut stream.upstream_id));
        if let Some(again) = &mut stream.again {
            again.tried.extend(address);
            again.is_repeated |= proof != Proof::NotSent;
            let content = std::mem::take(&mut again.content);
            let more = content.len();
            stream.request.is_sent = false;
            stream.request.is_ready = false;
            stream.request.hold_first(content);
            if let Some(trailers) = again.trailers.take() {
                stream.request.end_with(Some(trailers));
            }
            if let Some(client) = self.clients.get_mut(stream.client) {
                client.peer.held += more;
            }
        }
        if let Some(id) = upstream
            && let Some(upstream) = self.upstreams.get_mut(id)
        {
            upstream.peer.streams.remove(&number);
        }
        self.place(key);
        if let Some(id) = upstream {
            self.settle_upstream(id);
        }
    }

    /// The endpoint is gone, with the request: for a client, as if it had been connected to it.
    fn lose(&mut self, key: StreamKey, code: Code, end: ExchangeEnd) {
        let Some(stream) = self.streams.get(key) else { return };
        if stream.is_grpc && !stream.is_answered {
            let reason = match end {
                ExchangeEnd::UpstreamClosed => "upstream-closed",
                _ => "upstream-reset",
            };
            return self.answer(key, reason);
        }
        let (client, number) = (stream.client, stream.client_id);
        if let Some(peer) = self.peer_mut(PeerId::Client(client)) {
            peer.out.reset(number, code);
            self.mark(PeerId::Client(client));
        }
        self.finish(key, end);
    }
}
