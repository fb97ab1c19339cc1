//! Where a request goes, and goes once more.

use std::net::SocketAddr;

use super::peer::StreamKey;
use super::stream::LEAST_WINDOW;
use super::upstreams::{State, Upstream};
use super::{Dial, Endpoints, PeerId, Relay};
use crate::{Choice, ExchangeSink, OwnAnswer, Repeat, Side};

/// The highest number of a stream (RFC 9113 §5.1.1).
const LAST_NUMBER: u32 = (1 << 31) - 1;

/// Requests wait while so much is to be written to their endpoint.
const MOST_WRITTEN: usize = 128 << 10;

/// Why a request may be sent once more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Proof {
    /// There is no connection to its endpoint.
    NotConnected,
    /// It has waited for a connection that takes no more streams.
    NotSent,
    /// The endpoint has said that it has not processed it.
    Refused,
    /// The endpoint's kernel had none of it when the connection ended.
    Unacknowledged,
    /// None: it may have been processed, and may be so again.
    Processed,
}

// === impl Relay ===

impl<S: ExchangeSink + ?Sized, E: Endpoints> Relay<S, E> {
    /// Chooses an endpoint for a stream, and sends the request there, or has it wait for a connection.
    pub(super) fn place(&mut self, key: StreamKey) {
        let Some(stream) = self.streams.get(key) else { return };
        let again = stream.again.as_deref();
        let (tried, unreachable) =
            again.map_or((&[][..], &[][..]), |again| (&again.tried, &again.unreachable));
        // Another connection to an endpoint that it was at is as good, if there is no other endpoint.
        let is_any_left = tried.len() > unreachable.len();
        let choose = |tried: &[SocketAddr]| match &stream.to {
            Some(to) => to.endpoints.choose(tried),
            None => self.endpoints.choose(tried),
        };
        let choose_again = |tried: &[SocketAddr], unreachable: &[SocketAddr]| match &stream.to {
            Some(to) => to.endpoints.choose_again(tried, unreachable),
            None => self.endpoints.choose_again(tried, unreachable),
        };
        let once_more = || is_any_left.then(|| choose(unreachable)).flatten();
        let chosen = match again.is_some_and(|again| again.is_repeatable) {
            true => choose_again(tried, unreachable),
            false => choose(tried).or_else(once_more),
        };
        let Some(mut choice) = chosen else {
            return self.answer_unreachable(key);
        };
        if self.is_overloaded(choice.address) {
            let mut others = tried.to_vec();
            loop {
                others.push(choice.address);
                drop(choice);
                match choose(&others) {
                    Some(other) if self.is_overloaded(other.address) => choice = other,
                    Some(other) => break choice = other,
                    None => return self.answer(key, &OwnAnswer::error(503, "overload", None)),
                }
            }
        }
        let Choice { address, connect_timeout, lease } = choice;
        let Some(stream) = self.streams.get_mut(key) else { return };
        let is_next = stream.again.as_mut().map(|again| std::mem::take(&mut again.is_next));
        stream.tracker.sent_to(address, is_next.unwrap_or_default());
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

    /// An endpoint has all the streams that it allows, and as many wait as may.
    fn is_overloaded(&self, address: SocketAddr) -> bool {
        let chosen = self.connection_to(address).and_then(|id| self.upstreams.get(id));
        chosen.is_some_and(|it| it.waiting.len() >= self.limits.waiting && it.load() >= it.room())
    }

    /// Sends the streams that wait for a connection, as far as it has room; closes it where it is done.
    pub(super) fn settle_upstream(&mut self, id: usize) {
        loop {
            let Some(upstream) = self.upstreams.get_mut(id) else { return };
            let has_room = upstream.peer.streams.len() < upstream.room()
                && upstream.peer.out.len() < MOST_WRITTEN;
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
        let proof = if upstream.is_unreachable { Proof::NotConnected } else { Proof::NotSent };
        if upstream.peer.streams.is_empty() && !upstream.peer.is_closing {
            upstream.peer.is_closing = true;
            self.mark(PeerId::Upstream(id));
        }
        for key in waiting {
            self.place_elsewhere(key, proof);
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
        if stream.plan().is_some() {
            self.begin_attempt(key);
        }
        self.mark(PeerId::Upstream(id));
        self.grant(Side::Upstream, key);
        if !end {
            self.resume(Side::Client, key);
        }
    }

    /// Sends a request to another endpoint than the one where it is.
    pub(super) fn place_elsewhere(&mut self, key: StreamKey, proof: Proof) {
        let upstream = self.withdraw(key, proof);
        self.place(key);
        if let Some(id) = upstream {
            self.settle_upstream(id);
        }
    }

    /// Takes a request from the endpoint where it is, as if it had not been sent. The connection that it was
    /// on, which is to be settled.
    pub(super) fn withdraw(&mut self, key: StreamKey, proof: Proof) -> Option<usize> {
        let stream = self.streams.get_mut(key)?;
        stream.lease = None;
        if let Some(plan) = stream.plan() {
            plan.attempt_over();
        }
        stream.repeat = match proof {
            Proof::NotSent => stream.repeat,
            Proof::NotConnected => Some(Repeat::NotConnected),
            Proof::Refused => Some(Repeat::Refused),
            Proof::Unacknowledged => Some(Repeat::Unacknowledged),
            Proof::Processed => Some(Repeat::Route),
        };
        let address = stream.upstream.and_then(|id| self.upstreams.get(id)).map(|it| it.address);
        let (upstream, number) = (stream.upstream.take(), std::mem::take(&mut stream.upstream_id));
        if let Some(again) = &mut stream.again {
            match proof {
                Proof::NotSent => {}
                Proof::NotConnected => {
                    again.tried.extend(address);
                    again.unreachable.extend(address);
                }
                Proof::Refused | Proof::Unacknowledged => {
                    again.tried.extend(address);
                    again.is_repeated = true;
                    again.is_next = true;
                }
                Proof::Processed => {
                    again.tried.extend(address);
                    again.is_repeatable = true;
                    again.is_next = true;
                }
            }
            let content = std::mem::take(&mut again.content);
            let more = content.len();
            stream.request.is_sent = false;
            stream.request.is_ready = false;
            stream.request.hold_first(content);
            if let Some(trailers) = again.trailers.take() {
                stream.request.end_with(Some(trailers));
            }
            let credit = stream.response.restart(LEAST_WINDOW);
            if let Some(client) = self.clients.get_mut(stream.client) {
                client.held += more;
                client.owed += credit;
            }
        }
        if let Some(id) = upstream
            && let Some(upstream) = self.upstreams.get_mut(id)
        {
            upstream.peer.forget(number);
        }
        upstream
    }
}
