//! `weir stat`: numbers per destination of a running weir.

use super::{
    Exit,
    control::{WorkloadArgs, unexpected},
    output::{OutputArgs, narrate},
};
use crate::admin::protocol::{Answer, Command};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  weir stat\n  weir stat -o json | jq '.rows[] | select(.failures > 0)'"
)]
pub(super) struct Args {
    #[command(flatten)]
    weir: WorkloadArgs,
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) fn run(args: &Args) -> anyhow::Result<Exit> {
    let stats = match args.weir.ask(Command::Stat)? {
        Answer::Stat(stats) => stats,
        other => return Err(unexpected(&other)),
    };
    if stats.rows.is_empty() {
        narrate("no connections so far");
    }
    args.output.print(&stats, |stats| stats.table().unwrap_or_default())?;
    Ok(Exit::Success)
}
