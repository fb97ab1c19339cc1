//! `weir exec`: run one command with its connections captured.

use super::{Exit, capture_args::ExecArgs};

pub(super) fn run(_args: &ExecArgs) -> anyhow::Result<Exit> {
    anyhow::bail!("not merged yet")
}
