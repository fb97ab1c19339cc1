//! `weir run`: the daemon. Captures workloads until SIGTERM or until a new process takes over, then
//! drains; reloads at SIGHUP.

use anyhow::Result;

use super::{Exit, capture_args::RunArgs, output, sidecar, with_exit};
use crate::{
    daemon::{self, Daemon, Reload, SessionOptions, Signals},
    log::LogTarget,
};

pub(super) fn run(args: &RunArgs) -> Result<Exit> {
    // Found once: a unit that has been stopped is waited for where it was.
    let named = args.named().map(|named| named.locate()).transpose()?;
    let configured = || -> Result<_> {
        let mut config = args.config()?;
        if let Some(cgroup) = &named {
            config.own.workload.cgroup = Some(cgroup.clone());
        }
        Ok(config)
    };
    let mut config = configured()?;
    let sidecar = if args.sidecar { Some(sidecar::locate(args, &mut config)?) } else { None };
    if args.print_config {
        output::write_stdout(config.to_toml().as_bytes())?;
        return Ok(Exit::Success);
    }
    if config.own.workload.cgroup.is_none() && !args.standby {
        let problem = "no cgroup to capture; pass --cgroup PATH, --unit UNIT, --pid PID or \
                       --container NAME, set `cgroup` under [workload], or start without one with \
                       --standby";
        return Err(with_exit(anyhow::anyhow!(problem), Exit::Usage));
    }
    let control = config.process.admin.control_socket.clone();
    daemon::reduce_privileges(&config.process, vec![control], false)?;
    let log = daemon::start_log(&config, LogTarget::Stderr)?;
    daemon::raise_file_limit();
    daemon::runtime()?.block_on(async {
        let drain = config.process.drain.deadline;
        let mut signals = Signals::new()?;
        let options = SessionOptions {
            own: (!args.standby).then(|| config.own.clone()),
            instance: Some(config.process.runtime.instance.clone()),
            upgrade: args.upgrade,
            node: None,
            node_name: None,
            linger: false,
            control: None,
            observers: Vec::new(),
        };
        if let Some(sidecar) = &sidecar {
            sidecar::begin(sidecar);
        }
        let mut reload = Reload::new(config.clone(), || -> Result<_> {
            let mut config = configured()?;
            if args.sidecar {
                sidecar::locate(args, &mut config)?;
            }
            Ok(config)
        });
        let mut daemon = match Daemon::start(config, log, options).await {
            Ok(daemon) => daemon,
            Err(error) if sidecar.is_some() => return Err(sidecar::explained(error)),
            Err(error) => return Err(error.into()),
        };
        tracing::info!(workloads = daemon.workloads().join(", "), "capturing");
        let ending = daemon.until_over(&mut signals, &mut reload).await;
        let deadline = sidecar.map_or(drain, |sidecar| sidecar::deadline(&sidecar, drain));
        daemon.drain(deadline, ending, &mut signals).await;
        Ok(Exit::Success)
    })
}
