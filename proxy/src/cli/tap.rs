//! `weir tap`: records of a running weir as they come.

use std::{num::NonZeroU64, time::Duration};

use anyhow::bail;

use super::{
    Exit,
    control::WorkloadArgs,
    filters::FilterArgs,
    output::{Format, OutputArgs, narrate, write_stdout},
};
use crate::{
    admin::protocol::{StartTap, Tapped},
    json,
    telemetry::{
        record::Record,
        tap::{RecordKind, Statuses, TapFilter},
    },
    units::parse_duration,
};

const EXAMPLES: &str = "\
Examples:
  weir tap
  weir tap --requests --failed
  weir tap --port 443 --authority '*.example.com' --count 10
  weir tap --path /api --status 5xx,429 --slower-than 500ms -o json | jq .path
  weir tap --protocol tcp,opaque --to 10.0.0.0/8

A connection is shown when it ends, a request when its response has ended. All conditions must hold;
conditions on requests exclude connections. Bodies, headers and queries are not shown. The command
runs until it is interrupted, has shown --count records, or weir exits.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// Only connections
    #[arg(long, conflicts_with = "requests")]
    connections: bool,
    /// Only requests
    #[arg(long)]
    requests: bool,
    #[command(flatten)]
    place: FilterArgs,
    /// Request method
    #[arg(long, value_name = "METHOD")]
    method: Option<String>,
    /// Prefix of the request path
    #[arg(long, value_name = "PREFIX")]
    path: Option<String>,
    /// Response status codes: 404,5xx,500-503
    #[arg(long, value_name = "LIST")]
    status: Option<Statuses>,
    /// Only failed requests, and connections that did not end normally
    #[arg(long)]
    failed: bool,
    /// Only records with at least this duration: 500ms, 2s
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    slower_than: Option<Duration>,
    /// Exit after this many records
    #[arg(short, long, value_name = "NUMBER")]
    count: Option<NonZeroU64>,
    #[command(flatten)]
    weir: WorkloadArgs,
    #[command(flatten)]
    output: OutputArgs,
}

// === impl Args ===

impl Args {
    fn filter(&self) -> TapFilter {
        TapFilter {
            kind: match (self.connections, self.requests) {
                (true, _) => Some(RecordKind::Connection),
                (_, true) => Some(RecordKind::Request),
                _ => None,
            },
            method: self.method.clone(),
            path: self.path.clone(),
            statuses: self.status.clone(),
            failed: self.failed,
            at_least: self.slower_than.unwrap_or_default(),
            ..self.place.filter()
        }
    }
}

pub(super) fn run(args: &Args) -> anyhow::Result<Exit> {
    let lines = args.weir.follow(StartTap(args.filter()))?;
    narrate("showing new records");
    let mut seen = 0;
    for line in lines {
        match line? {
            Tapped::Record(record) => show(&record, args.output.output)?,
            Tapped::Missed { records } => {
                narrate(&format!("{records} records dropped: the reader is too slow"));
                continue;
            }
        }
        seen += 1;
        if args.count.is_some_and(|count| seen >= count.get()) {
            return Ok(Exit::Success);
        }
    }
    bail!("weir has exited or was replaced; run `weir tap` again")
}

/// One line, at once: the reader of a pipe waits for it.
fn show(record: &Record, format: Format) -> anyhow::Result<()> {
    let line = match format {
        Format::Table => record.to_string(),
        Format::Json => json::to_string(record)?,
    };
    Ok(write_stdout((line + "\n").as_bytes())?)
}
