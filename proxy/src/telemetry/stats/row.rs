//! One row: what it is about, and its counters.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use hdrhistogram::Histogram;
use weir_common::Reason;

use super::{By, Latencies, StatRow, failure::Failure};
use crate::{
    decision::{Direction, Source, Treatment},
    forward::http::Exchange,
    telemetry::{classify::Class, lock},
};

/// Two significant digits: an error below 1 %, in at most 12 KiB for latencies up to an hour.
const DIGITS: u8 = 2;

/// Latencies above are recorded as this: one hour, in microseconds.
const MAX_LATENCY_US: u64 = 3_600_000_000;

/// What a row is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) workload: Arc<str>,
    pub(super) direction: Direction,
    /// `None` for destinations that are summed up.
    pub(super) destination: Option<SocketAddr>,
    /// What was chosen in its place.
    pub(super) endpoint: Option<SocketAddr>,
    /// The host name that clients asked for, in lower case.
    pub(super) name: Option<Arc<str>>,
    pub(super) treatment: Option<Treatment>,
    pub(super) source: Option<Source>,
    /// Why it went direct, where no rule asks for that.
    pub(super) reason: Option<Reason>,
}

/// The counters of a row.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) why: &'static str,
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
    /// Connections that have failed.
    failed: AtomicU64,
    /// Why something failed last; 0 where nothing has.
    last_failure: AtomicU64,
    /// Connections that have ended.
    ended: AtomicU64,
    /// How long these took together, in microseconds.
    lasted: AtomicU64,
    /// In microseconds; made with the first request or handshake.
    latency: Mutex<Option<Histogram<u32>>>,
}

// === impl Row ===

impl Row {
    pub(super) fn new(why: &'static str) -> Self {
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
            failed: AtomicU64::new(0),
            last_failure: AtomicU64::new(0),
            ended: AtomicU64::new(0),
            lasted: AtomicU64::new(0),
            latency: Mutex::default(),
        }
    }

    pub(super) fn opened(&self) {
        self.connections.fetch_add(1, Relaxed);
        self.open.fetch_add(1, Relaxed);
    }

    pub(super) fn closed(&self, lasted: Duration, failure: Option<Failure>) {
        self.open.fetch_sub(1, Relaxed);
        self.ended.fetch_add(1, Relaxed);
        self.lasted.fetch_add(micros(lasted), Relaxed);
        if let Some(failure) = failure {
            self.failed.fetch_add(1, Relaxed);
            self.last_failure.store(failure.number(), Relaxed);
        }
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
            Some(Class::Failure) => {
                self.last_failure.store(Failure::of_exchange(exchange).number(), Relaxed);
                self.failures.fetch_add(1, Relaxed)
            }
            None => return,
        };
        self.took(exchange.time_to_head.unwrap_or(exchange.duration));
    }

    pub(super) fn retransmitted(&self, segments: u32) {
        self.retransmits.fetch_add(segments.into(), Relaxed);
    }

    /// A request's response, or a handshake, took so long.
    pub(super) fn took(&self, time: Duration) {
        let micros = micros(time).min(MAX_LATENCY_US);
        // `record` and not `saturating_record`: only the former lets the histogram grow.
        lock(&self.latency)
            .get_or_insert_with(|| Histogram::new(DIGITS).expect("1 to 5 digits are allowed"))
            .record(micros)
            .expect("the histogram grows to any latency of up to an hour");
    }

    /// Adds what another row has counted.
    pub(super) fn absorb(&self, other: &Self) {
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
        add(&self.failed, &other.failed);
        add(&self.ended, &other.ended);
        add(&self.lasted, &other.lasted);
        let failure = other.last_failure.load(Relaxed);
        if failure != 0 {
            self.last_failure.store(failure, Relaxed);
        }
        let Some(latencies) = lock(&other.latency).clone() else { return };
        let mut latency = lock(&self.latency);
        match &mut *latency {
            Some(latency) => latency.add(latencies).expect("the histogram grows to any latency"),
            None => *latency = Some(latencies),
        }
    }

    /// What it has counted, and counts from zero. Connections that are open stay so.
    pub(super) fn take(&self) -> Self {
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
            failed: take(&self.failed),
            last_failure: take(&self.last_failure),
            ended: take(&self.ended),
            lasted: take(&self.lasted),
            latency: Mutex::new(lock(&self.latency).take()),
        }
    }

    /// How often which latency was seen.
    pub(super) fn latencies(&self) -> Latencies {
        lock(&self.latency).as_ref().map(Latencies::of).unwrap_or_default()
    }

    /// By what its names are put in order: what most of its requests, or connections, were for.
    pub(super) fn weight(&self) -> (u64, u64) {
        (self.exchanges.load(Relaxed), self.connections.load(Relaxed))
    }

    /// What has been counted, without names.
    pub(super) fn snapshot(&self, key: &Key, by: By) -> StatRow {
        let latency = lock(&self.latency).clone();
        let quantile = |q: f64| latency.as_ref().map(|h| h.value_at_quantile(q));
        StatRow {
            workload: key.workload.to_string(),
            direction: key.direction,
            destination: key.destination,
            endpoint: match by {
                By::Destination | By::Name | By::Process | By::Client | By::Path => None,
                By::Endpoint => key.endpoint.or(key.destination),
            },
            name: None,
            further_names: 0,
            treatment: key.treatment,
            source: key.source,
            reason: key.reason.map(|reason| reason.name().to_owned()),
            why: self.why.to_owned(),
            connections: self.connections.load(Relaxed),
            open: self.open.load(Relaxed),
            failed_connections: self.failed.load(Relaxed),
            last_failure: Failure::numbered(self.last_failure.load(Relaxed))
                .map(|it| it.to_string()),
            mean_duration_us: self.lasted.load(Relaxed).checked_div(self.ended.load(Relaxed)),
            requests: match by {
                By::Destination => self.requests.load(Relaxed),
                By::Endpoint | By::Name | By::Process | By::Client | By::Path => {
                    self.exchanges.load(Relaxed)
                }
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

// === helpers ===

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
