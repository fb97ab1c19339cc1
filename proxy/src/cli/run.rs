//! `weir run`: the daemon. Captures one cgroup until SIGTERM, then drains.

use anyhow::{Context as _, Result};
use tokio::signal::unix::{SignalKind, signal};

use super::{
    Exit,
    capture_args::RunArgs,
    output,
    session::{self, Session},
    with_exit,
};

pub(super) fn run(args: &RunArgs) -> Result<Exit> {
    let config = args.config()?;
    if args.print_config {
        output::write_stdout(config.to_toml().as_bytes())?;
        return Ok(Exit::Success);
    }
    let cgroup = config.workload.cgroup.clone().ok_or_else(|| {
        let problem =
            "no cgroup to capture; name one with --cgroup PATH or `cgroup` under [workload]";
        with_exit(anyhow::anyhow!(problem), Exit::Usage)
    })?;
    let log = session::start_log(&config)?;
    session::raise_file_limit();
    session::runtime(config.runtime.workers)?.block_on(async {
        let deadline = config.drain.deadline;
        let mut terminate = signal(SignalKind::terminate()).context("cannot handle SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("cannot handle SIGINT")?;
        let session = Session::start(config, log, &cgroup).await?;
        tracing::info!(cgroup = %cgroup.display(), "capturing");
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!(deadline = ?deadline, "draining; a second signal ends it at once");
        tokio::select! {
            summary = session.finish(deadline) => {
                if summary.cut > 0 {
                    tracing::warn!(connections = summary.cut, "cut at the drain deadline");
                }
            }
            _ = terminate.recv() => tracing::warn!("not drained"),
            _ = interrupt.recv() => tracing::warn!("not drained"),
        }
        Ok(Exit::Success)
    })
}
