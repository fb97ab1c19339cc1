//! `weir ports`: what ports get, shown and changed in a running weir.

use super::{
    Exit,
    control::WorkloadArgs,
    output::{OutputArgs, narrate},
    with_exit,
};
use crate::{
    admin::protocol::{PortsChanged, PortsList, PortsReport},
    decision::{Direction, PortState, direction_name, source_name, state_name},
    ports::{PortList, PortStatus, PortsSet},
    telemetry::stats::{plain_table, print_table},
};

const EXAMPLES: &str = "\
Examples:
  weir ports list
  weir ports skip 4406 --outbound
  weir ports opaque 9000-9100,27017
  weir ports detect 3306 --outbound

Changes take effect in the kernel at once, for all new connections.";

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
    let mut table = plain_table(&["DIRECTION", "PORTS", "STATE", "SOURCE", "INCLUDED", "HITS"], 5);
    for rule in &report.rules {
        table.add_row([
            direction_name(rule.direction).to_owned(),
            rule.ports.to_string(),
            state_name(rule.status.state).to_owned(),
            source_name(rule.status.source).to_owned(),
            if rule.status.included { "yes" } else { "no" }.to_owned(),
            rule.hits.to_string(),
        ]);
    }
    table.add_row(["both", "all others", "detect", "default", "", "-"]);
    print_table(&table)
}

fn set(args: &SetArgs, state: PortState) -> anyhow::Result<Exit> {
    let usage = |problem: &str| {
        Err(with_exit(anyhow::anyhow!("cannot change ports: {problem}"), Exit::Usage))
    };
    if args.list.append {
        return usage("'+' adds to a default list, and `weir ports` always adds; remove the '+'");
    }
    if args.list.set.is_empty() {
        return usage("the list is empty; write at least one port");
    }
    let direction = match (args.outbound, args.inbound) {
        (true, _) => Some(Direction::Outbound),
        (_, true) => Some(Direction::Inbound),
        _ => None,
    };
    let change = PortsSet { direction, ports: args.list.set.clone(), state };
    let changes = args.weir.ask(change)?;
    if changes.is_empty() {
        narrate(&format!("nothing changed: {} is already {}", args.list, state_name(state)));
    }
    args.output.print(&changes, |changes| changes_text(changes))?;
    Ok(Exit::Success)
}

/// One line per group of ports that changed in the same way.
pub(super) fn changes_text(changes: &[PortsChanged]) -> String {
    let status = |s: PortStatus| format!("{} ({})", state_name(s.state), source_name(s.source));
    changes
        .iter()
        .map(|PortsChanged { direction, ports, before, after }| {
            let direction = direction_name(*direction);
            format!("{direction} {ports}: {} -> {}\n", status(*before), status(*after))
        })
        .collect()
}
