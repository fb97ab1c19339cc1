//! What there is to show of an interval: rows, or services.

use serde::Serialize;

use crate::{
    cli::by,
    service::Spread,
    table::Table,
    telemetry::stats::{Order, Rate, Total, number},
};

/// Rows, in their order.
pub(super) enum Shown {
    /// Destinations, or what else rows are by.
    Rows(Vec<Rate>),
    /// Services in use.
    Services(Vec<Spread<f64>>),
}

/// The first rows, as JSON has them.
#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum First<'a> {
    Rows {
        /// Destinations (or what else rows are by) with anything to show, of which the first are in
        /// `rows`.
        destinations: usize,
        rows: &'a [Rate],
    },
    Services {
        /// In use, of which the first are in `services`.
        in_use: usize,
        services: &'a [Spread<f64>],
    },
}

// === impl Shown ===

impl Shown {
    /// Orders that there are for it.
    pub(super) const fn orders(&self) -> &'static [Order] {
        match self {
            Self::Rows(_) => &Order::ALL,
            Self::Services(_) => &[Order::Requests, Order::Connections],
        }
    }

    /// The busiest first, or last.
    pub(super) fn sort(&mut self, order: Order, reversed: bool) {
        match self {
            Self::Rows(rows) => order.sort(rows),
            Self::Services(services) => services.sort_by(|one, other| {
                let key = |it: &Spread<f64>| match order {
                    Order::Connections => it.chosen,
                    _ => it.requests,
                };
                key(other).total_cmp(&key(one))
            }),
        }
        if reversed {
            match self {
                Self::Rows(rows) => rows.reverse(),
                Self::Services(services) => services.reverse(),
            }
        }
    }

    pub(super) const fn len(&self) -> usize {
        match self {
            Self::Rows(rows) => rows.len(),
            Self::Services(services) => services.len(),
        }
    }

    /// The first ones.
    pub(super) fn first(&self, count: usize) -> First<'_> {
        let count = count.min(self.len());
        match self {
            Self::Rows(rows) => First::Rows { destinations: rows.len(), rows: &rows[..count] },
            Self::Services(services) => {
                First::Services { in_use: services.len(), services: &services[..count] }
            }
        }
    }

    /// The same with the first ones only.
    pub(super) fn head(&self, count: usize) -> Self {
        match self {
            Self::Rows(rows) => Self::Rows(rows.iter().take(count).cloned().collect()),
            Self::Services(services) => {
                Self::Services(services.iter().take(count).cloned().collect())
            }
        }
    }

    /// Those that have the text, whatever its case.
    pub(super) fn filtered(&self, text: &str) -> Self {
        let text = text.to_lowercase();
        match self {
            Self::Rows(rows) => {
                let has = |rate: &&Rate| rate.words().to_lowercase().contains(&text);
                Self::Rows(rows.iter().filter(has).cloned().collect())
            }
            Self::Services(services) => {
                let has = |it: &&Spread<f64>| it.service.to_lowercase().contains(&text);
                Self::Services(services.iter().filter(has).cloned().collect())
            }
        }
    }

    pub(super) fn table(&self) -> Table {
        match self {
            Self::Rows(rows) => Rate::columns(rows),
            Self::Services(services) => by::table(services, "/S", number),
        }
    }

    /// The numbers of the sum over all of them, the most important first.
    pub(super) fn totals(&self) -> Vec<String> {
        match self {
            Self::Rows(rows) => Total::of(rows).parts(),
            Self::Services(services) => {
                let sum = |of: fn(&Spread<f64>) -> f64| number(services.iter().map(of).sum());
                let (requests, chosen) = (sum(|it| it.requests), sum(|it| it.chosen));
                vec![format!("{requests} req/s"), format!("{chosen} chosen/s")]
            }
        }
    }

    /// `3 of 12 destinations`, `12 services`.
    pub(super) fn counted(&self, kept: usize, by: &str) -> String {
        let all = self.len();
        let s = if all == 1 { "" } else { "s" };
        if kept == all { format!("{all} {by}{s}") } else { format!("{kept} of {all} {by}{s}") }
    }
}
