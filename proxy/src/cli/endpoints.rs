//! `weir endpoints`: the endpoints of services, and what each costs.

use std::{
    io::{self, IsTerminal},
    thread,
    time::Duration,
};

use super::{
    Exit,
    control::ControlArgs,
    output::{OutputArgs, narrate, write_stdout},
    services::sources,
};
use crate::{
    admin::protocol::GetServices,
    service::{EndpointReport, ServiceReport, ServicesReport},
    telemetry::stats::{plain_table, print_table},
};

const HEADER: [&str; 11] = [
    "SERVICE",
    "ENDPOINT",
    "ZONE",
    "STATE",
    "COST",
    "LATENCY",
    "CONNECTIONS",
    "IN FLIGHT",
    "CHOSEN",
    "SHARE",
    "FAILED",
];
const FIRST_NUMBER: usize = 4;
/// Erases a terminal's screen and goes to its beginning (ECMA-48: ED, CUP).
const CLEAR: &str = "\x1b[2J\x1b[H";
/// Between two looks.
const PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  weir endpoints
  weir endpoints shop/checkout --watch
  weir endpoints checkout -o json | jq '.services[].endpoints[] | select(.state == \"out\")'

The endpoint with the lowest cost is chosen next. COST, in milliseconds, is
latency x (in flight + 1) x distance / weight. CONNECTIONS are those that balanced
requests share; IN FLIGHT are then requests and streams, otherwise connections.")]
pub(super) struct Args {
    /// A service, with or without its namespace [default: all]
    #[arg(value_name = "SERVICE")]
    service: Option<String>,
    /// Show them again every second until interrupted
    #[arg(short, long)]
    watch: bool,
    #[command(flatten)]
    weir: ControlArgs,
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) fn run(args: &Args) -> anyhow::Result<Exit> {
    loop {
        let report = args.weir.ask(GetServices { service: args.service.clone() })?;
        if report.services.is_empty() {
            match &args.service {
                Some(name) => {
                    anyhow::bail!("no service {name} is known; `weir services` lists them")
                }
                None => narrate("no services are known"),
            }
        }
        if args.watch && io::stdout().is_terminal() {
            write_stdout(CLEAR.as_bytes())?;
        }
        args.output.print(&report, table)?;
        if !args.watch {
            return Ok(Exit::Success);
        }
        thread::sleep(PAUSE);
    }
}

pub(super) fn table(report: &ServicesReport) -> String {
    let mut table = plain_table(&HEADER, FIRST_NUMBER);
    let mut notes = String::new();
    for service in &report.services {
        for endpoint in &service.endpoints {
            table.add_row(row(service, endpoint));
            if let Some(why) = &endpoint.why {
                notes += &format!("{}: {why}\n", endpoint.address);
            }
        }
    }
    print_table(&table) + &notes + &sources(&report.sources)
}

fn row(service: &ServiceReport, endpoint: &EndpointReport) -> Vec<String> {
    let millis = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.2}"));
    vec![
        service.service.clone(),
        endpoint.address.to_string(),
        endpoint.zone.clone().unwrap_or_else(|| "-".to_owned()),
        endpoint.state.clone(),
        millis(endpoint.cost_ms),
        millis(endpoint.latency_ms),
        endpoint.connections.to_string(),
        endpoint.in_flight.to_string(),
        endpoint.chosen.to_string(),
        format!("{:.0}%", endpoint.share * 100.0),
        endpoint.failed.to_string(),
    ]
}

/// What `weir explain` says of the candidates for a connection.
pub(super) fn explain(service: &ServiceReport) -> String {
    let port =
        if service.port.is_empty() { String::new() } else { format!(", port {}", service.port) };
    let mut text = format!(
        "    service: {}{port} (from {}), balance {}: {}\n",
        service.service, service.source, service.mode, service.why
    );
    for endpoint in &service.endpoints {
        let cost = endpoint.cost_ms.map(|cost| format!(", cost {cost:.2} ms"));
        let why = endpoint.why.as_ref().map(|why| format!(": {why}"));
        text += &format!(
            "    candidate: {} {}{}, {} in flight{}\n",
            endpoint.address,
            endpoint.state,
            cost.unwrap_or_default(),
            endpoint.in_flight,
            why.unwrap_or_default()
        );
    }
    if let Some(last) = &service.last {
        text += &format!(
            "    last choice: {} ({}), cost {:.2} ms, {} ms ago, after {} failed\n",
            last.endpoint, last.why, last.cost_ms, last.age_ms, last.failed_before
        );
    }
    text
}
