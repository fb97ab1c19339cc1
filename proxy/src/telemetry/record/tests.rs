//! What records say of endpoints and traces, and the format of each workload's.

use super::*;
use crate::config::RecordFormat;
use crate::telemetry::{
    CloseReason, Telemetry, TextFormat,
    tap::{Tap, TapFilter},
    tests::{balanced, exchange, info},
};

/// A request of the usual kind.
pub(super) fn request() -> RequestRecord {
    let mut info = info();
    info.destination = "192.0.2.1:80".parse().unwrap();
    RequestRecord::new(7, &info, None, Some(Detection::Http1), None, &exchange())
}

#[test]
fn a_requests_record_has_its_trace() {
    let trace = TraceParent::parse(b"00-0af7651916cd43dd8448eb211c80319c-00ad6b7169203331-01");
    let exchange = Exchange { trace: trace.map(Arc::new), ..exchange() };
    let record = RequestRecord::new(7, &info(), None, None, None, &exchange);
    let json = serde_json::to_value(&record).unwrap();
    assert_eq!(json["trace_id"], "0af7651916cd43dd8448eb211c80319c");
    assert_eq!(json["parent_id"], "00ad6b7169203331");
    assert_eq!(json["sampled"], true);
    assert_eq!(serde_json::from_value::<RequestRecord>(json).unwrap(), record);
    let text = record.to_string();
    assert!(text.contains(" trace=0af7651916cd43dd8448eb211c80319c/00ad6b7169203331"), "{text}");
    assert_eq!(request().trace_id, None);
}

#[test]
fn a_workload_has_its_own_format() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let log = RecordLog::start(Box::new(file.reopen().unwrap()), RecordFormat::Json).unwrap();
    let telemetry = Telemetry::new(Some(log));
    let request = || {
        let guard = telemetry.open(info());
        guard.sink().request_started();
        guard.sink().exchange(exchange());
        guard.close(CloseReason::Finished);
    };
    request();
    telemetry.set_record_format("shop", Some(RecordFormat::Combined));
    request();
    telemetry.set_record_format("shop", Some(RecordFormat::Envoy));
    request();
    telemetry.set_record_format("shop", None);
    request();
    telemetry.flush_records(Duration::from_secs(60));
    let text = std::fs::read_to_string(file.path()).unwrap();
    let lines: Vec<_> = text.lines().map(|line| line.split_at(1)).collect();
    let firsts: String = lines.iter().map(|(first, _)| *first).collect();
    // Connections with requests have no line of their own in the formats of others.
    assert_eq!(firsts, "{{1[{{", "{text}");
}

#[test]
fn a_requests_record_has_its_own_endpoint_and_its_attempts() {
    let telemetry = Telemetry::new(None);
    let to = |prefix: &str| TapFilter { endpoint: prefix.parse().ok(), ..Default::default() };
    let mut all = telemetry.tap(None, TapFilter::default()).unwrap();
    let mut one = telemetry.tap(None, to("10.1.0.6")).unwrap();
    balanced(&telemetry).close(CloseReason::Finished);
    let read = |tap: &mut Tap| {
        let batch = futures_util::FutureExt::now_or_never(tap.next()).expect("records are there");
        batch.records
    };
    let records = read(&mut all);
    let lines: Vec<_> = records.iter().map(|it| serde_json::to_value(it).unwrap()).collect();
    let endpoints: Vec<_> = lines.iter().map(|line| line["endpoint"].as_str()).collect();
    let own = Some("10.1.0.5:8080");
    assert_eq!(endpoints, [own, Some("10.1.0.6:8080"), None, own]);
    let attempts: Vec<_> = lines.iter().map(|line| line["attempts"].as_u64()).collect();
    assert_eq!(attempts, [None, Some(2), None, None]);
    let text = records[1].to_string();
    assert!(text.contains("192.0.2.1:80 at 10.1.0.6:8080 GET"), "{text}");
    assert!(text.ends_with("attempts=2"), "{text}");
    for (record, line) in records[..3].iter().zip(lines) {
        assert_eq!(serde_json::from_value::<Record>(line).unwrap(), *record);
    }
    assert_eq!(read(&mut one), records[1..2]);
}

/// An exemplar is no label: a trace makes no series.
#[test]
fn a_bucket_has_the_trace_of_its_last_sampled_request() {
    let telemetry = Telemetry::new(None);
    let guard = telemetry.open(info());
    let send = |trace_id: u8, flags| {
        let parent = TraceParent { trace_id: [trace_id; 16], parent_id: [9; 8], flags };
        guard.sink().exchange(Exchange { trace: Some(Arc::new(parent)), ..exchange() });
    };
    send(1, 1);
    send(2, 1);
    send(3, 0);
    guard.sink().exchange(exchange());
    let text = telemetry.encode_metrics(TextFormat::OpenMetrics);
    let with: Vec<_> = text.lines().filter(|line| line.contains(" # {")).collect();
    let [line] = with[..] else { panic!("{text}") };
    assert!(line.starts_with("response_latency_ms_bucket{le=\"3.0\","), "{line}");
    let expected = format!("}} 4 # {{trace_id=\"{}\"}} 3.0", "02".repeat(16));
    assert!(line.contains(&expected), "{line}");
    let series = text.lines().filter(|line| line.starts_with("response_latency_ms_count"));
    assert_eq!(series.count(), 1, "{text}");
}
