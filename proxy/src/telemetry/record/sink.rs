//! Makes records of what happens on connections, for the record log and for taps.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, OnceLock, RwLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::SystemTime,
};

use super::{ConnectionRecord, KernelNumbers, Record, RecordLog, RequestRecord};
use crate::{
    budget::{Budgets, Share},
    config::RecordFormat,
    decision::Detection,
    forward::http::{Unpoolable, Untracked},
    sync::{read, write},
    telemetry::{
        CloseReason, SkippedConnection, canonical,
        event::{Connection, Event},
        sinks::Sink,
        tap::Taps,
    },
};

/// What a connection's record says that ended before it was known what it is.
pub(in crate::telemetry) const UNDETECTED: &str = "ended before a decision";

/// Is shown every record, on the thread that made it: must not block.
pub trait Observer: fmt::Debug + Send + Sync {
    /// A connection or a request has ended.
    fn observe(&self, record: &Record);
}

/// The readers of records. Without any no record is made.
#[derive(Debug)]
pub(in crate::telemetry) struct Records {
    pub(in crate::telemetry) log: Option<RecordLog>,
    pub(in crate::telemetry) taps: Taps,
    observers: OnceLock<Vec<Arc<dyn Observer>>>,
    budgets: Budgets,
    /// Of workloads that ask for one.
    formats: RwLock<HashMap<String, RecordFormat>>,
}

/// What a connection's record needs of what happened before its close.
#[derive(Debug, Default)]
pub(in crate::telemetry) struct Tally {
    requests: AtomicU64,
    untracked: OnceLock<Untracked>,
    unpoolable: OnceLock<Unpoolable>,
}

// === impl Tally ===

impl Tally {
    /// Requests so far.
    pub(in crate::telemetry) fn requests(&self) -> u64 {
        self.requests.load(Relaxed)
    }
}

// === impl Records ===

impl Records {
    pub(in crate::telemetry) fn new(log: Option<RecordLog>, budgets: Budgets) -> Self {
        let (taps, observers) = (Taps::default(), OnceLock::new());
        Self { log, taps, observers, budgets, formats: RwLock::default() }
    }

    /// Shows every further record to these; the first call counts.
    pub(in crate::telemetry) fn observe(&self, observers: Vec<Arc<dyn Observer>>) {
        if !observers.is_empty() {
            let _ = self.observers.set(observers);
        }
    }

    /// Sets the format of a workload's records in the log; `None` for that of all others.
    pub(in crate::telemetry) fn set_format(&self, workload: &str, format: Option<RecordFormat>) {
        let mut formats = write(&self.formats);
        match format {
            Some(format) => drop(formats.insert(workload.to_owned(), format)),
            None => drop(formats.remove(workload)),
        }
    }

    /// Hands a record to all readers; never waits.
    fn record(&self, share: impl FnOnce() -> Share, record: impl FnOnce() -> Record) {
        let observers = self.observers.get();
        if self.log.is_none() && self.taps.is_idle() && observers.is_none() {
            return;
        }
        let record = record();
        for observer in observers.into_iter().flatten() {
            observer.observe(&record);
        }
        self.taps.show(&record);
        if let Some(log) = &self.log {
            let format = read(&self.formats).get(record.workload()).copied();
            log.write_for(&share(), format, record);
        }
    }
}

impl Sink for Records {
    type State = Tally;

    fn opened(&self, _: &Connection) -> Tally {
        Tally::default()
    }

    fn event(&self, connection: &Connection, tally: &Tally, event: Event<'_>) {
        let share = || connection.info.share.clone();
        match event {
            Event::RequestStarted => {
                tally.requests.fetch_add(1, Relaxed);
            }
            Event::Untracked(untracked) => {
                // Said once for each connection.
                let _ = tally.untracked.set(untracked);
            }
            Event::Unpoolable(reason) => {
                let _ = tally.unpoolable.set(reason);
            }
            Event::ExchangeEnded { exchange, class } => self.record(share, || {
                let (info, detection) = (&connection.info, connection.detection());
                let (id, endpoint) = (connection.id, connection.endpoint_of(exchange));
                Record::Request(RequestRecord::new(id, info, endpoint, detection, class, exchange))
            }),
            Event::Closed(reason) => {
                self.record(share, || Record::Connection(closed(connection, tally, reason)));
            }
            Event::Connected
            | Event::Detected(_)
            | Event::Moved { .. }
            | Event::Retried(_)
            | Event::TimedOut(_)
            | Event::Retransmitted(_) => {}
        }
    }

    fn skipped(&self, id: u64, skipped: &SkippedConnection) {
        self.record(
            || self.budgets.share(&skipped.workload),
            || Record::Connection(direct(id, skipped)),
        );
    }
}

// === helpers ===

fn closed(connection: &Connection, tally: &Tally, reason: &CloseReason) -> ConnectionRecord {
    let (info, counters, found) = (&connection.info, &connection.counters, connection.found.get());
    let detection = connection.detection();
    let tls = found.and_then(|found| found.tls.clone()).unwrap_or_default();
    ConnectionRecord {
        id: connection.id,
        time: connection.started,
        workload: info.workload.clone(),
        direction: info.direction,
        client: Some(info.client),
        process: info.process,
        destination: info.destination,
        endpoint: connection.endpoint(),
        treatment: detection.map(Detection::treatment),
        source: detection.map(Detection::source),
        reason: None,
        why: detection.map_or(UNDETECTED, Detection::why).into(),
        name: connection.name().map(str::to_owned),
        sni: tls.sni,
        alpn: tls.alpn,
        bytes_sent: counters.client_to_upstream(),
        bytes_received: counters.upstream_to_client(),
        requests: tally.requests(),
        untracked: tally.untracked.get().map(|untracked| untracked.reason.into()),
        unpoolable: tally.unpoolable.get().map(|reason| reason.name().into()),
        detect: found.and_then(|found| found.took),
        handshake: connection.handshake(),
        duration: connection.age(),
        engine: info.tapped.map(|_| "tap".into()),
        close: reason.name().into(),
        error: reason.error().map(|error| error.into_owned()),
        kernel: None,
    }
}

fn direct(id: u64, skipped: &SkippedConnection) -> ConnectionRecord {
    let detection = skipped.detection();
    ConnectionRecord {
        id,
        time: SystemTime::now().checked_sub(skipped.duration).unwrap_or(SystemTime::UNIX_EPOCH),
        workload: skipped.workload.clone(),
        direction: skipped.direction,
        client: None,
        process: skipped.process,
        destination: canonical(skipped.destination),
        endpoint: None,
        treatment: Some(detection.treatment()),
        source: Some(detection.source()),
        reason: detection.unasked().map(|reason| reason.name().into()),
        why: detection.why().into(),
        name: None,
        sni: None,
        alpn: Vec::new(),
        bytes_sent: skipped.bytes_sent,
        bytes_received: skipped.bytes_received,
        requests: 0,
        untracked: None,
        unpoolable: None,
        detect: None,
        handshake: None,
        duration: skipped.duration,
        close: skipped.end.name().into(),
        error: skipped.end.error().map(|error| error.into_owned()),
        engine: None,
        kernel: Some(KernelNumbers { srtt: skipped.srtt, retransmits: skipped.retransmits }),
    }
}
