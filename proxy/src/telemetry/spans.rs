//! Which requests become spans, and the queue in which they wait for their exporter. A full queue drops
//! and counts; nothing here waits, and nothing knows how spans are sent.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use prometheus_client::metrics::{counter::Counter, family::Family};
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::{
    SkippedConnection,
    classify::Class,
    event::{Connection, Event},
    labels::OutcomeLabels,
    sinks::Sink,
};
use crate::{
    budget::{Resource, SPANS, Taken},
    config::Otlp,
    decision::Direction,
    forward::http::{Exchange, TraceParent},
    sync::lock,
};

/// Bytes of text in waiting spans.
const QUEUED_WORDS: usize = 4 << 20;

/// A span with so many bytes of text takes the place of two: where all have, both bounds are met.
const WORDS: usize = QUEUED_WORDS / SPANS;

/// A request that has ended, to be exported.
#[derive(Debug)]
pub struct FinishedRequest {
    /// What was seen of it.
    pub exchange: Exchange,
    /// The trace that it belongs to.
    pub trace: SpanTrace,
    /// The name of the workload that it was seen at.
    pub workload: Arc<str>,
    /// Seen from the workload.
    pub direction: Direction,
    /// Who connected.
    pub client: SocketAddr,
    /// The original destination.
    pub destination: SocketAddr,
    /// The endpoint that it was sent to in place of the original destination.
    pub endpoint: Option<SocketAddr>,
    /// It has failed, by the rules of the metric `response_total`.
    pub is_failure: bool,
    /// Its place in the queue, given back when the span is no longer kept.
    pub place: Taken,
}

/// The trace of a span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpanTrace {
    /// Its id.
    pub trace_id: [u8; 16],
    /// The id of the parent span; `None` for the first span of a trace.
    pub parent_id: Option<[u8; 8]>,
    /// Flags of W3C Trace Context.
    pub flags: u8,
}

/// What becomes of spans: counted by the queue and by the exporter, read by scrapes and `weir status`.
#[derive(Clone, Debug)]
pub struct SpanCounts {
    pub(super) family: Family<OutcomeLabels, Counter>,
    /// The collector has taken them.
    pub exported: Counter,
    /// The queue was full.
    pub dropped: Counter,
    /// The collector has refused them.
    pub rejected: Counter,
    /// The collector could not be reached, or did not answer, for too long.
    pub failed: Counter,
}

/// The exporter as `weir status` shows it.
#[derive(Clone, Debug)]
pub struct Export {
    /// Where spans go.
    pub url: Arc<str>,
    /// What becomes of them.
    pub counts: SpanCounts,
    /// Why the last attempt failed; `None` while there is no problem.
    problem: Arc<Mutex<Option<String>>>,
    /// The collector has answered at least once.
    answered: Arc<AtomicBool>,
}

/// Takes the requests that are chosen. A sink; without a queue it does nothing.
#[derive(Debug)]
pub struct Spans {
    choice: Otlp,
    queue: Sender<FinishedRequest>,
    pub(super) export: Export,
}

// === impl Spans ===

impl Spans {
    /// A queue for the exporter that has the receiver.
    #[must_use]
    pub fn new(choice: Otlp, url: Arc<str>) -> (Self, Receiver<FinishedRequest>, Export) {
        let (queue, waiting) = channel(SPANS);
        let (counts, problem) = (SpanCounts::default(), Arc::default());
        let export = Export { url, counts, problem, answered: Arc::default() };
        (Self { choice, queue, export: export.clone() }, waiting, export)
    }

    /// The trace of the span of a request that is to be exported.
    fn choose(&self, exchange: &Exchange, class: Option<Class>) -> Option<SpanTrace> {
        let trace = exchange.trace.as_deref();
        let Otlp { failures, slow, ratio, .. } = &self.choice;
        let is_chosen = trace.is_some_and(TraceParent::is_sampled)
            || *failures && class == Some(Class::Failure)
            || !slow.is_zero() && exchange.duration >= *slow
            || trace.is_none() && ratio.takes(fastrand::u32(..));
        is_chosen.then(|| trace.map_or_else(SpanTrace::start, SpanTrace::of))
    }

    fn queue(&self, connection: &Connection, exchange: &Exchange, class: Option<Class>) {
        let Some(trace) = self.choose(exchange, class) else { return };
        let info = &connection.info;
        let authority = exchange.authority.as_ref().map_or(0, |text| text.len());
        let words = exchange.method.len() + authority + exchange.path.len();
        let place = info.share.take(Resource::Spans, (1 + words / WORDS) as u64);
        let is_queued = place.is_some_and(|place| {
            let request = FinishedRequest {
                exchange: exchange.clone(),
                trace,
                workload: Arc::clone(&info.workload),
                direction: info.direction,
                client: info.client,
                destination: info.destination,
                endpoint: connection.endpoint_of(exchange),
                is_failure: class == Some(Class::Failure),
                place,
            };
            self.queue.try_send(request).is_ok()
        });
        if !is_queued {
            self.export.counts.dropped.inc();
        }
    }
}

impl Sink for Option<Spans> {
    type State = ();

    fn opened(&self, _: &Connection) {}

    fn event(&self, connection: &Connection, (): &(), event: Event<'_>) {
        if let (Some(spans), Event::ExchangeEnded { exchange, class }) = (self, event) {
            spans.queue(connection, exchange, class);
        }
    }

    fn skipped(&self, _: u64, _: &SkippedConnection) {}
}

// === impl SpanTrace ===

impl SpanTrace {
    /// A new trace, which this span begins.
    fn start() -> Self {
        // An id of zeros is none.
        let trace_id = fastrand::u128(1..).to_be_bytes();
        Self { trace_id, parent_id: None, flags: 1 }
    }

    /// The trace that the request's sender has named.
    const fn of(parent: &TraceParent) -> Self {
        let TraceParent { trace_id, parent_id, flags } = *parent;
        Self { trace_id, parent_id: Some(parent_id), flags }
    }
}

// === impl SpanCounts ===

impl Default for SpanCounts {
    /// Every series is there from the start.
    fn default() -> Self {
        let family = Family::<OutcomeLabels, Counter>::default();
        let counter = |outcome| family.get_or_create(&OutcomeLabels { outcome }).clone();
        let [exported, dropped, rejected, failed] =
            ["exported", "dropped", "rejected", "failed"].map(counter);
        Self { exported, dropped, rejected, failed, family }
    }
}

// === impl Export ===

impl Export {
    /// Whether there is a collector: it has answered, whatever it said.
    #[must_use]
    pub fn has_answered(&self) -> bool {
        self.answered.load(Relaxed)
    }

    /// The collector has answered.
    #[cfg(feature = "otlp")]
    pub(crate) fn set_answered(&self) {
        self.answered.store(true, Relaxed);
    }

    /// Why the last attempt failed.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        lock(&self.problem).clone()
    }

    /// Sets that; true if there was no problem, or one that is over now.
    pub fn set_problem(&self, problem: Option<String>) -> bool {
        let before = std::mem::replace(&mut *lock(&self.problem), problem.clone());
        before.is_some() != problem.is_some()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        config::Ratio,
        forward::http::ExchangeEnd,
        telemetry::{
            CloseReason, Telemetry, TelemetryOptions, TextFormat,
            tests::{exchange, info},
        },
    };

    fn traced(sampled: bool) -> Exchange {
        let flags = u8::from(sampled);
        let parent = TraceParent { trace_id: [7; 16], parent_id: [9; 8], flags };
        Exchange { trace: Some(Arc::new(parent)), ..exchange() }
    }

    fn spans(choice: Otlp) -> (Spans, Receiver<FinishedRequest>) {
        let (spans, waiting, _) = Spans::new(choice, "http://c/v1/traces".into());
        (spans, waiting)
    }

    #[test]
    fn what_is_sampled_is_exported_and_else_what_was_asked_for() {
        let failed = |exchange: Exchange| Exchange {
            status: Some(503),
            end: ExchangeEnd::Complete,
            ..exchange
        };
        let slow = |exchange| Exchange { duration: Duration::from_secs(2), ..exchange };
        let none = Otlp::default();
        let failures = Otlp { failures: true, ..none.clone() };
        let slow_ones = Otlp { slow: Duration::from_secs(2), ..none.clone() };
        let untraced = Otlp { ratio: Ratio::ALL, ..none.clone() };
        for (choice, exchange, expected) in [
            (&none, traced(true), true),
            (&none, traced(false), false),
            (&none, exchange(), false),
            (&none, failed(traced(false)), false),
            (&none, slow(exchange()), false),
            (&failures, failed(traced(false)), true),
            (&failures, failed(exchange()), true),
            (&failures, traced(false), false),
            (&slow_ones, slow(traced(false)), true),
            (&slow_ones, slow(exchange()), true),
            (&slow_ones, exchange(), false),
            (&untraced, exchange(), true),
            // Its sender has decided.
            (&untraced, traced(false), false),
        ] {
            let (spans, _waiting) = spans(choice.clone());
            let chosen = spans.choose(&exchange, Class::of(&exchange));
            assert_eq!(chosen.is_some(), expected, "{choice:?} {exchange:?}");
        }
    }

    #[test]
    fn a_span_is_a_child_of_the_header_or_begins_a_trace() {
        let (spans, _waiting) = spans(Otlp { ratio: Ratio::ALL, ..Otlp::default() });
        let chosen = |exchange: &Exchange| spans.choose(exchange, None).unwrap();
        let expected = SpanTrace { trace_id: [7; 16], parent_id: Some([9; 8]), flags: 1 };
        assert_eq!(chosen(&traced(true)), expected);
        let (one, other) = (chosen(&exchange()), chosen(&exchange()));
        assert_eq!((one.parent_id, one.flags), (None, 1));
        assert_ne!(one.trace_id, other.trace_id);
    }

    #[test]
    fn a_ratio_takes_about_its_part() {
        let ratio = Ratio::new(0.25).unwrap();
        let taken = (0..100_000).filter(|_| ratio.takes(fastrand::u32(..))).count();
        assert!((23_000..27_000).contains(&taken), "{taken}");
        assert!(!Ratio::default().takes(0));
        assert!(Ratio::ALL.takes(u32::MAX));
    }

    /// A dead collector: nobody reads the queue.
    #[test]
    fn a_full_queue_drops_and_counts_and_leaves_room_for_another_workload() {
        let (spans, mut waiting, export) = Spans::new(Otlp::default(), "http://c/".into());
        let telemetry =
            Telemetry::with(TelemetryOptions { spans: Some(spans), ..TelemetryOptions::default() });
        let send = |workload: &str, count: usize| {
            let workload: Arc<str> = workload.into();
            let share = telemetry.share(&workload);
            let guard =
                telemetry.open(crate::telemetry::ConnectionInfo { workload, share, ..info() });
            for _ in 0..count {
                guard.sink().exchange(traced(true));
            }
            guard.close(CloseReason::Finished);
        };
        send("greedy", 2 * SPANS);
        let dropped = export.counts.dropped.get();
        assert_eq!(dropped as usize, 2 * SPANS - SPANS / 2);
        send("other", 100);
        assert_eq!(export.counts.dropped.get(), dropped);
        let text = telemetry.encode_metrics(TextFormat::OpenMetrics);
        let line = format!("weir_otlp_spans_total{{outcome=\"dropped\"}} {dropped}");
        assert!(text.contains(&line), "{text}");
        // Each that is taken gives back its place.
        while waiting.try_recv().is_ok() {}
        send("greedy", 100);
        assert_eq!(export.counts.dropped.get(), dropped);
    }

    #[test]
    fn a_problem_is_told_once_and_so_is_its_end() {
        let (_, _, export) = Spans::new(Otlp::default(), "http://c/".into());
        assert!(!export.set_problem(None));
        assert!(export.set_problem(Some("refused".into())));
        assert!(!export.set_problem(Some("timed out".into())));
        assert_eq!(export.problem().as_deref(), Some("timed out"));
        assert!(export.set_problem(None));
    }
}
