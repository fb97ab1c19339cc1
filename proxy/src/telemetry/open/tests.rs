//! Open connections, and their table at several widths.

use std::sync::atomic::Ordering::Relaxed;

use super::*;
use crate::{
    detect::TlsInfo,
    telemetry::{
        CloseReason, ConnectionInfo, Telemetry,
        tap::TapFilter,
        tests::{chosen, info},
    },
};

fn to(destination: &str) -> ConnectionInfo {
    ConnectionInfo { destination: destination.parse().unwrap(), ..info() }
}

/// The ids of those that a filter lets pass, and how many it does.
fn listed(telemetry: &Telemetry, filter: &TapFilter, limit: usize) -> (Vec<u64>, u64) {
    let open = telemetry.connections(None, filter, limit);
    let line = serde_json::to_string(&open).unwrap();
    let read: OpenConnections = serde_json::from_str(&line).unwrap();
    assert_eq!(read.connections.len(), open.connections.len(), "{line}");
    (open.connections.iter().map(|it| it.id).collect(), open.open)
}

#[test]
fn a_connection_is_listed_from_accept_to_close_with_what_is_known_of_it() {
    let telemetry = Telemetry::new(None);
    let guard = telemetry.open(to("192.0.2.1:80"));
    let now = || {
        let open = telemetry.connections(None, &TapFilter::default(), 10);
        open.connections.into_iter().next().unwrap()
    };
    let first = now();
    assert_eq!(
        (first.state, first.treatment, &*first.why),
        (ConnectionState::Dialling, None, "not decided yet")
    );
    guard.chosen(chosen("10.1.0.5:8080"));
    guard.upstream_connected();
    assert_eq!(now().state, ConnectionState::Detecting);
    guard.detected(Detection::Http1, None, Duration::ZERO);
    let sink = guard.sink();
    sink.authority("10.0.0.1:80");
    assert_eq!(now().name, None, "an address is no name");
    sink.authority("Shop.example:8080");
    sink.request_started();
    sink.authority("other.example");
    sink.request_started();
    guard.counters().client_to_upstream.store(100, Relaxed);
    guard.counters().upstream_to_client.store(2000, Relaxed);
    let half_closed = guard.counters();
    let half_closed = half_closed.half_close();
    let last = now();
    assert_eq!(last.name.as_deref(), Some("shop.example"));
    assert_eq!(last.endpoint, "10.1.0.5:8080".parse().ok());
    assert_eq!((last.requests, last.bytes_sent, last.bytes_received), (2, 100, 2000));
    assert_eq!((last.state, last.treatment), (ConnectionState::HalfClosed, Some(Treatment::Http1)));
    drop(half_closed);
    assert_eq!(now().state, ConnectionState::Open);
    guard.close(CloseReason::Finished);
    assert_eq!(listed(&telemetry, &TapFilter::default(), 10), (vec![], 0));
}

#[test]
fn the_oldest_ones_come_first_and_filters_hold() {
    let telemetry = Telemetry::new(None);
    // More than there are parts that they are kept in.
    let guards: Vec<_> =
        (1..=40_u16).map(|port| telemetry.open(to(&format!("192.0.2.1:{port}")))).collect();
    let all = TapFilter::default();
    assert_eq!(listed(&telemetry, &all, 3), (vec![1, 2, 3], 40));
    assert_eq!(listed(&telemetry, &all, 100).0, (1..=40).collect::<Vec<_>>());
    let ports = TapFilter { ports: Some([7, 39].into_iter().collect()), ..TapFilter::default() };
    assert_eq!(listed(&telemetry, &ports, 10), (vec![7, 39], 2));
    let inbound = TapFilter { direction: Some(Direction::Inbound), ..TapFilter::default() };
    assert_eq!(listed(&telemetry, &inbound, 10), (vec![], 0));
    let failed = TapFilter { failed: true, ..TapFilter::default() };
    assert_eq!(listed(&telemetry, &failed, 10), (vec![], 0));
    let old = TapFilter { at_least: Duration::from_secs(3600), ..TapFilter::default() };
    assert_eq!(listed(&telemetry, &old, 10), (vec![], 0));
    let sni = Some(TlsInfo { sni: Some("bank.example".into()), alpn: Vec::new() });
    guards[4].detected(Detection::Tls { settled: true }, sni, Duration::ZERO);
    let named = TapFilter { authority: "*.example".parse().ok(), ..TapFilter::default() };
    assert_eq!(listed(&telemetry, &named, 10), (vec![5], 1));
    assert_eq!(telemetry.connections(Some("bank"), &all, 10), OpenConnections::default());
    assert_eq!(telemetry.connections(Some("shop"), &all, 1).open, 40);
}

#[test]
fn connections_make_a_table_that_fits_the_terminal() {
    let one = OpenConnection {
        id: 7,
        time: SystemTime::UNIX_EPOCH,
        age: Duration::from_millis(1250),
        workload: "shop".into(),
        direction: Direction::Outbound,
        client: "10.0.0.1:40000".parse().unwrap(),
        process: Process::new(4711, *b"checkout\0\0\0\0\0\0\0\0"),
        destination: "192.0.2.1:443".parse().unwrap(),
        endpoint: None,
        name: Some("checkout.payments.example".into()),
        state: ConnectionState::Open,
        treatment: Some(Treatment::Tls),
        source: Some(Source::Detected),
        why: "client hello".into(),
        engine: None,
        requests: 0,
        bytes_sent: 1500,
        bytes_received: 3_000_000,
    };
    let other = OpenConnection {
        id: 1234,
        age: Duration::from_secs(4000),
        direction: Direction::Inbound,
        process: None,
        destination: "[2001:db8::1:2:3]:50051".parse().unwrap(),
        name: None,
        treatment: None,
        source: None,
        why: DETECTING.into(),
        state: ConnectionState::Detecting,
        requests: 3,
        bytes_received: 0,
        ..one.clone()
    };
    let open = OpenConnections { open: 2, connections: vec![one, other] };
    for columns in [60, 80, 200] {
        let table = open.table(Width::columns(columns));
        assert!(table.lines().all(|line| line.chars().count() <= columns), "{table}");
        insta::assert_snapshot!(format!("connections_{columns}"), table);
    }
    insta::assert_snapshot!("connections_piped", open.table(Width::default()));
}
