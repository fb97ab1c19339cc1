//! `weir stat`: numbers per destination of a running weir.

use super::{
    Exit,
    control::WorkloadArgs,
    output::{OutputArgs, narrate},
};
use crate::admin::protocol::GetStat;

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
    let stats = args.weir.ask(GetStat)?;
    if stats.rows.is_empty() {
        narrate("no connections so far");
    }
    args.output.print(&stats, |stats| stats.table().unwrap_or_default())?;
    Ok(Exit::Success)
}
