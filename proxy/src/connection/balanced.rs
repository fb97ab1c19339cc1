//! Connections whose requests are balanced: hands them to the engines.

use weir_http::h2::relay::Limits;

use super::{
    Context,
    http::{Peer, close_reason},
    requests::Balancing,
};
use crate::{
    forward::{
        http::HttpVersion,
        relay::{Client, Relay},
    },
    telemetry::{CloseReason, ConnectionGuard},
};

impl Context {
    pub(super) async fn pool(
        &self,
        _balancing: Balancing<'_>,
        client: Peer,
        upstream: Peer,
        guard: &ConnectionGuard,
    ) -> CloseReason {
        self.terminate(HttpVersion::Http1, client, upstream, guard).await
    }

    /// Relays the streams of an HTTP/2 connection.
    pub(super) async fn relay(
        &self,
        balancing: Balancing<'_>,
        (client, near): Peer,
        (upstream, far): Peer,
        guard: &ConnectionGuard,
    ) -> CloseReason {
        let key = balancing.key();
        let parts = balancing.balance();
        let relay = self.relays.get(key, || {
            let settings = self.config.now().http.clone();
            let limits = Limits {
                streams: settings.max_concurrent_streams.min(Limits::default().streams),
                list: settings.max_head_bytes,
                ..Limits::default()
            };
            let stops = (self.drain.clone(), self.abort.clone());
            Relay::new(parts, limits, self.share.clone(), stops)
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
