//! Conditions on what connections and requests did, such as `failures>0`: what `weir exec --fail-if`
//! takes. Each keeps the numbers that it needs and no more, so that nothing grows with the traffic.

mod parse;

pub use parse::{ConditionError, ConditionProblem};

use std::{fmt, sync::Mutex};

use hdrhistogram::Histogram;
use serde::Serialize;

use super::{
    record::{ConnectionRecord, Observer, Record, RequestRecord},
    tap::TapFilter,
};
use crate::{sync::lock, units};

/// Three significant digits: latencies have an error below 0.1 %.
const DIGITS: u8 = 3;
/// Latencies above are recorded as this: one hour, in microseconds.
const MAX_LATENCY_US: u64 = 3_600_000_000;

/// How connections end that have failed: others were ended by the client, by weir or in order.
const FAILED: [&str; 8] = [
    "connect_failed",
    "not_established",
    "upstream_reset",
    "half_closed_timeout",
    "loop",
    "no_original_destination",
    "error",
    "http",
];

/// One condition, as it was written.
#[derive(Clone, Debug, PartialEq)]
pub struct Condition {
    text: String,
    /// The host, or everything.
    scope: TapFilter,
    quantity: Quantity,
    comparison: Comparison,
    /// A count, or microseconds.
    limit: u64,
}

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Quantity {
    Requests,
    Connections,
    Failures,
    /// Of the latencies of requests, from 0 to 1, in thousandths.
    Quantile(u16),
}

/// How it is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    Above,
    AtLeast,
    Below,
    AtMost,
    Equal,
    Unequal,
}

/// Conditions, and what has been seen of each.
#[derive(Debug)]
pub struct Conditions(Vec<Watched>);

#[derive(Debug)]
struct Watched {
    condition: Condition,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    count: u64,
    /// In microseconds; made with the first request.
    latency: Option<Histogram<u32>>,
}

/// How a condition turned out.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Outcome {
    /// As it was written.
    pub condition: String,
    /// What it compares: a count, or microseconds; absent for a latency without requests.
    pub value: Option<u64>,
    /// Whether it holds. One without a value does not.
    pub holds: bool,
    #[serde(skip)]
    is_time: bool,
}

// === impl Conditions ===

impl Conditions {
    /// Nothing has been seen yet.
    #[must_use]
    pub fn new(conditions: impl IntoIterator<Item = Condition>) -> Self {
        let watch = |condition| Watched { condition, seen: Mutex::default() };
        Self(conditions.into_iter().map(watch).collect())
    }

    /// How each has turned out so far.
    #[must_use]
    pub fn outcomes(&self) -> Vec<Outcome> {
        self.0.iter().map(Watched::outcome).collect()
    }
}

impl Observer for Conditions {
    fn observe(&self, record: &Record) {
        for watched in self.0.iter().filter(|watched| watched.condition.scope.fits(record)) {
            watched.see(record);
        }
    }
}

// === impl Watched ===

impl Watched {
    fn see(&self, record: &Record) {
        let counts = match (self.condition.quantity, record) {
            (Quantity::Requests, Record::Request(_))
            | (Quantity::Connections, Record::Connection(_)) => true,
            (Quantity::Failures, Record::Request(request)) => {
                request.classification.as_deref() == Some("failure")
            }
            (Quantity::Failures, Record::Connection(connection)) => has_failed(connection),
            (Quantity::Quantile(_), Record::Request(request)) => return self.see_latency(request),
            _ => false,
        };
        lock(&self.seen).count += u64::from(counts);
    }

    fn see_latency(&self, request: &RequestRecord) {
        // As in `weir stat`: of requests that there was a response to judge of.
        if request.classification.is_none() {
            return;
        }
        let time = request.latency.unwrap_or(request.duration);
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX).min(MAX_LATENCY_US);
        lock(&self.seen)
            .latency
            .get_or_insert_with(|| Histogram::new(DIGITS).expect("1 to 5 digits are allowed"))
            .record(micros)
            .expect("the histogram grows to any latency of up to an hour");
    }

    fn outcome(&self) -> Outcome {
        let Condition { text, quantity, comparison, limit, .. } = &self.condition;
        let seen = lock(&self.seen);
        let (value, is_time) = match quantity {
            Quantity::Quantile(thousandths) => {
                let quantile = f64::from(*thousandths) / 1000.0;
                (seen.latency.as_ref().map(|it| it.value_at_quantile(quantile)), true)
            }
            _ => (Some(seen.count), false),
        };
        let holds = value.is_some_and(|value| comparison.holds(value, *limit));
        Outcome { condition: text.clone(), value, holds, is_time }
    }
}

// === impl Comparison ===

impl Comparison {
    const fn holds(self, value: u64, limit: u64) -> bool {
        match self {
            Self::Above => value > limit,
            Self::AtLeast => value >= limit,
            Self::Below => value < limit,
            Self::AtMost => value <= limit,
            Self::Equal => value == limit,
            Self::Unequal => value != limit,
        }
    }
}

// === impl Outcome ===

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let holds = if self.holds { "holds" } else { "does not hold" };
        write!(f, "{}: {holds}: ", self.condition)?;
        match self.value {
            None => f.write_str("no requests"),
            Some(value) if self.is_time => {
                f.write_str(&units::human_duration(std::time::Duration::from_micros(value)))
            }
            Some(value) => write!(f, "{value}"),
        }
    }
}

// === helpers ===

/// Failures of requests are counted with the requests. An attempt without an error was given up by
/// the client.
fn has_failed(connection: &ConnectionRecord) -> bool {
    let given_up = connection.close == "not_established" && connection.error.is_none();
    connection.requests == 0 && FAILED.contains(&&*connection.close) && !given_up
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::telemetry::tests::{connection_record, request_record};

    fn outcome(condition: &str, records: &[Record]) -> Outcome {
        let conditions = Conditions::new([condition.parse().unwrap()]);
        records.iter().for_each(|record| conditions.observe(record));
        conditions.outcomes().remove(0)
    }

    fn request(millis: u64, failed: bool) -> Record {
        let mut request = request_record();
        request.authority = Some("api.example:8080".into());
        request.latency = Some(Duration::from_millis(millis));
        request.classification = Some(if failed { "failure" } else { "success" }.into());
        Record::Request(request)
    }

    fn closed(close: &'static str, error: Option<&str>, requests: u64) -> Record {
        let error = error.map(str::to_owned);
        let close = close.into();
        let (sni, name) = (Some("api.example".to_owned()), Some("api.example".into()));
        Record::Connection(ConnectionRecord {
            close,
            error,
            requests,
            sni,
            name,
            ..connection_record()
        })
    }

    #[test]
    fn conditions_hold_for_what_was_seen() {
        let mut seen: Vec<_> = (1..=100).map(|millis| request(millis, millis > 98)).collect();
        seen.push(closed("connect_failed", Some("ECONNREFUSED"), 0));
        seen.push(closed("upstream_reset", Some("ECONNRESET"), 3));
        seen.push(closed("not_established", None, 0));
        seen.push(closed("drain_deadline", None, 0));
        for (condition, value, holds) in [
            ("failures>0", 3, true),
            ("failures > 3", 3, false),
            ("requests<1", 100, false),
            ("requests=100", 100, true),
            ("requests != 100", 100, false),
            ("connections>=4", 4, true),
            ("connections<=3", 4, false),
            ("host(api.example)failures>0", 3, true),
            ("host(*.example) requests >= 100", 100, true),
            ("host(db.example) requests<1", 0, true),
        ] {
            let found = outcome(condition, &seen);
            assert_eq!((found.value, found.holds), (Some(value), holds), "{condition}");
        }
        for (condition, holds) in
            [("p99>98ms", true), ("p99>100ms", false), ("p50 <= 51ms", true), ("max<100ms", false)]
        {
            assert_eq!(outcome(condition, &seen).holds, holds, "{condition}");
        }
    }

    #[test]
    fn a_latency_without_requests_does_not_hold() {
        for condition in ["p99>0", "p99<1h"] {
            let found = outcome(condition, &[]);
            assert_eq!((found.value, found.holds), (None, false), "{condition}");
            assert_eq!(found.to_string(), format!("{condition}: does not hold: no requests"));
        }
        let found = outcome("p50>1ms", &[request(20, false)]);
        assert_eq!(found.to_string(), "p50>1ms: holds: 20.0ms");
    }
}
