//! Every series that weir can serve, compared with the table in `docs/METRICS.md` in both directions.

use std::collections::{BTreeMap, BTreeSet};

use weir_common::Reason;

use super::*;
use crate::{budget::Figures, config::DestinationLabel, telemetry::tests::pages::rows};

/// What a page says of a metric, and what weir serves of it.
#[derive(Debug, PartialEq, Eq)]
struct Described {
    kind: String,
    labels: BTreeSet<String>,
}

type Table = BTreeMap<String, Described>;

/// One series of each family, with labels that are there in all of them.
fn everything() -> Metrics {
    let destinations = Destinations::new(1, DestinationLabel::Name);
    let metrics = Metrics::new(None, Some(&SpanCounts::default()), destinations);
    let of = Of { workload: "shop".into(), pod: None };
    metrics.destinations.as_ref().unwrap().open(&of, Direction::Outbound);
    let (direction, peer, reason) = ("outbound", "dst", "why");
    let base = || Base { direction, of: of.clone() };
    let workload = || WorkloadLabels { of: of.clone() };
    let peers = || PeerLabels { direction, peer, of: of.clone() };
    let result = || DetectLabels { of: of.clone(), result: "h2" };
    // A family that is missing here does not compile.
    let Families {
        request,
        response,
        latency,
        tcp_open,
        tcp_open_now,
        tcp_read,
        tcp_write,
        tcp_close,
        inbound_detect,
        outbound_detect,
        inbound_detect_time,
        outbound_detect_time,
        connect_time,
        retransmits,
        connections,
        half_closed,
        undecided,
        in_flight,
        downgrade,
        unpoolable,
        retries,
        timeouts,
        accept_dead,
        accept_errors,
        accept_shed,
        worker_delay: _,
    } = &metrics.families;
    request.get_or_create(&base()).inc();
    response.get_or_create(&ResponseLabels {
        direction,
        of: of.clone(),
        status_code: Some(200.into()),
        classification: "success",
        grpc_status: Some(0.into()),
    });
    latency.get_or_create(&LatencyLabels { direction, of: of.clone(), status_code: 200.into() });
    tcp_open.get_or_create(&peers());
    tcp_open_now.get_or_create(&peers());
    tcp_read.get_or_create(&peers());
    tcp_write.get_or_create(&peers());
    tcp_close.get_or_create(&CloseLabels { direction, peer, of: of.clone(), errno: None });
    inbound_detect.get_or_create(&result());
    outbound_detect.get_or_create(&result());
    inbound_detect_time.get_or_create(&workload());
    outbound_detect_time.get_or_create(&workload());
    connect_time.get_or_create(&base());
    retransmits.get_or_create(&base());
    connections.get_or_create(&ConnectionLabels {
        direction,
        of: of.clone(),
        treatment: "tcp",
        source: "detected",
    });
    half_closed.get_or_create(&base());
    undecided.get_or_create(&base());
    in_flight.get_or_create(&base());
    let untracked = DowngradeLabels { direction, of: of.clone(), reason: reason.to_owned() };
    downgrade.get_or_create(&untracked);
    unpoolable.get_or_create(&UnpoolableLabels { direction, of: of.clone(), reason });
    let retry = RetryLabels { direction, of: of.clone(), level: "0", outcome: "sent" };
    retries.get_or_create(&retry);
    let exceeded = TimeoutLabels { direction, of: of.clone(), limit: "request" };
    timeouts.get_or_create(&exceeded);
    accept_dead.get_or_create(&workload());
    accept_errors.get_or_create(&ErrnoLabels { errno: errno_name(1) }).inc();
    accept_shed.inc();
    metrics.workloads().set(Box::new(|| {
        vec![WorkloadFacts {
            workload: "shop".into(),
            pod: None,
            fail: "open",
            learn: "opaque",
            inbound: true,
            capturing: true,
            waiting: Some("hooks"),
            waits: &["cgroup", "netns", "process", "hooks", "start"],
            decisions: vec![(Direction::Outbound, Reason::SkipPort, 1)],
            budget: vec![Figures { budget: "memory".into(), ..Figures::default() }],
        }]
    }));
    metrics.maps().set(Box::new(|| vec![MapFacts { map: "PENDING".into(), bytes: 1 }]));
    metrics.services().set(Box::new(|| {
        vec![ServiceFacts {
            service: "shop/web:80".into(),
            endpoints: vec![("used", 1)],
            connections: 1,
            choices: vec![("only", 1)],
        }]
    }));
    metrics.routes().set(Box::new(|| {
        vec![RouteFacts {
            kind: "HTTPRoute",
            route: "shop/split".to_owned(),
            rule: "0".to_owned(),
            requests: vec![("forwarded", 1)],
        }]
    }));
    metrics
}

/// What is in a scrape.
fn served(text: &str) -> Table {
    let mut all = Table::new();
    let mut family = ("", "");
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            family = rest.split_once(' ').unwrap();
            continue;
        }
        if line.starts_with('#') {
            continue;
        }
        let (sample, _) = line.split_once(' ').unwrap();
        let (sample, labels) = sample.split_once('{').unwrap_or((sample, ""));
        let (name, kind) = family;
        // Parts of a histogram are described as one.
        let name = if kind == "histogram" { name } else { sample };
        let labels =
            labels.split(',').filter_map(|label| Some(label.split_once('=')?.0.to_owned()));
        let new = || Described { kind: kind.to_owned(), labels: BTreeSet::new() };
        let described = all.entry(name.to_owned()).or_insert_with(new);
        described.labels.extend(labels.filter(|label| label != "le"));
    }
    all
}

/// What is in the page's table.
fn documented() -> Table {
    let described = |cells: &Vec<String>| {
        let labels = cells[2].split('`').skip(1).step_by(2).map(str::to_owned).collect();
        (cells[0].trim_matches('`').to_owned(), Described { kind: cells[1].clone(), labels })
    };
    let tables = rows("METRICS.md", "| metric | type | labels | meaning |");
    tables[0].iter().map(described).collect()
}

#[test]
fn the_page_of_metrics_has_what_weir_serves_and_nothing_else() {
    let (served, documented) =
        (served(&everything().encode(TextFormat::OpenMetrics)), documented());
    assert!(served.len() > 30, "{served:?}");
    for (name, wanted) in &served {
        let row = documented.get(name);
        assert_eq!(row, Some(wanted), "docs/METRICS.md, row of `{name}`");
    }
    let gone: Vec<_> = documented.keys().filter(|name| !served.contains_key(*name)).collect();
    assert!(
        gone.is_empty(),
        "docs/METRICS.md has rows of metrics that weir does not serve: {gone:?}"
    );
}

/// The four labels of a pod are in the page's text, as they are in every series.
#[test]
fn the_page_of_metrics_has_the_labels_of_pods() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/METRICS.md");
    let page = std::fs::read_to_string(path).unwrap();
    let metrics = everything();
    let pod = crate::pod::Pod {
        uid: "0ff2a1b8".into(),
        namespace: "default".into(),
        name: "db-0".into(),
        workload_kind: "StatefulSet".into(),
        workload_name: "db".into(),
    };
    metrics.label("db", Some((&pod).into()));
    let of = metrics.of(&"db".into());
    metrics.families.request.get_or_create(&Base { direction: "inbound", of });
    let labels = &served(&metrics.encode(TextFormat::OpenMetrics))["request_total"].labels;
    let of_pods: Vec<_> =
        labels.iter().filter(|it| !["direction", "workload"].contains(&it.as_str())).collect();
    assert_eq!(of_pods.len(), 4, "{labels:?}");
    let sentence =
        page.lines().find(|line| line.starts_with("Every metric with the label")).unwrap();
    for label in of_pods {
        assert!(sentence.contains(&format!("`{label}`")), "`{label}` is not in: {sentence}");
    }
}
