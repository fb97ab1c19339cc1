//! `weir stat`: numbers per destination, endpoint or service of a running weir.

use anyhow::anyhow;
use serde::Serialize;

use super::{
    Exit,
    by::{self, By, used_services},
    control::WorkloadArgs,
    output::{OutputArgs, narrate},
    with_exit,
};
use crate::{
    admin::protocol::{GetEndpointStat, GetNameStat, GetStat, ResetStat, SampleStat},
    service::Spread,
    table::Width,
    telemetry::stats::{self, StatsSnapshot},
};

const EXAMPLES: &str = "\
Examples:
  weir stat
  weir stat --by endpoint
  weir stat --by name
  weir stat --by process
  weir stat -o json | jq '.rows[] | select(.failures > 0)'
  weir stat --reset > /dev/null; ./load-test; weir stat
  weir stat --by service -o json | jq '.services[] | select(.request_skew > 1.5)'

By endpoint, a request counts where it went, when it has ended; connections and bytes count at the
endpoint that the connection was made to. By name, a request counts for its host, and a connection
for that of its first request or for the server name of TLS. By process are outbound connections,
by client inbound ones, and by path requests: those of the 256 that were used last. By service,
SKEW is the most connections that an endpoint got, divided by the mean; REQ SKEW the same of
requests, and BALANCED what it would be if each request was balanced by itself.

FAILED has requests and connections that failed, and why the last one did; `unused` are connections
that ended without a byte to decide on. P50 to P99 are latencies of requests, and of TLS the time
from the ClientHello to the answer of the server; DURATION is the mean of connections that have
ended. With --reset, `weir stat` and `weir top` count from zero afterwards, of the workload or of
all; metrics are not changed.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// What a row is about
    #[arg(long, value_enum, default_value_t)]
    by: By,
    /// Show the counts so far, and count from zero from now on
    #[arg(long)]
    reset: bool,
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
    match (args.by.rows(), args.reset) {
        (Some(by), false) => show(args, &counts(args, by)?)?,
        (Some(by), true) => show(args, &args.weir.ask(ResetStat { by })?)?,
        (None, true) => {
            let error = anyhow!(
                "counts of services are those of metrics, which never go back; omit --by service, or \
                 --reset"
            );
            return Err(with_exit(error, Exit::Usage));
        }
        (None, false) => {
            let services = Services { services: Spread::total(&used_services(&args.weir)?) };
            if services.services.is_empty() {
                narrate("no connections to services so far");
            }
            let table = |it: &Services| {
                by::table(&it.services, "", |count| count.to_string()).print(Width::of_stdout())
            };
            args.output.print(&services, table)?;
        }
    }
    Ok(Exit::Success)
}

/// The counts so far. Some kinds of rows come with what only `weir top` needs.
fn counts(args: &Args, by: stats::By) -> anyhow::Result<StatsSnapshot> {
    match by {
        stats::By::Destination => args.weir.ask(GetStat),
        stats::By::Endpoint => args.weir.ask(GetEndpointStat),
        stats::By::Name => args.weir.ask(GetNameStat),
        stats::By::Process | stats::By::Client | stats::By::Path => {
            let mut stats = args.weir.ask(SampleStat { by })?;
            stats.rows.iter_mut().for_each(|row| row.latencies = stats::Latencies::default());
            Ok(stats)
        }
    }
}

fn show(args: &Args, stats: &StatsSnapshot) -> anyhow::Result<()> {
    if stats.rows.is_empty() {
        narrate("no connections so far");
    }
    args.output.print(stats, |stats| stats.table_for(Width::of_stdout()).unwrap_or_default())
}
