//! Connections whose requests are balanced: hands them to the engines.

use super::{Context, http::Peer, requests::Balancing};
use crate::{
    forward::http::HttpVersion,
    telemetry::{CloseReason, ConnectionGuard},
};

impl Context {
    pub(super) async fn pool(
        &self,
        _balancing: Balancing,
        client: Peer,
        upstream: Peer,
        guard: &ConnectionGuard,
    ) -> CloseReason {
        self.terminate(HttpVersion::Http1, client, upstream, guard).await
    }

    pub(super) async fn relay(
        &self,
        _balancing: Balancing,
        client: Peer,
        upstream: Peer,
        guard: &ConnectionGuard,
    ) -> CloseReason {
        self.terminate(HttpVersion::Http2, client, upstream, guard).await
    }
}
