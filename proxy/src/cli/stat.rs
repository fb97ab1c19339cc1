//! `weir stat`: numbers per destination, endpoint or service of a running weir.

use serde::Serialize;

use super::{
    Exit,
    by::{self, By, used_services},
    control::WorkloadArgs,
    output::{OutputArgs, narrate},
};
use crate::{
    admin::protocol::{GetEndpointStat, GetStat},
    service::Spread,
    telemetry::stats::StatsSnapshot,
};

const EXAMPLES: &str = "\
Examples:
  weir stat
  weir stat --by endpoint
  weir stat -o json | jq '.rows[] | select(.failures > 0)'
  weir stat --by service -o json | jq '.services[] | select(.request_skew > 1.5)'

By endpoint, a request counts where it went, when it has ended; connections and bytes count at the
endpoint that the connection was made to. By service, SKEW is the most connections that an endpoint
got, divided by the mean; REQ SKEW the same of requests, and BALANCED what it would be if each
request was balanced by itself.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// What a row is about
    #[arg(long, value_enum, default_value_t)]
    by: By,
    #[command(flatten)]
    weir: WorkloadArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// The services, as JSON has them.
#[derive(Serialize)]
struct Services {
    services: Vec<Spread>,
}

pub(super) fn run(args: &Args) -> anyhow::Result<Exit> {
    match args.by {
        By::Destination => show(args, &args.weir.ask(GetStat)?)?,
        By::Endpoint => show(args, &args.weir.ask(GetEndpointStat)?)?,
        By::Service => {
            let services = Services { services: Spread::total(&used_services(&args.weir)?) };
            if services.services.is_empty() {
                narrate("no connections to services so far");
            }
            let table = |it: &Services| by::table(&it.services, "", |count| count.to_string());
            args.output.print(&services, table)?;
        }
    }
    Ok(Exit::Success)
}

fn show(args: &Args, stats: &StatsSnapshot) -> anyhow::Result<()> {
    if stats.rows.is_empty() {
        narrate("no connections so far");
    }
    args.output.print(stats, |stats| stats.table().unwrap_or_default())
}
