//! Endpoints that are silent because they are gone.
//!
//! A client asks by PING whether its peer is there (RFC 9113 §6.7); the relay is, and answers. So that
//! the client learns of its endpoints what it asks for, a second PING in a row goes on to the endpoints
//! that have its streams. The relay sends none by itself: servers close connections on which they are
//! asked more often than they allow (gRPC: every five minutes by default), and only a client can know
//! what its server allows. For the same reason an endpoint is asked no more often than by the one client
//! that asks most, though connections are shared.

use std::time::{Duration, Instant};

use super::{End, Endpoints, PeerId, Relay};
use crate::ExchangeSink;

/// The PINGs of a client.
#[derive(Debug, Default)]
pub(super) struct Asked {
    last: Option<Last>,
}

#[derive(Clone, Copy, Debug)]
struct Last {
    at: Instant,
    /// All that had been written to the client, with the answer.
    position: u64,
}

/// PINGs to an endpoint.
#[derive(Debug, Default)]
pub(super) struct Asking {
    last: Option<Instant>,
    /// Nothing has come since.
    is_silent: bool,
}

// === impl Asked ===

impl Asked {
    /// The client asks, and nothing but the last answer was written to it since it did so before: after
    /// which time. A PING that measures a round trip or a bandwidth follows content.
    fn again(&self, position: u64, now: Instant) -> Option<Duration> {
        let last = self.last.filter(|last| last.position == position)?;
        Some(now.saturating_duration_since(last.at))
    }
}

// === impl Asking ===

impl Asking {
    /// Something has come.
    #[inline]
    pub(super) const fn heard(&mut self) {
        self.is_silent = false;
    }

    /// Nothing has come for so long after it was asked.
    fn is_silent_for(&self, limit: Duration, now: Instant) -> bool {
        let since = self.last.filter(|_| self.is_silent);
        since.is_some_and(|since| now.saturating_duration_since(since) >= limit)
    }

    /// It may be asked by a client that asks every `interval`.
    fn is_due(&self, interval: Duration, now: Instant) -> bool {
        self.last.is_none_or(|last| now.saturating_duration_since(last) >= interval)
    }
}

// === impl Relay ===

impl<S: ExchangeSink + ?Sized, E: Endpoints> Relay<S, E> {
    /// A connection to an endpoint on which nothing has come for so long after a PING has failed.
    pub fn check(&mut self, upstream: usize, limit: Duration) {
        self.check_at(upstream, limit, Instant::now());
    }

    pub(super) fn check_at(&mut self, id: usize, limit: Duration, now: Instant) {
        let Some(upstream) = self.upstreams.get_mut(id) else { return };
        if upstream.asking.is_silent_for(limit, now) {
            upstream.peer.out.discard();
            self.upstream_ended(id, End::Failed);
        }
    }

    /// PING of a client, which is answered.
    pub(super) fn pinged(&mut self, id: usize, opaque: [u8; 8], now: Instant) {
        let Some(client) = self.clients.get_mut(id) else { return };
        let again = client.asked.again(client.peer.out.position(), now);
        client.peer.out.ping_ack(opaque);
        let position = client.peer.out.position();
        client.asked.last = Some(Last { at: now, position });
        let Some(interval) = again else { return };
        let streams = client.peer.streams.values();
        let streams = streams.filter_map(|key| self.streams.get(*key));
        let mut upstreams: Vec<usize> =
            streams.filter(|it| it.upstream_id != 0).filter_map(|it| it.upstream).collect();
        upstreams.sort_unstable();
        upstreams.dedup();
        for id in upstreams {
            let Some(upstream) = self.upstreams.get_mut(id) else { continue };
            let asking = &mut upstream.asking;
            if asking.is_silent || !asking.is_due(interval, now) {
                continue;
            }
            (asking.last, asking.is_silent) = (Some(now), true);
            upstream.peer.out.ping(opaque);
            self.mark(PeerId::Upstream(id));
        }
    }
}
