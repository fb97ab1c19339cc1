//! The statistics as a table for people.

use std::{net::SocketAddr, time::Duration};

use comfy_table::{CellAlignment, Table, presets};

use super::{StatRow, StatsSnapshot};
use crate::{
    decision::Direction,
    units::{human_bytes, human_duration},
};

const HEADER: [&str; 12] = [
    "DESTINATION",
    "DECISION",
    "SOURCE",
    "CONN",
    "OPEN",
    "REQ",
    "SUCCESS",
    "P50",
    "P95",
    "P99",
    "SENT",
    "RECEIVED",
];

/// Columns before this one are text, the others numbers.
const FIRST_NUMBER: usize = 3;

// === impl StatsSnapshot ===

impl StatsSnapshot {
    /// Plain text, one line per row, no ruling and no trailing spaces; `None` if there is nothing
    /// to show.
    #[must_use]
    pub fn table(&self) -> Option<String> {
        if self.rows.is_empty() {
            return None;
        }
        let several = self.rows.iter().any(|row| row.workload != self.rows[0].workload);
        let inbound = self.rows.iter().any(|row| row.direction == Direction::Inbound);
        let mut table = plain_table(&HEADER, FIRST_NUMBER);
        for row in &self.rows {
            table.add_row(cells(row, several, inbound));
        }
        Some(print_table(&table))
    }
}

/// A table in weir's style: aligned columns, nothing else.
pub(crate) fn plain_table(header: &[&str], first_number: usize) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header);
    for (i, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if i >= first_number {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// The table's text without trailing spaces.
pub(crate) fn print_table(table: &Table) -> String {
    table.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}

fn cells(row: &StatRow, with_workload: bool, with_direction: bool) -> Vec<String> {
    let workload = with_workload.then_some(&*row.workload);
    let direction = with_direction.then_some(row.direction);
    vec![
        destination(workload, direction, row.destination),
        row.treatment.map_or_else(dash, |t| t.to_string()),
        row.decided_by().map_or_else(dash, str::to_owned),
        row.connections.to_string(),
        row.open.to_string(),
        if row.requests > 0 { row.requests.to_string() } else { dash() },
        row.success_rate().map_or_else(dash, percent),
        micros(row.p50_us),
        micros(row.p95_us),
        micros(row.p99_us),
        human_bytes(row.bytes_sent),
        human_bytes(row.bytes_received),
    ]
}

pub(super) fn micros(us: Option<u64>) -> String {
    us.map_or_else(dash, |us| human_duration(Duration::from_micros(us)))
}

/// Workload and direction are given where rows differ in them.
pub(super) fn destination(
    workload: Option<&str>,
    direction: Option<Direction>,
    destination: Option<SocketAddr>,
) -> String {
    let mut text = String::new();
    if let Some(workload) = workload {
        text.push_str(workload);
        text.push(' ');
    }
    if let Some(direction) = direction {
        text.push_str(if direction == Direction::Inbound { "in " } else { "out " });
    }
    match destination {
        Some(address) => text.push_str(&address.to_string()),
        None => text.push_str("other destinations"),
    }
    text
}

/// Never rounds a failure away: 99.99 % and less is not shown as 100 %.
pub(super) fn percent(rate: f64) -> String {
    if rate >= 1.0 { "100%".to_owned() } else { format!("{:.2}%", (rate * 1e4).floor() / 1e2) }
}

pub(super) fn dash() -> String {
    "-".to_owned()
}
