//! What has happened between two looks at the statistics, per second.

use std::{cmp::Ordering, collections::HashMap, net::SocketAddr, time::Duration};

use serde::Serialize;

use super::{
    By, Latencies, StatRow, StatsSnapshot, is_zero,
    table::{Columns, Place, dash, decision, failed, micros, number, percent, success},
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
    /// The host name that clients asked for: by name all rows with it are one, otherwise the one that most
    /// requests, or connections, were for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Other names than that.
    #[serde(skip_serializing_if = "is_zero")]
    pub further_names: u64,
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
    /// Connections that failed, per second.
    pub failed_connections: f64,
    /// Why the last request or connection of the interval failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<String>,
    /// Successes of all that were judged in the interval, 0 to 1.
    pub success_rate: Option<f64>,
    /// Median latency in microseconds, of the requests that ended in the interval; of TLS connections that
    /// of their handshakes.
    pub p50_us: Option<u64>,
    /// 99th percentile of them.
    pub p99_us: Option<u64>,
    /// Bytes from the client to the upstream, per second.
    pub bytes_sent: f64,
    /// Bytes from the upstream to the client, per second.
    pub bytes_received: f64,
    /// Successful requests, per second.
    #[serde(skip)]
    successes: f64,
    #[serde(skip)]
    latencies: Latencies,
}

/// The sum over several.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Total {
    connections: f64,
    open: u64,
    requests: f64,
    successes: f64,
    failures: f64,
    bytes_sent: f64,
    bytes_received: f64,
    latencies: Latencies,
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
        for row in before.rows.iter().filter(|row| !row.is_rest()) {
            if later.get(&row.key()).is_some_and(|now| row.precedes(now)) {
                continue;
            }
            let sum = StatRow { destination: None, endpoint: None, name: None, ..row.clone() };
            moved.entry(sum.sum_key()).and_modify(|all| all.add(row)).or_insert(sum);
        }
        let rates = after.rows.iter().map(|row| {
            let then = earlier.get(&row.key()).copied();
            let Some(moved) = moved.get(&row.sum_key()).filter(|_| row.is_rest()) else {
                // One whose counters have gone back belongs to a weir that has ended.
                let then = then.filter(|then| then.precedes(row));
                return Self::of(row, then, interval);
            };
            let mut all = moved.clone();
            then.into_iter().for_each(|then| all.add(then));
            Self::of(row, Some(&all).filter(|all| all.precedes(row)), interval)
        });
        let mut rates: Vec<_> = rates.filter(|rate| !rate.is_idle()).collect();
        order.sort(&mut rates);
        rates
    }

    fn of(row: &StatRow, then: Option<&StatRow>, interval: Duration) -> Self {
        let grown = |of: fn(&StatRow) -> u64| of(row).saturating_sub(then.map_or(0, of));
        let rate = |of: fn(&StatRow) -> u64| grown(of) as f64 / interval.as_secs_f64();
        let (successes, failures) = (grown(|row| row.successes), grown(|row| row.failures));
        let judged = successes + failures;
        let latencies = match then {
            Some(then) => row.latencies.since(&then.latencies),
            None => row.latencies.clone(),
        };
        Self {
            workload: row.workload.clone(),
            direction: row.direction,
            destination: row.destination,
            endpoint: row.endpoint,
            name: row.name.clone(),
            further_names: row.further_names,
            treatment: row.treatment,
            source: row.source,
            reason: row.reason.clone(),
            connections: rate(|row| row.connections),
            open: row.open,
            requests: rate(|row| row.requests),
            failures: rate(|row| row.failures),
            failed_connections: rate(|row| row.failed_connections),
            last_failure: row
                .last_failure
                .clone()
                .filter(|_| grown(|row| row.failures) + grown(|row| row.failed_connections) > 0),
            success_rate: (judged > 0).then(|| successes as f64 / judged as f64),
            p50_us: latencies.quantile(0.50),
            p99_us: latencies.quantile(0.99),
            bytes_sent: rate(|row| row.bytes_sent),
            bytes_received: rate(|row| row.bytes_received),
            successes: rate(|row| row.successes),
            latencies,
        }
    }

    fn is_idle(&self) -> bool {
        let moved = self.connections + self.requests + self.bytes_sent + self.bytes_received;
        self.open == 0 && moved == 0.0
    }

    fn place(&self) -> Place<'_> {
        Place {
            destination: self.destination,
            endpoint: self.endpoint,
            name: self.name.as_deref(),
            further_names: self.further_names,
        }
    }

    /// The texts of its row.
    #[must_use]
    pub fn words(&self) -> String {
        let addresses = [self.destination, self.endpoint].into_iter().flatten();
        let mut words: Vec<_> = addresses.map(|address| address.to_string()).collect();
        words.push(self.workload.clone());
        words.extend(self.name.clone());
        words.extend(self.last_failure.clone());
        words.extend(self.treatment.map(|treatment| treatment.to_string()));
        words.extend(self.reason.clone());
        words.join(" ")
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
        let columns = Columns { several, inbound, by: By::of(rates.iter().map(Self::place)) };
        let mut table = columns.table(vec![
            Column::text("DECISION", 3),
            Column::number("CONN/S", 6),
            Column::number("OPEN", 5),
            Column::number("REQ/S", 0),
            Column::number("SUCCESS", 2),
            Column::text("FAILED/S", 1).optional(),
            Column::number("P50", 4),
            Column::number("P99", 1),
            Column::number("SENT/S", 7),
            Column::number("RECEIVED/S", 7),
        ]);
        for rate in rates {
            let mut row = columns.first(&rate.workload, rate.direction, rate.place());
            row.extend([
                decision(rate.treatment, rate.failed_connections < rate.connections).into(),
                number(rate.connections).into(),
                rate.open.to_string().into(),
                number(rate.requests).into(),
                success(rate.success_rate),
                failed(
                    rate.failures + rate.failed_connections,
                    rate.last_failure.as_deref(),
                    number,
                ),
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

// === impl Total ===

impl Total {
    /// The sum over these.
    #[must_use]
    pub fn of(rates: &[Rate]) -> Self {
        let mut total = Self::default();
        for rate in rates {
            total.connections += rate.connections;
            total.open += rate.open;
            total.requests += rate.requests;
            total.successes += rate.successes;
            total.failures += rate.failures;
            total.bytes_sent += rate.bytes_sent;
            total.bytes_received += rate.bytes_received;
            // Handshakes are none of requests.
            if rate.treatment != Some(Treatment::Tls) {
                total.latencies.add(&rate.latencies);
            }
        }
        total
    }

    /// Its numbers with their units, the most important first.
    #[must_use]
    pub fn parts(&self) -> Vec<String> {
        let judged = self.successes + self.failures;
        let rate = (judged > 0.0).then(|| self.successes / judged);
        let quantile = |part| micros(self.latencies.quantile(part));
        let bytes = |rate: f64| human_bytes(rate as u64);
        vec![
            format!("{} req/s", number(self.requests)),
            format!("{} ok", rate.map_or_else(dash, percent)),
            format!("P50 {}", quantile(0.50)),
            format!("P99 {}", quantile(0.99)),
            format!("{} conn/s", number(self.connections)),
            format!("{} open", self.open),
            format!("sent {}/s", bytes(self.bytes_sent)),
            format!("received {}/s", bytes(self.bytes_received)),
        ]
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
        self.failed_connections += other.failed_connections;
        self.bytes_received += other.bytes_received;
        self.latencies.add(&other.latencies);
    }
}

// === impl Order ===

impl Order {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Requests, Self::Connections, Self::Bytes, Self::Failures, Self::Latency];

    /// As the flag has it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Connections => "connections",
            Self::Bytes => "bytes",
            Self::Failures => "failures",
            Self::Latency => "latency",
        }
    }

    /// The busiest first. Stable: equals stay in the order of their destinations.
    pub fn sort(self, rates: &mut [Rate]) {
        rates.sort_by(|a, b| self.compare(b, a));
    }

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
mod tests;
