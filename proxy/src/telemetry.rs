//! What weir saw: metrics, per-destination statistics and access records, all settled by one guard
//! per connection. Nothing here blocks the data path or touches a socket.

mod classify;
mod close;
mod codes;
mod connection;
mod labels;
mod metrics;
mod process;
pub mod record;
mod series;
pub mod stats;
pub mod tap;
mod workloads;

pub use close::CloseReason;
pub use connection::ConnectionGuard;
pub use labels::PodLabels;
pub(crate) use process::resident_bytes;
pub use workloads::WorkloadFacts;

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use crate::budget::{Budgets, Share};
use crate::decision::{Decision, Direction, Evidence, Source, Treatment};
use connection::Live;
use metrics::Metrics;
use record::{ConnectionRecord, KernelNumbers, Record, RecordLog};
use stats::{Stats, StatsSnapshot};
use tap::{Tap, TapFilter, Taps, TooManyTaps};
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
    metrics: Metrics,
    stats: Stats,
    records: Option<RecordLog>,
    taps: Taps,
    live: [Mutex<HashMap<u64, Arc<Live>>>; SHARDS],
    next_id: AtomicU64,
}

/// What is known when a connection is accepted.
#[derive(Clone, Debug)]
pub struct ConnectionInfo {
    /// The workload's name; a metric label.
    pub workload: Arc<str>,
    /// Seen from the workload.
    pub direction: Direction,
    /// Who connected.
    pub client: SocketAddr,
    /// The address the client asked for.
    pub destination: SocketAddr,
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
}

// === impl SkippedConnection ===

impl SkippedConnection {
    /// The reason, where nobody has asked for it: no rule, and nothing learned.
    fn unasked(&self) -> Option<Reason> {
        (self.source == Source::Default).then_some(self.reason)
    }
}

// === impl Telemetry ===

impl Telemetry {
    /// Counts from zero, with budgets of the usual size; records go to `records` if there is one.
    #[must_use]
    pub fn new(records: Option<RecordLog>) -> Self {
        Self::with_budgets(records, Budgets::default())
    }

    /// The same with other budgets.
    #[must_use]
    pub fn with_budgets(records: Option<RecordLog>, budgets: Budgets) -> Self {
        let dropped = records.as_ref().map(RecordLog::dropped_counter);
        let metrics = Metrics::new(dropped, budgets.clone());
        let live = std::array::from_fn(|_| Mutex::default());
        let inner = Inner {
            stats: Stats::new(budgets.clone()),
            budgets,
            metrics,
            records,
            taps: Taps::default(),
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
        let id = self.inner.next_id.fetch_add(1, Ordering::Relaxed);
        let live = Arc::new(Live::new(id, info, self.clone()));
        self.shard(id).insert(id, Arc::clone(&live));
        ConnectionGuard::new(live)
    }

    /// Accounts for a connection that the kernel let pass.
    pub fn skipped(&self, skipped: &SkippedConnection) {
        let decision = Decision {
            treatment: Treatment::Skip,
            source: skipped.source,
            why: skip_clause(skipped.reason),
            evidence: Evidence::None,
        };
        self.inner.metrics.decided(&skipped.workload, skipped.direction, decision);
        self.inner.stats.skipped(skipped, decision);
        self.record(&self.share(&skipped.workload), || {
            Record::Connection(ConnectionRecord {
                id: self.inner.next_id.fetch_add(1, Ordering::Relaxed),
                time: SystemTime::now()
                    .checked_sub(skipped.duration)
                    .unwrap_or(SystemTime::UNIX_EPOCH),
                workload: Arc::clone(&skipped.workload),
                direction: skipped.direction,
                client: None,
                destination: canonical(skipped.destination),
                treatment: Some(Treatment::Skip),
                source: Some(skipped.source),
                reason: skipped.unasked().map(|reason| reason.name().into()),
                why: decision.why.into(),
                sni: None,
                alpn: Vec::new(),
                bytes_sent: skipped.bytes_sent,
                bytes_received: skipped.bytes_received,
                requests: 0,
                untracked: None,
                detect: None,
                duration: skipped.duration,
                close: skipped.end.name().into(),
                error: skipped.end.error().map(|error| error.into_owned()),
                kernel: Some(KernelNumbers {
                    srtt: skipped.srtt,
                    retransmits: skipped.retransmits,
                }),
            })
        });
    }

    /// The metrics in OpenMetrics text format, live connections included.
    #[must_use]
    pub fn encode_metrics(&self) -> String {
        self.settle_live();
        self.inner.metrics.encode()
    }

    /// The per-destination statistics, live connections included.
    #[must_use]
    pub fn stats(&self) -> StatsSnapshot {
        self.settle_live();
        self.inner.stats.snapshot()
    }

    /// Connections that are open now.
    #[must_use]
    pub fn open_connections(&self) -> usize {
        self.inner.live.iter().map(|shard| lock(shard).len()).sum()
    }

    /// Sets where what the kernel side knows of the workloads comes from; asked at each scrape, so
    /// that it must be quick.
    pub fn set_workloads(&self, source: impl Fn() -> Vec<WorkloadFacts> + Send + Sync + 'static) {
        self.inner.metrics.workloads().set(Box::new(source));
    }

    /// Says which pod a workload is; `None` for one that is none.
    pub fn label(&self, workload: &str, pod: Option<PodLabels>) {
        self.inner.metrics.label(workload, pod);
    }

    /// Takes away what was counted of a workload that is gone with its last connection.
    pub fn forget_workload(&self, workload: &str) {
        self.inner.metrics.forget(workload);
        self.inner.stats.forget(workload);
    }

    /// An accept failed for want of descriptors or memory; an `errno`.
    pub fn accept_failed(&self, errno: i32) {
        self.inner.metrics.accept_failed(errno);
    }

    /// Connections were reset because there was no descriptor for them for too long.
    pub fn accept_shed(&self, count: u64) {
        self.inner.metrics.accept_shed(count);
    }

    /// A connection had been reset before it was accepted.
    pub fn accepted_dead(&self, workload: &Arc<str>) {
        self.inner.metrics.accepted_dead(workload);
    }

    /// Waits until every record so far is written. Blocks for at most `limit`.
    pub fn flush_records(&self, limit: Duration) {
        if let Some(records) = &self.inner.records {
            records.flush(limit);
        }
    }

    /// Opens the record file anew, behind the records so far. Blocks while their queue is full.
    pub fn reopen_records(&self) {
        if let Some(records) = &self.inner.records {
            records.reopen();
        }
    }

    /// Records from now on, of one workload or of all, that pass the filter.
    ///
    /// # Errors
    /// If there are too many readers already.
    pub fn tap(&self, workload: Option<String>, filter: TapFilter) -> Result<Tap, TooManyTaps> {
        self.inner.taps.open(workload, filter)
    }

    /// Hands a record of a workload to the log if there is one, and to whoever taps; never waits.
    fn record(&self, share: &Share, record: impl FnOnce() -> Record) {
        let Inner { records, taps, .. } = &*self.inner;
        if records.is_none() && taps.is_idle() {
            return;
        }
        let record = record();
        taps.show(&record);
        if let Some(records) = records {
            records.write_for(share, record);
        }
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
        self.inner.metrics.set_half_closed(&half_closed);
    }
}

/// `::ffff:a.b.c.d` as `a.b.c.d`: one destination, one row.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Counters stay usable after a panic elsewhere: every critical section here leaves them whole.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Why the kernel let a connection pass, as a clause.
#[must_use]
pub const fn skip_clause(reason: Reason) -> &'static str {
    match reason {
        Reason::Redirected => "handed to the proxy",
        Reason::NotTcp => "not a tcp stream",
        Reason::Loopback => "loopback destination",
        Reason::OwnTraffic => "weir's own connection",
        Reason::SkipPort => "port is skipped",
        Reason::SkipCidr => "address is in a skipped prefix",
        Reason::NotIncluded => "port is not on the include list",
        Reason::NoRoute => "no route",
        Reason::NoListener => "no proxy was listening",
        Reason::Stale => "the heartbeat was stale",
        Reason::BoundDevice => "socket is bound to a device",
        Reason::Unconfigured => "workload not configured yet",
        Reason::HookError => "a kernel helper failed",
        Reason::PendingFull => "the workload's share of pending connections was used up",
        Reason::OwnListener => "weir's own listener",
        Reason::LinkLocal => "link-local destination",
        Reason::FailedBefore => "a recent connection attempt failed",
        Reason::FailClosed => "no proxy was listening and fail is closed: refused",
        Reason::Learned => "learned to be raw tcp",
        Reason::FromInside => "came from inside the namespace",
        Reason::NotListening => "no socket is listening",
        Reason::OtherNetns => "socket is in another network namespace",
        Reason::ListeningFull => "the workload's share of listening sockets was used up",
        Reason::ReportLost => "its report was lost",
        Reason::BoundPort => "socket is bound to a source port",
        Reason::Signed => "segments are signed (TCP-MD5 or TCP-AO)",
        Reason::Filtered => "a packet filter of the cgroup does not see weir's connections",
        Reason::OptionLost => "a socket option was lost",
        Reason::ShortOfPorts => "no source ports were left for weir's listeners",
    }
}

#[cfg(test)]
mod tests;
