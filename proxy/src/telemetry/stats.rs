//! Numbers per destination, endpoint and name, for the table at the end of `weir exec` and for `weir stat`.

mod failure;
mod groups;
mod latencies;
mod rates;
mod row;
mod rows;
mod table;
mod views;

pub use latencies::Latencies;
pub use rates::{Order, Rate, Total};
pub(crate) use table::{number, plain_table, print_table};

use std::{
    hash::Hash,
    net::SocketAddr,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use serde::{Deserialize, Serialize};

use self::{
    failure::Failure,
    row::{Key, Row},
    rows::Rows,
    views::{OfPath, VIEW, view},
};
use super::{
    SkippedConnection, canonical,
    event::{Connection, Event},
    lock,
    name::host_name,
    record::UNDETECTED,
    sinks::Sink,
};
use crate::{
    budget::Budgets,
    decision::{Detection, Direction, Source, Treatment, source_name},
    forward::http::Exchange,
    names,
};

/// Of endpoints and names that the requests of one connection were for, so many rows are kept at hand.
const AT_HAND: usize = 16;

/// What rows are summed up by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum By {
    /// The original destination.
    Destination,
    /// The address that connections and requests went to.
    Endpoint,
    /// The host name that clients asked for, and the destination where there is none.
    Name,
    /// The name of the process that connects; outbound only.
    Process,
    /// The address that connects; inbound only.
    Client,
    /// Host and path of requests.
    Path,
}

/// All rows.
#[derive(Debug)]
pub(super) struct Stats {
    rows: Rows,
    /// By process of outbound connections, and by client of inbound ones.
    parties: Rows,
    /// By host and path of requests.
    paths: Rows,
}

/// The rows of a connection.
#[derive(Debug, Default)]
pub(super) struct OfConnection {
    /// Once it is known which.
    own: OnceLock<OwnRow>,
    /// Of requests that went to endpoints, or were for names, of their own.
    others: Mutex<Vec<Other>>,
    /// Of its process or its client.
    party: OnceLock<Option<Arc<Row>>>,
    /// Of requests by path, as many as those.
    paths: Mutex<Vec<OfPath>>,
    /// Its handshake is counted.
    is_handshake_counted: AtomicBool,
}

/// The row that a connection is counted in.
#[derive(Debug)]
struct OwnRow {
    name: Option<Arc<str>>,
    row: Arc<Row>,
}

/// A row of some of its requests.
#[derive(Debug)]
struct Other {
    endpoint: Option<SocketAddr>,
    name: Option<Arc<str>>,
    row: Arc<Row>,
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
    /// The original destination; absent in rows by name that have one, and in the row in which the
    /// workload's destinations are summed up that were used longest ago, when there are too many of them.
    pub destination: Option<SocketAddr>,
    /// Only in rows by endpoint: where connections and requests went, which is the destination itself
    /// where no endpoint was chosen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<SocketAddr>,
    /// The host name that clients asked for: by name all rows with it are one, otherwise the one that most
    /// requests, or connections, were for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Other names than that.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub further_names: u64,
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
    /// Connections that were not made, or, without HTTP, ended with an error.
    #[serde(default)]
    pub failed_connections: u64,
    /// Why the last request or connection failed: an errno's name, `503`, `grpc 14`, `reset`, `closed` or
    /// `no response`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<String>,
    /// The mean duration of connections that have ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mean_duration_us: Option<u64>,
    /// Requests so far; by endpoint and by name those that have ended.
    pub requests: u64,
    /// Responses classified as success.
    pub successes: u64,
    /// Responses classified as failure.
    pub failures: u64,
    /// Median latency in microseconds, from request head to response head; of TLS connections from the
    /// ClientHello to the first bytes of the server, whose part of the handshake that is.
    pub p50_us: Option<u64>,
    /// 95th percentile.
    pub p95_us: Option<u64>,
    /// 99th percentile.
    pub p99_us: Option<u64>,
    /// Bytes from the client to the upstream.
    pub bytes_sent: u64,
    /// Bytes from the upstream to the client.
    pub bytes_received: u64,
    /// Segments to the server that were sent again: of raw TCP and HTTP that is passed through, and of
    /// connections that went direct.
    pub retransmits: u64,
    /// Only where it was asked for: how often which latency was seen.
    #[serde(default, skip_serializing_if = "Latencies::is_empty")]
    pub latencies: Latencies,
}

// === impl Stats ===

impl Stats {
    pub(super) fn new(budgets: Budgets) -> Self {
        let few = |budgets| Rows::with(budgets, VIEW, usize::MAX);
        Self {
            rows: Rows::new(budgets.clone()),
            parties: few(budgets.clone()),
            paths: few(budgets),
        }
    }

    fn row(
        &self,
        workload: &Arc<str>,
        direction: Direction,
        (destination, endpoint): (SocketAddr, Option<SocketAddr>),
        name: Option<&Arc<str>>,
        detection: Option<Detection>,
    ) -> Arc<Row> {
        let key = Key {
            workload: Arc::clone(workload),
            direction,
            destination: Some(destination),
            endpoint,
            name: name.cloned(),
            treatment: detection.map(Detection::treatment),
            source: detection.map(Detection::source),
            reason: detection.and_then(Detection::unasked),
        };
        self.rows.get(key, detection.map_or(UNDETECTED, Detection::why))
    }

    /// The row of a connection's endpoint and name.
    fn row_at(
        &self,
        connection: &Connection,
        endpoint: Option<SocketAddr>,
        name: Option<&Arc<str>>,
    ) -> Arc<Row> {
        let info = &connection.info;
        let to = (info.destination, endpoint);
        self.row(&info.workload, info.direction, to, name, connection.detection())
    }

    /// The row that a connection is counted in, from the first call on.
    fn own<'a>(&self, connection: &Connection, rows: &'a OfConnection) -> &'a Arc<Row> {
        let own = rows.own.get_or_init(|| {
            let name = connection.name().map(Arc::from);
            let row = self.row_at(connection, connection.endpoint(), name.as_ref());
            row.opened();
            OwnRow { name, row }
        });
        &own.row
    }

    /// The row that a request is counted in, where it has an endpoint or a name of its own.
    fn of_exchange(
        &self,
        connection: &Connection,
        rows: &OfConnection,
        exchange: &Exchange,
    ) -> Arc<Row> {
        let endpoint = connection.endpoint_of(exchange);
        let name = exchange.authority.as_deref().and_then(host_name);
        let is_same = |known: &Option<Arc<str>>| match (known, name) {
            (Some(known), Some(name)) => known.eq_ignore_ascii_case(name),
            (known, name) => known.is_none() && name.is_none(),
        };
        let own = self.own(connection, rows);
        let is_own = rows.own.get().is_some_and(|own| is_same(&own.name));
        if is_own && endpoint == connection.endpoint() {
            return Arc::clone(own);
        }
        let mut others = lock(&rows.others);
        let other = others.iter().find(|it| it.endpoint == endpoint && is_same(&it.name));
        if let Some(other) = other {
            return Arc::clone(&other.row);
        }
        let name: Option<Arc<str>> = name.map(|name| name.to_ascii_lowercase().into());
        let row = self.row_at(connection, endpoint, name.as_ref());
        if others.len() < AT_HAND {
            others.push(Other { endpoint, name, row: Arc::clone(&row) });
        }
        row
    }

    /// Takes a workload's rows away.
    pub(super) fn forget(&self, workload: &str) {
        for rows in [&self.rows, &self.parties, &self.paths] {
            rows.forget(workload);
        }
    }

    pub(super) fn snapshot(&self, by: By) -> StatsSnapshot {
        StatsSnapshot::of(self.all(by), by)
    }

    /// The same with all latencies, for a reader that compares it with an earlier one.
    pub(super) fn sample(&self, by: By) -> StatsSnapshot {
        let groups = groups::by(by, self.all(by));
        let with = groups
            .iter()
            .map(|group| StatRow { latencies: group.row.latencies(), ..group.snapshot(by) });
        StatsSnapshot::sorted(with.collect())
    }

    /// The same, of one workload or of all; they count from zero.
    pub(super) fn reset(&self, workload: Option<&str>, by: By) -> StatsSnapshot {
        let shown = self.rows_by(by);
        let mut before = Vec::new();
        for rows in [&self.rows, &self.parties, &self.paths] {
            let taken = rows.take(workload);
            if std::ptr::eq(rows, shown.0) {
                before = taken;
            }
        }
        before.retain(|(key, _)| shown.1.is_none_or(|only| key.direction == only));
        StatsSnapshot::of(before, by)
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
            // Before it is connected its endpoint is not known, nor its name before its first request.
            Event::Connected | Event::Detected(_) => {
                if connection.is_connected() && !connection.awaits_name() {
                    self.own(connection, rows);
                }
                if connection.is_connected() {
                    self.party(connection, rows);
                }
            }
            Event::Moved { sent: 0, received: 0 } if !connection.is_connected() => {}
            Event::Untracked(_) | Event::Unpoolable(_) | Event::Retried(_) | Event::TimedOut(_) => {
            }
            Event::Moved { sent, received } => {
                let own = self.own(connection, rows);
                own.moved(sent, received);
                if let Some(party) = self.party(connection, rows) {
                    party.moved(sent, received);
                }
                if let Some(took) = connection.handshake()
                    && !rows.is_handshake_counted.swap(true, Relaxed)
                {
                    own.took(took);
                }
            }
            Event::Retransmitted(segments) => self.own(connection, rows).retransmitted(segments),
            Event::RequestStarted => self.own(connection, rows).request(),
            Event::ExchangeEnded { exchange, class } => {
                self.of_exchange(connection, rows, exchange).exchange(exchange, class);
                self.path(connection, rows, exchange).exchange(exchange, class);
                if let Some(party) = self.party(connection, rows) {
                    party.exchange(exchange, class);
                }
            }
            Event::Closed(reason) => {
                let failure = Failure::of_connection(connection, reason);
                if let Some(party) = self.party(connection, rows) {
                    party.closed(connection.age(), failure);
                }
                self.own(connection, rows).closed(connection.age(), failure);
            }
        }
    }

    fn skipped(&self, _: u64, skipped: &SkippedConnection) {
        let SkippedConnection { workload, direction, .. } = skipped;
        let destination = canonical(skipped.destination);
        let detection = Some(skipped.detection());
        let row = self.row(workload, *direction, (destination, None), None, detection);
        let of_process = skipped
            .process
            .map(|process| view(&self.parties, workload, *direction, process.command(), detection));
        for row in [Some(row), of_process].into_iter().flatten() {
            row.opened();
            row.moved(skipped.bytes_sent, skipped.bytes_received);
            row.retransmitted(skipped.retransmits);
            row.closed(skipped.duration, Failure::of_direct(&skipped.end));
        }
    }
}

// === impl StatsSnapshot ===

impl StatsSnapshot {
    fn of(rows: Vec<(Key, Arc<Row>)>, by: By) -> Self {
        Self::sorted(groups::by(by, rows).iter().map(|group| group.snapshot(by)).collect())
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

    /// Whether destinations are summed up in it because there are too many of them.
    #[must_use]
    pub fn is_rest(&self) -> bool {
        self.destination.is_none() && self.name.is_none()
    }

    /// What tells rows apart, and their order: the shared row comes last.
    fn key(&self) -> impl Ord + Hash + '_ {
        (
            &self.workload,
            self.direction,
            self.is_rest(),
            self.destination,
            self.endpoint,
            // Of a row that is about its destination it may change.
            self.name.as_ref().filter(|_| self.destination.is_none()),
            self.treatment,
            self.source,
            &self.reason,
        )
    }
}

// === helpers ===

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[cfg(test)]
mod tests;
