//! `weir run --sidecar`: the pod that weir is in, put into the configuration, and how it ends with
//! the pod.

use std::{env, path::Path, time::Duration};

use anyhow::{Result, anyhow};
use weir_manifest::{BY_SIDECAR, INJECT};

use super::{Exit, capture_args::RunArgs, with_exit};
use crate::{
    capture::{detach, has_bpffs},
    config::{Config, DEFAULT_INSTANCE, Fail},
    daemon::DaemonError,
    host::Sidecar,
    ports::{PortList, PortSet},
};

/// Where the pod's UID is, put there by the downward API.
const UID: &str = "POD_UID";
/// And the name of its node.
const NODE: &str = "NODE_NAME";
/// What a peer may take for its last words once the application has ended. The kernel gives a closed
/// socket's bytes that time too, as long as the pod's network namespace is there.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Finds the pod, and makes it what the configuration captures.
pub(super) fn locate(args: &RunArgs, config: &mut Config) -> Result<Sidecar> {
    let usage = |problem: &str| with_exit(anyhow!("{problem}"), Exit::Usage);
    if config.own.workload.cgroup.is_some() || config.own.workload.netns.is_some() {
        return Err(usage(
            "a sidecar captures its own pod; remove `cgroup` and `netns` under [workload], or \
             --sidecar",
        ));
    }
    let uid = args.pod_uid.clone().or_else(|| given(env::var(UID)));
    let sidecar = Sidecar::locate(uid.as_deref())?;
    let node = &mut config.process.balance.node;
    *node = node.take().or_else(|| given(env::var(NODE)));
    config.own.workload.cgroup = Some(sidecar.pod().to_owned());
    config.own.workload.netns = Some(Path::new("/proc/self/ns/net").to_owned());
    if config.process.runtime.instance == DEFAULT_INSTANCE {
        config.process.runtime.instance = sidecar.instance();
    }
    if let Some(address) = config.process.admin.address.filter(|address| address.port() != 0) {
        // Probes and scrapes ask weir itself. Its listeners are told from the application's anyway,
        // but for one that is opened after a restart, on kernels before 6.4.
        let skip = &mut config.own.inbound.skip_ports;
        let admin = PortList { append: true, set: PortSet::from_iter([address.port()]) };
        *skip = admin.resolve(&skip.set).into();
    }
    if config.own.workload.fail == Fail::Closed && !has_bpffs()? {
        return Err(usage(
            "`fail = \"closed\"` persists across restarts only in the node's bpffs; mount its \
             /sys/fs/bpf into this container (a hostPath volume)",
        ));
    }
    config.validate()?;
    Ok(sidecar)
}

/// A variable that is set to anything.
fn given(variable: Result<String, env::VarError>) -> Option<String> {
    variable.ok().filter(|value| !value.is_empty())
}

/// Before it captures.
pub(super) fn begin(sidecar: &Sidecar) {
    tracing::info!(
        pod = %sidecar.pod().display(), weir = %sidecar.own().display(), "running as a sidecar"
    );
    for instance in detach::sweep(|instance| sidecar.is_of_gone_pod(instance)) {
        tracing::info!(instance, "removed the state of a sidecar whose pod no longer exists");
    }
}

/// Why it does not start, with what to do where weir on the node was faster.
pub(super) fn explained(error: DaemonError) -> anyhow::Error {
    if !error.is_overlap() {
        return error.into();
    }
    anyhow::Error::new(error).context(format!(
        "another weir captures this pod; if that is `weir node`, annotate the pod {INJECT}: \
         {BY_SIDECAR} (`weir inject --sidecar` does), so that it ignores the pod"
    ))
}

/// How long connections may go on at the end. The kubelet ends native sidecars after everything else
/// in the pod: what is open then is not waited for here.
pub(super) fn deadline(sidecar: &Sidecar, configured: Duration) -> Duration {
    if !sidecar.is_alone() {
        return configured;
    }
    tracing::info!("all other processes of the pod have exited");
    configured.min(LAST_WORDS)
}
