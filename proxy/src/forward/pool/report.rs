//! Which endpoint each exchange of a connection was at: told with the exchange, and to the lease.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use weir_http::{Came, Lease as _, Limit, RouteName, TIMEOUT};

use super::super::http::{Exchange, ExchangeEnd, ExchangeSink, Unpoolable, Untracked};
use super::super::requests::BoxedLease;
use super::super::retries::Retry;
use crate::budget::Share;
use crate::sync::lock;

/// Reports the exchanges of one client's connection, which has one under way at a time.
pub(super) struct Report {
    sink: Arc<dyn ExchangeSink>,
    at: Mutex<At>,
}

/// Where the exchange under way is.
#[derive(Default)]
struct At {
    /// `None` for where the client's connection went.
    upstream: Option<SocketAddr>,
    attempts: u8,
    lease: Option<BoxedLease>,
    route: Option<Arc<RouteName>>,
    /// The reason for which weir has answered in the place of an endpoint.
    answered: Option<&'static str>,
    /// Also those to come.
    stays: bool,
}

// === impl Report ===

impl Report {
    pub(super) fn new(sink: Arc<dyn ExchangeSink>) -> Self {
        Self { sink, at: Mutex::default() }
    }

    /// The request goes to this endpoint.
    pub(super) fn goes_to(&self, upstream: SocketAddr, lease: BoxedLease) {
        let mut at = lock(&self.at);
        (at.upstream, at.lease) = (Some(upstream), Some(lease));
    }

    /// The request takes this route.
    pub(super) fn routed(&self, route: Option<Arc<RouteName>>) {
        lock(&self.at).route = route;
    }

    /// weir answers the request itself.
    pub(super) fn answers(&self, reason: &'static str, route: Option<Arc<RouteName>>) {
        let mut at = lock(&self.at);
        at.route = route.or(at.route.take());
        at.answered = Some(reason);
        (at.upstream, at.lease) = (None, None);
    }

    /// A limit has passed: weir answers, or ends the response. `blames` the endpoint.
    pub(super) fn is_late(&self, blames: bool, answers: bool) {
        let mut at = lock(&self.at);
        if answers {
            at.answered = Some(TIMEOUT);
        }
        if !blames {
            at.lease = None;
        }
    }

    /// This has come of it at the endpoint, after so long, and it is sent once more.
    pub(super) fn leaves(&self, came: Came, after: Duration) {
        if let Some(mut lease) = lock(&self.at).lease.take() {
            lease.failed(came, after);
        }
    }

    /// What an endpoint usually takes.
    pub(super) fn estimate(&self) -> Duration {
        let at = lock(&self.at);
        at.lease.as_ref().and_then(|lease| lease.estimate()).unwrap_or_default()
    }

    /// It is sent.
    pub(super) fn attempted(&self) {
        let attempts = &mut lock(&self.at).attempts;
        *attempts = attempts.saturating_add(1);
    }

    /// So do all that follow.
    pub(super) fn stay(&self) {
        lock(&self.at).stays = true;
    }
}

impl ExchangeSink for Report {
    fn authority(&self, authority: &str) {
        self.sink.authority(authority);
    }

    fn request_started(&self) {
        self.sink.request_started();
    }

    fn exchange(&self, mut exchange: Exchange) {
        let mut at = lock(&self.at);
        exchange.upstream = at.upstream;
        exchange.attempts = at.attempts.max(1);
        exchange.route.clone_from(&at.route);
        if let Some(reason) = at.answered.take() {
            exchange.end = ExchangeEnd::Answered(reason);
        }
        if let Some(lease) = &mut at.lease {
            lease.over(&exchange);
        }
        at.attempts = 0;
        if !at.stays {
            (at.lease, at.route) = (None, None);
        }
        drop(at);
        self.sink.exchange(exchange);
    }

    fn downgraded(&self, untracked: Untracked) {
        self.sink.downgraded(untracked);
    }

    fn unpoolable(&self, reason: Unpoolable) {
        self.sink.unpoolable(reason);
    }

    fn retried(&self, retry: Retry) {
        self.sink.retried(retry);
    }

    fn timed_out(&self, limit: Limit) {
        self.sink.timed_out(limit);
    }

    fn share(&self) -> Option<Share> {
        self.sink.share()
    }
}
