//! A relay of HTTP/2 (RFC 9113): the streams of several clients, each on a connection to the endpoint
//! that is chosen for it. Connections to endpoints are shared: header lists go from one HPACK table to
//! another, content passes as it is, and settings, windows and stream numbers are each connection's own.
//!
//! It knows no sockets and no timers. Its owner shows it bytes and the ends of connections
//! ([`Relay::read`], [`Relay::ended`]), writes what it has for them ([`Relay::output`]), and makes the
//! connections that it asks for ([`Relay::take_dials`]). [`Relay::take_marked`] says where there is
//! something to do, and [`Relay::next_deadline`] when there is ([`Relay::expire`]).
//!
//! Windows are not relayed, but accounted for: a sender may send what is held for its receiver at most
//! (256 KiB of a stream), whatever the receiver's window is. So one slow receiver holds up its own
//! streams only.
//!
//! A request is sent once more, on another connection, only where its route says so, or it is certain that
//! the endpoint has not processed it: REFUSED_STREAM (RFC 9113 §8.7), a number above GOAWAY's (§6.8), or an end of the
//! connection before the endpoint's kernel had the first byte of it.

mod answer;
mod clients;
mod content;
mod keep_alive;
mod limits;
mod lost;
mod offers;
mod output;
mod peer;
mod placing;
mod reader;
mod receive;
mod retrying;
mod routing;
mod stream;
#[cfg(test)]
mod tests;
mod upstreams;
mod violation;

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use slab::Slab;

use self::clients::Client;
use self::offers::Offers;
use self::peer::{Peer, StreamKey};
use self::stream::{Again, Place, Stream};
use self::upstreams::{State, Upstream};
pub use self::violation::{Code, Violation};
use super::fields::{FieldList, Shared};
use crate::{Endpoints, ExchangeEnd, ExchangeSink, Lease as _, Repeat, Side};

/// Bounds of a relay.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Streams that a client may have open.
    pub streams: u32,
    /// The largest header list, as RFC 9113 §6.5.2 counts it.
    pub list: usize,
    /// Connections to one endpoint.
    pub connections: usize,
    /// Streams that wait for one of them, where all have as many as the endpoint allows.
    pub waiting: usize,
}

/// One of the relay's connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PeerId {
    /// A client's.
    Client(usize),
    /// One to an endpoint.
    Upstream(usize),
}

/// A connection that is to be made; [`Relay::connected`] or [`Relay::ended`] is to follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dial {
    /// What it is to become.
    pub upstream: usize,
    /// Where to.
    pub address: SocketAddr,
    /// See [`Choice::connect_timeout`](crate::Choice::connect_timeout).
    pub timeout: Option<Duration>,
}

/// How a connection has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// In order.
    Closed {
        /// How many of the bytes that were written the peer's kernel has acknowledged, if that is known.
        acknowledged: Option<u64>,
    },
    /// By a reset or another error.
    Failed,
    /// There was none: it could not be made.
    NotConnected,
}

/// The relay.
pub struct Relay<S: ExchangeSink + ?Sized, E: Endpoints> {
    endpoints: E,
    limits: Limits,
    shared: Shared,
    clients: Slab<Client<S>>,
    upstreams: Slab<Upstream>,
    streams: Slab<Stream<S, E::Lease>>,
    by_address: HashMap<SocketAddr, Vec<usize>>,
    /// The header list that was read last.
    list: FieldList,
    /// Can be used again.
    #[expect(clippy::vec_box, reason = "streams have them in a box, to be small themselves")]
    spare: Vec<Box<Again>>,
    marked: Vec<PeerId>,
    dials: Vec<Dial>,
    offers: Offers,
    /// When streams are to be looked at.
    deadlines: BTreeSet<(Instant, StreamKey)>,
    /// The first of them is new.
    is_sooner: bool,
    clock: fn() -> Instant,
}

// === impl Limits ===

impl Default for Limits {
    fn default() -> Self {
        Self { streams: 1000, list: 64 << 10, connections: 8, waiting: 1000 }
    }
}

// === impl Relay ===

impl<S: ExchangeSink + ?Sized, E: Endpoints> Relay<S, E> {
    /// Without any connection.
    pub fn new(endpoints: E, limits: Limits) -> Self {
        Self {
            endpoints,
            limits,
            shared: Shared::default(),
            clients: Slab::new(),
            upstreams: Slab::new(),
            streams: Slab::new(),
            by_address: HashMap::new(),
            list: FieldList::default(),
            spare: Vec::new(),
            marked: Vec::new(),
            dials: Vec::new(),
            offers: Offers::new(limits),
            deadlines: BTreeSet::new(),
            is_sooner: false,
            clock: Instant::now,
        }
    }

    #[cfg(test)]
    const fn endpoints(&self) -> &E {
        &self.endpoints
    }

    /// A client's connection, at the first byte of the client's preface (RFC 9113 §3.4).
    pub fn add_client(&mut self, sink: Arc<S>) -> usize {
        let client = Client::new(sink, self.limits, self.offers);
        let id = self.clients.insert(client);
        self.mark(PeerId::Client(id));
        id
    }

    /// A connection to an endpoint that was made already, at its first byte.
    pub fn add_upstream(&mut self, address: SocketAddr) -> usize {
        let id = self.insert_upstream(address);
        self.connected(id);
        id
    }

    /// Bytes that a peer has sent. Where it breaks the protocol, its connection is given up.
    pub fn read(&mut self, from: PeerId, bytes: &[u8]) {
        if let Err(violation) = self.receive(from, bytes) {
            self.give_up(from, violation);
        }
    }

    /// What is to be written to a peer.
    pub fn output(&self, to: PeerId) -> &[u8] {
        self.peer(to).map_or(b"", |peer| peer.out.bytes())
    }

    /// So many bytes of it were written.
    pub fn written(&mut self, to: PeerId, count: usize) {
        if let Some(peer) = self.peer_mut(to) {
            peer.out.advance(count);
            if !peer.ready.is_empty() || !peer.ends.is_empty() {
                self.pump(to);
            }
        }
        if let PeerId::Upstream(id) = to
            && self.upstreams.get(id).is_some_and(|it| !it.waiting.is_empty())
        {
            self.settle_upstream(id);
        }
    }

    /// A connection has ended, or could not be made. Streams on one to an endpoint go elsewhere, or
    /// end; those of a client end, unless it has only ended its own stream.
    pub fn ended(&mut self, which: PeerId, end: End) {
        match which {
            PeerId::Client(id) => self.client_ended(id, end),
            PeerId::Upstream(id) => self.upstream_ended(id, end),
        }
    }

    /// Nothing is to be written to the connection any more when [`Self::output`] is empty: it is to be
    /// closed.
    pub fn is_closing(&self, which: PeerId) -> bool {
        self.peer(which).is_none_or(|peer| peer.is_closing)
    }

    /// No stream is open on the connection, and none waits for it.
    pub fn is_idle(&self, which: PeerId) -> bool {
        let is_awaited = match which {
            PeerId::Client(_) => false,
            PeerId::Upstream(id) => {
                self.upstreams.get(id).is_some_and(|upstream| !upstream.waiting.is_empty())
            }
        };
        !is_awaited && self.peer(which).is_none_or(|peer| peer.streams.is_empty())
    }

    /// Where a connection to an endpoint goes.
    pub fn address(&self, upstream: usize) -> Option<SocketAddr> {
        self.upstreams.get(upstream).map(|upstream| upstream.address)
    }

    /// Whether a stream for this endpoint needs no further connection.
    pub fn has_room(&self, address: SocketAddr) -> bool {
        self.connection_to(address).is_some()
    }

    /// What a client has done that made its connection be given up.
    pub fn violation(&self, client: usize) -> Option<Violation> {
        self.clients.get(client)?.violation
    }

    /// How many clients there are.
    pub fn clients(&self) -> usize {
        self.clients.len()
    }

    /// The connection is closed. A client's streams end like this.
    pub fn remove(&mut self, which: PeerId, end: ExchangeEnd) {
        match which {
            PeerId::Client(id) => self.remove_client(id, &end),
            PeerId::Upstream(id) => self.remove_upstream(id),
        }
    }

    /// Has a client open no more streams: the notice of a shutdown (RFC 9113 §6.8).
    /// [`Self::leave`] is to follow a round trip later.
    pub fn announce_shutdown(&mut self, client: usize) {
        if let Some(it) = self.clients.get_mut(client) {
            it.peer.out.raw(super::SHUTDOWN_NOTICE);
            self.mark(PeerId::Client(client));
        }
    }

    /// Takes no more streams from a client: its connection closes behind the last one.
    pub fn leave(&mut self, client: usize) {
        if let Some(it) = self.clients.get_mut(client)
            && !it.is_leaving
        {
            it.is_leaving = true;
            it.peer.out.go_away(it.last, Code::NO_ERROR, "");
            it.peer.is_closing |= it.peer.streams.is_empty();
            self.mark(PeerId::Client(client));
        }
    }

    /// Puts no more streams on a connection to an endpoint: it closes behind the last one.
    pub fn retire(&mut self, upstream: usize) {
        if let Some(it) = self.upstreams.get_mut(upstream) {
            it.state = State::Leaving;
            self.settle_upstream(upstream);
        }
    }

    /// The same for all clients.
    pub fn leave_all(&mut self) {
        let all: Vec<_> = self.clients.iter().map(|(id, _)| id).collect();
        all.into_iter().for_each(|id| self.leave(id));
    }

    /// [`Self::retire`] for all endpoints.
    pub fn retire_all(&mut self) {
        let all: Vec<_> = self.upstreams.iter().map(|(id, _)| id).collect();
        all.into_iter().for_each(|id| self.retire(id));
    }

    /// Gives up the client that most is held for.
    pub fn shed(&mut self) {
        let held = |client: &Client<S>| client.owed.max(0) as usize + client.peer.memory();
        let open = self.clients.iter().filter(|(_, it)| !it.peer.is_closing);
        let most = open.max_by_key(|(_, it)| held(it)).map(|(id, _)| id);
        if let Some(id) = most {
            let reason = "over the memory budget of the workload";
            self.give_up(PeerId::Client(id), Violation::new(Code::ENHANCE_YOUR_CALM, reason));
            if let Some(client) = self.clients.get_mut(id) {
                client.peer.out.discard();
            }
        }
    }

    /// The connections with something new to write or to close, each once.
    pub fn take_marked(&mut self, into: &mut Vec<PeerId>) {
        std::mem::swap(&mut self.marked, into);
        self.marked.clear();
        for which in into.iter() {
            if let Some(peer) = self.peer_mut(*which) {
                peer.is_marked = false;
            }
        }
    }

    /// The connections that are to be made.
    pub fn take_dials(&mut self) -> Vec<Dial> {
        std::mem::take(&mut self.dials)
    }

    /// Bytes of the heap that it holds.
    pub fn memory(&self) -> usize {
        let clients = self.clients.iter().map(|(_, it)| it.peer.memory()).sum::<usize>();
        let upstreams = self.upstreams.iter().map(|(_, it)| it.peer.memory()).sum::<usize>();
        let streams = self.streams.iter().map(|(_, it)| it.memory()).sum::<usize>();
        self.shared.memory()
            + self.list.memory()
            + self.spare.iter().map(|it| it.head.memory()).sum::<usize>()
            + self.clients.capacity() * size_of::<Client<S>>()
            + self.upstreams.capacity() * size_of::<Upstream>()
            + self.streams.capacity() * size_of::<Stream<S, E::Lease>>()
            + self.deadlines.len() * size_of::<(Instant, StreamKey)>()
            + clients
            + upstreams
            + streams
    }

    fn peer(&self, which: PeerId) -> Option<&Peer> {
        match which {
            PeerId::Client(id) => self.clients.get(id).map(|it| &it.peer),
            PeerId::Upstream(id) => self.upstreams.get(id).map(|it| &it.peer),
        }
    }

    fn peer_mut(&mut self, which: PeerId) -> Option<&mut Peer> {
        peer_of(&mut self.clients, &mut self.upstreams, which)
    }

    /// There is something to do for the connection.
    fn mark(&mut self, which: PeerId) {
        if let Some(peer) = self.peer_mut(which)
            && !std::mem::replace(&mut peer.is_marked, true)
        {
            self.marked.push(which);
        }
    }

    /// A peer has broken the protocol: it is told, and its connection closes.
    #[cold]
    fn give_up(&mut self, which: PeerId, violation: Violation) {
        match which {
            PeerId::Client(id) => {
                let Some(client) = self.clients.get_mut(id) else { return };
                client.peer.give_up(client.last, violation);
                client.violation = Some(violation);
                client.peer.is_closing = true;
                self.end_streams_of_client(id, &ExchangeEnd::ClientReset(Some(violation.code.0)));
            }
            PeerId::Upstream(id) => {
                let Some(upstream) = self.upstreams.get_mut(id) else { return };
                // Requests that are not written yet are sent elsewhere.
                match upstream.peer.out.len() {
                    0 => upstream.peer.give_up(0, violation),
                    _ => upstream.peer.out.discard(),
                }
                self.upstream_ended(id, End::Failed);
            }
        }
        self.mark(which);
    }

    /// An exchange is over: both connections forget its stream.
    fn finish(&mut self, key: StreamKey, end: ExchangeEnd) {
        let Some(mut stream) = self.streams.try_remove(key) else { return };
        if let Some(at) = stream.armed() {
            self.deadlines.remove(&(at, key));
        }
        let mut lease = stream.lease.take();
        if let (Some(why), Some(client)) = (stream.repeat, self.clients.get(stream.client)) {
            let has_failed =
                why == Repeat::Route && stream.plan().is_some_and(|it| it.has_failed());
            client.sink.repeated(why, stream.is_answered && !has_failed);
        }
        stream.tracker.finish_after(end, |exchange| {
            if let Some(lease) = &mut lease {
                lease.over(exchange);
            }
        });
        drop(lease);
        if let Some(again) = stream.again.take() {
            self.put_back(again);
        }
        let place = stream.leave();
        self.detach(key, place);
        self.let_go(stream.client, stream.request.held());
        if let Some(client) = self.clients.get_mut(stream.client) {
            client.peer.forget(stream.client_id);
            client.owed -= stream.response.owed();
            let is_last = client.peer.streams.is_empty();
            if is_last && (client.is_leaving || client.peer.has_ended) {
                client.peer.is_closing = true;
                self.mark(PeerId::Client(stream.client));
            }
        }
    }

    /// A stream has left its endpoint's connection.
    fn detach(&mut self, key: StreamKey, place: Option<Place>) {
        let Some(Place { upstream: id, number }) = place else { return };
        let Some(upstream) = self.upstreams.get_mut(id) else { return };
        if number == 0 {
            // The last ones are reset most.
            let place = upstream.waiting.iter().rposition(|it| *it == key);
            place.map(|place| upstream.waiting.remove(place));
        } else {
            upstream.peer.forget(number);
        }
        self.settle_upstream(id);
    }

    /// Keeps what a request was sent from for the next one.
    fn put_back(&mut self, mut again: Box<Again>) {
        const MOST: usize = 32;
        if self.spare.len() < MOST {
            again.clear();
            self.spare.push(again);
        }
    }

    /// Whom a stream's content goes to; `None` while no connection is chosen.
    fn receiver(stream: &Stream<S, E::Lease>, from: Side) -> Option<PeerId> {
        match from {
            Side::Client => {
                stream.upstream.filter(|_| stream.upstream_id != 0).map(PeerId::Upstream)
            }
            Side::Upstream => Some(PeerId::Client(stream.client)),
        }
    }
}

// === helpers ===

/// Like [`Relay::peer_mut`], while other fields are borrowed.
#[inline]
fn peer_of<'a, S: ExchangeSink + ?Sized>(
    clients: &'a mut Slab<Client<S>>,
    upstreams: &'a mut Slab<Upstream>,
    which: PeerId,
) -> Option<&'a mut Peer> {
    match which {
        PeerId::Client(id) => clients.get_mut(id).map(|it| &mut it.peer),
        PeerId::Upstream(id) => upstreams.get_mut(id).map(|it| &mut it.peer),
    }
}
