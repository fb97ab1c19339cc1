//! `weir connections`: the open connections of a running weir.

use std::time::Duration;

use super::{
    Exit,
    control::WorkloadArgs,
    filters::FilterArgs,
    output::{OutputArgs, narrate},
};
use crate::{
    admin::protocol::GetConnections, table::Width, telemetry::tap::TapFilter, units::parse_duration,
};

const EXAMPLES: &str = "\
Examples:
  weir connections
  weir connections --outbound --authority '*.example.com'
  weir connections --older-than 10m --protocol tcp,opaque
  weir connections -o json | jq '.connections[] | select(.state == \"half_closed\")'

The oldest connection comes first. STATE is dialling (no upstream connection yet), detecting (it is
not known what it is), open, or half_closed (one side has ended its stream). NAME is the server name
of a TLS connection, or the host of the first request. SENT and RECEIVED are seen from the client.
Direct connections do not go through weir: `ss -t` lists them.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(flatten)]
    place: FilterArgs,
    /// Only connections that are at least this old: 30s, 10m
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    older_than: Option<Duration>,
    /// Show at most this many
    #[arg(long, value_name = "NUMBER", default_value_t = 1000, value_parser = limit)]
    limit: usize,
    #[command(flatten)]
    weir: WorkloadArgs,
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) fn run(args: &Args) -> anyhow::Result<Exit> {
    let at_least = args.older_than.unwrap_or_default();
    let filter = TapFilter { at_least, ..args.place.filter() };
    let is_filtered = filter != TapFilter::default();
    let open = args.weir.ask(GetConnections { filter, limit: args.limit })?;
    let shown = open.connections.len() as u64;
    if open.open == 0 {
        narrate(if is_filtered { "no such connection is open" } else { "no connection is open" });
    } else if shown < open.open {
        let all = open.open;
        narrate(&format!("the oldest {shown} of {all}; --limit, or a condition, shows others"));
    }
    args.output.print(&open, |open| match shown {
        0 => String::new(),
        _ => open.table(Width::of_stdout()),
    })?;
    Ok(Exit::Success)
}

fn limit(text: &str) -> anyhow::Result<usize> {
    let most = GetConnections::MOST;
    let limit = text.parse().ok().filter(|limit| (1..=most).contains(limit));
    limit.ok_or_else(|| anyhow::anyhow!("a limit must be 1 to {most}"))
}
