//! Connections whose requests are balanced: hands them to the engines.

use std::{fmt, sync::Arc};

use weir_http::h2::relay::Limits;

use super::{
    Context,
    http::{Peer, close_reason, endpoint},
    requests::{Balancing, Shared},
    stream::into_raw,
};
use crate::{
    budget::Resource,
    forward::{
        pool::{self, End, Pinned, Pool, PoolContext, Served},
        relay::{Client, Relay},
        tcp::Endpoint,
    },
    telemetry::{CloseReason, ConnectionGuard},
};

/// What the engines that balance requests keep for the connections of a workload.
#[derive(Default)]
pub struct Engines {
    pools: Shared<Pool>,
    relays: Shared<Relay>,
}

// === impl Engines ===

impl fmt::Debug for Engines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engines").finish_non_exhaustive()
    }
}

// === impl Context ===

impl Context {
    pub(super) async fn pool(
        &self,
        balancing: Balancing,
        client: Peer,
        upstream: Peer,
        guard: &ConnectionGuard,
    ) -> CloseReason {
        let requests = balancing.requests();
        let pool = self.engines.pools.get(balancing.key(), || {
            let (requests, connect) = balancing.parts();
            let drain = self.drain_of(guard.direction()).clone();
            Arc::new(Pool::new(requests, connect, Some(self.share.clone()), drain))
        });
        let head = self.head_limits();
        let (sink, counters) = (guard.sink(), guard.counters());
        let context = PoolContext { requests, sink, counters, head };
        // It may outlast the client's connection.
        let descriptor = self.share.occupy(Resource::Descriptors, 1);
        let Endpoint { stream, prefix, eof } = endpoint(upstream.0, upstream.1);
        let upstream = Endpoint { stream: (stream, Some(descriptor)), prefix, eof };
        let serving = pool::serve(pool, endpoint(client.0, client.1), upstream, context);
        let served = tokio::select! {
            served = serving => served,
            () = self.abort.cancelled() => return CloseReason::DrainDeadline,
        };
        match served {
            Served::Pinned(pinned) => {
                let Pinned { client, upstream, mut observer, descriptor: _taken } = *pinned;
                match (into_raw(client), into_raw(upstream)) {
                    (Ok(client), Ok(upstream)) => {
                        Box::pin(self.observe(client, upstream, guard, &mut observer)).await
                    }
                    (Err(error), _) | (_, Err(error)) => CloseReason::from_io(&error),
                }
            }
            Served::Over(End::Finished) => CloseReason::Finished,
            Served::Over(End::ClientReset) => CloseReason::ClientReset,
            Served::Over(End::UpstreamReset) => CloseReason::UpstreamReset,
            Served::Over(End::Unreachable(errno)) => CloseReason::ConnectFailed(errno),
            Served::Over(End::TimedOut) => CloseReason::Http(weir_http::TIMEOUT.to_owned()),
        }
    }

    /// Relays the streams of an HTTP/2 connection.
    pub(super) async fn relay(
        &self,
        balancing: Balancing,
        (client, near): Peer,
        (upstream, far): Peer,
        guard: &ConnectionGuard,
    ) -> CloseReason {
        balancing.requests().shares();
        let relay = self.engines.relays.get(balancing.key(), || {
            let settings = self.config.now().http.clone();
            let limits = Limits {
                streams: settings.max_concurrent_streams.min(Limits::default().streams),
                list: settings.max_head_bytes.min(Limits::default().list),
                ..Limits::default()
            };
            let stops = (self.drain.clone(), self.abort.clone());
            Relay::new(balancing.parts(), limits, self.share.clone(), stops)
        });
        let client = Client {
            stream: client,
            prefix: near.prefix,
            has_ended: near.eof,
            sink: guard.sink(),
            counters: guard.counters(),
        };
        close_reason(relay.serve(client, (upstream, far.prefix)).await)
    }
}
