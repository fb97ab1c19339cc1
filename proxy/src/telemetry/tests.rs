//! Metrics, records and statistics as their readers see them.

mod balanced;
mod detection;
pub(super) mod pages;

use std::time::SystemTime;

use super::{
    classify::Class,
    record::{ConnectionRecord, Record},
    *,
};
use crate::budget::{Figures, Resource};
use crate::decision::Treatment;
use crate::forward::http::{Exchange, ExchangeEnd, Side, Untracked};

pub(crate) fn exchange() -> Exchange {
    Exchange {
        version: 11,
        method: "GET".into(),
        authority: Some("example.com".into()),
        path: "/a".into(),
        status: Some(200),
        grpc_status: None,
        grpc: false,
        trace: None,
        started: SystemTime::UNIX_EPOCH,
        time_to_head: Some(Duration::from_millis(3)),
        duration: Duration::from_millis(5),
        request_bytes: 0,
        response_bytes: 1024,
        end: ExchangeEnd::Complete,
        upstream: None,
        attempts: 1,
        route: None,
    }
}

pub(super) fn connection_record() -> ConnectionRecord {
    ConnectionRecord {
        engine: None,
        id: 7,
        time: SystemTime::UNIX_EPOCH + Duration::from_secs(1_709_164_800),
        workload: "shop".into(),
        direction: Direction::Outbound,
        client: Some("10.0.0.1:40000".parse().unwrap()),
        process: Process::new(4711, *b"curl\0\0\0\0\0\0\0\0\0\0\0\0"),
        destination: "192.0.2.1:443".parse().unwrap(),
        endpoint: None,
        treatment: Some(Treatment::Tls),
        source: Some(Source::Detected),
        reason: None,
        why: "client hello".into(),
        name: Some("example.com".into()),
        sni: Some("example.com".into()),
        alpn: vec!["h2".into(), "http/1.1".into()],
        bytes_sent: 1500,
        bytes_received: 3_000_000,
        requests: 0,
        untracked: None,
        unpoolable: None,
        detect: Some(Duration::from_micros(120)),
        handshake: Some(Duration::from_micros(2500)),
        duration: Duration::from_millis(1250),
        close: "finished".into(),
        error: None,
        kernel: None,
    }
}

pub(super) fn request_record() -> record::RequestRecord {
    let class = Class::of(&exchange());
    record::RequestRecord::new(7, &info(), None, Some(Detection::Http1), class, &exchange())
}

pub(crate) fn info() -> ConnectionInfo {
    ConnectionInfo {
        tapped: None,
        workload: "shop".into(),
        share: Budgets::default().share(&"shop".into()),
        direction: Direction::Outbound,
        client: "10.0.0.1:40000".parse().unwrap(),
        process: None,
        destination: "[::ffff:192.0.2.1]:80".parse().unwrap(),
    }
}

#[test]
fn metric_names_labels_and_buckets_are_linkerds() {
    let telemetry = Telemetry::new(None);
    telemetry.set_workloads(|| {
        vec![WorkloadFacts {
            workload: "shop".into(),
            pod: None,
            fail: "closed",
            learn: "opaque",
            inbound: true,
            capturing: true,
            waiting: Some("hooks"),
            waits: &["cgroup", "netns", "process", "hooks", "start"],
            decisions: vec![(Direction::Outbound, Reason::SkipPort, 9)],
            budget: vec![Figures { budget: "memory".into(), used: 7, limit: 8, exceeded: 9 }],
        }]
    });
    let guard = telemetry.open(info());
    guard.upstream_connected();
    guard.detected(Detection::Http1, None, Duration::from_micros(50));
    guard.counters().client_to_upstream.store(100, Ordering::Relaxed);
    guard.counters().upstream_to_client.store(2000, Ordering::Relaxed);
    let sink = guard.sink();
    sink.request_started();
    sink.exchange(Exchange { grpc_status: Some(0), ..exchange() });
    guard.close(CloseReason::UpstreamReset);

    let text = telemetry.encode_metrics(TextFormat::OpenMetrics);
    let text: String = text
        .lines()
        .map(|line| match line.split_once(' ') {
            Some((name, _))
                if name.starts_with("process_")
                    || name.starts_with("weir_connect_duration_seconds") =>
            {
                format!("{name} N\n")
            }
            _ => format!("{line}\n"),
        })
        .collect();
    // The library keeps label sets in a hash map: sort the samples of each metric.
    let mut sorted: Vec<Vec<&str>> = Vec::new();
    for line in text.lines() {
        match sorted.last_mut() {
            Some(samples)
                if !line.starts_with('#')
                    && samples.last().is_some_and(|last| !last.starts_with("# HELP")) =>
            {
                samples.push(line);
            }
            _ => sorted.push(vec![line]),
        }
    }
    for samples in &mut sorted {
        if !samples[0].contains("_bucket") && samples.iter().all(|s| !s.contains("_bucket")) {
            samples[1..].sort_unstable();
        }
    }
    insta::assert_snapshot!("metrics", sorted.concat().join("\n"));
}

fn pod(name: &str) -> crate::pod::Pod {
    crate::pod::Pod {
        uid: "0ff2a1b8".into(),
        namespace: "default".into(),
        name: name.into(),
        workload_kind: "StatefulSet".into(),
        workload_name: "db".into(),
    }
}

#[test]
fn series_of_a_pod_have_its_labels_and_go_with_it() {
    const LABELS: &str = "workload=\"shop\",namespace=\"default\",pod=\"db-0\",\
                          workload_kind=\"StatefulSet\",workload_name=\"db\"";
    let telemetry = Telemetry::new(None);
    telemetry.label("shop", Some((&pod("db-0")).into()));
    telemetry.label("other", None);
    let connection = |workload: &str| {
        let guard = telemetry.open(ConnectionInfo { workload: workload.into(), ..info() });
        guard.upstream_connected();
        guard.detected(Detection::Http1, None, Duration::from_micros(50));
        let sink = guard.sink();
        sink.request_started();
        sink.exchange(exchange());
        guard.close(CloseReason::UpstreamReset);
    };
    connection("shop");
    connection("other");
    let of = |workload: &str| -> Vec<String> {
        let text = telemetry.encode_metrics(TextFormat::OpenMetrics);
        let label = format!("workload=\"{workload}\"");
        text.lines().filter(|line| line.contains(&label)).map(str::to_owned).collect()
    };
    let series = of("shop");
    assert!(series.len() > 40, "{series:#?}");
    assert!(series.iter().all(|line| line.contains(LABELS)), "{series:#?}");
    let others = of("other");
    assert!(others.iter().all(|line| !line.contains("namespace=")), "{others:#?}");
    assert_eq!(series.len(), others.len());
    telemetry.label("shop", Some((&pod("db-0")).into()));
    assert_eq!(of("shop").len(), series.len(), "the same pod again");
    telemetry.forget_workload("shop");
    assert_eq!(of("shop"), [""; 0]);
    assert_eq!(of("other"), others);
    // A name is counted anew for the next workload that has it.
    connection("shop");
    assert!(of("shop").iter().all(|line| !line.contains("pod=")));
    telemetry.label("shop", Some((&pod("db-1")).into()));
    assert!(of("shop").iter().all(|line| line.contains("pod=\"db-1\"")));
}

#[test]
fn messages_that_cannot_be_followed_are_counted_by_reason() {
    let telemetry = Telemetry::new(None);
    let guard = telemetry.open(info());
    let reason = "transfer-encoding in HTTP/1.0";
    guard.sink().downgraded(Untracked { side: Side::Client, reason });
    let text = telemetry.encode_metrics(TextFormat::OpenMetrics);
    let line = "weir_http_downgrade_total{direction=\"outbound\",workload=\"shop\",\
        reason=\"transfer_encoding_in_http_1.0\"} 1\n";
    assert!(text.contains(line), "{text}");
}

#[test]
fn half_closed_connections_are_counted_while_they_are() {
    let telemetry = Telemetry::new(None);
    let gauge = |inbound: i64, outbound: i64| {
        let text = telemetry.encode_metrics(TextFormat::OpenMetrics);
        for (direction, count) in [("inbound", inbound), ("outbound", outbound)] {
            let sample = format!(
                "weir_half_closed_connections{{direction=\"{direction}\",workload=\"shop\"}} {count}\n"
            );
            assert!(text.contains(&sample), "{sample} is not in {text}");
        }
    };
    let inbound = telemetry.open(ConnectionInfo { direction: Direction::Inbound, ..info() });
    let (first, second) = (telemetry.open(info()), telemetry.open(info()));
    gauge(0, 0);
    let (one, other, third) = (first.counters(), second.counters(), inbound.counters());
    let (half, _other_half) = (one.half_close(), other.half_close());
    let _third = third.half_close();
    gauge(1, 2);
    drop(half);
    gauge(1, 1);
    // A connection that is over is not half-closed, whatever is left of it.
    drop((second, inbound));
    gauge(0, 0);
}

#[test]
fn a_scrape_sees_the_bytes_of_live_connections_once() {
    let telemetry = Telemetry::new(None);
    let guard = telemetry.open(info());
    guard.detected(Detection::Http1, None, Duration::ZERO);
    guard.counters().upstream_to_client.store(1000, Ordering::Relaxed);
    for _ in 0..3 {
        let row = telemetry.stats().rows.remove(0);
        assert_eq!((row.bytes_received, row.open, row.connections), (1000, 1, 1));
    }
    assert_eq!(telemetry.open_connections(), 1);
    guard.counters().upstream_to_client.store(1500, Ordering::Relaxed);
    guard.close(CloseReason::Finished);
    let row = telemetry.stats().rows.remove(0);
    assert_eq!((row.bytes_received, row.open, row.connections), (1500, 0, 1));
    assert_eq!(telemetry.open_connections(), 0);
    assert!(telemetry.encode_metrics(TextFormat::OpenMetrics).contains(
        "tcp_read_bytes_total{direction=\"outbound\",peer=\"dst\",workload=\"shop\"} 1500"
    ));
}

#[test]
fn a_dropped_guard_is_recorded_as_aborted_and_a_closed_one_only_once() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let log = RecordLog::start(Box::new(file.reopen().unwrap()), crate::config::RecordFormat::Json)
        .unwrap();
    let telemetry = Telemetry::new(Some(log));
    drop(telemetry.open(info()));
    let guard = telemetry.open(info());
    guard.detected(Detection::Http1, None, Duration::ZERO);
    let sink = guard.sink();
    sink.request_started();
    sink.exchange(exchange());
    guard.close(CloseReason::ConnectFailed(libc::ECONNREFUSED));
    telemetry.flush_records(Duration::from_secs(5));

    let text = std::fs::read_to_string(file.path()).unwrap();
    let records: Vec<Record> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let [Record::Connection(aborted), Record::Request(request), Record::Connection(refused)] =
        &records[..]
    else {
        panic!("{text}");
    };
    assert_eq!((aborted.close.as_ref(), aborted.treatment), ("aborted", None));
    assert_eq!(request.connection, refused.id);
    assert_eq!(refused.close, "connect_failed");
    assert_eq!(refused.error.as_deref(), Some("ECONNREFUSED"));
    assert_eq!(refused.destination, "192.0.2.1:80".parse().unwrap());
}

#[test]
fn records_read_the_same_to_people_and_programs() {
    let connection = Record::Connection(connection_record());
    let request = Record::Request(record::RequestRecord::new(
        7,
        &info(),
        None,
        Some(Detection::Http1),
        None,
        &Exchange {
            path: "/a\n\u{1b}[2J".into(),
            end: ExchangeEnd::ClientReset(Some(8)),
            ..exchange()
        },
    ));
    let json = |record: &Record| serde_json::to_string(record).unwrap();
    insta::assert_snapshot!(
        [connection.to_string(), request.to_string(), json(&connection), json(&request)].join("\n")
    );
    for record in [connection, request] {
        assert_eq!(serde_json::from_str::<Record>(&json(&record)).unwrap(), record);
    }
}

/// An endpoint that is not reported.
pub(super) fn chosen(endpoint: &str) -> ChosenEndpoint {
    #[derive(Debug)]
    struct Deaf;
    impl EndpointListener for Deaf {
        fn exchange(&self, _: Option<Duration>, _: Answer) {}

        fn closing(&self, _: &crate::tcp_info::TcpInfo) {}
    }
    ChosenEndpoint { address: endpoint.parse().unwrap(), listener: Arc::new(Deaf) }
}

/// A connection to one endpoint with a request there, one that was sent elsewhere, at last, and one to
/// the original destination.
pub(super) fn balanced(telemetry: &Telemetry) -> ConnectionGuard {
    let guard = telemetry.open(info());
    guard.chosen(chosen("10.1.0.5:8080"));
    guard.upstream_connected();
    guard.detected(Detection::Http2, None, Duration::ZERO);
    for (upstream, attempts) in
        [(None, 1), (Some("[::ffff:10.1.0.6]:8080"), 2), (Some("192.0.2.1:80"), 1)]
    {
        let upstream = upstream.map(|address| address.parse().unwrap());
        guard.sink().request_started();
        guard.sink().exchange(Exchange { upstream, attempts, ..exchange() });
    }
    guard
}

fn direct(source: Source, reason: Reason) -> SkippedConnection {
    SkippedConnection {
        workload: "shop".into(),
        direction: Direction::Outbound,
        destination: "192.0.2.2:4406".parse().unwrap(),
        source,
        reason,
        bytes_sent: 10,
        bytes_received: 20,
        duration: Duration::from_secs(1),
        srtt: Duration::from_micros(90),
        retransmits: 2,
        process: None,
        end: CloseReason::Finished,
    }
}

/// Those of a crash are not those of a rule, nor those that had no route.
#[test]
fn connections_that_nobody_asked_to_let_pass_are_shown_with_the_kernels_reason() {
    let telemetry = Telemetry::new(None);
    let mut tap = telemetry.tap(None, tap::TapFilter::default()).unwrap();
    for (source, reason) in [
        (Source::Default, Reason::NoListener),
        (Source::Default, Reason::NoListener),
        (Source::Default, Reason::Stale),
        (Source::Default, Reason::NoRoute),
        (Source::Config, Reason::SkipPort),
    ] {
        telemetry.skipped(&direct(source, reason));
    }
    let rows = telemetry.stats().rows;
    let shown: Vec<_> =
        rows.iter().map(|row| (row.decided_by().unwrap(), row.connections, &*row.why)).collect();
    assert_eq!(
        shown,
        [
            ("no_listener", 2, "no proxy was listening"),
            ("no_route", 1, "no route"),
            ("stale", 1, "the heartbeat was stale"),
            ("config", 1, "port is skipped"),
        ]
    );
    let table = telemetry.stats().table().unwrap();
    assert!(table.contains("skip      no_listener") && !table.contains("default"), "{table}");
    let batch = futures_util::FutureExt::now_or_never(tap.next()).expect("the records are there");
    let lines: Vec<_> = batch.records.iter().map(ToString::to_string).collect();
    assert!(lines[0].contains("skip (no_listener: no proxy was listening)"), "{lines:?}");
    let json = serde_json::to_value(&batch.records[0]).unwrap();
    assert_eq!(json["reason"], "no_listener");
    assert!(lines[4].contains("skip (config: port is skipped)"), "{lines:?}");
}

#[test]
fn statistics_make_a_table() {
    let telemetry = Telemetry::new(None);
    let guard = telemetry.open(info());
    guard.detected(Detection::Http1, None, Duration::ZERO);
    for status in (0..1000).map(|i| if i == 0 { 503 } else { 200 }) {
        guard.sink().request_started();
        guard.sink().exchange(Exchange { status: Some(status), ..exchange() });
    }
    guard.counters().client_to_upstream.store(123_456, Ordering::Relaxed);
    guard.counters().upstream_to_client.store(3 << 30, Ordering::Relaxed);
    telemetry.skipped(&direct(Source::Cli, Reason::SkipPort));
    drop(telemetry.open(ConnectionInfo { destination: "192.0.2.3:1".parse().unwrap(), ..info() }));
    let mut snapshot = telemetry.stats();
    snapshot.rows[2].mean_duration_us = Some(21);
    insta::assert_snapshot!("table", snapshot.table().unwrap());
    for columns in [60, 80, 200] {
        let table = snapshot.table_for(crate::table::Width::columns(columns)).unwrap();
        assert_eq!(table.matches('\u{1b}').count(), 4, "the failure is red: {table:?}");
        insta::assert_snapshot!(format!("table_{columns}"), anstream::adapter::strip_str(&table));
    }
    let json = serde_json::to_string(&snapshot).unwrap();
    assert_eq!(serde_json::from_str::<StatsSnapshot>(&json).unwrap(), snapshot);
    assert_eq!(StatsSnapshot::default().table(), None);
}

#[test]
fn the_number_of_rows_is_bounded() {
    let telemetry = Telemetry::new(None);
    for i in 0..5000_u32 {
        let ip = std::net::Ipv4Addr::from_bits(0x0a00_0000 + i);
        let guard = telemetry.open(ConnectionInfo { destination: (ip, 80).into(), ..info() });
        guard.detected(Detection::Http1, None, Duration::ZERO);
        guard.close(CloseReason::Finished);
    }
    let rows = telemetry.stats().rows;
    assert!((900..=1025).contains(&rows.len()), "half of what there is: {}", rows.len());
    assert_eq!(rows.last().unwrap().destination, None);
    assert_eq!(rows.iter().map(|row| row.connections).sum::<u64>(), 5000);
    let used = telemetry.share(&"shop".into()).used(Resource::Rows);
    assert_eq!(used as usize, rows.len() - 1);
    telemetry.forget_workload("shop");
    assert_eq!(telemetry.stats().rows, []);
}

/// Guards against an upstream that answers with every status there is: 23,000 lines, once.
#[test]
fn codes_that_a_peer_makes_up_do_not_make_series() {
    let lines =
        |telemetry: &Telemetry| telemetry.encode_metrics(TextFormat::OpenMetrics).lines().count();
    let counted = |statuses: &mut dyn Iterator<Item = (u16, u32)>| {
        let telemetry = Telemetry::new(None);
        let guard = telemetry.open(info());
        guard.detected(Detection::Http1, None, Duration::ZERO);
        let sink = guard.sink();
        for (status, grpc) in statuses {
            sink.request_started();
            sink.exchange(Exchange { status: Some(status), grpc_status: Some(grpc), ..exchange() });
        }
        guard.close(CloseReason::Finished);
        lines(&telemetry)
    };
    // Nine in each class that are not registered, and gRPC codes that there are not.
    let one = counted(&mut (1..=9).map(|class| (class * 100 + 99, 17)));
    let many = counted(&mut (1..=9).flat_map(|class| {
        (60..99).flat_map(move |rest| (17..40).map(move |grpc| (class * 100 + rest, grpc)))
    }));
    assert_eq!(many, one);
    let registered = counted(&mut [(200, 0), (204, 0), (404, 5)].into_iter());
    let none = counted(&mut std::iter::empty());
    assert!(registered > none + 3, "each of them is a series: {registered} and {none} lines");
}

#[test]
fn a_series_that_is_forgotten_begins_anew() {
    let telemetry = Telemetry::new(None);
    telemetry.open(info()).close(CloseReason::Finished);
    let of_shop = |text: &str| text.lines().filter(|line| line.contains("\"shop\"")).count();
    assert!(of_shop(&telemetry.encode_metrics(TextFormat::OpenMetrics)) > 0);
    telemetry.forget_workload("shop");
    assert_eq!(of_shop(&telemetry.encode_metrics(TextFormat::OpenMetrics)), 0);
    telemetry.open(info()).close(CloseReason::Finished);
    assert!(of_shop(&telemetry.encode_metrics(TextFormat::OpenMetrics)) > 0);
}
