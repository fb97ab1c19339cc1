//! What weir saw. One guard per connection tells typed events (`event.rs`) to the sinks (`sinks.rs`):
//! metrics, per-destination statistics, access records and taps. Nothing here blocks the data path
//! or touches a socket.

mod asked;
mod classify;
mod close;
mod codes;
pub mod conditions;
mod connection;
mod destinations;
mod endpoint;
mod event;
pub mod har;
mod kernel_memory;
mod labels;
mod lines;
mod metrics;
mod name;
mod open;
mod process;
pub mod record;
mod routes;
mod series;
mod services;
mod sinks;
mod spans;
pub mod stats;
pub mod tap;
mod workloads;

pub use classify::Answer;
pub use close::CloseReason;
pub use connection::ConnectionGuard;
pub use endpoint::{ChosenEndpoint, EndpointListener};
pub use kernel_memory::MapFacts;
pub use labels::PodLabels;
pub use metrics::TextFormat;
pub use open::{ConnectionState, OpenConnection, OpenConnections};
pub(crate) use process::resident_bytes;
pub use routes::RouteFacts;
pub use services::ServiceFacts;
pub use spans::{Export, FinishedRequest, SpanCounts, SpanTrace, Spans};
pub use workloads::WorkloadFacts;

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use crate::budget::{Budgets, Share};
use crate::config::{DestinationLabel, RecordFormat};
use crate::decision::{Detection, Direction, Source};
use crate::process::Process;
use crate::sync::lock;
use connection::Live;
use destinations::Destinations;
use endpoint::Answers;
use lines::Lines;
use metrics::Metrics;
use record::{Observer, RecordLog, Records};
use sinks::{Sink, Sinks};
use stats::{By, Stats, StatsSnapshot};
use tap::{Tap, TapFilter, TooManyTaps};
use weir_common::Reason;

/// Live connections are kept in this many separately locked maps, so that opening and closing
/// them on several threads does not contend.
const SHARDS: usize = 16;

/// The one handle to everything that is counted. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Telemetry {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    budgets: Budgets,
    sinks: Sinks,
    live: [Mutex<HashMap<u64, Arc<Live>>>; SHARDS],
    next_id: AtomicU64,
}

/// What there is beside counts.
#[derive(Debug, Default)]
pub struct TelemetryOptions {
    /// Where records go, if anywhere.
    pub records: Option<RecordLog>,
    /// Spans, which are handed to their exporter.
    pub spans: Option<Spans>,
    /// What workloads may take of what they share.
    pub budgets: Budgets,
    /// Destinations with metrics of their own, for each workload and direction; 0 for none.
    pub destinations: usize,
    /// What these are called.
    pub label: DestinationLabel,
}

/// What is known when a connection is accepted.
#[derive(Clone, Debug)]
pub struct ConnectionInfo {
    /// The workload's name; a metric label.
    pub workload: Arc<str>,
    /// What the workload may take of what all share.
    pub share: Share,
    /// Seen from the workload.
    pub direction: Direction,
    /// Who connected.
    pub client: SocketAddr,
    /// The address the client asked for.
    pub destination: SocketAddr,
    /// The process that connects, where it is one of the workload.
    pub process: Option<Process>,
    /// When it was established, where it is seen by the tap and not proxied.
    pub tapped: Option<Instant>,
}

/// A connection that went direct in the kernel and has ended.
#[derive(Clone, Debug)]
pub struct SkippedConnection {
    /// The workload's name.
    pub workload: Arc<str>,
    /// Seen from the workload.
    pub direction: Direction,
    /// Where it went.
    pub destination: SocketAddr,
    /// Who said that it goes direct.
    pub source: Source,
    /// Why it went direct.
    pub reason: Reason,
    /// Bytes that the workload sent.
    pub bytes_sent: u64,
    /// Bytes that the workload received.
    pub bytes_received: u64,
    /// From connect to close.
    pub duration: Duration,
    /// Smoothed round-trip time.
    pub srtt: Duration,
    /// Segments sent again.
    pub retransmits: u32,
    /// How it ended.
    pub end: CloseReason,
    /// The process that connected, where it is one of the workload.
    pub process: Option<Process>,
}

// === impl SkippedConnection ===

impl SkippedConnection {
    fn detection(&self) -> Detection {
        Detection::Direct { reason: self.reason, source: self.source }
    }
}

// === impl Telemetry ===

impl Telemetry {
    /// Counts from zero, with budgets of the usual size; records go to `records` if there is one.
    #[must_use]
    pub fn new(records: Option<RecordLog>) -> Self {
        Self::with(TelemetryOptions { records, ..TelemetryOptions::default() })
    }

    /// The same with these.
    #[must_use]
    pub fn with(options: TelemetryOptions) -> Self {
        let TelemetryOptions { records, spans, budgets, destinations, label } = options;
        let dropped = records.as_ref().map(RecordLog::dropped_counter);
        let live = std::array::from_fn(|_| Mutex::default());
        let inner = Inner {
            sinks: Sinks {
                metrics: Metrics::new(
                    dropped,
                    spans.as_ref().map(|spans| &spans.export.counts),
                    Destinations::new(destinations, label),
                ),
                stats: Stats::new(budgets.clone()),
                records: Records::new(records, budgets.clone()),
                spans,
                answers: Answers,
                lines: Lines,
            },
            budgets,
            live,
            next_id: AtomicU64::new(1),
        };
        Self { inner: Arc::new(inner) }
    }

    /// What workloads may take of what they share.
    #[must_use]
    pub fn budgets(&self) -> &Budgets {
        &self.inner.budgets
    }

    /// The budget of the workload of this name.
    #[must_use]
    pub fn share(&self, workload: &Arc<str>) -> Share {
        self.inner.budgets.share(workload)
    }

    /// Starts accounting for an accepted connection.
    #[must_use = "dropping the guard records the connection as aborted"]
    pub fn open(&self, info: ConnectionInfo) -> ConnectionGuard {
        let id = self.next_id();
        let live = Arc::new(Live::new(id, info, self.clone()));
        self.shard(id).insert(id, Arc::clone(&live));
        ConnectionGuard::new(live)
    }

    /// Accounts for a connection that the kernel let pass.
    pub fn skipped(&self, skipped: &SkippedConnection) {
        self.inner.sinks.skipped(self.next_id(), skipped);
    }

    /// The metrics as text, live connections included.
    #[must_use]
    pub fn encode_metrics(&self, format: TextFormat) -> String {
        self.settle_live();
        self.inner.sinks.metrics.encode(format)
    }

    /// The statistics per destination, live connections included.
    #[must_use]
    pub fn stats(&self) -> StatsSnapshot {
        self.stats_by(By::Destination)
    }

    /// The statistics, live connections included.
    #[must_use]
    pub fn stats_by(&self, by: By) -> StatsSnapshot {
        self.settle_live();
        self.inner.sinks.stats.snapshot(by)
    }

    /// Connections that are open now.
    #[must_use]
    pub fn open_connections(&self) -> usize {
        self.inner.live.iter().map(|shard| lock(shard).len()).sum()
    }

    /// The statistics with all latencies, for a reader that compares it with an earlier one.
    #[must_use]
    pub fn sample_stats(&self, by: By) -> StatsSnapshot {
        self.settle_live();
        self.inner.sinks.stats.sample(by)
    }

    /// The statistics so far, of one workload or of all, which count from zero from now on. Metrics
    /// are not changed.
    #[must_use]
    pub fn reset_stats(&self, workload: Option<&str>, by: By) -> StatsSnapshot {
        self.settle_live();
        self.inner.sinks.stats.reset(workload, by)
    }

    /// Open connections, of one workload or of all, that pass the filter: the oldest ones, at most
    /// `limit`. Takes as long as there are connections; each lock is held while handles are copied.
    #[must_use]
    pub fn connections(
        &self,
        workload: Option<&str>,
        filter: &TapFilter,
        limit: usize,
    ) -> OpenConnections {
        let mut open = Vec::new();
        for shard in &self.inner.live {
            let live: Vec<_> = lock(shard).values().cloned().collect();
            open.extend(live.into_iter().filter(|it| {
                workload.is_none_or(|name| name == it.workload()) && filter.fits_open(&it.place())
            }));
        }
        open.sort_unstable_by_key(|it| it.id());
        OpenConnections {
            open: open.len() as u64,
            connections: open.iter().take(limit).map(|it| it.now()).collect(),
        }
    }

    /// Sets where what the kernel side knows of the workloads comes from; asked at each scrape, so
    /// that it must be quick.
    pub fn set_workloads(&self, source: impl Fn() -> Vec<WorkloadFacts> + Send + Sync + 'static) {
        self.inner.sinks.metrics.workloads().set(Box::new(source));
    }

    /// Sets where what is known of services comes from; asked at each scrape, so that it must be quick.
    pub fn set_services(&self, source: impl Fn() -> Vec<ServiceFacts> + Send + Sync + 'static) {
        self.inner.sinks.metrics.services().set(Box::new(source));
    }

    /// The same of what is known of routes.
    pub fn set_routes(&self, source: impl Fn() -> Vec<RouteFacts> + Send + Sync + 'static) {
        self.inner.sinks.metrics.routes().set(Box::new(source));
    }

    /// Sets what tells the service of an address, for metrics by service.
    pub fn set_service_of(
        &self,
        service_of: impl Fn(SocketAddr) -> Option<Arc<str>> + Send + Sync + 'static,
    ) {
        if let Some(destinations) = &self.inner.sinks.metrics.destinations {
            destinations.set_service_of(Box::new(service_of));
        }
    }

    /// Sets where what the kernel has allocated for maps comes from; asked at each scrape.
    pub fn set_maps(&self, source: impl Fn() -> Vec<MapFacts> + Send + Sync + 'static) {
        self.inner.sinks.metrics.maps().set(Box::new(source));
    }

    /// A workload begins: what is counted of it begins with 0. `pod` is `None` for one that is none.
    pub fn label(&self, workload: &str, pod: Option<PodLabels>) {
        let metrics = &self.inner.sinks.metrics;
        metrics.label(workload, pod);
        metrics.begin(&workload.into());
    }

    /// Sets the format of a workload's records; `None` for that of the process.
    pub fn set_record_format(&self, workload: &str, format: Option<RecordFormat>) {
        self.inner.sinks.records.set_format(workload, format);
    }

    /// Takes away what was counted of a workload that is gone with its last connection.
    pub fn forget_workload(&self, workload: &str) {
        self.inner.sinks.metrics.forget(workload);
        self.inner.sinks.stats.forget(workload);
        self.set_record_format(workload, None);
    }

    /// An accept failed for want of descriptors or memory; an `errno`.
    pub fn accept_failed(&self, errno: i32) {
        self.inner.sinks.metrics.accept_failed(errno);
    }

    /// Connections were reset because there was no descriptor for them for too long.
    pub fn accept_shed(&self, count: u64) {
        self.inner.sinks.metrics.accept_shed(count);
    }

    /// A thread that serves connections got to what was waiting after so long.
    pub fn worker_delayed(&self, delay: Duration) {
        self.inner.sinks.metrics.worker_delayed(delay);
    }

    /// A connection had been reset before it was accepted.
    pub fn accepted_dead(&self, workload: &Arc<str>) {
        self.inner.sinks.metrics.accepted_dead(workload);
    }

    /// Where spans go, and how that goes; `None` where none are exported.
    #[must_use]
    pub fn export(&self) -> Option<Export> {
        self.inner.sinks.spans.as_ref().map(|spans| spans.export.clone())
    }

    /// The pod that a workload is.
    #[must_use]
    pub fn pod(&self, workload: &str) -> Option<Arc<PodLabels>> {
        self.inner.sinks.metrics.pod(workload)
    }

    /// Waits until every record so far is written. Blocks for at most `limit`.
    pub fn flush_records(&self, limit: Duration) {
        if let Some(records) = &self.inner.sinks.records.log {
            records.flush(limit);
        }
    }

    /// Opens the record file anew, behind the records so far. Blocks while their queue is full.
    pub fn reopen_records(&self) {
        if let Some(records) = &self.inner.sinks.records.log {
            records.reopen();
        }
    }

    /// Shows every further record to these, once for all.
    pub fn observe(&self, observers: Vec<Arc<dyn Observer>>) {
        self.inner.sinks.records.observe(observers);
    }

    /// Records from now on, of one workload or of all, that pass the filter.
    ///
    /// # Errors
    /// If there are too many readers already.
    pub fn tap(&self, workload: Option<String>, filter: TapFilter) -> Result<Tap, TooManyTaps> {
        self.inner.sinks.records.taps.open(workload, filter)
    }

    fn next_id(&self) -> u64 {
        self.inner.next_id.fetch_add(1, Ordering::Relaxed)
    }

    fn forget(&self, id: u64) {
        self.shard(id).remove(&id);
    }

    fn shard(&self, id: u64) -> std::sync::MutexGuard<'_, HashMap<u64, Arc<Live>>> {
        lock(&self.inner.live[(id % SHARDS as u64) as usize])
    }

    fn settle_live(&self) {
        let mut half_closed = HashMap::new();
        for shard in &self.inner.live {
            let live: Vec<_> = lock(shard).values().cloned().collect();
            for connection in live {
                connection.settle();
                if connection.is_half_closed() {
                    *half_closed.entry(connection.bound_to()).or_insert(0) += 1;
                }
            }
        }
        // Counted anew each time: a connection that is gone can't be left in it.
        self.inner.sinks.metrics.set_half_closed(&half_closed);
    }
}

/// `::ffff:a.b.c.d` as `a.b.c.d`: one destination, one row.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) use tests::{exchange, info as connection_info};
