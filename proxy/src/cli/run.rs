//! `weir run`: the daemon. Captures workloads until SIGTERM or until a successor takes over, then
//! drains.

use anyhow::Result;

use super::{
    Exit,
    capture_args::RunArgs,
    output,
    session::{self, Beginning, Session, Signals},
    with_exit,
};

pub(super) fn run(args: &RunArgs) -> Result<Exit> {
    let config = args.config()?;
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
        let deadline = config.drain.deadline;
        let mut signals = Signals::new()?;
        let beginning = Beginning {
            own: (!args.standby).then(|| config.settings()),
            instance: Some(config.runtime.instance.clone()),
            upgrade: args.upgrade,
            node: None,
        };
        let session = Session::start(config, log, beginning).await?;
        tracing::info!(workloads = session.workloads().join(", "), "capturing");
        let ending = session.until_over(&mut signals).await;
        session.drain(deadline, ending, &mut signals).await;
        Ok(Exit::Success)
    })
}
