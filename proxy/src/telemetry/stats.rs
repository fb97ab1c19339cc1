//! Numbers per destination and endpoint, for the table at the end of `weir exec` and for `weir stat`.

mod latencies;
mod rates;
mod rows;
mod table;

pub use latencies::Latencies;
pub use rates::{Order, Rate, Total};
pub(crate) use table::{number, plain_table, print_table};

use std::{
    collections::HashMap,
    hash::Hash,
    net::SocketAddr,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use weir_common::Reason;

use self::rows::Rows;
use super::{
    SkippedConnection, canonical,
    classify::Class,
    event::{Connection, Event},
    lock,
    record::UNDETECTED,
    sinks::Sink,
};
use crate::{
    budget::Budgets,
    decision::{Detection, Direction, Source, Treatment, source_name},
    forward::http::Exchange,
    names,
};

/// Two significant digits: an error below 1 %, in at most 12 KiB for latencies up to an hour.
const DIGITS: u8 = 2;

/// Of endpoints that the requests of one connection went to, so many rows are kept at hand.
const AT_HAND: usize = 16;

/// Latencies above are recorded as this: one hour, in microseconds.
const MAX_LATENCY_US: u64 = 3_600_000_000;

/// What rows are summed up by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum By {
    /// The original destination.
    Destination,
    /// The address that connections and requests went to.
    Endpoint,
}

/// What a row is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) workload: Arc<str>,
    pub(super) direction: Direction,
    /// `None` for destinations that are summed up.
    pub(super) destination: Option<SocketAddr>,
    /// What was chosen in its place.
    pub(super) endpoint: Option<SocketAddr>,
    pub(super) treatment: Option<Treatment>,
    pub(super) source: Option<Source>,
    /// Why it went direct, where no rule asks for that.
    pub(super) reason: Option<Reason>,
}

/// The counters of a row.
#[derive(Debug)]
pub(super) struct Row {
    why: &'static str,
    connections: AtomicU64,
    /// Open now.
    open: AtomicU64,
    /// Begun on connections of this row.
    requests: AtomicU64,
    /// That ended at this row's endpoint.
    exchanges: AtomicU64,
    successes: AtomicU64,
    failures: AtomicU64,
    bytes_sent: AtomicU64,
    bytes_received: AtomicU64,
    retransmits: AtomicU64,
    /// In microseconds; made with the first request.
    latency: Mutex<Option<Histogram<u32>>>,
}

/// All rows.
#[derive(Debug)]
pub(super) struct Stats {
    rows: Rows,
}

/// The rows of a connection.
#[derive(Debug, Default)]
pub(super) struct OfConnection {
    /// Once it is known which.
    own: OnceLock<Arc<Row>>,
    /// Of requests that went to endpoints of their own.
    others: Mutex<Vec<(Option<SocketAddr>, Arc<Row>)>>,
}

/// Everything at one moment, as `weir stat -o json` prints it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StatsSnapshot {
    /// Sorted by workload, direction, destination, treatment.
    pub rows: Vec<StatRow>,
}

/// One destination, or one endpoint of it, under one decision.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StatRow {
    /// The workload's name.
    pub workload: String,
    /// Seen from the workload.
    #[serde(with = "names::direction")]
    pub direction: Direction,
    /// The original destination; absent in the row in which the workload's destinations are summed
    /// up that were used longest ago, when there are too many of them.
    pub destination: Option<SocketAddr>,
    /// Only in rows by endpoint: where connections and requests went, which is the destination itself
    /// where no endpoint was chosen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<SocketAddr>,
    /// Absent for connections that ended before a decision.
    pub treatment: Option<Treatment>,
    /// Who decided.
    #[serde(with = "names::source::optional")]
    pub source: Option<Source>,
    /// Why the kernel let them pass, where no rule asks for that: a reason of
    /// `weir_kernel_decisions_total`, such as `no_listener`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Why, as it was for the row's first connection.
    pub why: String,
    /// Connections so far.
    pub connections: u64,
    /// Connections open now.
    pub open: u64,
    /// Requests so far; by endpoint those that have ended.
    pub requests: u64,
    /// Responses classified as success.
    pub successes: u64,
    /// Responses classified as failure.
    pub failures: u64,
    /// Median latency in microseconds, from request head to response head.
    pub p50_us: Option<u64>,
    /// 95th percentile.
    pub p95_us: Option<u64>,
    /// 99th percentile.
    pub p99_us: Option<u64>,
    /// Bytes from the client to the upstream.
    pub bytes_sent: u64,
    /// Bytes from the upstream to the client.
    pub bytes_received: u64,
    /// Segments sent again; known for connections that went direct.
    pub retransmits: u64,
    /// Only where it was asked for: how often which latency was seen.
    #[serde(default, skip_serializing_if = "Latencies::is_empty")]
    pub latencies: Latencies,
}

// === impl Stats ===

impl Stats {
    pub(super) fn new(budgets: Budgets) -> Self {
        Self { rows: Rows::new(budgets) }
    }

    fn row(
        &self,
        workload: &Arc<str>,
        direction: Direction,
        (destination, endpoint): (SocketAddr, Option<SocketAddr>),
        detection: Option<Detection>,
    ) -> Arc<Row> {
        let key = Key {
            workload: Arc::clone(workload),
            direction,
            destination: Some(destination),
            endpoint,
            treatment: detection.map(Detection::treatment),
            source: detection.map(Detection::source),
            reason: detection.and_then(Detection::unasked),
        };
        self.rows.get(key, detection.map_or(UNDETECTED, Detection::why))
    }

    /// The row of a connection's endpoint.
    fn row_at(&self, connection: &Connection, endpoint: Option<SocketAddr>) -> Arc<Row> {
        let info = &connection.info;
        let to = (info.destination, endpoint);
        self.row(&info.workload, info.direction, to, connection.detection())
    }

    /// The row that a connection is counted in, from the first call on.
    fn own<'a>(&self, connection: &Connection, rows: &'a OfConnection) -> &'a Arc<Row> {
        rows.own.get_or_init(|| {
            let row = self.row_at(connection, connection.endpoint());
            row.opened();
            row
        })
    }

    /// The row that a request is counted in, where it has an endpoint of its own.
    fn of_exchange(
        &self,
        connection: &Connection,
        rows: &OfConnection,
        exchange: &Exchange,
    ) -> Arc<Row> {
        let endpoint = connection.endpoint_of(exchange);
        if endpoint == connection.endpoint() {
            return Arc::clone(self.own(connection, rows));
        }
        let mut others = lock(&rows.others);
        if let Some((_, row)) = others.iter().find(|(of, _)| *of == endpoint) {
            return Arc::clone(row);
        }
        let row = self.row_at(connection, endpoint);
        if others.len() < AT_HAND {
            others.push((endpoint, Arc::clone(&row)));
        }
        row
    }

    /// Takes a workload's rows away.
    pub(super) fn forget(&self, workload: &str) {
        self.rows.forget(workload);
    }

    pub(super) fn snapshot(&self, by: By) -> StatsSnapshot {
        StatsSnapshot::of(self.rows.all(), by)
    }

    /// The same with all latencies, for a reader that compares it with an earlier one.
    pub(super) fn sample(&self, by: By) -> StatsSnapshot {
        let rows = summed(self.rows.all(), by);
        let with = rows
            .iter()
            .map(|(key, row)| StatRow { latencies: row.latencies(), ..row.snapshot(key, by) });
        StatsSnapshot::sorted(with.collect())
    }

    /// The same, of one workload or of all; they count from zero.
    pub(super) fn reset(&self, workload: Option<&str>, by: By) -> StatsSnapshot {
        StatsSnapshot::of(self.rows.take(workload), by)
    }
}

impl Sink for Stats {
    type State = OfConnection;

    fn opened(&self, _: &Connection) -> OfConnection {
        OfConnection::default()
    }

    fn event(&self, connection: &Connection, rows: &OfConnection, event: Event<'_>) {
        if connection.found.get().is_none() {
            return;
        }
        match event {
            // Before it is connected its endpoint is not known.
            Event::Detected(_) if !connection.is_connected() => {}
            Event::Moved { sent: 0, received: 0 }
            | Event::Untracked(_)
            | Event::Unpoolable(_)
            | Event::Retried(_)
            | Event::TimedOut(_) => {}
            Event::Connected | Event::Detected(_) => _ = self.own(connection, rows),
            Event::Moved { sent, received } => self.own(connection, rows).moved(sent, received),
            Event::RequestStarted => self.own(connection, rows).request(),
            Event::ExchangeEnded { exchange, class } if exchange.upstream.is_none() => {
                self.own(connection, rows).exchange(exchange, class);
            }
            Event::ExchangeEnded { exchange, class } => {
                self.of_exchange(connection, rows, exchange).exchange(exchange, class);
            }
            Event::Closed(_) => self.own(connection, rows).closed(),
        }
    }

    fn skipped(&self, _: u64, skipped: &SkippedConnection) {
        let SkippedConnection { workload, direction, .. } = skipped;
        let destination = canonical(skipped.destination);
        let row = self.row(workload, *direction, (destination, None), Some(skipped.detection()));
        row.opened();
        row.moved(skipped.bytes_sent, skipped.bytes_received);
        row.retransmits.fetch_add(skipped.retransmits.into(), Relaxed);
        row.closed();
    }
}

// === impl Row ===

impl Row {
    fn new(why: &'static str) -> Self {
        Self {
            why,
            connections: AtomicU64::new(0),
            open: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            exchanges: AtomicU64::new(0),
            successes: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            bytes_sent: AtomicU64::new(0),
            bytes_received: AtomicU64::new(0),
            retransmits: AtomicU64::new(0),
            latency: Mutex::default(),
        }
    }

    pub(super) fn opened(&self) {
        self.connections.fetch_add(1, Relaxed);
        self.open.fetch_add(1, Relaxed);
    }

    pub(super) fn closed(&self) {
        self.open.fetch_sub(1, Relaxed);
    }

    pub(super) fn moved(&self, sent: u64, received: u64) {
        self.bytes_sent.fetch_add(sent, Relaxed);
        self.bytes_received.fetch_add(received, Relaxed);
    }

    pub(super) fn request(&self) {
        self.requests.fetch_add(1, Relaxed);
    }

    pub(super) fn exchange(&self, exchange: &Exchange, class: Option<Class>) {
        self.exchanges.fetch_add(1, Relaxed);
        match class {
            Some(Class::Success) => self.successes.fetch_add(1, Relaxed),
            Some(Class::Failure) => self.failures.fetch_add(1, Relaxed),
            None => return,
        };
        let time = exchange.time_to_head.unwrap_or(exchange.duration);
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX).min(MAX_LATENCY_US);
        // `record` and not `saturating_record`: only the former lets the histogram grow.
        lock(&self.latency)
            .get_or_insert_with(|| Histogram::new(DIGITS).expect("1 to 5 digits are allowed"))
            .record(micros)
            .expect("the histogram grows to any latency of up to an hour");
    }

    /// Adds what another row has counted.
    fn absorb(&self, other: &Self) {
        let add = |to: &AtomicU64, from: &AtomicU64| to.fetch_add(from.load(Relaxed), Relaxed);
        add(&self.connections, &other.connections);
        add(&self.open, &other.open);
        add(&self.requests, &other.requests);
        add(&self.exchanges, &other.exchanges);
        add(&self.successes, &other.successes);
        add(&self.failures, &other.failures);
        add(&self.bytes_sent, &other.bytes_sent);
        add(&self.bytes_received, &other.bytes_received);
        add(&self.retransmits, &other.retransmits);
        let Some(latencies) = lock(&other.latency).clone() else { return };
        let mut latency = lock(&self.latency);
        match &mut *latency {
            Some(latency) => latency.add(latencies).expect("the histogram grows to any latency"),
            None => *latency = Some(latencies),
        }
    }

    /// What it has counted, and counts from zero. Connections that are open stay so.
    fn take(&self) -> Self {
        let take = |counter: &AtomicU64| AtomicU64::new(counter.swap(0, Relaxed));
        Self {
            why: self.why,
            connections: take(&self.connections),
            open: AtomicU64::new(self.open.load(Relaxed)),
            requests: take(&self.requests),
            exchanges: take(&self.exchanges),
            successes: take(&self.successes),
            failures: take(&self.failures),
            bytes_sent: take(&self.bytes_sent),
            bytes_received: take(&self.bytes_received),
            retransmits: take(&self.retransmits),
            latency: Mutex::new(lock(&self.latency).take()),
        }
    }

    /// How often which latency was seen.
    fn latencies(&self) -> Latencies {
        lock(&self.latency).as_ref().map(Latencies::of).unwrap_or_default()
    }

    fn snapshot(&self, key: &Key, by: By) -> StatRow {
        let latency = lock(&self.latency).clone();
        let quantile = |q: f64| latency.as_ref().map(|h| h.value_at_quantile(q));
        StatRow {
            workload: key.workload.to_string(),
            direction: key.direction,
            destination: key.destination,
            endpoint: match by {
                By::Destination => None,
                By::Endpoint => key.endpoint.or(key.destination),
            },
            treatment: key.treatment,
            source: key.source,
            reason: key.reason.map(|reason| reason.name().to_owned()),
            why: self.why.to_owned(),
            connections: self.connections.load(Relaxed),
            open: self.open.load(Relaxed),
            requests: match by {
                By::Destination => self.requests.load(Relaxed),
                By::Endpoint => self.exchanges.load(Relaxed),
            },
            successes: self.successes.load(Relaxed),
            failures: self.failures.load(Relaxed),
            p50_us: quantile(0.50),
            p95_us: quantile(0.95),
            p99_us: quantile(0.99),
            bytes_sent: self.bytes_sent.load(Relaxed),
            bytes_received: self.bytes_received.load(Relaxed),
            retransmits: self.retransmits.load(Relaxed),
            latencies: Latencies::default(),
        }
    }
}

// === impl StatsSnapshot ===

impl StatsSnapshot {
    fn of(rows: Vec<(Key, Arc<Row>)>, by: By) -> Self {
        Self::sorted(summed(rows, by).iter().map(|(key, row)| row.snapshot(key, by)).collect())
    }

    fn sorted(mut rows: Vec<StatRow>) -> Self {
        rows.sort_by(|a, b| a.key().cmp(&b.key()));
        Self { rows }
    }
}

// === impl StatRow ===

impl StatRow {
    /// Successes of all classified responses, 0 to 1; `None` if there was none.
    #[must_use]
    pub fn success_rate(&self) -> Option<f64> {
        let judged = self.successes + self.failures;
        (judged > 0).then(|| self.successes as f64 / judged as f64)
    }

    /// Who decided, or the kernel's reason where no rule asks for it.
    #[must_use]
    pub fn decided_by(&self) -> Option<&str> {
        self.reason.as_deref().or_else(|| self.source.map(source_name))
    }

    /// What tells rows apart, and their order: the shared row comes last.
    fn key(&self) -> impl Ord + Hash + '_ {
        (
            &self.workload,
            self.direction,
            self.destination.is_none(),
            self.destination,
            self.endpoint,
            self.treatment,
            self.source,
            &self.reason,
        )
    }
}

// === helpers ===

fn summed(rows: Vec<(Key, Arc<Row>)>, by: By) -> Vec<(Key, Arc<Row>)> {
    if by == By::Destination { by_destination(rows) } else { rows }
}

/// Sums up the endpoints of each destination. The reason is that of the first one.
fn by_destination(mut rows: Vec<(Key, Arc<Row>)>) -> Vec<(Key, Arc<Row>)> {
    if rows.iter().all(|(key, _)| key.endpoint.is_none()) {
        return rows;
    }
    rows.sort_by_key(|(key, _)| key.endpoint);
    let mut sums: HashMap<Key, Arc<Row>> = HashMap::new();
    for (mut key, row) in rows {
        key.endpoint = None;
        let sum = sums.entry(key).or_insert_with(|| Arc::new(Row::new(row.why)));
        sum.absorb(&row);
    }
    sums.into_iter().collect()
}

#[cfg(test)]
mod tests;
