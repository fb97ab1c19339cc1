//! `weir services`: the services that a running weir knows.

use super::{
    Exit,
    control::ControlArgs,
    output::{OutputArgs, narrate},
};
use crate::{
    admin::protocol::GetServices,
    service::{ServiceReport, ServicesReport, SourceReport},
    telemetry::stats::{plain_table, print_table},
    units::human_duration,
};

const HEADER: [&str; 10] = [
    "SERVICE",
    "ADDRESS",
    "SOURCE",
    "MODE",
    "ENDPOINTS",
    "OUT",
    "IN FLIGHT",
    "CHOSEN",
    "SKEW",
    "FALLBACKS",
];
const FIRST_NUMBER: usize = 5;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  weir services
  weir services -o json | jq '.services[] | select(.skew > 1.5)'

SKEW is the most connections that an endpoint got, divided by the mean. In parentheses: the same
of the requests that were seen, and what it would be if each was balanced by itself. FALLBACKS are
connections to the service's own address, because endpoints failed.")]
pub(super) struct Args {
    #[command(flatten)]
    weir: ControlArgs,
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) fn run(args: &Args) -> anyhow::Result<Exit> {
    let report = args.weir.ask(GetServices { service: None })?;
    if report.services.is_empty() {
        narrate("no services are known");
    }
    args.output.print(&report, table)?;
    Ok(Exit::Success)
}

pub(super) fn table(report: &ServicesReport) -> String {
    let mut table = plain_table(&HEADER, FIRST_NUMBER);
    for service in &report.services {
        table.add_row(row(service));
    }
    print_table(&table) + &sources(&report.sources)
}

/// What cannot be asked at present, and since when.
pub(super) fn sources(sources: &[SourceReport]) -> String {
    let problem = |source: &SourceReport| {
        let problem = source.problem.as_ref()?;
        let age = source.age_ms.map(|age| {
            let age = human_duration(std::time::Duration::from_millis(age));
            format!(" (last heard {age} ago)")
        });
        Some(format!("{}: {problem}{}\n", source.source, age.unwrap_or_default()))
    };
    sources.iter().filter_map(problem).collect()
}

fn row(service: &ServiceReport) -> Vec<String> {
    let used = service.endpoints.iter().filter(|it| it.is_used()).count();
    let out = service.endpoints.iter().filter(|it| it.state == "out").count();
    let in_flight: u32 = service.endpoints.iter().map(|it| it.in_flight).sum();
    let chosen: u64 = service.endpoints.iter().map(|it| it.chosen).sum();
    let more = service.addresses.len().saturating_sub(1);
    let first = service.addresses.first().map(ToString::to_string).unwrap_or_default();
    let requests = service.request_skew.zip(service.balanced_request_skew);
    let requests = requests.map(|(now, then)| format!(" ({now:.2}, {then:.2})"));
    vec![
        service.service.clone(),
        if more == 0 { first } else { format!("{first} +{more}") },
        service.source.clone(),
        service.mode.to_string(),
        format!("{used}/{}", service.endpoints.len()),
        out.to_string(),
        in_flight.to_string(),
        chosen.to_string(),
        service
            .skew
            .map_or("-".to_owned(), |skew| format!("{skew:.2}{}", requests.unwrap_or_default())),
        service.fallbacks.to_string(),
    ]
}
