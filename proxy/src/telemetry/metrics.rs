//! Every metric with its name, unit, help and labels. Names, labels and buckets are Linkerd's
//! where Linkerd measures the same thing (linkerd2-proxy `linkerd/transport-metrics`,
//! `linkerd/http/metrics`, `linkerd/http/detect`), so that its dashboards keep working.
//!
//! Label values come from weir, from its configuration or from small closed sets (`codes.rs`): never
//! from a peer.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

use prometheus_client::{
    encoding::text,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram, info::Info},
    registry::Registry,
};

use super::{
    PodLabels,
    classify::Class,
    close::errno_name,
    codes::{GrpcLabel, StatusLabel},
    labels::{
        Base, CloseLabels, ConnectionLabels, DetectLabels, DowngradeLabels, ErrnoLabels,
        LatencyLabels, Of, PeerLabels, ResponseLabels, WorkloadLabels,
    },
    lock,
    process::ProcessCollector,
    series::Series,
    workloads::WorkloadCollector,
};
use crate::{
    budget::{Budgets, Share},
    decision::{Decision, Direction, Evidence, Source, Treatment, direction_name, source_name},
    forward::http::{Exchange, Untracked},
};

type Latencies = Series<LatencyLabels, Histogram, fn() -> Histogram>;
type Durations = Series<WorkloadLabels, Histogram, fn() -> Histogram>;
type BoundMap = HashMap<(Arc<str>, Direction), Arc<Bound>>;

/// The registry and the families in it.
#[derive(Debug)]
pub(super) struct Metrics {
    registry: Registry,
    families: Families,
    bound: RwLock<BoundMap>,
    pods: RwLock<HashMap<Arc<str>, Arc<PodLabels>>>,
    budgets: Budgets,
    workloads: Arc<WorkloadCollector>,
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
    connections: Series<ConnectionLabels, Counter>,
    half_closed: Series<Base, Gauge>,
    undecided: Series<Base, Gauge>,
    in_flight: Series<Base, Gauge>,
    downgrade: Series<DowngradeLabels, Counter>,
    accept_dead: Series<WorkloadLabels, Counter>,
    accept_errors: Family<ErrnoLabels, Counter>,
    accept_shed: Counter,
}

/// The metrics of one workload and direction, looked up once per connection.
#[derive(Debug)]
pub(super) struct Bound {
    base: Base,
    pub(super) share: Share,
    pub(super) requests: Counter,
    half_closed: Gauge,
    pub(super) undecided: Gauge,
    pub(super) in_flight: Gauge,
    pub(super) client: Side,
    pub(super) upstream: Side,
    response: Series<ResponseLabels, Counter>,
    latency: Latencies,
    downgrade: Series<DowngradeLabels, Counter>,
    detect: Series<DetectLabels, Counter>,
    detect_time: Histogram,
}

/// One side of the proxied connections.
#[derive(Debug)]
pub(super) struct Side {
    labels: PeerLabels,
    open: Counter,
    open_now: Gauge,
    read: Counter,
    write: Counter,
    close: Series<CloseLabels, Counter>,
}

/// The labels that differ between one connection's responses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ResponseKind {
    status: Option<StatusLabel>,
    class: Class,
    grpc_status: Option<GrpcLabel>,
}

/// The metrics of one kind of response.
#[derive(Debug)]
struct Responses {
    kind: ResponseKind,
    count: Counter,
    latency: Option<Histogram>,
}

/// The metrics that a connection's last response was counted in: the next one is usually of the
/// same kind, and looking them up takes longer than counting.
#[derive(Debug, Default)]
pub(super) struct LastResponses(Mutex<Option<Responses>>);

// === impl Metrics ===

impl Metrics {
    pub(super) fn new(records_dropped: Option<Counter>, budgets: Budgets) -> Self {
        let mut registry = Registry::default();
        let families = Families::register(&mut registry);
        let version = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("weir_build", "Version of the running weir", version);
        registry.register(
            "weir_records_dropped",
            "Access records dropped because the record file was too slow",
            records_dropped.unwrap_or_default(),
        );
        let workloads = Arc::new(WorkloadCollector::default());
        registry.register_collector(Box::new(Arc::clone(&workloads)));
        registry.register_collector(Box::new(ProcessCollector));
        let (bound, pods) = (RwLock::default(), RwLock::default());
        Self { registry, families, bound, pods, budgets, workloads }
    }

    pub(super) fn encode(&self) -> String {
        let mut out = String::with_capacity(16 * 1024);
        text::encode(&mut out, &self.registry).expect("writing to a string cannot fail");
        out
    }

    pub(super) fn workloads(&self) -> &WorkloadCollector {
        &self.workloads
    }

    pub(super) fn decided(&self, workload: &Arc<str>, direction: Direction, decision: Decision) {
        self.families
            .connections
            .get_or_create(&ConnectionLabels {
                direction: direction_name(direction),
                of: self.of(workload),
                treatment: decision.treatment.name(),
                source: source_name(decision.source),
            })
            .inc();
    }

    pub(super) fn accept_failed(&self, errno: i32) {
        self.families.accept_errors.get_or_create(&ErrnoLabels { errno: errno_name(errno) }).inc();
    }

    pub(super) fn accept_shed(&self, count: u64) {
        self.families.accept_shed.inc_by(count);
    }

    pub(super) fn accepted_dead(&self, workload: &Arc<str>) {
        let of = self.of(workload);
        self.families.accept_dead.get_or_create(&WorkloadLabels { of }).inc();
    }

    /// Those that are not in `counts` have none.
    pub(super) fn set_half_closed(&self, counts: &HashMap<(Arc<str>, Direction), i64>) {
        for (key, bound) in self.bound.read().unwrap_or_else(PoisonError::into_inner).iter() {
            bound.half_closed.set(counts.get(key).copied().unwrap_or(0));
        }
    }

    pub(super) fn bind(&self, workload: &Arc<str>, direction: Direction) -> Arc<Bound> {
        let key = (Arc::clone(workload), direction);
        if let Some(bound) = self.bound.read().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return Arc::clone(bound);
        }
        let mut all = self.bound.write().unwrap_or_else(PoisonError::into_inner);
        let bound = all.entry(key).or_insert_with(|| {
            let share = self.budgets.share(workload);
            Arc::new(Bound::new(&self.families, self.of(workload), direction, share))
        });
        Arc::clone(bound)
    }

    /// Which pod a workload is, from its next series on.
    pub(super) fn label(&self, workload: &str, pod: Option<PodLabels>) {
        let mut pods = self.pods.write().unwrap_or_else(PoisonError::into_inner);
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
        self.pods.write().unwrap_or_else(PoisonError::into_inner).remove(workload);
        self.clear(workload);
    }

    fn clear(&self, workload: &str) {
        let mut bound = self.bound.write().unwrap_or_else(PoisonError::into_inner);
        bound.retain(|(name, _), _| **name != *workload);
        self.families.forget(workload);
    }

    pub(super) fn of(&self, workload: &Arc<str>) -> Of {
        let pods = self.pods.read().unwrap_or_else(PoisonError::into_inner);
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
            connections: Series::default(),
            half_closed: Series::default(),
            undecided: Series::default(),
            in_flight: Series::default(),
            downgrade: Series::default(),
            accept_dead: Series::default(),
            accept_errors: Family::default(),
            accept_shed: Counter::default(),
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
            connections,
            half_closed,
            undecided,
            in_flight,
            downgrade,
            accept_dead,
            accept_errors: _,
            accept_shed: _,
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
        connections.forget(workload);
        half_closed.forget(workload);
        undecided.forget(workload);
        in_flight.forget(workload);
        downgrade.forget(workload);
        accept_dead.forget(workload);
    }
}

/// Linkerd's latency buckets in milliseconds: 1 to 5 in each decade up to 50 s.
fn latency_histogram() -> Histogram {
    let decades = [1.0, 10.0, 100.0, 1_000.0, 10_000.0];
    Histogram::new(decades.into_iter().flat_map(|d| (1..=5).map(move |n| d * f64::from(n))))
}

/// Linkerd's detection buckets in seconds.
fn detect_histogram() -> Histogram {
    Histogram::new([0.001, 0.1])
}

// === impl Bound ===

impl Bound {
    fn new(families: &Families, of: Of, direction: Direction, share: Share) -> Self {
        let base = Base { direction: direction_name(direction), of: of.clone() };
        let (detect, detect_time) = match direction {
            Direction::Inbound => (&families.inbound_detect, &families.inbound_detect_time),
            Direction::Outbound => (&families.outbound_detect, &families.outbound_detect_time),
        };
        Self {
            requests: families.request.get_or_create(&base),
            half_closed: families.half_closed.get_or_create(&base),
            undecided: families.undecided.get_or_create(&base),
            in_flight: families.in_flight.get_or_create(&base),
            client: Side::new(families, &base, "src"),
            upstream: Side::new(families, &base, "dst"),
            response: families.response.clone(),
            latency: families.latency.clone(),
            downgrade: families.downgrade.clone(),
            detect: detect.clone(),
            detect_time: detect_time.get_or_create(&WorkloadLabels { of }),
            base,
            share,
        }
    }

    /// Counts what detection found; decisions made without looking are not its results.
    pub(super) fn detected(&self, decision: Decision, took: Option<Duration>) {
        if decision.source != Source::Detected {
            return;
        }
        let result = match decision.treatment {
            Treatment::Http1 => "http/1",
            Treatment::Http2 => "h2",
            // Linkerd's, whose detection waits for the rest until its time is up.
            _ if decision.evidence == Evidence::Incomplete => "read_timeout",
            _ => "not_http",
        };
        let of = self.base.of.clone();
        self.detect.get_or_create(&DetectLabels { of, result }).inc();
        if let Some(took) = took {
            self.detect_time.observe(took.as_secs_f64());
        }
    }

    pub(super) fn downgraded(&self, untracked: Untracked) {
        let Base { direction, of } = self.base.clone();
        let reason = untracked.label();
        self.downgrade.get_or_create(&DowngradeLabels { direction, of, reason }).inc();
    }

    fn responses(&self, kind: ResponseKind) -> Responses {
        let Base { direction, of } = self.base.clone();
        let ResponseKind { status, class, grpc_status } = kind;
        let latency = status.map(|status_code| {
            let of = of.clone();
            let labels = LatencyLabels { direction, of, status_code };
            self.latency.get_or_create(&labels)
        });
        let count = self.response.get_or_create(&ResponseLabels {
            direction,
            of,
            status_code: status,
            classification: class.name(),
            grpc_status,
        });
        Responses { kind, count, latency }
    }
}

// === impl LastResponses ===

impl LastResponses {
    /// Counts a response; `None` is none that could be judged.
    pub(super) fn count(&self, bound: &Bound, exchange: &Exchange, class: Option<Class>) {
        let Some(class) = class else { return };
        let kind = ResponseKind {
            status: exchange.status.map(StatusLabel::from),
            class,
            grpc_status: exchange.grpc_status.map(GrpcLabel::from),
        };
        let mut last = lock(&self.0);
        if last.as_ref().is_none_or(|responses| responses.kind != kind) {
            *last = Some(bound.responses(kind));
        }
        let Some(responses) = &*last else { return };
        responses.count.inc();
        if let Some(latency) = &responses.latency {
            let time = exchange.time_to_head.unwrap_or(exchange.duration);
            latency.observe(time.as_secs_f64() * 1e3);
        }
    }
}

// === impl Side ===

impl Side {
    fn new(families: &Families, base: &Base, peer: &'static str) -> Self {
        let Base { direction, of } = base.clone();
        let labels = PeerLabels { direction, peer, of };
        Self {
            open: families.tcp_open.get_or_create(&labels),
            open_now: families.tcp_open_now.get_or_create(&labels),
            read: families.tcp_read.get_or_create(&labels),
            write: families.tcp_write.get_or_create(&labels),
            close: families.tcp_close.clone(),
            labels,
        }
    }

    pub(super) fn opened(&self) {
        self.open.inc();
        self.open_now.inc();
    }

    pub(super) fn moved(&self, read: u64, written: u64) {
        self.read.inc_by(read);
        self.write.inc_by(written);
    }

    pub(super) fn closed(&self, errno: Option<String>) {
        self.open_now.dec();
        let PeerLabels { direction, peer, of } = self.labels.clone();
        self.close.get_or_create(&CloseLabels { direction, peer, of, errno }).inc();
    }
}
