//! Which destinations have series of their own, and what is counted in them.

use std::collections::BTreeMap;

use super::*;
use crate::decision::Detection;
use crate::telemetry::{
    CloseReason, ConnectionInfo, Telemetry, TelemetryOptions, TextFormat,
    tests::{exchange, info},
};

fn telemetry(most: usize, label: DestinationLabel) -> Telemetry {
    Telemetry::with(TelemetryOptions { destinations: most, label, ..TelemetryOptions::default() })
}

/// A connection with so many requests for a host.
fn visit(telemetry: &Telemetry, workload: &str, host: &str, requests: u32) {
    let info = ConnectionInfo { workload: workload.into(), ..info() };
    let guard = telemetry.open(info);
    guard.upstream_connected();
    guard.detected(Detection::Http1, None, std::time::Duration::ZERO);
    let sink = guard.sink();
    for _ in 0..requests {
        sink.authority(host);
        sink.request_started();
        sink.exchange(Exchange { authority: Some(host.into()), ..exchange() });
    }
    guard.close(CloseReason::Finished);
}

/// Requests by workload and destination, as a scrape has them.
fn requests(telemetry: &Telemetry) -> BTreeMap<(String, String), u64> {
    let text = telemetry.encode_metrics(TextFormat::Prometheus);
    let lines = text.lines().filter(|it| {
        it.starts_with("weir_destination_requests_total{") && it.contains("=\"success\"")
    });
    let of = |line: &str| {
        let label = |name: &str| {
            let (_, value) = line.split_once(&format!("{name}=\"")).unwrap();
            value.split_once('"').unwrap().0.to_owned()
        };
        let count = line.rsplit_once(' ').unwrap().1.parse().unwrap();
        ((label("workload"), label("destination")), count)
    };
    lines.map(of).collect()
}

fn expected(rows: &[(&str, &str, u64)]) -> BTreeMap<(String, String), u64> {
    rows.iter().map(|(of, to, count)| (((*of).to_owned(), (*to).to_owned()), *count)).collect()
}

#[test]
fn nobody_gets_them_without_asking() {
    let telemetry = telemetry(0, DestinationLabel::Name);
    visit(&telemetry, "shop", "a.example", 1);
    assert!(!telemetry.encode_metrics(TextFormat::Prometheus).contains("weir_destination"));
}

#[test]
fn the_busiest_have_series_and_the_others_share_one() {
    let telemetry = telemetry(2, DestinationLabel::Name);
    visit(&telemetry, "shop", "a.example", 5);
    visit(&telemetry, "shop", "B.example:80", 1);
    visit(&telemetry, "shop", "c.example", 3);
    visit(&telemetry, "other", "c.example", 7);
    // It takes the place of b, and begins with 0: what was counted stays where it is.
    let first = expected(&[
        ("shop", "a.example", 5),
        ("shop", "c.example", 0),
        ("shop", "other", 3),
        ("other", "c.example", 7),
        ("other", "other", 0),
    ]);
    assert_eq!(requests(&telemetry), first);
    visit(&telemetry, "shop", "c.example", 3);
    visit(&telemetry, "shop", "b.example", 1);
    let then = requests(&telemetry);
    assert_eq!(then[&("shop".to_owned(), "c.example".to_owned())], 3);
    assert_eq!(then[&("shop".to_owned(), "other".to_owned())], 4);
}

/// Guards against a client that makes names up: they would be series without end.
#[test]
fn the_number_of_series_does_not_depend_on_names() {
    let telemetry = telemetry(3, DestinationLabel::Name);
    for round in 0..3 {
        for number in 0..100 {
            visit(&telemetry, "shop", &format!("{round}-{number}.example"), 1);
        }
        assert_eq!(requests(&telemetry).len(), 4);
    }
    telemetry.forget_workload("shop");
    assert!(requests(&telemetry).is_empty());
}

#[test]
fn without_a_name_it_is_the_address_and_by_service_the_service() {
    let by_name = telemetry(3, DestinationLabel::Name);
    visit(&by_name, "shop", "192.0.2.1:80", 2);
    assert_eq!(requests(&by_name)[&("shop".to_owned(), "192.0.2.1:80".to_owned())], 2);
    let by_service = telemetry(3, DestinationLabel::Service);
    visit(&by_service, "shop", "a.example", 1);
    by_service.set_service_of(|address| (address.port() == 80).then(|| "shop/web:80".into()));
    visit(&by_service, "shop", "a.example", 4);
    let all = requests(&by_service);
    assert_eq!(all[&("shop".to_owned(), "192.0.2.1:80".to_owned())], 1);
    assert_eq!(all[&("shop".to_owned(), "shop/web:80".to_owned())], 4);
}

#[test]
fn bytes_and_failures_are_counted_by_destination() {
    let telemetry = telemetry(1, DestinationLabel::Name);
    let guard = telemetry.open(info());
    guard.close(CloseReason::ConnectFailed(libc::ECONNREFUSED));
    let guard = telemetry.open(info());
    guard.upstream_connected();
    guard.detected(Detection::Http1, None, std::time::Duration::ZERO);
    guard.counters().client_to_upstream.store(100, std::sync::atomic::Ordering::Relaxed);
    guard.close(CloseReason::Finished);
    let text = telemetry.encode_metrics(TextFormat::Prometheus);
    for (name, count) in [("connections", 2), ("failed_connections", 1), ("sent_bytes", 100)] {
        let line = format!(
            "weir_destination_{name}_total{{direction=\"outbound\",workload=\"shop\",\
             destination=\"192.0.2.1:80\"}} {count}\n"
        );
        assert!(text.contains(&line), "{line}{text}");
    }
}
