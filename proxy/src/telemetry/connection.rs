//! The guard of one connection: whatever happens to it, its metrics, statistics and record are
//! settled exactly once.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use super::{
    CloseReason, ConnectionInfo, Telemetry, canonical,
    classify::Class,
    lock,
    metrics::{Bound, LastResponses},
    record::{ConnectionRecord, Record, RequestRecord},
    stats::{Key, Row},
};
use crate::{
    budget::Share,
    decision::{Decision, Direction},
    detect::TlsInfo,
    forward::{
        ByteCounters,
        http::{Exchange, ExchangeSink, Untracked},
    },
};

/// Owned by the task of a connection. Dropping it without [`ConnectionGuard::close`] records the
/// connection as aborted.
#[derive(Debug)]
pub struct ConnectionGuard {
    live: Arc<Live>,
    closed: bool,
}

/// What the guard, the exchange sink and a scrape share.
#[derive(Debug)]
pub(super) struct Live {
    id: u64,
    info: ConnectionInfo,
    telemetry: Telemetry,
    bound: Arc<Bound>,
    responses: LastResponses,
    counters: Arc<ByteCounters>,
    settled: Mutex<Settled>,
    decided: OnceLock<Decided>,
    upstream: AtomicBool,
    /// Why its HTTP messages are not followed any more.
    untracked: OnceLock<Untracked>,
    requests: AtomicU64,
    started: SystemTime,
    opened: Instant,
}

#[derive(Debug)]
struct Decided {
    /// `None` if the connection ended before a decision.
    decision: Option<Decision>,
    tls: Option<TlsInfo>,
    took: Option<Duration>,
    row: Arc<Row>,
}

/// How many bytes have already been added to the shared counters.
#[derive(Debug, Default)]
struct Settled {
    client_to_upstream: u64,
    upstream_to_client: u64,
}

// === impl ConnectionGuard ===

impl ConnectionGuard {
    pub(super) fn new(live: Arc<Live>) -> Self {
        Self { live, closed: false }
    }

    /// The connection's number in the records.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.live.id
    }

    /// The address that the client asked for.
    #[must_use]
    pub fn destination(&self) -> SocketAddr {
        self.live.info.destination
    }

    /// Seen from the workload.
    #[must_use]
    pub fn direction(&self) -> Direction {
        self.live.info.direction
    }

    /// What the forwarder counts bytes in.
    #[must_use]
    pub fn counters(&self) -> Arc<ByteCounters> {
        Arc::clone(&self.live.counters)
    }

    /// The upstream connection is established.
    pub fn upstream_connected(&self) {
        if !self.live.upstream.swap(true, Ordering::Relaxed) {
            self.live.bound.upstream.opened();
        }
    }

    /// What the connection is treated as, and how long that took from accept. The first call
    /// counts; later ones are ignored.
    pub fn decided(&self, decision: Decision, tls: Option<TlsInfo>, took: Duration) {
        self.live.decide(Some(decision), tls, Some(took));
    }

    /// Where the HTTP engine reports exchanges to. May outlive the guard.
    #[must_use]
    pub fn sink(&self) -> Arc<dyn ExchangeSink> {
        Arc::<Live>::clone(&self.live)
    }

    /// The connection is over.
    pub fn close(mut self, reason: CloseReason) {
        self.finish(&reason);
    }

    fn finish(&mut self, reason: &CloseReason) {
        if !std::mem::replace(&mut self.closed, true) {
            self.live.finish(reason);
        }
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.finish(&CloseReason::Aborted);
    }
}

// === impl Live ===

impl Live {
    pub(super) fn new(id: u64, mut info: ConnectionInfo, telemetry: Telemetry) -> Self {
        info.destination = canonical(info.destination);
        info.client = canonical(info.client);
        let bound = telemetry.inner.metrics.bind(&info.workload, info.direction);
        bound.client.opened();
        bound.undecided.inc();
        Self {
            id,
            info,
            telemetry,
            bound,
            responses: LastResponses::default(),
            counters: Arc::default(),
            settled: Mutex::default(),
            decided: OnceLock::new(),
            upstream: AtomicBool::new(false),
            untracked: OnceLock::new(),
            requests: AtomicU64::new(0),
            started: SystemTime::now(),
            opened: Instant::now(),
        }
    }

    pub(super) fn is_half_closed(&self) -> bool {
        self.counters.is_half_closed()
    }

    /// What its metrics are bound to.
    pub(super) fn bound_to(&self) -> (Arc<str>, Direction) {
        (Arc::clone(&self.info.workload), self.info.direction)
    }

    /// The original destination.
    fn destination(&self) -> SocketAddr {
        self.info.destination
    }

    fn decide(
        &self,
        decision: Option<Decision>,
        tls: Option<TlsInfo>,
        took: Option<Duration>,
    ) -> &Decided {
        self.decided.get_or_init(|| {
            self.bound.undecided.dec();
            let row = self.telemetry.inner.stats.row(
                Key {
                    workload: Arc::clone(&self.info.workload),
                    direction: self.info.direction,
                    destination: Some(self.destination()),
                    treatment: decision.map(|d| d.treatment),
                    source: decision.map(|d| d.source),
                    reason: None,
                },
                decision.map_or("ended before a decision", |d| d.why),
            );
            row.opened();
            if let Some(decision) = decision {
                let metrics = &self.telemetry.inner.metrics;
                metrics.decided(&self.info.workload, self.info.direction, decision);
                self.bound.detected(decision, took);
            }
            Decided { decision, tls, took, row }
        })
    }

    /// Adds what has moved since the last time to the shared counters. Waits for the decision:
    /// before it there is no row to add to.
    pub(super) fn settle(&self) {
        let Some(decided) = self.decided.get() else { return };
        let mut settled = lock(&self.settled);
        let sent = self.counters.client_to_upstream.load(Ordering::Relaxed);
        let received = self.counters.upstream_to_client.load(Ordering::Relaxed);
        let new_sent = sent.saturating_sub(settled.client_to_upstream);
        let new_received = received.saturating_sub(settled.upstream_to_client);
        *settled = Settled { client_to_upstream: sent, upstream_to_client: received };
        drop(settled);
        self.bound.client.moved(new_sent, new_received);
        self.bound.upstream.moved(new_received, new_sent);
        decided.row.moved(new_sent, new_received);
    }

    fn finish(&self, reason: &CloseReason) {
        let decided = self.decide(None, None, None);
        self.settle();
        self.telemetry.forget(self.id);
        decided.row.closed();
        self.bound.client.closed(reason.client_errno());
        if self.upstream.load(Ordering::Relaxed) {
            self.bound.upstream.closed(reason.upstream_errno());
        }
        let record = || Record::Connection(self.record(decided, reason));
        self.telemetry.record(&self.bound.share, record);
    }

    fn record(&self, decided: &Decided, reason: &CloseReason) -> ConnectionRecord {
        let tls = decided.tls.clone().unwrap_or_default();
        ConnectionRecord {
            id: self.id,
            time: self.started,
            workload: Arc::clone(&self.info.workload),
            direction: self.info.direction,
            client: Some(self.info.client),
            destination: self.destination(),
            treatment: decided.decision.map(|d| d.treatment),
            source: decided.decision.map(|d| d.source),
            reason: None,
            why: decided.decision.map_or("ended before a decision", |d| d.why).into(),
            sni: tls.sni,
            alpn: tls.alpn,
            bytes_sent: self.counters.client_to_upstream.load(Ordering::Relaxed),
            bytes_received: self.counters.upstream_to_client.load(Ordering::Relaxed),
            requests: self.requests.load(Ordering::Relaxed),
            untracked: self.untracked.get().map(|untracked| untracked.reason.into()),
            detect: decided.took,
            duration: self.opened.elapsed(),
            close: reason.name().into(),
            error: reason.error().map(|error| error.into_owned()),
            kernel: None,
        }
    }
}

impl ExchangeSink for Live {
    fn share(&self) -> Option<Share> {
        Some(self.bound.share.clone())
    }

    fn downgraded(&self, untracked: Untracked) {
        tracing::debug!(?untracked, "HTTP messages are no longer followed; forwarding bytes");
        // Said once for each connection.
        let _ = self.untracked.set(untracked);
        self.bound.downgraded(untracked);
    }

    fn request_started(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.bound.requests.inc();
        self.bound.in_flight.inc();
        if let Some(decided) = self.decided.get() {
            decided.row.request();
        }
    }

    fn exchange(&self, exchange: Exchange) {
        let class = Class::of(&exchange);
        self.bound.in_flight.dec();
        self.responses.count(&self.bound, &exchange, class);
        if let Some(decided) = self.decided.get() {
            decided.row.exchange(&exchange, class);
        }
        self.telemetry.record(&self.bound.share, || {
            Record::Request(RequestRecord::new(
                self.id,
                &self.info,
                self.decided.get().and_then(|decided| decided.decision),
                class,
                exchange,
            ))
        });
    }
}
