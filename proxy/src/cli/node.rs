//! `weir node`: captures the annotated pods of a Kubernetes node until SIGTERM.

use std::{path::PathBuf, sync::Arc};

use anyhow::{Context as _, Result, anyhow};

use super::{
    Exit,
    capture_args::{CaptureArgs, PortFlags},
    flags::{FlagGroup, Flags},
    output,
    service_flags::ServiceFlags,
    with_exit,
};
use crate::{
    admin::node::NodeState,
    config::{Config, ConfigError, Group, Setting},
    daemon::{self, Daemon, Reload, SessionOptions, Signals},
    host::cgroup,
    log::LogTarget,
    node::{Node, Options, Source},
};

/// Apart from `weir run`'s, so that both can be on a machine.
const INSTANCE: &str = "node";

/// The instance, with another default than that of `weir run`.
#[derive(Clone, Copy, Debug)]
enum InstanceOfNode {}

impl FlagGroup for InstanceOfNode {
    fn has(setting: &Setting) -> bool {
        setting.group == Group::Instance
    }

    fn default(_: &Setting) -> Option<String> {
        Some(INSTANCE.to_owned())
    }
}

#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  weir node --node-name worker-1 --admin 0.0.0.0:4191
  weir node --node-name worker-1 --kubeconfig admin.conf --linkerd-annotations
  weir node --pods-dir /etc/weir/pods

A pod is captured where it, or its namespace, has the annotation weir.dev/inject: enabled.
Its settings are annotations: config.weir.dev/skip-inbound-ports, skip-outbound-ports,
opaque-ports, fail (open, closed) and preserve-client-ip (\"true\", \"false\"). The flags for
workloads are the defaults for pods without such annotations.")]
pub(super) struct Args {
    /// Name of the node, as in `kubectl get nodes`
    #[arg(long, value_name = "NAME", env = "NODE_NAME")]
    node_name: Option<String>,

    /// Access to the API server [default: the pod's service account, or as kubectl finds it]
    #[arg(long, value_name = "FILE", conflicts_with = "pods_dir")]
    kubeconfig: Option<PathBuf>,

    /// Follow the Pod manifests (*.yaml, *.yml, *.json) in this directory instead of an API server
    #[arg(long, value_name = "DIR")]
    pods_dir: Option<PathBuf>,

    /// Also accept Linkerd's annotations with the same meaning
    #[arg(long)]
    linkerd_annotations: bool,

    /// Search the cgroups of pods below this one [default: the cgroup2 mount]
    #[arg(long, value_name = "PATH")]
    cgroup_root: Option<PathBuf>,

    /// Where the kernel side is kept.
    #[command(flatten)]
    instance: Flags<InstanceOfNode>,

    /// Take over from the running weir without failed connections
    #[arg(long)]
    upgrade: bool,

    /// After another weir has taken over, drain and keep answering probes until SIGTERM, so that a
    /// kubelet does not restart it
    #[arg(long)]
    linger: bool,

    /// Configuration file (TOML); flags take precedence, and annotations over both
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Print the effective configuration and exit
    #[arg(long)]
    print_config: bool,

    /// Defaults for pods.
    #[command(flatten)]
    ports: PortFlags,

    /// Flags shared with `weir run`.
    #[command(flatten)]
    capture: CaptureArgs,

    /// Services.
    #[command(flatten)]
    services: ServiceFlags,
}

pub(super) fn run(args: &Args) -> Result<Exit> {
    let config = args.config()?;
    if args.print_config {
        output::write_stdout(config.to_toml().as_bytes())?;
        return Ok(Exit::Success);
    }
    let source = args.source().map_err(|error| with_exit(error, Exit::Usage))?;
    let cgroup_root = match &args.cgroup_root {
        Some(path) => path.canonicalize().with_context(|| {
            format!("cannot search for pods in {}; use a cgroup2 directory", path.display())
        })?,
        None => cgroup::mount_point()?,
    };
    let control = config.process.admin.control_socket.clone();
    daemon::reduce_privileges(&config.process, vec![control], false)?;
    let log = daemon::start_log(&config, LogTarget::Stderr)?;
    daemon::raise_file_limit();
    daemon::runtime()?.block_on(async {
        let deadline = config.process.drain.deadline;
        let node_options = Options {
            defaults: config.own.clone(),
            linkerd: args.linkerd_annotations,
            cgroup_root,
        };
        let mut signals = Signals::new()?;
        let state = Arc::new(NodeState::new());
        let options = SessionOptions {
            own: None,
            instance: Some(config.process.runtime.instance.clone()),
            upgrade: args.upgrade,
            node: Some(Arc::clone(&state)),
            node_name: args.node_name.clone(),
            linger: args.linger,
            control: None,
            observers: Vec::new(),
        };
        // Before the API server is asked: what an earlier weir has captured is captured at once.
        let mut reload = Reload::new(config.clone(), || args.config());
        let mut daemon = Daemon::start(config, log, options).await?;
        tracing::info!(workloads = daemon.workloads().join(", "), "restored workloads");
        let node = match Node::start(source, node_options, daemon.captured(), state).await {
            Ok(node) => node,
            Err(error) => {
                daemon.finish(deadline, crate::workloads::Ending::Stop).await;
                return Err(error.into());
            }
        };
        let ending = daemon.until_over(&mut signals, &mut reload).await;
        // Pods that come and go from here on are the new process's concern.
        node.stop().await;
        daemon.drain(deadline, ending, &mut signals).await;
        Ok(Exit::Success)
    })
}

// === impl Args ===

impl Args {
    /// The effective configuration: defaults, then the file, then the flags.
    fn config(&self) -> Result<Config, ConfigError> {
        let mut config = match &self.config {
            Some(path) => Config::load(path)?,
            None => {
                let mut config = Config::default();
                config.process.runtime.instance = INSTANCE.to_owned();
                config
            }
        };
        self.instance.apply(&mut config)?;
        self.ports.apply(&mut config)?;
        self.capture.apply(&mut config)?;
        self.services.apply(&mut config)?;
        config.resolve();
        config.validate()?;
        Ok(config)
    }

    fn source(&self) -> Result<Source> {
        if let Some(path) = &self.pods_dir {
            std::fs::read_dir(path).with_context(|| {
                format!("cannot read {}; use a directory of Pod manifests", path.display())
            })?;
            return Ok(Source::Directory(path.clone()));
        }
        let node = self.node_name.clone().filter(|name| !name.is_empty()).ok_or_else(|| {
            anyhow!(
                "the node name is missing: pass --node-name NAME or set NODE_NAME (spec.nodeName \
                 by the downward API), or use --pods-dir DIR instead of an API server"
            )
        })?;
        Ok(Source::Cluster { kubeconfig: self.kubeconfig.clone(), node })
    }
}
