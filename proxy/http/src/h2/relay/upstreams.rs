//! What endpoints send.

use std::collections::VecDeque;
use std::net::SocketAddr;

use super::keep_alive::Asking;
use super::peer::{
    ENABLE_PUSH, Headers, INITIAL_WINDOW_SIZE, MAX_HEADER_LIST_SIZE, MOST_OUTPUT, Peer, StreamKey,
};
use super::placing::Proof;
use super::reader::FrameReader;
use super::stream::LEAST_WINDOW;
use super::{Code, End, Endpoints, PeerId, Relay, Violation};
use crate::h2::frames::PREFACE;
use crate::{Came, ExchangeEnd, ExchangeSink, Side};

/// What an endpoint may have on its way to all clients: it is not held up by one that does not read.
pub(super) const WINDOW: i64 = 4 << 20;

/// A connection to an endpoint.
pub(super) struct Upstream {
    pub(super) peer: Peer,
    pub(super) address: SocketAddr,
    pub(super) state: State,
    /// Streams that are to be sent on it.
    pub(super) waiting: VecDeque<StreamKey>,
    /// The number of the next stream.
    pub(super) next: u32,
    /// Its settings have come.
    pub(super) is_greeted: bool,
    /// It could not be made.
    pub(super) is_unreachable: bool,
    pub(super) asking: Asking,
}

/// What a connection to an endpoint can be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Connecting,
    Open,
    /// It takes no more streams.
    Leaving,
}

// === impl Upstream ===

impl Upstream {
    fn new(address: SocketAddr, list: usize) -> Self {
        let mut peer = Peer::new(FrameReader::of_upstream());
        peer.out.raw(PREFACE);
        peer.out.settings(&[
            (ENABLE_PUSH, 0),
            (INITIAL_WINDOW_SIZE, LEAST_WINDOW as u32),
            (MAX_HEADER_LIST_SIZE, list as u32),
        ]);
        peer.grant(WINDOW);
        let (state, waiting) = (State::Connecting, VecDeque::new());
        let (is_greeted, is_unreachable) = (false, false);
        let asking = Asking::default();
        Self { peer, address, state, waiting, next: 1, is_greeted, is_unreachable, asking }
    }

    /// Streams that it has, or will have.
    pub(super) fn load(&self) -> usize {
        self.peer.streams.len() + self.waiting.len()
    }

    /// Streams that it may have.
    pub(super) const fn room(&self) -> usize {
        self.peer.remote.max_streams as usize
    }
}

// === impl Relay ===

impl<S: ExchangeSink + ?Sized, E: Endpoints> Relay<S, E> {
    pub(super) fn insert_upstream(&mut self, address: SocketAddr) -> usize {
        let id = self.upstreams.insert(Upstream::new(address, self.limits.list));
        self.by_address.entry(address).or_default().push(id);
        id
    }

    /// A connection that was asked for has been made.
    pub fn connected(&mut self, id: usize) {
        let Some(upstream) = self.upstreams.get_mut(id) else { return };
        if upstream.state == State::Connecting {
            upstream.state = State::Open;
        }
        self.mark(PeerId::Upstream(id));
        self.settle_upstream(id);
    }

    /// Its settings have come, and are in force.
    pub(super) fn greeted(&mut self, id: usize) {
        let Some(upstream) = self.upstreams.get_mut(id) else { return };
        upstream.is_greeted = true;
        self.offer();
        self.settle_upstream(id);
    }

    /// The head of a response, or trailers; in `list`.
    pub(super) fn response_headers(&mut self, key: StreamKey, headers: Headers) {
        let Headers { end, is_too_large, .. } = headers;
        if self.streams.get(key).is_some_and(|stream| stream.is_answered) {
            return self.trailers(Side::Upstream, key, end, is_too_large);
        }
        let status = self.list.head().status.unwrap_or_default();
        let is_interim = (100..200).contains(&status);
        let Some(stream) = self.streams.get_mut(key) else { return };
        let expected = stream.expected_of_response(status, self.list.content_length());
        let is_short = end && expected.is_ok_and(|length| length.is_some_and(|it| it > 0));
        let is_malformed =
            is_too_large || is_short || self.list.check_response().is_err() || (is_interim && end);
        match expected {
            Ok(expected) if !is_malformed => {
                stream.response.expected = expected;
                let may_repeat = !is_interim && stream.plan().is_some();
                if may_repeat && self.repeats_after_head(key, status, end) {
                    return;
                }
                self.response_head(key, status, end);
            }
            _ => self.break_stream(Side::Upstream, key, Code::PROTOCOL_ERROR),
        }
    }

    /// The head of a response has come, which is in `list`.
    fn response_head(&mut self, key: StreamKey, status: u16, end: bool) {
        let Self { streams, clients, list, .. } = self;
        let Some(stream) = streams.get_mut(key) else { return };
        let Some(client) = clients.get_mut(stream.client) else { return };
        let (peer, number) = (&mut client.peer, stream.client_id);
        let edited = stream.edited_response(status, list);
        let sent = edited.as_ref().unwrap_or(list);
        peer.out.headers(number, sent, end, (&mut peer.encoder, peer.remote.max_frame));
        let client = stream.client;
        let again = stream.again.take();
        if status >= 200 {
            let head = list.head();
            stream.is_answered = true;
            stream.is_tunnel = stream.is_connect && status < 300;
            stream.tracker.head(status, head.grpc.unwrap_or_default());
            stream.tracker.grpc_status(head.grpc_status.flatten());
            stream.response.is_ended = end;
            stream.response.is_sent = end;
        } else if let Some(plan) = stream.plan() {
            // The client has got something.
            plan.retries = None;
        }
        if let Some(again) = again {
            self.put_back(again);
        }
        self.mark(PeerId::Client(client));
        self.settle_stream(key);
        self.bound_output(client);
    }

    /// Heads are not bounded by windows: gives a client up that reads none of many.
    fn bound_output(&mut self, client: usize) {
        let Some(peer) = self.peer(PeerId::Client(client)) else { return };
        if peer.out.len() > MOST_OUTPUT && !peer.is_closing {
            let reason = "the client does not read";
            let violation = Violation::new(Code::ENHANCE_YOUR_CALM, reason);
            self.give_up(PeerId::Client(client), violation);
        }
    }

    /// RST_STREAM of an endpoint.
    pub(super) fn upstream_reset(&mut self, key: StreamKey, code: Code) {
        if self.streams.get(key).is_some_and(|stream| stream.response.is_ended) {
            return self.release(key, code);
        }
        let end = ExchangeEnd::UpstreamReset(Some(code.0));
        if code == Code::REFUSED_STREAM {
            return self.move_or_end(key, Some(Proof::Refused), end);
        }
        if self.repeats(key, Came::Lost) {
            return;
        }
        self.reset_at_client(key, code);
        self.finish(key, end);
    }

    /// GOAWAY of an endpoint (RFC 9113 §6.8): streams behind the last one were not processed.
    pub(super) fn go_away(&mut self, id: usize, last: u32, code: Code) {
        let Some(upstream) = self.upstreams.get_mut(id) else { return };
        upstream.state = State::Leaving;
        if code != Code::NO_ERROR {
            self.endpoints.failed(upstream.address);
        }
        let streams = upstream.peer.streams.iter().filter(|(number, _)| **number > last);
        let mut refused: Vec<_> = streams.map(|(number, key)| (*number, *key)).collect();
        refused.sort_unstable();
        for (_, key) in refused {
            let end = ExchangeEnd::UpstreamReset(Some(code.0));
            self.move_or_end(key, Some(Proof::Refused), end);
        }
        self.settle_upstream(id);
    }

    /// A connection to an endpoint is no more, or was never made.
    pub(super) fn upstream_ended(&mut self, id: usize, end: End) {
        let Some(upstream) = self.upstreams.get_mut(id) else { return };
        if std::mem::replace(&mut upstream.peer.has_ended, true) {
            return;
        }
        upstream.state = State::Leaving;
        upstream.is_unreachable = end == End::NotConnected;
        upstream.peer.is_closing = true;
        let written = upstream.peer.out.position() - upstream.peer.out.len() as u64;
        let mut open: Vec<_> = upstream.peer.streams.iter().map(|it| (*it.0, *it.1)).collect();
        open.sort_unstable();
        let lost = match end {
            End::Closed { .. } => ExchangeEnd::UpstreamClosed,
            End::Failed | End::NotConnected => ExchangeEnd::UpstreamReset(None),
        };
        let reached = match end {
            End::Closed { acknowledged } => acknowledged.map_or(written, |it| it.min(written)),
            End::Failed | End::NotConnected => written,
        };
        for (_, key) in open {
            let is_unseen = self.streams.get(key).is_some_and(|stream| {
                stream.again.as_ref().is_some_and(|again| again.position >= reached)
            });
            self.move_or_end(key, is_unseen.then_some(Proof::Unacknowledged), lost.clone());
        }
        self.settle_upstream(id);
        self.mark(PeerId::Upstream(id));
    }

    pub(super) fn remove_upstream(&mut self, id: usize) {
        self.upstream_ended(id, End::Failed);
        let Some(upstream) = self.upstreams.try_remove(id) else { return };
        if let Some(all) = self.by_address.get_mut(&upstream.address) {
            all.retain(|it| *it != id);
            if all.is_empty() {
                self.by_address.remove(&upstream.address);
            }
        }
    }
}
