//! What holds in a relay between any two calls.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::world::{Leased, Record, Relay};
use crate::Side;
use crate::h2::relay::PeerId;
use crate::h2::relay::peer::{Peer, StreamKey};
use crate::h2::relay::stream::Stream;
use crate::h2::relay::upstreams::State;

type Exchange = Stream<Record, Leased>;

/// What one stream may have held for a receiver: its largest window, and content that is sent once more.
const HELD: usize = (256 + 64) << 10;
/// Content in an output is at most this, and a turn.
const OUTPUT: usize = 64 << 10;

/// Requests in flight.
pub(super) fn leases(relay: &Relay) -> usize {
    relay.streams.iter().filter(|(_, stream)| stream.lease.is_some()).count()
}

/// Counts agree, no window is overdrawn, and nothing is forgotten that can be sent.
pub(super) fn check(relay: &Relay) {
    counts(relay);
    let clients = relay.clients.iter().map(|(id, it)| (PeerId::Client(id), queued(&it.peer)));
    let upstreams = relay.upstreams.iter().map(|(id, it)| (PeerId::Upstream(id), queued(&it.peer)));
    let queued: HashMap<PeerId, HashSet<StreamKey>> = clients.chain(upstreams).collect();
    for (key, stream) in &relay.streams {
        is_found(relay, key, stream);
        for from in [Side::Client, Side::Upstream] {
            half(relay, key, stream, from, &queued);
        }
    }
    let armed = relay.streams.iter().filter_map(|(key, it)| Some((it.armed()?, key)));
    assert_eq!(armed.collect::<BTreeSet<_>>(), relay.deadlines, "deadlines");
    for (id, upstream) in &relay.upstreams {
        let has_room = upstream.peer.streams.len() < upstream.room();
        let waits = has_room && upstream.peer.out.len() < OUTPUT;
        let is_open = upstream.state == State::Open;
        assert!(!is_open || !waits || upstream.waiting.is_empty(), "upstream {id}: a stream waits");
    }
}

/// The streams on the lists of a peer.
fn queued(peer: &Peer) -> HashSet<StreamKey> {
    let most = 2 * peer.streams.len() + 64;
    assert!(peer.ready.len() <= most && peer.ends.len() <= most, "streams that are over");
    peer.ready.iter().chain(&peer.ends).copied().collect()
}

fn counts(relay: &Relay) {
    let mut clients: HashMap<usize, (i64, usize, usize)> = HashMap::new();
    let mut upstreams: HashMap<usize, (usize, usize)> = HashMap::new();
    for (key, it) in &relay.streams {
        let of_client = clients.entry(it.client).or_default();
        of_client.0 += it.response.owed();
        of_client.1 += it.request.held();
        of_client.2 += 1;
        let Some(id) = it.upstream else { continue };
        let of_upstream = upstreams.entry(id).or_default();
        of_upstream.0 += usize::from(it.upstream_id != 0);
        if it.upstream_id == 0 {
            of_upstream.1 += 1;
            let is_first = relay.upstreams[id].waiting.front() == Some(&key);
            let is_there = is_first || relay.upstreams[id].waiting.contains(&key);
            assert!(is_there, "a stream does not wait");
        }
    }
    for (id, client) in &relay.clients {
        let counted = (client.owed, client.held, client.peer.streams.len());
        assert_eq!(counted, clients.remove(&id).unwrap_or_default(), "client {id}");
        assert!(client.peer.is_closing || client.peer.granted >= 0, "client {id}");
    }
    for (id, upstream) in &relay.upstreams {
        let peer = &upstream.peer;
        let counted = (peer.streams.len(), upstream.waiting.len());
        assert_eq!(counted, upstreams.remove(&id).unwrap_or_default(), "upstream {id}");
    }
}

/// Both connections know the stream by its numbers.
fn is_found(relay: &Relay, key: StreamKey, stream: &Exchange) {
    let client = relay.clients.get(stream.client).expect("a client");
    assert_eq!(client.peer.streams.get(&stream.client_id), Some(&key));
    if let Some(id) = stream.upstream {
        let upstream = relay.upstreams.get(id).expect("a connection to an endpoint");
        if stream.upstream_id != 0 {
            assert_eq!(upstream.peer.streams.get(&stream.upstream_id), Some(&key));
        }
    }
}

/// What can be sent is being sent: it is on the list of its receiver, which cannot take it yet.
fn half(
    relay: &Relay,
    key: StreamKey,
    stream: &Exchange,
    from: Side,
    queued: &HashMap<PeerId, HashSet<StreamKey>>,
) {
    let half = if from == Side::Client { &stream.request } else { &stream.response };
    let name = || format!("stream {} from {from:?}: {half:?}", stream.client_id);
    assert!(half.held() <= HELD, "{}", name());
    let Some(to) = Relay::receiver(stream, from) else { return };
    let peer = relay.peer(to).expect("a receiver");
    if half.is_sent || peer.is_closing {
        return;
    }
    let needs_no_window = half.held() == 0 && half.is_ended;
    let has_content = half.held() > 0 && half.window > 0;
    if !needs_no_window && !has_content {
        return;
    }
    let is_full = peer.out.len() >= OUTPUT;
    assert!(is_full || (has_content && peer.window <= 0), "{} is not sent", name());
    assert!(half.is_ready && queued[&to].contains(&key), "{} is forgotten", name());
}
