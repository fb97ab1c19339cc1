//! Every metric with its name, unit, help and labels. Names, labels and buckets are Linkerd's
//! where Linkerd measures the same thing (linkerd2-proxy `linkerd/transport-metrics`,
//! `linkerd/http/metrics`, `linkerd/http/detect`), so that its dashboards keep working.
//!
//! Label values come from weir, from its configuration or from small closed sets (`codes.rs`): never
//! from a peer.

mod connection;
#[cfg(test)]
mod reference;

use std::{
    collections::HashMap,
    sync::{Arc, RwLock},
    time::Duration,
};

use prometheus_client::{
    encoding::{prometheus_text, text},
    metrics::{
        counter::Counter, exemplar::HistogramWithExemplars, family::Family, gauge::Gauge,
        histogram::Histogram, info::Info,
    },
    registry::Registry,
};

use self::connection::Bound;
use super::{
    PodLabels,
    asked::Asked,
    close::errno_name,
    destinations::Destinations,
    kernel_memory::MapFacts,
    labels::{
        Base, CloseLabels, ConnectionLabels, DetectLabels, DowngradeLabels, ErrnoLabels,
        ExemplarLabels, LatencyLabels, Of, PeerLabels, ResponseLabels, RetryLabels, TimeoutLabels,
        UnpoolableLabels, WorkloadLabels,
    },
    process::ProcessCollector,
    routes::RouteFacts,
    series::Series,
    services::ServiceFacts,
    spans::SpanCounts,
    workloads::WorkloadFacts,
};
use crate::decision::{Detection, Direction, direction_name, source_name};
use crate::sync::{read, write};

/// How metrics are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextFormat {
    /// Prometheus' text, version 0.0.4, which every tool reads. It has no exemplars.
    Prometheus,
    /// `OpenMetrics` 1.0.0.
    OpenMetrics,
}

/// What accept(2) fails with where descriptors or memory are used up.
const EXHAUSTED: [i32; 4] = [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM];

/// Each bucket has the trace of the last sampled request in it.
type Latency = HistogramWithExemplars<ExemplarLabels>;
type Latencies = Series<LatencyLabels, Latency, fn() -> Latency>;
type Durations = Series<WorkloadLabels, Histogram, fn() -> Histogram>;
type BoundMap = HashMap<(Arc<str>, Direction), Arc<Bound>>;

/// The registry and the families in it.
#[derive(Debug)]
pub(super) struct Metrics {
    registry: Registry,
    families: Families,
    bound: RwLock<BoundMap>,
    pods: RwLock<HashMap<Arc<str>, Arc<PodLabels>>>,
    workloads: Arc<Asked<WorkloadFacts>>,
    services: Arc<Asked<ServiceFacts>>,
    /// Those by destination, where they are asked for.
    pub(super) destinations: Option<Arc<Destinations>>,
    routes: Arc<Asked<RouteFacts>>,
    maps: Arc<Asked<MapFacts>>,
}

#[derive(Debug)]
struct Families {
    request: Series<Base, Counter>,
    response: Series<ResponseLabels, Counter>,
    latency: Latencies,
    tcp_open: Series<PeerLabels, Counter>,
    tcp_open_now: Series<PeerLabels, Gauge>,
    tcp_read: Series<PeerLabels, Counter>,
    tcp_write: Series<PeerLabels, Counter>,
    tcp_close: Series<CloseLabels, Counter>,
    inbound_detect: Series<DetectLabels, Counter>,
    outbound_detect: Series<DetectLabels, Counter>,
    inbound_detect_time: Durations,
    outbound_detect_time: Durations,
    connect_time: Series<Base, Histogram, fn() -> Histogram>,
    retransmits: Series<Base, Counter>,
    connections: Series<ConnectionLabels, Counter>,
    half_closed: Series<Base, Gauge>,
    undecided: Series<Base, Gauge>,
    in_flight: Series<Base, Gauge>,
    downgrade: Series<DowngradeLabels, Counter>,
    unpoolable: Series<UnpoolableLabels, Counter>,
    retries: Series<RetryLabels, Counter>,
    timeouts: Series<TimeoutLabels, Counter>,
    accept_dead: Series<WorkloadLabels, Counter>,
    accept_errors: Family<ErrnoLabels, Counter>,
    accept_shed: Counter,
    worker_delay: Histogram,
}

// === impl TextFormat ===

impl TextFormat {
    /// Its media type.
    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => prometheus_text::CONTENT_TYPE,
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

// === impl Metrics ===

impl Metrics {
    pub(super) fn new(
        records_dropped: Option<Counter>,
        spans: Option<&SpanCounts>,
        destinations: Option<Arc<Destinations>>,
    ) -> Self {
        let mut registry = Registry::default();
        let families = Families::register(&mut registry);
        let version = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("weir_build", "Version of the running weir", version);
        registry.register(
            "weir_records_dropped",
            "Access records dropped because the record file was too slow",
            records_dropped.unwrap_or_default(),
        );
        if let Some(counts) = spans {
            registry.register(
                "weir_otlp_spans",
                "Spans by what has become of them",
                counts.family.clone(),
            );
        }
        for errno in EXHAUSTED {
            drop(families.accept_errors.get_or_create(&ErrnoLabels { errno: errno_name(errno) }));
        }
        let workloads = Arc::new(Asked::default());
        registry.register_collector(Box::new(Arc::clone(&workloads)));
        let services = Arc::new(Asked::default());
        registry.register_collector(Box::new(Arc::clone(&services)));
        let routes = Arc::new(Asked::default());
        registry.register_collector(Box::new(Arc::clone(&routes)));
        let maps = Arc::new(Asked::default());
        registry.register_collector(Box::new(Arc::clone(&maps)));
        registry.register_collector(Box::new(ProcessCollector));
        if let Some(destinations) = &destinations {
            registry.register_collector(Box::new(Arc::clone(destinations)));
        }
        let (bound, pods) = (RwLock::default(), RwLock::default());
        Self { registry, families, bound, pods, workloads, services, destinations, routes, maps }
    }

    pub(super) fn encode(&self, format: TextFormat) -> String {
        let mut out = String::with_capacity(16 * 1024);
        let encoded = match format {
            TextFormat::Prometheus => prometheus_text::encode(&mut out, &self.registry),
            TextFormat::OpenMetrics => text::encode(&mut out, &self.registry),
        };
        encoded.expect("writing to a string cannot fail");
        out
    }

    pub(super) fn workloads(&self) -> &Asked<WorkloadFacts> {
        &self.workloads
    }

    pub(super) fn routes(&self) -> &Asked<RouteFacts> {
        &self.routes
    }

    pub(super) fn services(&self) -> &Asked<ServiceFacts> {
        &self.services
    }

    pub(super) fn maps(&self) -> &Asked<MapFacts> {
        &self.maps
    }

    fn detected(&self, workload: &Arc<str>, direction: Direction, detection: Detection) {
        self.families
            .connections
            .get_or_create(&ConnectionLabels {
                direction: direction_name(direction),
                of: self.of(workload),
                treatment: detection.treatment().name(),
                source: source_name(detection.source()),
            })
            .inc();
    }

    pub(super) fn accept_failed(&self, errno: i32) {
        self.families.accept_errors.get_or_create(&ErrnoLabels { errno: errno_name(errno) }).inc();
    }

    pub(super) fn accept_shed(&self, count: u64) {
        self.families.accept_shed.inc_by(count);
    }

    /// A thread that serves connections got to what was waiting after so long.
    pub(super) fn worker_delayed(&self, delay: Duration) {
        self.families.worker_delay.observe(delay.as_secs_f64());
    }

    pub(super) fn accepted_dead(&self, workload: &Arc<str>) {
        let of = self.of(workload);
        self.families.accept_dead.get_or_create(&WorkloadLabels { of }).inc();
    }

    /// Those that are not in `counts` have none.
    pub(super) fn set_half_closed(&self, counts: &HashMap<(Arc<str>, Direction), i64>) {
        for (key, bound) in read(&self.bound).iter() {
            bound.half_closed.set(counts.get(key).copied().unwrap_or(0));
        }
    }

    fn bind(&self, workload: &Arc<str>, direction: Direction) -> Arc<Bound> {
        let key = (Arc::clone(workload), direction);
        if let Some(bound) = read(&self.bound).get(&key) {
            return Arc::clone(bound);
        }
        let mut all = write(&self.bound);
        let bound = all
            .entry(key)
            .or_insert_with(|| Arc::new(Bound::new(&self.families, self.of(workload), direction)));
        Arc::clone(bound)
    }

    /// Makes the series of a workload that are known before anything is counted in them: a rate takes no
    /// account of the value with which a series begins.
    pub(super) fn begin(&self, workload: &Arc<str>) {
        for direction in [Direction::Outbound, Direction::Inbound] {
            self.bind(workload, direction);
        }
        let of = self.of(workload);
        self.families.accept_dead.get_or_create(&WorkloadLabels { of });
    }

    /// Which pod a workload is, from its next series on.
    pub(super) fn label(&self, workload: &str, pod: Option<PodLabels>) {
        let mut pods = write(&self.pods);
        match pod {
            None => drop(pods.remove(workload)),
            Some(pod) if pods.get(workload).is_some_and(|known| **known == pod) => {}
            Some(pod) => {
                pods.insert(workload.into(), Arc::new(pod));
                drop(pods);
                // Those that there are have the labels of the pod that had the name before.
                self.clear(workload);
            }
        }
    }

    /// Takes a workload's series away, which nothing is counted in any more.
    pub(super) fn forget(&self, workload: &str) {
        write(&self.pods).remove(workload);
        self.clear(workload);
    }

    fn clear(&self, workload: &str) {
        let mut bound = write(&self.bound);
        bound.retain(|(name, _), _| **name != *workload);
        self.families.forget(workload);
        if let Some(destinations) = &self.destinations {
            destinations.forget(workload);
        }
    }

    pub(super) fn pod(&self, workload: &str) -> Option<Arc<PodLabels>> {
        read(&self.pods).get(workload).cloned()
    }

    pub(super) fn of(&self, workload: &Arc<str>) -> Of {
        let pods = read(&self.pods);
        Of { workload: Arc::clone(workload), pod: pods.get(workload).cloned() }
    }
}

// === impl Families ===

impl Families {
    fn register(registry: &mut Registry) -> Self {
        let families = Self {
            request: Series::default(),
            response: Series::default(),
            latency: Series::new(latency_histogram),
            tcp_open: Series::default(),
            tcp_open_now: Series::default(),
            tcp_read: Series::default(),
            tcp_write: Series::default(),
            tcp_close: Series::default(),
            inbound_detect: Series::default(),
            outbound_detect: Series::default(),
            inbound_detect_time: Series::new(detect_histogram),
            outbound_detect_time: Series::new(detect_histogram),
            connect_time: Series::new(time_histogram),
            retransmits: Series::default(),
            connections: Series::default(),
            half_closed: Series::default(),
            undecided: Series::default(),
            in_flight: Series::default(),
            downgrade: Series::default(),
            unpoolable: Series::default(),
            retries: Series::default(),
            timeouts: Series::default(),
            accept_dead: Series::default(),
            accept_errors: Family::default(),
            accept_shed: Counter::default(),
            worker_delay: time_histogram(),
        };
        // The library appends `_total` to counters.
        macro_rules! register {
            ($($name:literal, $help:literal, $field:ident;)+) => {
                $(registry.register($name, $help, families.$field.clone());)+
            };
        }
        register! {
            "request", "Total count of HTTP requests", request;
            "response", "Total count of HTTP responses", response;
            "response_latency_ms",
                "Milliseconds between the head of a request and the head of its response", latency;
            "tcp_open", "Total count of opened connections", tcp_open;
            "tcp_open_connections", "Number of currently-open connections", tcp_open_now;
            "tcp_read_bytes", "Total count of bytes read from peers", tcp_read;
            "tcp_write_bytes", "Total count of bytes written to peers", tcp_write;
            "tcp_close", "Total count of closed connections", tcp_close;
            "inbound_tcp_detect_http_results", "Protocol detection results", inbound_detect;
            "outbound_tcp_detect_http_results", "Protocol detection results", outbound_detect;
            "inbound_tcp_detect_http_duration_seconds",
                "Time taken for protocol detection", inbound_detect_time;
            "outbound_tcp_detect_http_duration_seconds",
                "Time taken for protocol detection", outbound_detect_time;
            "weir_connect_duration_seconds",
                "Seconds from a connection's arrival to its upstream connection", connect_time;
            "weir_retransmits", "Segments that were sent again to servers", retransmits;
            "weir_connections", "Connections by protocol and by source of the decision", connections;
            "weir_half_closed_connections",
                "Half-closed raw TCP connections", half_closed;
            "weir_undecided_connections",
                "Connections in protocol detection", undecided;
            "weir_http_requests_in_flight",
                "HTTP requests in flight", in_flight;
            "weir_http_downgrade",
                "HTTP connections whose messages are no longer followed: bytes are forwarded \
                without parsing",
                downgrade;
            "weir_unpoolable",
                "HTTP/1 connections whose requests could not be balanced any more, by reason",
                unpoolable;
            "weir_retries",
                "Requests sent to an upstream once more, by level of safety and outcome", retries;
            "weir_timeouts", "Time limits of routes that requests have exceeded, by limit", timeouts;
            "weir_accept_dead",
                "Connections reset by the client before weir accepted them: closed without a dial",
                accept_dead;
        }
        registry.register(
            "weir_accept_errors",
            "Accepts that failed because file descriptors or memory were exhausted",
            families.accept_errors.clone(),
        );
        registry.register(
            "weir_accept_shed",
            "Connections reset because no file descriptor became available in time",
            families.accept_shed.clone(),
        );
        registry.register(
            "weir_worker_delay_seconds",
            "Seconds until a thread that serves connections gets to what is waiting",
            families.worker_delay.clone(),
        );
        families
    }

    /// Takes a workload's series away.
    fn forget(&self, workload: &str) {
        let Self {
            request,
            response,
            latency,
            tcp_open,
            tcp_open_now,
            tcp_read,
            tcp_write,
            tcp_close,
            inbound_detect,
            outbound_detect,
            inbound_detect_time,
            outbound_detect_time,
            connect_time,
            retransmits,
            connections,
            half_closed,
            undecided,
            in_flight,
            downgrade,
            unpoolable,
            retries,
            timeouts,
            accept_dead,
            accept_errors: _,
            accept_shed: _,
            worker_delay: _,
        } = self;
        request.forget(workload);
        response.forget(workload);
        latency.forget(workload);
        tcp_open.forget(workload);
        tcp_open_now.forget(workload);
        tcp_read.forget(workload);
        tcp_write.forget(workload);
        tcp_close.forget(workload);
        inbound_detect.forget(workload);
        outbound_detect.forget(workload);
        inbound_detect_time.forget(workload);
        outbound_detect_time.forget(workload);
        connect_time.forget(workload);
        retransmits.forget(workload);
        connections.forget(workload);
        half_closed.forget(workload);
        undecided.forget(workload);
        in_flight.forget(workload);
        downgrade.forget(workload);
        unpoolable.forget(workload);
        retries.forget(workload);
        timeouts.forget(workload);
        accept_dead.forget(workload);
    }
}

/// Linkerd's latency buckets in milliseconds, 1 to 5 in each decade up to 50 s, and one decade below: most
/// answers on a machine and in a rack take less than a millisecond.
fn latency_histogram() -> Latency {
    // Tenths, so that the bounds are the nearest numbers.
    let decades = [1.0, 10.0, 100.0, 1_000.0, 10_000.0, 100_000.0];
    Latency::new(decades.into_iter().flat_map(|d| (1..=5).map(move |n| d * f64::from(n) / 10.0)))
}

/// Linkerd's detection buckets in seconds, and more of them.
fn detect_histogram() -> Histogram {
    Histogram::new([0.0001, 0.001, 0.01, 0.1, 1.0])
}

/// Times from 100 µs to 50 s, in seconds.
fn time_histogram() -> Histogram {
    // Whole numbers of 100 µs.
    let decades = [1.0, 10.0, 100.0, 1_000.0, 10_000.0, 100_000.0];
    Histogram::new(decades.into_iter().flat_map(|d| [1.0, 2.0, 5.0].map(|n| d * n / 10_000.0)))
}
