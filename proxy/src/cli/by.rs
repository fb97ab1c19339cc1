//! What `weir stat` and `weir top` show rows by, and the table of services that both have.

use anyhow::anyhow;

use super::{Exit, control::WorkloadArgs, with_exit};
use crate::{
    admin::protocol::GetUsedServices,
    service::{ServicesReport, Spread},
    telemetry::stats::{plain_table, print_table},
};

/// Columns of services; the second and third are choices and requests.
const HEADER: [&str; 8] =
    ["SERVICE", "MODE", "ENDPOINTS", "CHOSEN", "REQ", "SKEW", "REQ SKEW", "BALANCED"];
const FIRST_NUMBER: usize = 2;

/// What a row is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum By {
    /// The original destination.
    #[default]
    Destination,
    /// The address that connections and requests went to.
    Endpoint,
    /// A service, with the skew over its endpoints.
    Service,
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
) -> String {
    let header = HEADER.map(|column| match column {
        "CHOSEN" | "REQ" => format!("{column}{unit}"),
        _ => column.to_owned(),
    });
    let header: Vec<_> = header.iter().map(String::as_str).collect();
    let mut table = plain_table(&header, FIRST_NUMBER);
    let skew = |skew: Option<f64>| skew.map_or("-".to_owned(), |skew| format!("{skew:.2}"));
    for it in services {
        table.add_row([
            it.service.clone(),
            it.mode.to_string(),
            it.endpoints.to_string(),
            count(it.chosen),
            count(it.requests),
            skew(it.skew),
            skew(it.request_skew),
            skew(it.balanced_request_skew),
        ]);
    }
    print_table(&table)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{balance::Mode, telemetry::stats::number};

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
        let text = table(std::slice::from_ref(&spread), "", |count| count.to_string());
        assert_eq!(
            text,
            "SERVICE         MODE         ENDPOINTS  CHOSEN  REQ  SKEW  REQ SKEW  BALANCED\n\
             shop/cart:http  connections          4       6  300  1.33         -      1.00\n"
        );
        let text = table(&[spread.per_second(Duration::from_secs(2))], "/S", number);
        let words: Vec<_> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        let [head, row]: [Vec<&str>; 2] = words.try_into().unwrap();
        assert_eq!((head[3], head[4], row[3], row[4]), ("CHOSEN/S", "REQ/S", "3.0", "150"));
    }
}
