//! What one connection is counted in: the series of its workload and direction, looked up once.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use prometheus_client::metrics::{counter::Counter, gauge::Gauge, histogram::Histogram};

use super::{Families, Latencies, Latency, Metrics};
use crate::{
    decision::{Detection, Direction, Source, Treatment, direction_name, source_name},
    forward::{
        http::{Exchange, Limit, Unpoolable, Untracked},
        retries::Retry,
    },
    telemetry::{
        SkippedConnection,
        classify::Class,
        codes::{GrpcLabel, StatusLabel},
        destinations,
        event::{Connection, Event},
        labels::{
            Base, CloseLabels, ConnectionLabels, DetectLabels, DowngradeLabels, ExemplarLabels,
            LatencyLabels, Of, PeerLabels, ResponseLabels, RetryLabels, TimeoutLabels,
            UnpoolableLabels, WorkloadLabels,
        },
        lock,
        record::hex,
        series::Series,
        sinks::Sink,
    },
};

/// Connections are counted by these from the start.
const BEGUN: [(Treatment, Source); 6] = [
    (Treatment::Skip, Source::Default),
    (Treatment::Opaque, Source::Default),
    (Treatment::Http1, Source::Detected),
    (Treatment::Http2, Source::Detected),
    (Treatment::Tls, Source::Detected),
    (Treatment::Tcp, Source::Detected),
];

/// The metrics of one workload and direction, looked up once per connection.
#[derive(Debug)]
pub(super) struct Bound {
    base: Base,
    requests: Counter,
    pub(super) half_closed: Gauge,
    undecided: Gauge,
    in_flight: Gauge,
    client: Side,
    upstream: Side,
    response: Series<ResponseLabels, Counter>,
    latency: Latencies,
    downgrade: Series<DowngradeLabels, Counter>,
    unpoolable: Series<UnpoolableLabels, Counter>,
    retries: Series<RetryLabels, Counter>,
    timeouts: Series<TimeoutLabels, Counter>,
    detect: Series<DetectLabels, Counter>,
    detect_time: Histogram,
    connect_time: Histogram,
    retransmits: Counter,
}

/// What a connection is counted in.
#[derive(Debug)]
pub(in crate::telemetry) struct ConnectionMetrics {
    bound: Arc<Bound>,
    responses: LastResponses,
    destination: Option<destinations::OfConnection>,
}

/// One side of the proxied connections.
#[derive(Debug)]
struct Side {
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
    latency: Option<Latency>,
}

/// The metrics that a connection's last response was counted in: the next one is usually of the
/// same kind, and looking them up takes longer than counting.
#[derive(Debug, Default)]
struct LastResponses(Mutex<Option<Responses>>);

// === impl Metrics ===

impl Sink for Metrics {
    type State = ConnectionMetrics;

    fn opened(&self, connection: &Connection) -> ConnectionMetrics {
        let bound = self.bind(&connection.info.workload, connection.info.direction);
        bound.client.opened();
        bound.undecided.inc();
        let destinations = self.destinations.as_ref();
        let destination = destinations.map(|it| it.open(&bound.base.of, connection.info.direction));
        ConnectionMetrics { bound, responses: LastResponses::default(), destination }
    }

    fn event(&self, connection: &Connection, metrics: &ConnectionMetrics, event: Event<'_>) {
        let ConnectionMetrics { bound, responses, destination } = metrics;
        if let (Some(destinations), Some(of)) = (&self.destinations, destination) {
            destinations.event(connection, of, event);
        }
        match event {
            Event::Connected => {
                bound.upstream.opened();
                // A tapped one is seen when it is there.
                if connection.info.tapped.is_none() {
                    bound.connect_time.observe(connection.age().as_secs_f64());
                }
            }
            Event::Retransmitted(segments) => {
                bound.retransmits.inc_by(segments.into());
            }
            Event::Detected(found) => {
                bound.undecided.dec();
                if let Some(detection) = found.detection {
                    let info = &connection.info;
                    self.detected(&info.workload, info.direction, detection);
                    bound.detected(detection, found.took);
                }
            }
            Event::Moved { sent, received } => {
                bound.client.moved(sent, received);
                bound.upstream.moved(received, sent);
            }
            Event::RequestStarted => {
                bound.requests.inc();
                bound.in_flight.inc();
            }
            Event::ExchangeEnded { exchange, class } => {
                bound.in_flight.dec();
                responses.count(bound, exchange, class);
            }
            Event::Untracked(untracked) => bound.untracked(untracked),
            Event::Unpoolable(reason) => bound.unpoolable(reason),
            Event::Retried(retry) => bound.retried(retry),
            Event::TimedOut(limit) => bound.timed_out(limit),
            Event::Closed(reason) => {
                bound.client.closed(reason.client_errno());
                if connection.is_connected() {
                    bound.upstream.closed(reason.upstream_errno());
                }
            }
        }
    }

    fn skipped(&self, _: u64, skipped: &SkippedConnection) {
        self.detected(&skipped.workload, skipped.direction, skipped.detection());
        if skipped.retransmits > 0 {
            let bound = self.bind(&skipped.workload, skipped.direction);
            bound.retransmits.inc_by(skipped.retransmits.into());
        }
    }
}

// === impl Bound ===

impl Bound {
    pub(super) fn new(families: &Families, of: Of, direction: Direction) -> Self {
        let base = Base { direction: direction_name(direction), of: of.clone() };
        let (detect, detect_time) = match direction {
            Direction::Inbound => (&families.inbound_detect, &families.inbound_detect_time),
            Direction::Outbound => (&families.outbound_detect, &families.outbound_detect_time),
        };
        begin(families, &base, detect);
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
            unpoolable: families.unpoolable.clone(),
            retries: families.retries.clone(),
            timeouts: families.timeouts.clone(),
            detect: detect.clone(),
            detect_time: detect_time.get_or_create(&WorkloadLabels { of }),
            connect_time: families.connect_time.get_or_create(&base),
            retransmits: families.retransmits.get_or_create(&base),
            base,
        }
    }

    /// Counts what detection found; what is known without looking is not its result.
    fn detected(&self, detection: Detection, took: Option<Duration>) {
        let result = match detection {
            Detection::Direct { .. } | Detection::Opaque(_) => return,
            Detection::Http1 => "http/1",
            Detection::Http2 => "h2",
            // Linkerd's, whose detection waits for the rest until its time is up.
            Detection::Tls { .. } | Detection::Tcp(_) if detection.is_incomplete() => {
                "read_timeout"
            }
            Detection::Tls { .. } | Detection::Tcp(_) => "not_http",
        };
        let of = self.base.of.clone();
        self.detect.get_or_create(&DetectLabels { of, result }).inc();
        if let Some(took) = took {
            self.detect_time.observe(took.as_secs_f64());
        }
    }

    fn untracked(&self, untracked: Untracked) {
        let Base { direction, of } = self.base.clone();
        let reason = untracked.label();
        self.downgrade.get_or_create(&DowngradeLabels { direction, of, reason }).inc();
    }

    fn unpoolable(&self, reason: Unpoolable) {
        let Base { direction, of } = self.base.clone();
        let reason = reason.name();
        self.unpoolable.get_or_create(&UnpoolableLabels { direction, of, reason }).inc();
    }

    fn retried(&self, retry: Retry) {
        let Base { direction, of } = self.base.clone();
        let (level, outcome) = (retry.why.level(), retry.outcome.name());
        self.retries.get_or_create(&RetryLabels { direction, of, level, outcome }).inc();
    }

    fn timed_out(&self, limit: Limit) {
        let Base { direction, of } = self.base.clone();
        self.timeouts.get_or_create(&TimeoutLabels { direction, of, limit: limit.name() }).inc();
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

/// Makes the series that are counted in later. Of responses these are the most frequent ones: there is one for
/// each code, and of retries, time limits and the like there are none in most workloads.
fn begin(families: &Families, base: &Base, detect: &Series<DetectLabels, Counter>) {
    let Base { direction, of } = base.clone();
    for result in ["http/1", "h2", "not_http", "read_timeout"] {
        detect.get_or_create(&DetectLabels { of: of.clone(), result });
    }
    for (class, status_code) in [(Class::Success, Some(200)), (Class::Failure, None)] {
        families.response.get_or_create(&ResponseLabels {
            direction,
            of: of.clone(),
            status_code: status_code.map(StatusLabel::from),
            classification: class.name(),
            grpc_status: None,
        });
    }
    for (treatment, source) in BEGUN {
        let (treatment, source) = (treatment.name(), source_name(source));
        let labels = ConnectionLabels { direction, of: of.clone(), treatment, source };
        families.connections.get_or_create(&labels);
    }
}

// === impl LastResponses ===

impl LastResponses {
    /// Counts a response; `None` is none that could be judged.
    fn count(&self, bound: &Bound, exchange: &Exchange, class: Option<Class>) {
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
            let sampled = exchange.trace.as_deref().filter(|trace| trace.is_sampled());
            let exemplar = sampled.map(|it| ExemplarLabels { trace_id: hex(&it.trace_id) });
            latency.observe(time.as_secs_f64() * 1e3, exemplar, Some(exchange.started));
        }
    }
}

// === impl Side ===

impl Side {
    fn new(families: &Families, base: &Base, peer: &'static str) -> Self {
        let Base { direction, of } = base.clone();
        let close = CloseLabels { direction, peer, of: of.clone(), errno: None };
        families.tcp_close.get_or_create(&close);
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

    fn opened(&self) {
        self.open.inc();
        self.open_now.inc();
    }

    fn moved(&self, read: u64, written: u64) {
        self.read.inc_by(read);
        self.write.inc_by(written);
    }

    fn closed(&self, errno: Option<String>) {
        self.open_now.dec();
        let PeerLabels { direction, peer, of } = self.labels.clone();
        self.close.get_or_create(&CloseLabels { direction, peer, of, errno }).inc();
    }
}
