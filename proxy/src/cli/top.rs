//! `weir top`: the busiest destinations of a running weir, again and again.

use std::{
    io::{self, IsTerminal},
    num::NonZeroU64,
    thread,
    time::{Duration, Instant, SystemTime},
};

use anyhow::ensure;

use super::{
    Exit,
    control::WorkloadArgs,
    output::{Format, OutputArgs, write_stdout},
};
use crate::{
    admin::protocol::GetStat,
    telemetry::stats::{Order, Rate, StatsSnapshot},
    units::{human_duration, parse_duration, rfc3339},
};

/// Erases a terminal's screen and goes to its beginning (ECMA-48: ED, CUP).
const CLEAR: &str = "\x1b[2J\x1b[H";

const EXAMPLES: &str = "\
Examples:
  weir top
  weir top --sort failures --interval 5s
  weir top --count 1 -o json | jq '.rows[0]'

Values are per second, over the last interval; P50 and P99 are since the start of weir. The command
runs until it is interrupted or has shown --count intervals.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// Length of an interval, such as 500ms or 5s; 100ms to 1h
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = interval)]
    interval: Duration,
    /// Sort order
    #[arg(long, value_enum, default_value_t)]
    sort: Order,
    /// Number of destinations
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
struct Top<'a> {
    time: String,
    interval_ms: u64,
    /// Destinations with anything to show, of which the first are in `rows`.
    destinations: usize,
    rows: &'a [Rate],
}

pub(super) fn run(args: &Args) -> anyhow::Result<Exit> {
    let (mut before, mut then) = look(args)?;
    let mut shown = 0;
    loop {
        thread::sleep(args.interval);
        let (after, now) = look(args)?;
        let took = now - then;
        let rates = Rate::between(&before, &after, took, args.sort);
        let rows = &rates[..rates.len().min(args.rows)];
        let top = Top {
            time: rfc3339(SystemTime::now()),
            interval_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            destinations: rates.len(),
            rows,
        };
        write_stdout(text(&top, took, args.output.output)?.as_bytes())?;
        shown += 1;
        if args.count.is_some_and(|count| shown >= count.get()) {
            return Ok(Exit::Success);
        }
        (before, then) = (after, now);
    }
}

fn look(args: &Args) -> anyhow::Result<(StatsSnapshot, Instant)> {
    Ok((args.weir.ask(GetStat)?, Instant::now()))
}

/// On a terminal one screen takes the place of the other; elsewhere an empty line is between them.
fn text(top: &Top<'_>, took: Duration, format: Format) -> anyhow::Result<String> {
    if format == Format::Json {
        return Ok(crate::json::to_string(top)? + "\n");
    }
    let (begin, end) = if io::stdout().is_terminal() { (CLEAR, "") } else { ("", "\n") };
    let (shown, all) = (top.rows.len(), top.destinations);
    let head = format!("{}, {}: {shown} of {all} destinations", top.time, human_duration(took));
    Ok(format!("{begin}{head}\n\n{}{end}", Rate::table(top.rows)))
}

fn interval(text: &str) -> anyhow::Result<Duration> {
    let interval = parse_duration(text)?;
    let range = Duration::from_millis(100)..=Duration::from_secs(3600);
    ensure!(range.contains(&interval), "an interval must be 100ms to 1h");
    Ok(interval)
}
