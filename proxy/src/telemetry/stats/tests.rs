//! Rows by endpoint and name, failures, handshakes, and counts from zero.

use std::time::Duration;

use super::{views::VIEW, *};
use crate::table::Width;
use crate::telemetry::{
    CloseReason, ConnectionInfo, Telemetry, TextFormat,
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
    assert_eq!(words[0][..4], ["ENDPOINT", "DESTINATION", "NAME", "DECISION"]);
    assert_eq!(words[2][..6], ["10.1.0.6:8080", service, "example.com", "http2", "detected", "0"]);
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
        let text = telemetry.encode_metrics(TextFormat::OpenMetrics);
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

/// A request for a host, as the engines tell of it.
fn request(guard: &crate::telemetry::ConnectionGuard, host: &str, status: u16) {
    guard.sink().authority(host);
    guard.sink().request_started();
    guard.sink().exchange(Exchange {
        authority: Some(host.into()),
        status: Some(status),
        ..exchange()
    });
}

#[test]
fn requests_count_for_the_name_that_they_were_for() {
    let telemetry = Telemetry::new(None);
    let at =
        |destination: &str| ConnectionInfo { destination: destination.parse().unwrap(), ..info() };
    let guard = telemetry.open(at("192.0.2.1:80"));
    guard.upstream_connected();
    guard.detected(Detection::Http1, None, Duration::ZERO);
    guard.counters().upstream_to_client.store(1000, Relaxed);
    ["Shop.example:80", "shop.example", "bank.example", "192.0.2.1"]
        .iter()
        .for_each(|host| request(&guard, host, 200));
    // The same name elsewhere.
    let other = telemetry.open(at("192.0.2.9:80"));
    other.upstream_connected();
    other.detected(Detection::Http1, None, Duration::ZERO);
    request(&other, "shop.example", 200);
    let rows = telemetry.stats_by(By::Name).rows;
    let seen: Vec<_> = rows
        .iter()
        .map(|row| (row.name.as_deref(), row.destination, row.connections, row.requests))
        .collect();
    let address = "192.0.2.1:80".parse().ok();
    assert_eq!(
        seen,
        [
            (Some("bank.example"), None, 0, 1),
            (Some("shop.example"), None, 2, 3),
            (None, address, 0, 1),
        ]
    );
    assert_eq!(rows[1].bytes_received, 1000);
    let table = telemetry.stats_by(By::Name).table().unwrap();
    assert!(table.starts_with("NAME          DECISION"), "{table}");
    // By destination nothing is lost, and the name of most requests is shown.
    let rows = telemetry.stats().rows;
    let first = &rows[0];
    assert_eq!((first.connections, first.requests, first.successes), (1, 4, 4));
    assert_eq!((first.name.as_deref(), first.further_names), (Some("shop.example"), 1));
    let table = telemetry.stats().table().unwrap();
    assert!(table.contains("192.0.2.1:80  shop.example +1  http1"), "{table}");
}

#[test]
fn failures_are_counted_with_the_last_error_and_unused_connections_are_none() {
    let telemetry = Telemetry::new(None);
    let end = |port: u16, detection: Option<Detection>, reason: CloseReason| {
        let destination = ([192, 0, 2, 1], port).into();
        let guard = telemetry.open(ConnectionInfo { destination, ..info() });
        if !matches!(reason, CloseReason::ConnectFailed(_)) {
            guard.upstream_connected();
        }
        detection.into_iter().for_each(|it| guard.detected(it, None, Duration::ZERO));
        guard
    };
    let failed = CloseReason::ConnectFailed(libc::ECONNREFUSED);
    end(1, None, failed.clone()).close(failed);
    end(2, None, CloseReason::Finished).close(CloseReason::Finished);
    let opaque = Some(Detection::Opaque(Source::Config));
    end(3, opaque, CloseReason::UpstreamReset).close(CloseReason::UpstreamReset);
    end(3, opaque, CloseReason::ClientReset).close(CloseReason::ClientReset);
    let http = end(4, Some(Detection::Http1), CloseReason::UpstreamReset);
    request(&http, "shop.example", 200);
    request(&http, "shop.example", 503);
    http.close(CloseReason::UpstreamReset);
    let seen: Vec<_> = telemetry
        .stats()
        .rows
        .into_iter()
        .map(|row| (row.failed_connections, row.failures, row.last_failure))
        .collect();
    let text = |text: &str| Some(text.to_owned());
    assert_eq!(
        seen,
        [(1, 0, text("ECONNREFUSED")), (0, 0, None), (1, 0, text("reset")), (0, 1, text("503")),]
    );
    let table = telemetry.stats().table_for(Width::columns(200)).unwrap();
    let table = anstream::adapter::strip_str(&table).to_string();
    let words: Vec<Vec<_>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    let column = |name: &str| words[0].iter().position(|head| *head == name).unwrap();
    let decision = column("DECISION");
    let decisions: Vec<_> = words[1..].iter().map(|row| row[decision]).collect();
    assert_eq!(decisions, ["-", "unused", "opaque", "http1"]);
    assert!(table.contains("  1 ECONNREFUSED  ") && table.contains("  1 503  "), "{table}");
}

/// What is known of HTTPS without its keys.
#[test]
fn a_tls_connection_has_its_name_handshake_and_duration() {
    use weir_http::Side;
    let telemetry = Telemetry::new(None);
    let mut tap = telemetry.tap(None, crate::telemetry::tap::TapFilter::default()).unwrap();
    let guard = telemetry.open(info());
    guard.upstream_connected();
    let tls = crate::detect::TlsInfo { sni: Some("shop.example".into()), alpn: Vec::new() };
    let hello = guard.since(std::time::Instant::now());
    guard.detected(Detection::Tls { settled: true }, Some(tls), hello);
    guard.counters().add_from(Side::Client, 500);
    assert_eq!(telemetry.stats().rows[0].p50_us, None, "the server has not answered");
    std::thread::sleep(Duration::from_millis(5));
    guard.counters().add_from(Side::Upstream, 3000);
    let row = telemetry.stats().rows.remove(0);
    assert_eq!((row.name.as_deref(), row.requests), (Some("shop.example"), 0));
    assert!(row.p50_us >= Some(5000), "{row:?}");
    assert_eq!(row.mean_duration_us, None, "it is open");
    drop(telemetry.stats());
    guard.counters().add_from(Side::Upstream, 3000);
    guard.close(CloseReason::Finished);
    let closed = telemetry.stats_by(By::Name).rows.remove(0);
    assert_eq!((closed.p50_us, closed.p99_us), (row.p50_us, row.p99_us), "counted once");
    assert!(closed.mean_duration_us >= Some(5000), "{closed:?}");
    let batch = futures_util::FutureExt::now_or_never(tap.next()).expect("the record is there");
    let json = serde_json::to_value(&batch.records[0]).unwrap();
    assert!(json["handshake_us"].as_u64() >= Some(5000), "{json}");
    assert_eq!(json["name"], "shop.example");
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

#[test]
fn processes_clients_and_paths_have_rows_of_their_own() {
    let telemetry = Telemetry::new(None);
    let command = *b"curl\0\0\0\0\0\0\0\0\0\0\0\0";
    let visit = |info: ConnectionInfo, paths: &[&str]| {
        let guard = telemetry.open(info);
        guard.upstream_connected();
        guard.detected(Detection::Http1, None, Duration::ZERO);
        for path in paths {
            guard.sink().request_started();
            guard.sink().exchange(Exchange { path: (*path).into(), ..exchange() });
        }
        guard.counters().client_to_upstream.store(7, Relaxed);
        guard.close(CloseReason::Finished);
    };
    let process = crate::process::Process::new(7, command);
    visit(ConnectionInfo { process, ..info() }, &["/a", "/b", "/a"]);
    visit(ConnectionInfo { process, ..info() }, &["/a"]);
    visit(ConnectionInfo { direction: Direction::Inbound, ..info() }, &["/c"]);
    let named = |by: By| -> Vec<(String, u64, u64, u64)> {
        let row = |it: StatRow| (it.name.unwrap(), it.connections, it.requests, it.bytes_sent);
        telemetry.stats_by(by).rows.into_iter().map(row).collect()
    };
    assert_eq!(named(By::Process), [("curl".to_owned(), 2, 4, 14)]);
    assert_eq!(named(By::Client), [("10.0.0.1".to_owned(), 1, 1, 7)]);
    let paths: Vec<_> = named(By::Path).into_iter().map(|row| (row.0, row.2)).collect();
    let path = |path: &str| format!("example.com{path}");
    assert_eq!(paths, [(path("/a"), 3), (path("/b"), 1), (path("/c"), 1)]);
    assert_eq!(telemetry.reset_stats(None, By::Process).rows.len(), 1);
    assert!(named(By::Path).is_empty() && named(By::Client).is_empty());
}

/// Guards against a client that asks for paths without end.
#[test]
fn rows_by_path_are_few() {
    let telemetry = Telemetry::new(None);
    let guard = telemetry.open(info());
    guard.upstream_connected();
    guard.detected(Detection::Http1, None, Duration::ZERO);
    for number in 0..2000 {
        guard.sink().request_started();
        let path = format!("/{number}/{}", "x".repeat(300));
        guard.sink().exchange(Exchange { path: path.into(), ..exchange() });
    }
    let rows = telemetry.stats_by(By::Path).rows;
    assert!(rows.len() <= VIEW + 1, "{}", rows.len());
    assert_eq!(rows.iter().map(|row| row.requests).sum::<u64>(), 2000, "nothing is lost");
    assert!(rows.iter().flat_map(|row| &row.name).all(|name| name.len() < 200));
    guard.close(CloseReason::Finished);
}
