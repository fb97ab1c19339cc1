//! `weir ports`: what ports get, shown and changed in a running weir.

use std::time::Duration;

use super::{
    Exit,
    control::WorkloadArgs,
    output::{OutputArgs, narrate},
    with_exit,
};
use crate::{
    admin::protocol::{PortsChanged, PortsDiff, PortsDifference, PortsList, PortsReport},
    decision::{Direction, PortState, direction_name, source_name, state_name},
    ports::{PortList, PortSet, PortStatus, PortsReset, PortsSet},
    telemetry::stats::{plain_table, print_table},
    units::{human_duration, parse_duration},
};

/// How long a change may last, in seconds.
const MAX_LIFETIME_S: u64 = 720 * 3600;

const EXAMPLES: &str = "\
Examples:
  weir ports list
  weir ports skip 4406 --outbound
  weir ports opaque 9000-9100,27017
  weir ports detect 3306 --outbound
  weir ports skip 4406 --for 10m
  weir ports diff
  weir ports reset --all

Changes take effect in the kernel at once, for all new connections. They persist across restarts of
weir; those with --for do not: they end with their time, and with the process (restart, upgrade).";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// List ports whose state is not the default `detect`, with hits of skip rules
    List(ListArgs),
    /// Do not capture connections to these ports: they go direct in the kernel
    #[command(after_help = "Example:\n  weir ports skip 4406 --outbound")]
    Skip(SetArgs),
    /// Forward connections to these ports as raw TCP, without detection
    #[command(after_help = "Example:\n  weir ports opaque 9000-9100,27017")]
    Opaque(SetArgs),
    /// Detect the protocol of connections to these ports
    #[command(after_help = "Example:\n  weir ports detect 3306 --outbound")]
    Detect(SetArgs),
    /// Put ports back to what the configuration says
    Reset(ResetArgs),
    /// Show the ports whose state is not that of the configuration
    Diff(DiffArgs),
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  weir ports list -o json | jq '.rules[] | select(.hits > 0)'")]
struct ListArgs {
    #[command(flatten)]
    weir: WorkloadArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, clap::Args)]
struct SetArgs {
    /// Ports and ranges: 25,3306,9000-9100
    #[arg(value_name = "LIST", value_parser = PortList::parse, allow_hyphen_values = true)]
    list: PortList,
    /// Only inbound connections [default: both directions]
    #[arg(long, conflicts_with = "outbound")]
    inbound: bool,
    /// Only outbound connections [default: both directions]
    #[arg(long)]
    outbound: bool,
    /// Put the ports back after this time (s, m, h; up to 720h) [default: never]
    #[arg(long = "for", value_name = "DURATION", value_parser = parse_duration)]
    lifetime: Option<Duration>,
    #[command(flatten)]
    weir: WorkloadArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("which").required(true).args(["list", "all"]))]
#[command(after_help = "Examples:\n  weir ports reset 4406 --outbound\n  weir ports reset --all")]
struct ResetArgs {
    /// Ports and ranges: 25,3306,9000-9100
    #[arg(value_name = "LIST", value_parser = PortList::parse, allow_hyphen_values = true)]
    list: Option<PortList>,
    /// All ports that were changed
    #[arg(long)]
    all: bool,
    /// Only inbound connections [default: both directions]
    #[arg(long, conflicts_with = "outbound")]
    inbound: bool,
    /// Only outbound connections [default: both directions]
    #[arg(long)]
    outbound: bool,
    #[command(flatten)]
    weir: WorkloadArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  weir ports diff -o json")]
struct DiffArgs {
    #[command(flatten)]
    weir: WorkloadArgs,
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) fn run(args: &Args) -> anyhow::Result<Exit> {
    match &args.verb {
        Verb::List(args) => list(args),
        Verb::Skip(args) => set(args, PortState::Skip),
        Verb::Opaque(args) => set(args, PortState::Opaque),
        Verb::Detect(args) => set(args, PortState::Detect),
        Verb::Reset(args) => reset(args),
        Verb::Diff(args) => diff(args),
    }
}

fn list(args: &ListArgs) -> anyhow::Result<Exit> {
    let report = args.weir.ask(PortsList)?;
    for direction in &report.include_lists {
        narrate(&format!("{direction}: only included ports are captured"));
    }
    args.output.print(&report, list_table)?;
    Ok(Exit::Success)
}

pub(super) fn list_table(report: &PortsReport) -> String {
    let is_temporary = report.rules.iter().any(|rule| rule.left_s.is_some());
    let mut header = vec!["DIRECTION", "PORTS", "STATE", "SOURCE", "INCLUDED", "HITS"];
    header.extend(is_temporary.then_some("LEFT"));
    let mut table = plain_table(&header, 5);
    for rule in &report.rules {
        let mut row = vec![
            direction_name(rule.direction).to_owned(),
            rule.ports.to_string(),
            state_name(rule.status.state).to_owned(),
            source_name(rule.status.source).to_owned(),
            if rule.status.included { "yes" } else { "no" }.to_owned(),
            rule.hits.to_string(),
        ];
        row.extend(is_temporary.then(|| left(rule.left_s)));
        table.add_row(row);
    }
    table.add_row(["both", "all others", "detect", "default", "", "-"]);
    print_table(&table)
}

/// How long a state lasts that does not last.
fn left(seconds: Option<u64>) -> String {
    let text = |seconds| human_duration(Duration::from_secs(seconds));
    seconds.map_or_else(|| "-".to_owned(), text)
}

fn set(args: &SetArgs, state: PortState) -> anyhow::Result<Exit> {
    let ports = ports(&args.list)?;
    let lifetime_s = match args.lifetime {
        None => None,
        Some(time)
            if time.subsec_nanos() == 0 && (1..=MAX_LIFETIME_S).contains(&time.as_secs()) =>
        {
            Some(time.as_secs())
        }
        Some(_) => return Err(usage("--for takes whole seconds, 1s to 720h")),
    };
    let direction = direction(args.outbound, args.inbound);
    let changes = args.weir.ask(PortsSet { direction, ports, state, lifetime_s })?;
    if changes.is_empty() {
        narrate(&format!(
            "nothing changed: {} is already {}, and stays so",
            args.list,
            state_name(state)
        ));
    }
    args.output.print(&changes, |changes| changes_text(changes))?;
    Ok(Exit::Success)
}

fn reset(args: &ResetArgs) -> anyhow::Result<Exit> {
    let ports = args.list.as_ref().map(ports).transpose()?;
    let direction = direction(args.outbound, args.inbound);
    let changes = args.weir.ask(PortsReset { direction, ports })?;
    if changes.is_empty() {
        narrate("nothing changed: the ports have what the configuration says");
    }
    args.output.print(&changes, |changes| changes_text(changes))?;
    Ok(Exit::Success)
}

fn diff(args: &DiffArgs) -> anyhow::Result<Exit> {
    let differences = args.weir.ask(PortsDiff)?;
    if differences.is_empty() {
        narrate("no difference: all ports have what the configuration says");
    }
    args.output.print(&differences, |differences| diff_text(differences))?;
    Ok(Exit::Success)
}

fn usage(problem: &str) -> anyhow::Error {
    with_exit(anyhow::anyhow!("cannot change ports: {problem}"), Exit::Usage)
}

/// The ports of a list that names some.
fn ports(list: &PortList) -> anyhow::Result<PortSet> {
    if list.append {
        return Err(usage(
            "'+' adds to a default list, and `weir ports` always adds; remove the '+'",
        ));
    }
    if list.set.is_empty() {
        return Err(usage("the list is empty; write at least one port"));
    }
    Ok(list.set.clone())
}

const fn direction(outbound: bool, inbound: bool) -> Option<Direction> {
    match (outbound, inbound) {
        (true, _) => Some(Direction::Outbound),
        (_, true) => Some(Direction::Inbound),
        _ => None,
    }
}

/// One line per group of ports that differ in the same way, from the configuration to what they have.
pub(super) fn diff_text(differences: &[PortsDifference]) -> String {
    let line = |it: &PortsDifference| {
        let (direction, ports) = (direction_name(it.direction), &it.ports);
        let left = it.left_s.map(|seconds| format!(", for another {}", left(Some(seconds))));
        let (configured, current) = (status(it.configured), status(it.current));
        format!("{direction} {ports}: {configured} -> {current}{}\n", left.unwrap_or_default())
    };
    differences.iter().map(line).collect()
}

fn status(status: PortStatus) -> String {
    format!("{} ({})", state_name(status.state), source_name(status.source))
}

/// One line per group of ports that changed in the same way.
pub(super) fn changes_text(changes: &[PortsChanged]) -> String {
    changes
        .iter()
        .map(|PortsChanged { direction, ports, before, after }| {
            let direction = direction_name(*direction);
            format!("{direction} {ports}: {} -> {}\n", status(*before), status(*after))
        })
        .collect()
}
