//! HTTP: which engine carries a connection, and how one hands it to the other.

use std::pin::pin;

use tokio::net::TcpStream;

use super::{Context, reset::Fate};
use crate::{
    config::HttpEngine,
    detect::race::{Outcome, Peeked},
    forward::{
        Side,
        http::{self, EndCause, ExchangeEnd, HttpContext, HttpLimits, HttpVersion},
        observe,
        prefixed::Prefixed,
        tcp::{self, Observed, Observing, TcpEnd},
    },
    telemetry::{CloseReason, ConnectionGuard},
};

/// One side of a connection as detection leaves it.
type Peer = (TcpStream, Peeked);

impl Context {
    pub(super) async fn http(
        &self,
        version: HttpVersion,
        client: TcpStream,
        outcome: Outcome<TcpStream>,
        guard: &ConnectionGuard,
    ) -> CloseReason {
        let client = (client, outcome.client);
        let upstream = (outcome.upstream, outcome.server);
        match self.config.http.engine {
            HttpEngine::Observe => self.observe(version, client, upstream, guard).await,
            HttpEngine::Route => {
                Box::pin(self.route(version, client, upstream, false, guard)).await
            }
        }
    }

    async fn observe(
        &self,
        version: HttpVersion,
        client: Peer,
        upstream: Peer,
        guard: &ConnectionGuard,
    ) -> CloseReason {
        let mut observer = observe::observer(version, guard.sink());
        let observing = Observing { observer: observer.as_mut(), drain: &self.drain };
        let options = self.tcp_options();
        let counters = guard.counters();
        let passed = tcp::forward_observed(
            super::endpoint(client.0, client.1),
            super::endpoint(upstream.0, upstream.1),
            &options,
            &counters,
            &self.abort,
            observing,
        );
        match passed.await {
            Observed::Over(forwarded) => {
                observer.finish(in_flight(forwarded.end));
                super::close_reason(forwarded.end)
            }
            Observed::Quiet(client, upstream) => match observer.version() {
                // It says `connection: close` with the next response, if there is one.
                HttpVersion::Http1 => {
                    let client = (client, Peeked::default());
                    let upstream = (upstream, Peeked::default());
                    let routed = self.route(HttpVersion::Http1, client, upstream, true, guard);
                    Box::pin(routed).await
                }
                // The client has been told.
                HttpVersion::Http2 => {
                    tcp::disarm(&client);
                    tcp::disarm(&upstream);
                    CloseReason::Finished
                }
            },
        }
    }

    async fn route(
        &self,
        version: HttpVersion,
        client: Peer,
        upstream: Peer,
        reused: bool,
        guard: &ConnectionGuard,
    ) -> CloseReason {
        let fate = Fate::default();
        // One side counts: on both, every byte would count twice.
        let client = Prefixed::new(fate.bind(Side::Client, client.0), client.1.prefix)
            .counting(guard.counters(), Side::Client);
        let upstream = Prefixed::new(fate.bind(Side::Upstream, upstream.0), upstream.1.prefix);
        let settings = &self.config.http;
        let context = HttpContext {
            sink: guard.sink(),
            drain: self.drain.token().clone(),
            limits: HttpLimits {
                max_head_bytes: settings.max_head_bytes,
                max_headers: settings.max_headers,
                max_streams: settings.max_concurrent_streams,
                half_closed_idle: self.config.forward.half_closed_idle,
                ..HttpLimits::default()
            },
            on_abort: Some(fate.on_abort()),
            reused,
        };
        let mut serving = pin!(http::serve(version, client, upstream, context));
        let _dropped_first = fate.cut_on_drop();
        let end = tokio::select! {
            end = &mut serving => end,
            () = self.abort.cancelled() => return CloseReason::DrainDeadline,
        };
        match end.cause {
            EndCause::Closed(_) | EndCause::Drained => CloseReason::Finished,
            EndCause::Reset(Side::Client) => CloseReason::ClientReset,
            EndCause::Reset(Side::Upstream) | EndCause::Truncated => CloseReason::UpstreamReset,
            EndCause::Idle => CloseReason::HalfClosedTimeout,
            EndCause::Answered(reason) => CloseReason::Http(reason.to_owned()),
            EndCause::Protocol { text, .. } => CloseReason::Http(text),
        }
    }
}

// === helpers ===

/// How exchanges end that are under way when their connection ends like this.
fn in_flight(end: TcpEnd) -> ExchangeEnd {
    match end {
        TcpEnd::ClientReset | TcpEnd::Io(Side::Client, _) => ExchangeEnd::ClientReset(None),
        TcpEnd::Cancelled | TcpEnd::Quiet => ExchangeEnd::Cancelled,
        TcpEnd::Finished
        | TcpEnd::UpstreamReset
        | TcpEnd::HalfClosedTimeout
        | TcpEnd::Io(Side::Upstream, _) => ExchangeEnd::UpstreamReset(None),
    }
}
