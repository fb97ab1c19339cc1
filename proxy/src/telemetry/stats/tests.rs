//! Rows by endpoint, and counts from zero.

use std::time::Duration;

use super::*;
use crate::telemetry::{
    CloseReason, Telemetry,
    tests::{balanced, chosen, exchange, info},
};

type Counted = (Option<String>, Option<String>, u64, u64, u64);

/// Destination, endpoint, connections, requests and bytes received.
fn counted(telemetry: &Telemetry, by: By) -> Vec<Counted> {
    let text = |address: Option<SocketAddr>| address.map(|address| address.to_string());
    let row = |it: StatRow| {
        (text(it.destination), text(it.endpoint), it.connections, it.requests, it.bytes_received)
    };
    telemetry.stats_by(by).rows.into_iter().map(row).collect()
}

fn row(destination: &str, endpoint: &str, counts: (u64, u64, u64)) -> Counted {
    let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    (text(destination), text(endpoint), counts.0, counts.1, counts.2)
}

#[test]
fn requests_count_at_the_endpoint_that_they_went_to() {
    let telemetry = Telemetry::new(None);
    let guard = balanced(&telemetry);
    guard.counters().upstream_to_client.store(1000, Relaxed);
    let service = "192.0.2.1:80";
    assert_eq!(counted(&telemetry, By::Destination), [row(service, "", (1, 3, 1000))]);
    let expected = [
        row(service, "10.1.0.5:8080", (1, 1, 1000)),
        row(service, "10.1.0.6:8080", (0, 1, 0)),
        row(service, service, (0, 1, 0)),
    ];
    assert_eq!(counted(&telemetry, By::Endpoint), expected);
    guard.close(CloseReason::Finished);
    let rows = telemetry.stats().rows;
    assert_eq!((rows[0].open, rows[0].successes, rows[0].p50_us), (0, 3, Some(3007)));
    let table = telemetry.stats_by(By::Endpoint).table().unwrap();
    let words: Vec<Vec<_>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(words[0][..3], ["ENDPOINT", "DESTINATION", "DECISION"]);
    assert_eq!(words[2][..5], ["10.1.0.6:8080", service, "http2", "detected", "0"]);
}

/// Guards against a row without its endpoint: an opaque port is decided before the dial.
#[test]
fn a_connection_that_is_decided_before_it_is_connected_has_its_endpoint() {
    let telemetry = Telemetry::new(None);
    let guard = telemetry.open(info());
    guard.detected(Detection::Opaque(Source::Config), None, Duration::ZERO);
    guard.chosen(chosen("10.1.0.5:8080"));
    guard.upstream_connected();
    let expected = [row("192.0.2.1:80", "10.1.0.5:8080", (1, 0, 0))];
    assert_eq!(counted(&telemetry, By::Endpoint), expected);
    guard.close(CloseReason::Finished);
    assert_eq!(counted(&telemetry, By::Endpoint), expected);
}

#[test]
fn what_went_to_its_destination_is_its_own_endpoint() {
    let telemetry = Telemetry::new(None);
    drop(telemetry.open(info()));
    let expected = [row("192.0.2.1:80", "192.0.2.1:80", (1, 0, 0))];
    assert_eq!(counted(&telemetry, By::Endpoint), expected);
}

#[test]
fn many_endpoints_are_summed_up_and_none_is_lost() {
    let telemetry = Telemetry::new(None);
    let guard = telemetry.open(info());
    guard.upstream_connected();
    guard.detected(Detection::Http2, None, Duration::ZERO);
    for number in 0..5000_u32 {
        let ip = std::net::Ipv4Addr::from_bits(0x0a00_0000 + number);
        let upstream = Some((ip, 80).into());
        guard.sink().request_started();
        guard.sink().exchange(Exchange { upstream, ..exchange() });
    }
    let rows = telemetry.stats_by(By::Endpoint).rows;
    assert!((900..=1025).contains(&rows.len()), "half of what there is: {}", rows.len());
    assert_eq!(rows.last().unwrap().endpoint, None, "the sum");
    assert_eq!(rows.iter().map(|row| row.requests).sum::<u64>(), 5000);
    drop(guard);
}

/// Guards against a counter that goes back: Prometheus takes that for a restart of weir.
#[test]
fn a_reset_of_the_statistics_does_not_change_metrics() {
    let telemetry = Telemetry::new(None);
    let guard = telemetry.open(info());
    guard.upstream_connected();
    guard.detected(Detection::Http1, None, Duration::ZERO);
    guard.sink().request_started();
    guard.sink().exchange(exchange());
    let counters = || -> Vec<String> {
        let text = telemetry.encode_metrics();
        let of_shop = text.lines().filter(|line| line.contains("\"shop\""));
        let mut lines: Vec<_> = of_shop.map(str::to_owned).collect();
        lines.sort_unstable();
        lines
    };
    let before = counters();
    let until_now = telemetry.reset_stats(None, By::Destination).rows;
    assert_eq!((until_now[0].connections, until_now[0].requests, until_now[0].open), (1, 1, 1));
    assert_eq!(counters(), before);
    let row = &telemetry.stats().rows[0];
    assert_eq!((row.connections, row.requests, row.open, row.p50_us), (0, 0, 1, None));
    guard.close(CloseReason::Finished);
    assert_eq!(telemetry.reset_stats(Some("other"), By::Destination).rows, []);
    assert_eq!(telemetry.reset_stats(Some("shop"), By::Endpoint).rows[0].open, 0);
    assert_eq!(telemetry.stats().rows, []);
}

/// Guards against two locks of one row at a time.
#[test]
fn a_sample_is_a_snapshot_with_all_latencies() {
    let telemetry = Telemetry::new(None);
    let guard = balanced(&telemetry);
    let sample = telemetry.sample_stats(By::Destination);
    let latency = sample.rows[0].latencies.quantile(0.5).unwrap();
    assert!((2950..3050).contains(&latency), "{latency} µs, and 3 ms it took");
    let mut plain = sample;
    plain.rows.iter_mut().for_each(|row| row.latencies = Latencies::default());
    assert_eq!(plain, telemetry.stats());
    drop(guard);
}
