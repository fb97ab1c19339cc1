//! `weir run`: capture a cgroup until told to stop.

use super::{Exit, capture_args::RunArgs};

pub(super) fn run(_args: &RunArgs) -> anyhow::Result<Exit> {
    anyhow::bail!("not merged yet")
}
