//! Rates between two looks.

use super::*;

fn row(destination: &str, connections: u64, requests: u64, failures: u64) -> StatRow {
    StatRow {
        workload: "shop".into(),
        direction: Direction::Outbound,
        destination: Some(destination.parse().unwrap()),
        endpoint: None,
        treatment: Some(Treatment::Http1),
        source: Some(Source::Detected),
        reason: None,
        name: None,
        further_names: 0,
        failed_connections: 0,
        last_failure: (failures > 0).then(|| "503".to_owned()),
        mean_duration_us: None,
        why: "request line".into(),
        connections,
        open: 1,
        requests,
        successes: requests - failures,
        failures,
        p50_us: Some(1_500),
        p95_us: Some(2_000),
        p99_us: Some(20_000),
        bytes_sent: requests * 100,
        bytes_received: requests * 3_000,
        retransmits: 0,
        latencies: Latencies::default(),
    }
}

fn snapshot(rows: impl Into<Vec<StatRow>>) -> StatsSnapshot {
    StatsSnapshot { rows: rows.into() }
}

const A: &str = "10.0.0.1:80";
const B: &str = "10.0.0.2:80";
const SECONDS: Duration = Duration::from_secs(2);

fn order(order: Order) -> Vec<String> {
    let before = snapshot([row(A, 10, 100, 0), row(B, 10, 100, 10)]);
    let after = snapshot([row(A, 12, 300, 1), row(B, 30, 120, 20)]);
    let rates = Rate::between(&before, &after, SECONDS, order);
    rates.iter().map(|rate| rate.destination.unwrap().to_string()).collect()
}

#[test]
fn rates_are_of_the_interval() {
    let (before, after) = ([row(A, 10, 100, 0)], [row(A, 12, 300, 50)]);
    let rates = Rate::between(&snapshot(before), &snapshot(after), SECONDS, Order::default());
    let [rate] = &rates[..] else { panic!("{rates:?}") };
    assert_eq!((rate.connections, rate.requests, rate.failures), (1.0, 100.0, 25.0));
    assert_eq!(rate.success_rate, Some(0.75));
    assert_eq!((rate.bytes_sent, rate.bytes_received), (10_000.0, 300_000.0));
}

#[test]
fn the_busiest_come_first() {
    assert_eq!(order(Order::Requests), [A, B]);
    assert_eq!(order(Order::Bytes), [A, B]);
    assert_eq!(order(Order::Connections), [B, A]);
    assert_eq!(order(Order::Failures), [B, A]);
    // The same latency: requests decide.
    assert_eq!(order(Order::Latency), [A, B]);
}

#[test]
fn what_is_idle_is_left_out_and_what_began_anew_counts_from_zero() {
    let idle = |row: StatRow| StatRow { open: 0, ..row };
    let before = snapshot([idle(row(A, 5, 5, 0)), row(B, 50, 500, 0)]);
    let after = snapshot([idle(row(A, 5, 5, 0)), row(B, 4, 8, 0)]);
    let rates = Rate::between(&before, &after, SECONDS, Order::default());
    let [rate] = &rates[..] else { panic!("{rates:?}") };
    assert_eq!((rate.connections, rate.requests), (2.0, 4.0));
    // Open and silent is not idle.
    let rates = Rate::between(&before, &before, SECONDS, Order::default());
    assert_eq!(rates.len(), 1);
    assert_eq!(rates[0].success_rate, None);
}

#[test]
fn rows_that_were_summed_up_are_nothing_new() {
    let sum = |row: StatRow| StatRow { destination: None, ..row };
    let before = snapshot([row(A, 1000, 9000, 0), row(B, 100, 100, 0), sum(row(A, 7, 7, 0))]);
    // A went into the sum with two connections more; B too, and has begun anew.
    let after = snapshot([row(B, 2, 4, 0), sum(row(A, 1109, 9111, 0))]);
    let rates = Rate::between(&before, &after, SECONDS, Order::default());
    let seen: Vec<_> =
        rates.iter().map(|rate| (rate.destination, rate.connections, rate.requests)).collect();
    assert_eq!(seen, [(B.parse().ok(), 1.0, 2.0), (None, 1.0, 2.0)]);
}

#[test]
fn endpoints_of_one_destination_have_rates_of_their_own() {
    let at = |endpoint: &str, requests| StatRow {
        endpoint: endpoint.parse().ok(),
        ..row(A, 0, requests, 0)
    };
    let sum = |requests| StatRow { destination: None, ..row(A, 0, requests, 0) };
    let (first, second) = ("10.1.0.1:80", "10.1.0.2:80");
    // The second one was summed up, with 10 more requests, and has begun anew.
    let before = snapshot([at(first, 10), at(second, 1000)]);
    let after = snapshot([at(first, 30), at(second, 4), sum(1010)]);
    let rates = Rate::between(&before, &after, SECONDS, Order::default());
    let seen: Vec<_> = rates.iter().map(|rate| (rate.endpoint, rate.requests)).collect();
    assert_eq!(seen, [(first.parse().ok(), 10.0), (None, 5.0), (second.parse().ok(), 2.0)]);
    assert!(Rate::table(&rates).starts_with("ENDPOINT         DESTINATION  NAME  DECISION"));
}

#[test]
fn rates_make_a_table() {
    let (before, after) = ([row(A, 10, 100, 0)], [row(A, 13, 300, 50)]);
    let rates = Rate::between(&snapshot(before), &snapshot(after), SECONDS, Order::default());
    let table = Rate::table(&rates);
    let words: Vec<Vec<_>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    let header =
        "DESTINATION NAME DECISION CONN/S OPEN REQ/S SUCCESS FAILED/S P50 P99 SENT/S RECEIVED/S";
    assert_eq!(words[0].join(" "), header);
    assert_eq!(words[1][..11].join(" "), "10.0.0.1:80 - http1 1.5 1 100 75.00% 25 503 - -");
    assert_eq!(Rate::table(&[]).lines().count(), 1);
}

#[test]
fn names_are_no_sums() {
    let named = |name: &str, requests| StatRow {
        destination: None,
        name: Some(name.into()),
        ..row(A, 1, requests, 0)
    };
    let rest = |requests| StatRow { destination: None, ..row(A, 1, requests, 0) };
    let before = snapshot([named("a.example", 10), named("b.example", 20), rest(5)]);
    // The second one was summed up with the rest.
    let after =
        snapshot([named("a.example", 30), StatRow { destination: None, ..row(A, 2, 25, 0) }]);
    let rates = Rate::between(&before, &after, SECONDS, Order::default());
    let seen: Vec<_> = rates.iter().map(|rate| (rate.name.as_deref(), rate.requests)).collect();
    assert_eq!(seen, [(Some("a.example"), 10.0), (None, 0.0)]);
    assert!(Rate::table(&rates).starts_with("NAME "), "{}", Rate::table(&rates));
}
