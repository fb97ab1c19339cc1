//! What `exec` and `run` share: a captured workload with its telemetry, admin endpoints and
//! control socket, from start to the end of the drain.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::{sync::watch, task::JoinSet};

use crate::{
    admin::{
        control::ControlSocket,
        http::{AdminServer, Readiness},
    },
    config::{BpfLog, Config},
    daemon::Daemon,
    log::{self, LogHandle},
    telemetry::{Telemetry, record::RecordLog, stats::StatsSnapshot},
    workload::Workload,
};

/// How long the record log may take to reach its file at the end.
const FLUSH: Duration = Duration::from_secs(5);

/// A running capture.
pub(super) struct Session {
    workload: Arc<Workload>,
    daemon: Arc<Daemon>,
    telemetry: Telemetry,
    readiness: watch::Sender<Readiness>,
    servers: JoinSet<()>,
}

/// What is left when it is over.
pub(super) struct Summary {
    pub(super) stats: StatsSnapshot,
    /// Connections that the deadline cut.
    pub(super) cut: usize,
}

// === impl Session ===

impl Session {
    /// Everything that can be refused is tried before the first hook is attached.
    pub(super) async fn start(config: Config, log: LogHandle, cgroup: &Path) -> Result<Self> {
        let telemetry = Telemetry::new(records(&config)?);
        let control = ControlSocket::bind(&config.admin.control_socket)?;
        let admin = match config.admin.address {
            Some(address) => Some(AdminServer::bind(address).await?),
            None => None,
        };
        let name = config.workload.name.clone();
        let workload = Workload::start(Arc::new(config), telemetry.clone(), &name, cgroup).await?;
        let daemon = Arc::new(Daemon::new(
            Arc::clone(&workload),
            telemetry.clone(),
            log,
            admin.as_ref().map(AdminServer::address),
        ));
        let (readiness, ready) = watch::channel(Readiness::Ready);
        let mut servers = JoinSet::new();
        let handler: Arc<Daemon> = Arc::clone(&daemon);
        servers.spawn(control.serve(handler));
        if let Some(admin) = admin {
            servers.spawn(admin.serve(telemetry.clone(), ready));
        }
        Ok(Self { workload, daemon, telemetry, readiness, servers })
    }

    /// Stops capturing, drains and takes the last numbers.
    pub(super) async fn finish(mut self, deadline: Duration) -> Summary {
        self.daemon.set_draining();
        let _ = self.readiness.send(Readiness::Draining);
        let cut = self.workload.drain(deadline).await;
        self.servers.shutdown().await;
        let stats = self.telemetry.stats();
        let telemetry = self.telemetry.clone();
        let _ = tokio::task::spawn_blocking(move || telemetry.flush_records(FLUSH)).await;
        Summary { stats, cut }
    }
}

// === helpers ===

/// Starts weir's own log as configured.
pub(super) fn start_log(config: &Config) -> Result<LogHandle> {
    let mut log = config.log.clone();
    if log.bpf != BpfLog::Off {
        // What the BPF programs log comes with their crate's name as its target.
        log.level.push_str(",weir_ebpf=trace");
    }
    Ok(log::init(&log)?)
}

pub(super) fn runtime(workers: usize) -> Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if workers > 0 {
        builder.worker_threads(workers);
    }
    builder.enable_all().build().context("cannot start the worker threads")
}

/// Raises the soft limit of open files to the hard one: each proxied connection takes two.
/// Returns the soft limit as it was, for the command that `exec` starts.
pub(super) fn raise_file_limit() -> Option<(u64, u64)> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).ok()?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).ok()?;
    Some((soft, hard))
}

fn records(config: &Config) -> Result<Option<RecordLog>> {
    let Some(path) = &config.record.file else { return Ok(None) };
    let log = RecordLog::open(path, config.record.format).with_context(|| {
        format!(
            "cannot open record file {}; name a file in a directory that exists",
            path.display()
        )
    })?;
    Ok(Some(log))
}

/// The control socket to use where none was asked for: the usual one, or `name` beside it while
/// another weir has that.
pub(super) fn free_control_socket(usual: PathBuf, name: &str) -> PathBuf {
    if std::os::unix::net::UnixStream::connect(&usual).is_ok() {
        usual.with_file_name(name)
    } else {
        usual
    }
}
