//! The statistics as a table for people.

use std::{net::SocketAddr, time::Duration};

use comfy_table::{CellAlignment, presets};

use super::{By, StatRow, StatsSnapshot};
use crate::{
    decision::{Direction, Treatment},
    table::{Cell, Column, Table, Width},
    units::{human_bytes, human_duration},
};

/// The first columns: which row it is.
pub(super) struct Columns {
    /// There are several workloads.
    pub(super) several: bool,
    /// There are both directions.
    pub(super) inbound: bool,
    pub(super) by: By,
}

/// What a row is about.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'a> {
    pub(super) destination: Option<SocketAddr>,
    pub(super) endpoint: Option<SocketAddr>,
    pub(super) name: Option<&'a str>,
    pub(super) further_names: u64,
}

// === impl StatsSnapshot ===

impl StatsSnapshot {
    /// Plain text with all columns, one line per row, no ruling and no trailing spaces; `None` if there is
    /// nothing to show.
    #[must_use]
    pub fn table(&self) -> Option<String> {
        self.table_for(Width::default())
    }

    /// The same for a terminal: as wide as that is.
    #[must_use]
    pub fn table_for(&self, width: Width) -> Option<String> {
        if self.rows.is_empty() {
            return None;
        }
        let several = self.rows.iter().any(|row| row.workload != self.rows[0].workload);
        let inbound = self.rows.iter().any(|row| row.direction == Direction::Inbound);
        let by = By::of(self.rows.iter().map(StatRow::place));
        let columns = Columns { several, inbound, by };
        let mut table = columns.table(vec![
            Column::text("DECISION", 3),
            Column::text("SOURCE", 7),
            Column::number("CONN", 1),
            Column::number("OPEN", 6),
            Column::number("REQ", 0),
            Column::number("SUCCESS", 2),
            Column::text("FAILED", 1).optional(),
            Column::number("P50", 5),
            Column::number("P95", 9),
            Column::number("P99", 4),
            Column::number("DURATION", 6),
            Column::number("SENT", 8),
            Column::number("RECEIVED", 8),
        ]);
        for row in &self.rows {
            table.add(cells(row, &columns));
        }
        Some(table.print(width))
    }
}

// === impl By ===

impl By {
    /// What rows are by that are about these.
    pub(super) fn of<'a>(mut places: impl Iterator<Item = Place<'a>>) -> Self {
        let is_any = |place: Place<'_>| match place {
            Place { endpoint: Some(_), .. } => Some(Self::Endpoint),
            Place { destination: None, name: Some(_), .. } => Some(Self::Name),
            _ => None,
        };
        places.find_map(is_any).unwrap_or(Self::Destination)
    }
}

// === impl Columns ===

impl Columns {
    /// A table of them and further ones.
    pub(super) fn table(&self, further: Vec<Column>) -> Table {
        let mut columns = match self.by {
            By::Destination => vec![Column::text("DESTINATION", 0)],
            By::Endpoint => vec![Column::text("ENDPOINT", 0), Column::text("DESTINATION", 3)],
            By::Name | By::Process | By::Client | By::Path => vec![Column::text("NAME", 0)],
        };
        if matches!(self.by, By::Destination | By::Endpoint) {
            columns.push(Column::text("NAME", 2).optional());
        }
        columns.extend(further);
        Table::new(columns)
    }

    /// Of a row. Workload and direction are given where rows differ in them.
    pub(super) fn first(
        &self,
        workload: &str,
        direction: Direction,
        place: Place<'_>,
    ) -> Vec<Cell> {
        let Place { destination, endpoint, name, further_names } = place;
        let mut text = String::new();
        if self.several {
            text.push_str(workload);
            text.push(' ');
        }
        if self.inbound {
            text.push_str(if direction == Direction::Inbound { "in " } else { "out " });
        }
        let or = |address: Option<SocketAddr>, other: &str| {
            address.map_or_else(|| other.to_owned(), |address| address.to_string())
        };
        let named = match (name, further_names) {
            (Some(name), 0) => name.to_owned(),
            (Some(name), further) => format!("{name} +{further}"),
            (None, _) => dash(),
        };
        match self.by {
            By::Destination => {
                vec![(text + &or(destination, "other destinations")).into(), named.into()]
            }
            By::Endpoint => vec![
                (text + &or(endpoint, "other endpoints")).into(),
                or(destination, "-").into(),
                named.into(),
            ],
            By::Name | By::Process | By::Client | By::Path => {
                let name = name.map(str::to_owned);
                vec![(text + &name.unwrap_or_else(|| or(destination, "other destinations"))).into()]
            }
        }
    }
}

// === impl StatRow ===

impl StatRow {
    fn place(&self) -> Place<'_> {
        Place {
            destination: self.destination,
            endpoint: self.endpoint,
            name: self.name.as_deref(),
            further_names: self.further_names,
        }
    }
}

// === helpers ===

/// A table in weir's style: aligned columns, nothing else.
pub(crate) fn plain_table(header: &[&str], first_number: usize) -> comfy_table::Table {
    let mut table = comfy_table::Table::new();
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
pub(crate) fn print_table(table: &comfy_table::Table) -> String {
    table.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}

fn cells(row: &StatRow, columns: &Columns) -> Vec<Cell> {
    let mut cells = columns.first(&row.workload, row.direction, row.place());
    cells.extend([
        decision(row.treatment, row.failed_connections < row.connections).into(),
        row.decided_by().map_or_else(dash, str::to_owned).into(),
        row.connections.to_string().into(),
        row.open.to_string().into(),
        if row.requests > 0 { row.requests.to_string() } else { dash() }.into(),
        success(row.success_rate()),
        failed((row.failures + row.failed_connections) as f64, row.last_failure.as_deref(), |n| {
            format!("{n:.0}")
        }),
        micros(row.p50_us).into(),
        micros(row.p95_us).into(),
        micros(row.p99_us).into(),
        micros(row.mean_duration_us).into(),
        human_bytes(row.bytes_sent).into(),
        human_bytes(row.bytes_received).into(),
    ]);
    cells
}

/// What connections are treated as. Of those that ended before a decision some may have been made and not
/// used.
pub(super) fn decision(treatment: Option<Treatment>, has_unused: bool) -> String {
    match treatment {
        Some(treatment) => treatment.to_string(),
        None if has_unused => "unused".to_owned(),
        None => dash(),
    }
}

/// How many have failed, and why the last one did.
pub(super) fn failed(count: f64, last: Option<&str>, number: impl Fn(f64) -> String) -> Cell {
    if count == 0.0 {
        return dash().into();
    }
    Cell::alarm_if(true, format!("{} {}", number(count), last.unwrap_or_default()))
}

/// An alarm where not all were successes.
pub(super) fn success(rate: Option<f64>) -> Cell {
    Cell::alarm_if(rate.is_some_and(|rate| rate < 1.0), rate.map_or_else(dash, percent))
}

pub(super) fn micros(us: Option<u64>) -> String {
    us.map_or_else(dash, |us| human_duration(Duration::from_micros(us)))
}

/// Never rounds a failure away: 99.99 % and less is not shown as 100 %.
pub(super) fn percent(rate: f64) -> String {
    if rate >= 1.0 { "100%".to_owned() } else { format!("{:.2}%", (rate * 1e4).floor() / 1e2) }
}

pub(super) fn dash() -> String {
    "-".to_owned()
}

/// A rate, with one decimal where it matters.
pub(crate) fn number(rate: f64) -> String {
    if rate == 0.0 {
        dash()
    } else if rate < 10.0 {
        format!("{rate:.1}")
    } else {
        format!("{rate:.0}")
    }
}
