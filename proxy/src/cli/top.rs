//! `weir top`: the busiest destinations, endpoints or services of a running weir, again and again.

use std::{
    io::{self, IsTerminal},
    num::NonZeroU64,
    thread,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{anyhow, ensure};

use super::{
    Exit,
    by::{self, By, used_services},
    control::WorkloadArgs,
    output::{Format, OutputArgs, write_stdout},
    with_exit,
};
use crate::{
    admin::protocol::{GetEndpointStat, GetStat},
    service::{ServicesReport, Spread},
    telemetry::stats::{Order, Rate, StatsSnapshot, number},
    units::{human_duration, parse_duration, rfc3339},
};

/// Erases a terminal's screen and goes to its beginning (ECMA-48: ED, CUP).
const CLEAR: &str = "\x1b[2J\x1b[H";

const EXAMPLES: &str = "\
Examples:
  weir top
  weir top --sort failures --interval 5s
  weir top --by service
  weir top --count 1 -o json | jq '.rows[0]'

Values are per second, over the last interval; P50 and P99 are since the start of weir. By service,
SKEW is the most connections that an endpoint got in the interval, divided by the mean; REQ SKEW the
same of requests, and BALANCED what it would be if each request was balanced by itself. The command
runs until it is interrupted or has shown --count intervals.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// What a row is about
    #[arg(long, value_enum, default_value_t)]
    by: By,
    /// Length of an interval, such as 500ms or 5s; 100ms to 1h
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = interval)]
    interval: Duration,
    /// Sort order
    #[arg(long, value_enum, default_value_t)]
    sort: Order,
    /// Number of rows
    #[arg(long, value_name = "NUMBER", default_value_t = 20)]
    rows: usize,
    /// Exit after this many intervals
    #[arg(short, long, value_name = "NUMBER")]
    count: Option<NonZeroU64>,
    #[command(flatten)]
    weir: WorkloadArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// What is shown of an interval.
#[derive(serde::Serialize)]
struct Top {
    time: String,
    interval_ms: u64,
    #[serde(flatten)]
    shown: Shown,
}

#[derive(serde::Serialize)]
#[serde(untagged)]
enum Shown {
    Rows {
        /// Destinations (or endpoints) with anything to show, of which the first are in `rows`.
        destinations: usize,
        rows: Vec<Rate>,
    },
    Services {
        /// In use, of which the first are in `services`.
        in_use: usize,
        services: Vec<Spread<f64>>,
    },
}

pub(super) fn run(args: &Args) -> anyhow::Result<Exit> {
    if args.by == By::Service && !matches!(args.sort, Order::Requests | Order::Connections) {
        let error = anyhow!("--by service has requests and connections only to sort by");
        return Err(with_exit(error, Exit::Usage));
    }
    match args.by {
        By::Destination => watch(args, || args.weir.ask(GetStat), rows),
        By::Endpoint => watch(args, || args.weir.ask(GetEndpointStat), rows),
        By::Service => watch(args, || used_services(&args.weir), services),
    }
}

/// Shows what has happened between two looks, again and again.
fn watch<T>(
    args: &Args,
    look: impl Fn() -> anyhow::Result<T>,
    between: impl Fn(&Args, &T, &T, Duration) -> Shown,
) -> anyhow::Result<Exit> {
    let (mut before, mut then) = (look()?, Instant::now());
    let mut intervals = 0;
    loop {
        thread::sleep(args.interval);
        let (after, now) = (look()?, Instant::now());
        let took = now - then;
        let top = Top {
            time: rfc3339(SystemTime::now()),
            interval_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            shown: between(args, &before, &after, took),
        };
        write_stdout(text(&top, args, took)?.as_bytes())?;
        intervals += 1;
        if args.count.is_some_and(|count| intervals >= count.get()) {
            return Ok(Exit::Success);
        }
        (before, then) = (after, now);
    }
}

fn rows(args: &Args, before: &StatsSnapshot, after: &StatsSnapshot, took: Duration) -> Shown {
    let mut rows = Rate::between(before, after, took, args.sort);
    let destinations = rows.len();
    rows.truncate(args.rows);
    Shown::Rows { destinations, rows }
}

fn services(args: &Args, before: &ServicesReport, after: &ServicesReport, took: Duration) -> Shown {
    let mut all = Spread::between(before, after);
    if args.sort == Order::Connections {
        all.sort_by_key(|it| std::cmp::Reverse(it.chosen));
    }
    let in_use = all.len();
    let first = all.into_iter().take(args.rows);
    Shown::Services { in_use, services: first.map(|it| it.per_second(took)).collect() }
}

/// On a terminal one screen takes the place of the other; elsewhere an empty line is between them.
fn text(top: &Top, args: &Args, took: Duration) -> anyhow::Result<String> {
    if args.output.output == Format::Json {
        return Ok(crate::json::to_string(top)? + "\n");
    }
    let (begin, end) = if io::stdout().is_terminal() { (CLEAR, "") } else { ("", "\n") };
    let (shown, all, what, table) = match &top.shown {
        Shown::Rows { destinations, rows } if args.by == By::Endpoint => {
            (rows.len(), destinations, "endpoints", Rate::table(rows))
        }
        Shown::Rows { destinations, rows } => {
            (rows.len(), destinations, "destinations", Rate::table(rows))
        }
        Shown::Services { in_use, services } => {
            (services.len(), in_use, "services", by::table(services, "/S", number))
        }
    };
    let head = format!("{}, {}: {shown} of {all} {what}", top.time, human_duration(took));
    Ok(format!("{begin}{head}\n\n{table}{end}"))
}

fn interval(text: &str) -> anyhow::Result<Duration> {
    let interval = parse_duration(text)?;
    let range = Duration::from_millis(100)..=Duration::from_secs(3600);
    ensure!(range.contains(&interval), "an interval must be 100ms to 1h");
    Ok(interval)
}
