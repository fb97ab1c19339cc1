//! What records say of endpoints.

use super::*;
use crate::telemetry::{
    CloseReason, Telemetry,
    tap::{Tap, TapFilter},
    tests::balanced,
};

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
