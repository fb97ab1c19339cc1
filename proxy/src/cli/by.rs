//! What `weir stat` and `weir top` show rows by, and the table of services that both have.

use anyhow::anyhow;

use super::{Exit, control::WorkloadArgs, with_exit};
use crate::{
    admin::protocol::GetUsedServices,
    service::{ServicesReport, Spread},
    table::{Cell, Column, Table},
    telemetry::stats,
};

/// What a row is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum By {
    /// The original destination.
    #[default]
    Destination,
    /// The address that connections and requests went to.
    Endpoint,
    /// The host name that clients asked for, and the destination where there is none.
    #[value(alias = "host")]
    Name,
    /// The name of the process that connects
    Process,
    /// The address that connects
    Client,
    /// Host and path of requests
    Path,
    /// A service, with the skew over its endpoints.
    Service,
}

// === impl By ===

impl By {
    /// The same of rows of statistics; `None` of services, which have none.
    pub(super) const fn rows(self) -> Option<stats::By> {
        Some(match self {
            Self::Destination => stats::By::Destination,
            Self::Endpoint => stats::By::Endpoint,
            Self::Name => stats::By::Name,
            Self::Process => stats::By::Process,
            Self::Client => stats::By::Client,
            Self::Path => stats::By::Path,
            Self::Service => return None,
        })
    }

    /// What rows are.
    pub(super) fn several(self) -> String {
        let end = if self == Self::Process { "es" } else { "s" };
        format!("{}{end}", self.name())
    }

    /// What one row is.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Destination => "destination",
            Self::Endpoint => "endpoint",
            Self::Name => "name",
            Self::Process => "process",
            Self::Client => "client",
            Self::Path => "path",
            Self::Service => "service",
        }
    }
}

/// Asks a running weir for the services that connections were made to.
pub(super) fn used_services(weir: &WorkloadArgs) -> anyhow::Result<ServicesReport> {
    if weir.workload.is_some() {
        let error = anyhow!(
            "--by service counts all workloads together; omit --workload, or use --by endpoint"
        );
        return Err(with_exit(error, Exit::Usage));
    }
    weir.ask(GetUsedServices)
}

/// A table of services; `count` makes text of a count or a rate, whose columns end with `unit`.
pub(super) fn table<N: Copy>(
    services: &[Spread<N>],
    unit: &str,
    count: impl Fn(N) -> String,
) -> Table {
    let mut table = Table::new(vec![
        Column::text("SERVICE", 0),
        Column::text("MODE", 4),
        Column::number("ENDPOINTS", 3),
        Column::number(&format!("CHOSEN{unit}"), 1),
        Column::number(&format!("REQ{unit}"), 0),
        Column::number("SKEW", 2),
        Column::number("REQ SKEW", 1),
        Column::number("BALANCED", 5),
    ]);
    let skew = |skew: Option<f64>| skew.map_or("-".to_owned(), |skew| format!("{skew:.2}"));
    for it in services {
        let cells = [
            it.service.clone(),
            it.mode.to_string(),
            it.endpoints.to_string(),
            count(it.chosen),
            count(it.requests),
            skew(it.skew),
            skew(it.request_skew),
            skew(it.balanced_request_skew),
        ];
        table.add(cells.map(Cell::from).to_vec());
    }
    table
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{balance::Mode, table::Width, telemetry::stats::number};

    #[test]
    fn counts_and_rates_of_services_make_a_table() {
        let spread = Spread {
            service: "shop/cart:http".into(),
            mode: Mode::Connections,
            endpoints: 4,
            chosen: 6,
            requests: 300,
            skew: Some(4.0 / 3.0),
            request_skew: None,
            balanced_request_skew: Some(1.0),
        };
        let counts = table(std::slice::from_ref(&spread), "", |count| count.to_string());
        let text = counts.print(Width::default());
        assert_eq!(
            text,
            "SERVICE         MODE         ENDPOINTS  CHOSEN  REQ  SKEW  REQ SKEW  BALANCED\n\
             shop/cart:http  connections          4       6  300  1.33         -      1.00\n"
        );
        let rates = table(&[spread.per_second(Duration::from_secs(2))], "/S", number);
        let text = rates.print(Width::default());
        let words: Vec<_> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        let [head, row]: [Vec<&str>; 2] = words.try_into().unwrap();
        assert_eq!((head[3], head[4], row[3], row[4]), ("CHOSEN/S", "REQ/S", "3.0", "150"));
    }
}
