//! Requests that are balanced.

use super::*;
use crate::forward::{
    http::{Limit, Unpoolable},
    retries::{Repeat, Retry, RetryOutcome},
};

#[test]
fn connections_that_are_balanced_no_more_retries_and_time_limits_are_counted() {
    let telemetry = Telemetry::new(None);
    let guard = telemetry.open(info());
    let sink = guard.sink();
    sink.unpoolable(Unpoolable::Authentication);
    sink.retried(Retry { why: Repeat::Unacknowledged, outcome: RetryOutcome::Success });
    sink.retried(Retry { why: Repeat::NotConnected, outcome: RetryOutcome::Failure });
    sink.retried(Retry { why: Repeat::Refused, outcome: RetryOutcome::Success });
    sink.timed_out(Limit::Backend);
    let text = telemetry.encode_metrics(TextFormat::OpenMetrics);
    for (name, labels) in [
        ("weir_unpoolable_total", "reason=\"authentication\""),
        ("weir_retries_total", "level=\"2\",outcome=\"success\""),
        ("weir_retries_total", "level=\"1\",outcome=\"success\""),
        ("weir_retries_total", "level=\"0\",outcome=\"failure\""),
        ("weir_timeouts_total", "limit=\"backend\""),
    ] {
        let line = format!("{name}{{direction=\"outbound\",workload=\"shop\",{labels}}} 1\n");
        assert!(text.contains(&line), "{line} is not in {text}");
    }
    let mut tap = telemetry.tap(None, TapFilter::default()).unwrap();
    guard.close(CloseReason::Finished);
    let batch = futures_util::FutureExt::now_or_never(tap.next()).expect("the record is there");
    let Some(Record::Connection(record)) = batch.records.first() else { panic!("no record") };
    assert_eq!(record.unpoolable.as_deref(), Some("authentication"));
    assert!(record.to_string().contains(" not balanced: authentication; in "), "{record}");
}
