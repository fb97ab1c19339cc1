//! What has happened between two looks at the statistics, per second.

use std::{cmp::Ordering, collections::HashMap, net::SocketAddr, time::Duration};

use serde::Serialize;

use super::{
    By, StatRow, StatsSnapshot,
    table::{Columns, dash, micros, number, success},
};
use crate::{
    decision::{Direction, Source, Treatment},
    names,
    table::{Column, Table, Width},
    units::human_bytes,
};

/// Sort order of the busiest destinations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Order {
    /// Requests, then connections, then bytes.
    #[default]
    Requests,
    /// New connections.
    Connections,
    /// Bytes in both directions.
    Bytes,
    /// Failed requests.
    Failures,
    /// The 99th percentile of the latency.
    Latency,
}

/// One destination under one decision, over an interval.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Rate {
    /// The workload's name.
    pub workload: String,
    /// Seen from the workload.
    #[serde(with = "names::direction")]
    pub direction: Direction,
    /// The original destination; absent in the row that many of them share.
    pub destination: Option<SocketAddr>,
    /// Only in rows by endpoint: where connections and requests went.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<SocketAddr>,
    /// What its connections are treated as.
    pub treatment: Option<Treatment>,
    /// Who decided.
    #[serde(with = "names::source::optional")]
    pub source: Option<Source>,
    /// Why the kernel let them pass, where no rule asks for that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Connections begun, per second.
    pub connections: f64,
    /// Connections open at the end of the interval.
    pub open: u64,
    /// Requests begun, per second.
    pub requests: f64,
    /// Failed requests, per second.
    pub failures: f64,
    /// Successes of all that were judged in the interval, 0 to 1.
    pub success_rate: Option<f64>,
    /// Median latency in microseconds, since weir's start.
    pub p50_us: Option<u64>,
    /// 99th percentile, since weir's start.
    pub p99_us: Option<u64>,
    /// Bytes from the client to the upstream, per second.
    pub bytes_sent: f64,
    /// Bytes from the upstream to the client, per second.
    pub bytes_received: f64,
}

// === impl Rate ===

impl Rate {
    /// What has happened from `before` to `after`, busiest first; destinations at which nothing has
    /// happened and nothing is open are left out.
    #[must_use]
    pub fn between(
        before: &StatsSnapshot,
        after: &StatsSnapshot,
        interval: Duration,
        order: Order,
    ) -> Vec<Self> {
        let earlier: HashMap<_, _> = before.rows.iter().map(|row| (row.key(), row)).collect();
        let later: HashMap<_, _> = after.rows.iter().map(|row| (row.key(), row)).collect();
        // What is in a row without a destination now and had one before is nothing new.
        let mut moved: HashMap<_, StatRow> = HashMap::new();
        for row in before.rows.iter().filter(|row| row.destination.is_some()) {
            if later.get(&row.key()).is_some_and(|now| row.precedes(now)) {
                continue;
            }
            let sum = StatRow { destination: None, endpoint: None, ..row.clone() };
            moved.entry(sum.sum_key()).and_modify(|all| all.add(row)).or_insert(sum);
        }
        let rates = after.rows.iter().map(|row| {
            let then = earlier.get(&row.key()).copied();
            let Some(moved) = moved.get(&row.sum_key()).filter(|_| row.destination.is_none())
            else {
                // One whose counters have gone back belongs to a weir that has ended.
                let then = then.filter(|then| then.precedes(row));
                return Self::of(row, then, interval);
            };
            let mut all = moved.clone();
            then.into_iter().for_each(|then| all.add(then));
            Self::of(row, Some(&all).filter(|all| all.precedes(row)), interval)
        });
        let mut rates: Vec<_> = rates.filter(|rate| !rate.is_idle()).collect();
        // Stable: equals stay in the order of their destinations.
        rates.sort_by(|a, b| order.compare(b, a));
        rates
    }

    fn of(row: &StatRow, then: Option<&StatRow>, interval: Duration) -> Self {
        let grown = |of: fn(&StatRow) -> u64| of(row).saturating_sub(then.map_or(0, of));
        let rate = |of: fn(&StatRow) -> u64| grown(of) as f64 / interval.as_secs_f64();
        let (successes, failures) = (grown(|row| row.successes), grown(|row| row.failures));
        let judged = successes + failures;
        Self {
            workload: row.workload.clone(),
            direction: row.direction,
            destination: row.destination,
            endpoint: row.endpoint,
            treatment: row.treatment,
            source: row.source,
            reason: row.reason.clone(),
            connections: rate(|row| row.connections),
            open: row.open,
            requests: rate(|row| row.requests),
            failures: rate(|row| row.failures),
            success_rate: (judged > 0).then(|| successes as f64 / judged as f64),
            p50_us: row.p50_us,
            p99_us: row.p99_us,
            bytes_sent: rate(|row| row.bytes_sent),
            bytes_received: rate(|row| row.bytes_received),
        }
    }

    fn is_idle(&self) -> bool {
        let moved = self.connections + self.requests + self.bytes_sent + self.bytes_received;
        self.open == 0 && moved == 0.0
    }

    /// A table of rates, as the statistics' own looks, with all columns.
    #[must_use]
    pub fn table(rates: &[Self]) -> String {
        Self::columns(rates).print(Width::default())
    }

    /// The same for any width.
    pub(crate) fn columns(rates: &[Self]) -> Table {
        let several = rates.iter().any(|rate| rate.workload != rates[0].workload);
        let inbound = rates.iter().any(|rate| rate.direction == Direction::Inbound);
        let columns = Columns { several, inbound, by: By::of(rates.iter().map(|it| it.endpoint)) };
        let mut table = columns.table(vec![
            Column::text("DECISION", 2),
            Column::number("CONN/S", 5),
            Column::number("OPEN", 4),
            Column::number("REQ/S", 0),
            Column::number("SUCCESS", 1),
            Column::number("P50", 3),
            Column::number("P99", 1),
            Column::number("SENT/S", 6),
            Column::number("RECEIVED/S", 6),
        ]);
        for rate in rates {
            let place = (rate.destination, rate.endpoint);
            let mut row = columns.first(&rate.workload, rate.direction, place);
            row.extend([
                rate.treatment.map_or_else(dash, |treatment| treatment.to_string()).into(),
                number(rate.connections).into(),
                rate.open.to_string().into(),
                number(rate.requests).into(),
                success(rate.success_rate),
                micros(rate.p50_us).into(),
                micros(rate.p99_us).into(),
                human_bytes(rate.bytes_sent as u64).into(),
                human_bytes(rate.bytes_received as u64).into(),
            ]);
            table.add(row);
        }
        table
    }
}

// === impl StatRow ===

impl StatRow {
    /// What rows have in common that are summed up in one.
    fn sum_key(&self) -> (String, Direction, Option<Treatment>, Option<Source>) {
        (self.workload.clone(), self.direction, self.treatment, self.source)
    }

    /// Whether `later` can be the same row at a later time: counters do not go back.
    const fn precedes(&self, later: &Self) -> bool {
        self.connections <= later.connections && self.requests <= later.requests
    }

    fn add(&mut self, other: &Self) {
        self.connections += other.connections;
        self.requests += other.requests;
        self.successes += other.successes;
        self.failures += other.failures;
        self.bytes_sent += other.bytes_sent;
        self.bytes_received += other.bytes_received;
    }
}

// === impl Order ===

impl Order {
    fn compare(self, a: &Rate, b: &Rate) -> Ordering {
        let keys = |rate: &Rate| {
            let bytes = rate.bytes_sent + rate.bytes_received;
            let first = match self {
                Self::Requests => rate.requests,
                Self::Connections => rate.connections,
                Self::Bytes => bytes,
                Self::Failures => rate.failures,
                Self::Latency => rate.p99_us.unwrap_or(0) as f64,
            };
            [first, rate.requests, rate.connections, bytes]
        };
        let pairs = keys(a).into_iter().zip(keys(b));
        pairs.map(|(a, b)| a.total_cmp(&b)).find(|order| order.is_ne()).unwrap_or(Ordering::Equal)
    }
}

#[cfg(test)]
mod tests {
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
        assert!(Rate::table(&rates).starts_with("ENDPOINT         DESTINATION  DECISION"));
    }

    #[test]
    fn rates_make_a_table() {
        let (before, after) = ([row(A, 10, 100, 0)], [row(A, 13, 300, 50)]);
        let rates = Rate::between(&snapshot(before), &snapshot(after), SECONDS, Order::default());
        let table = Rate::table(&rates);
        let words: Vec<Vec<_>> =
            table.lines().map(|line| line.split_whitespace().collect()).collect();
        let header = "DESTINATION DECISION CONN/S OPEN REQ/S SUCCESS P50 P99 SENT/S RECEIVED/S";
        assert_eq!(words[0].join(" "), header);
        assert_eq!(words[1][..8].join(" "), "10.0.0.1:80 http1 1.5 1 100 75.00% 1.50ms 20.0ms");
        assert_eq!(Rate::table(&[]).lines().count(), 1);
    }
}
