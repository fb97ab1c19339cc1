//! `weir log-level`: what a running weir writes to its log, shown and changed.

use super::{Exit, control::ControlArgs, output::OutputArgs};
use crate::admin::protocol::LogLevel;

const EXAMPLES: &str = "\
Examples:
  weir log-level
  weir log-level debug
  weir log-level 'info,weir::connection=trace'

The change lasts until weir exits.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// A level, or directives by module, as for `weir run --log-level`
    #[arg(value_name = "FILTER")]
    filter: Option<String>,
    #[command(flatten)]
    control: ControlArgs,
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) fn run(args: &Args) -> anyhow::Result<Exit> {
    let filter = args.control.ask(LogLevel { filter: args.filter.clone() })?;
    args.output.print(&filter, |filter| format!("{filter}\n"))?;
    Ok(Exit::Success)
}
