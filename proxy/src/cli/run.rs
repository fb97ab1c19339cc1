//! `weir run`: the daemon. Captures workloads until SIGTERM or until a successor takes over, then
//! drains.

use anyhow::{Context as _, Result};
use tokio::signal::unix::{SignalKind, signal};

use super::{
    Exit,
    capture_args::RunArgs,
    output,
    session::{self, Beginning, Session},
    sidecar, with_exit,
};
use crate::workloads::Ending;

pub(super) fn run(args: &RunArgs) -> Result<Exit> {
    let mut config = args.config()?;
    let sidecar = if args.sidecar { Some(sidecar::locate(args, &mut config)?) } else { None };
    if args.print_config {
        output::write_stdout(config.to_toml().as_bytes())?;
        return Ok(Exit::Success);
    }
    if config.workload.cgroup.is_none() && !args.standby {
        let problem = "no cgroup to capture; name one with --cgroup PATH or `cgroup` under \
                       [workload], or begin without one with --standby";
        return Err(with_exit(anyhow::anyhow!(problem), Exit::Usage));
    }
    session::reduce_privileges(&config, Vec::new(), false)?;
    let log = session::start_log(&config)?;
    session::raise_file_limit();
    session::runtime()?.block_on(async {
        let drain = config.drain.deadline;
        let mut terminate = signal(SignalKind::terminate()).context("cannot handle SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("cannot handle SIGINT")?;
        let beginning = Beginning {
            own: (!args.standby).then(|| config.settings()),
            instance: Some(config.runtime.instance.clone()),
            upgrade: args.upgrade,
        };
        if let Some(sidecar) = &sidecar {
            sidecar::begin(sidecar);
        }
        let session = Session::start(config, log, beginning).await?;
        tracing::info!(workloads = session.workloads().join(", "), "capturing");
        let ending = tokio::select! {
            _ = terminate.recv() => Ending::Stop,
            _ = interrupt.recv() => Ending::Stop,
            ending = session.succeeded() => ending,
        };
        let deadline = sidecar.map_or(drain, |sidecar| sidecar::deadline(&sidecar, drain));
        match ending {
            Ending::Stop => {
                tracing::info!(deadline = ?deadline, "draining; a second signal ends it at once");
            }
            Ending::Successor { .. } => {
                tracing::info!(deadline = ?deadline, "another weir has taken over; draining");
            }
        }
        tokio::select! {
            summary = session.finish(deadline, ending) => {
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
