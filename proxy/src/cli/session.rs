//! What `exec` and `run` share: captured workloads with their telemetry, admin endpoints and
//! control socket, from start to the end of the drain.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
    task::JoinSet,
};

use super::{
    predecessor::Predecessor,
    reload::{Hangup, Reload, Terminal},
};
use crate::{
    admin::{
        client::Connection,
        control::ControlSocket,
        http::{AdminServer, Readiness},
        node::NodeState,
    },
    budget::Budgets,
    config::{BpfLog, Config, Log, WorkloadSettings},
    daemon::Daemon,
    log::{self, LogHandle},
    privileges::{self, Extra},
    telemetry::{Telemetry, record::RecordLog, stats::StatsSnapshot},
    workload::Workload,
    workloads::{Ending, Plan, Workloads},
};

/// How long the record log may take to reach its file at the end.
const FLUSH: Duration = Duration::from_secs(5);
/// The answer to a request reaches its client well within this.
const ANSWERED: Duration = Duration::from_millis(50);

/// Between two attempts to open an admin address that a predecessor holds.
const AGAIN: Duration = Duration::from_secs(1);

/// How long a predecessor may take to let go of what only one can have.
const LETTING_GO: Duration = Duration::from_secs(5);

/// A running capture.
pub(super) struct Session {
    workloads: Arc<Workloads>,
    daemon: Arc<Daemon>,
    telemetry: Telemetry,
    log: LogHandle,
    readiness: watch::Sender<Readiness>,
    control: JoinSet<()>,
    admin: JoinSet<()>,
    /// To a predecessor that hangs.
    _hanging: Option<Connection>,
    linger: bool,
}

/// What to begin with.
pub(super) struct Beginning {
    /// The process's own workload.
    pub(super) own: Option<WorkloadSettings>,
    /// The instance's name; `None` for one that vanishes with the process.
    pub(super) instance: Option<String>,
    /// Whether a weir that is running is taken over from.
    pub(super) upgrade: bool,
    /// Of `weir node`: what it knows of its pods, by which it is ready.
    pub(super) node: Option<Arc<NodeState>>,
    /// Whether it goes on answering probes after another weir has taken over, until a signal: a
    /// supervisor would start it again.
    pub(super) linger: bool,
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
    pub(super) async fn start(
        config: Config,
        log: LogHandle,
        beginning: Beginning,
    ) -> Result<Self> {
        let Beginning { own, instance, upgrade, node, linger } = beginning;
        let telemetry = Telemetry::with_budgets(records(&config)?, Budgets::new(&config.budgets()));
        let predecessor = match &instance {
            Some(instance) if upgrade => Predecessor::of(instance).await?,
            _ => None,
        };
        let config = Arc::new(config);
        let plan = Plan { instance, takeover: predecessor.is_some() };
        let start = Workloads::start(Arc::clone(&config), telemetry.clone(), own, plan);
        let mut hanging = None;
        let (workloads, Ports { control, admin }) = match predecessor {
            None => {
                let ports = Ports::open(&config).await?;
                (start.await?, ports)
            }
            Some(predecessor) => {
                let workloads = start.await?;
                let control = predecessor.control().to_owned();
                hanging = predecessor.retire(&workloads).await?;
                workloads.settle_in().await;
                (workloads, Ports::take_over(&config, &control).await?)
            }
        };
        workloads.announce(control.path())?;
        let readiness = node
            .as_ref()
            .map_or_else(|| watch::Sender::new(Readiness::Ready), |node| node.readiness());
        let daemon = Arc::new(Daemon::new(
            Arc::clone(&workloads),
            telemetry.clone(),
            log.clone(),
            admin.as_ref().map(AdminServer::address),
            node,
        ));
        let (mut controls, mut admins) = (JoinSet::new(), JoinSet::new());
        let handler: Arc<Daemon> = Arc::clone(&daemon);
        controls.spawn(control.serve(handler));
        let ready = {
            let (readiness, workloads) = (readiness.subscribe(), Arc::downgrade(&workloads));
            move || {
                let workloads = workloads.upgrade();
                let missing = workloads.as_ref().map_or(0, |it| it.missing());
                let replaced = workloads.is_some_and(|it| it.changeable().is_err());
                measured(*readiness.borrow(), missing, replaced)
            }
        };
        match (admin, config.admin.address) {
            (Some(admin), _) => drop(admins.spawn(admin.serve(telemetry.clone(), ready))),
            (None, Some(address)) => {
                let telemetry = telemetry.clone();
                admins.spawn(async move {
                    loop {
                        tokio::time::sleep(AGAIN).await;
                        if let Ok(admin) = AdminServer::bind(address).await {
                            tracing::info!(%address, "admin address opened");
                            return admin.serve(telemetry, ready).await;
                        }
                    }
                });
            }
            (None, None) => {}
        }
        let (control, admin) = (controls, admins);
        Ok(Self {
            workloads,
            daemon,
            telemetry,
            log,
            readiness,
            control,
            admin,
            _hanging: hanging,
            linger,
        })
    }

    /// What is captured, to be changed.
    #[cfg(feature = "node")]
    pub(super) fn captured(&self) -> Arc<Workloads> {
        Arc::clone(&self.workloads)
    }

    /// The names of what is captured.
    pub(super) fn workloads(&self) -> Vec<String> {
        self.workloads.list().iter().map(|it| it.name().to_string()).collect()
    }

    /// Waits until another weir has taken over.
    pub(super) async fn succeeded(&self) -> Ending {
        let schema = self.daemon.succeeded().await;
        Ending::Successor { same_maps: schema == self.workloads.instance().pins().schema() }
    }

    /// The workload of this name.
    pub(super) fn workload(&self, name: &str) -> Option<Arc<Workload>> {
        self.workloads.get(name)
    }

    /// What weir says about itself.
    pub(super) const fn log(&self) -> &LogHandle {
        &self.log
    }

    /// Writes further records to a file that is opened anew under the same name.
    pub(super) async fn reopen_records(&self) {
        let telemetry = self.telemetry.clone();
        let _ = tokio::task::spawn_blocking(move || telemetry.reopen_records()).await;
    }

    /// Waits until a signal, or another weir that has taken over, ends the capture. Reloads at each
    /// SIGHUP before.
    pub(super) async fn until_over(
        &self,
        signals: &mut Signals,
        reload: &mut Reload<'_>,
    ) -> Ending {
        loop {
            tokio::select! {
                ending = self.succeeded() => return ending,
                hangup = signals.next() => match hangup {
                    None => return Ending::Stop,
                    Some(Hangup::Reload) => reload.run(self).await,
                    Some(Hangup::TerminalGone) => {
                        tracing::info!("terminal closed");
                        return Ending::Stop;
                    }
                },
            }
        }
    }

    /// Drains as [`Self::finish`] does, saying so; another signal ends it at once.
    pub(super) async fn drain(mut self, deadline: Duration, ending: Ending, signals: &mut Signals) {
        match ending {
            Ending::Stop => {
                tracing::info!(?deadline, "draining; a second signal exits immediately");
            }
            Ending::Successor { .. } => {
                tracing::info!(?deadline, "another weir has taken over; draining");
            }
        }
        let linger = self.linger && ending != Ending::Stop;
        let mut admin = if linger { std::mem::take(&mut self.admin) } else { JoinSet::new() };
        let mut finish = std::pin::pin!(self.finish(deadline, ending));
        let mut asked_to_end = false;
        let summary = loop {
            tokio::select! {
                summary = &mut finish => break Some(summary),
                () = signals.end() => {}
            }
            // One that lingers has been told for the first time.
            if asked_to_end || !linger {
                break None;
            }
            asked_to_end = true;
        };
        match summary {
            None => return tracing::warn!("drain interrupted"),
            Some(Summary { cut: 0, .. }) => {}
            Some(Summary { cut, .. }) => {
                tracing::warn!(connections = cut, "connections closed at the drain deadline");
            }
        }
        if linger && !asked_to_end {
            tracing::info!("drained; answering probes until SIGTERM");
            signals.end().await;
        }
        admin.shutdown().await;
    }

    /// Stops capturing, drains and takes the last numbers.
    pub(super) async fn finish(mut self, deadline: Duration, ending: Ending) -> Summary {
        self.daemon.set_draining();
        self.readiness.send_replace(Readiness::Draining);
        if ending != Ending::Stop {
            // The successor wants the admin address. The answer to its request is under way.
            tokio::time::sleep(ANSWERED).await;
            self.control.shutdown().await;
            self.admin.shutdown().await;
        }
        let cut = self.workloads.finish(deadline, ending).await;
        self.control.shutdown().await;
        self.admin.shutdown().await;
        let stats = self.telemetry.stats();
        let telemetry = self.telemetry.clone();
        let _ = tokio::task::spawn_blocking(move || telemetry.flush_records(FLUSH)).await;
        Summary { stats, cut }
    }
}

/// SIGTERM and SIGINT end a daemon; SIGHUP has it reload, or ends it with its terminal.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    terminal: Terminal,
}

// === impl Signals ===

impl Signals {
    /// From here on they do not kill the process.
    pub(super) fn new() -> Result<Self> {
        let terminal = Terminal::at_start();
        Ok(Self {
            terminal,
            hangup: signal(SignalKind::hangup()).context("cannot handle SIGHUP")?,
            terminate: signal(SignalKind::terminate()).context("cannot handle SIGTERM")?,
            interrupt: signal(SignalKind::interrupt()).context("cannot handle SIGINT")?,
        })
    }

    async fn end(&mut self) {
        let Self { terminate, interrupt, .. } = self;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    }

    /// `None` for a signal that ends a daemon.
    async fn next(&mut self) -> Option<Hangup> {
        let Self { terminate, interrupt, hangup, terminal } = self;
        tokio::select! {
            _ = terminate.recv() => None,
            _ = interrupt.recv() => None,
            _ = hangup.recv() => Some(terminal.hangup()),
        }
    }
}

/// Where a weir is spoken to: only one at a time can have them.
struct Ports {
    control: ControlSocket,
    admin: Option<AdminServer>,
}

// === impl Ports ===

impl Ports {
    async fn open(config: &Config) -> Result<Self> {
        let control = ControlSocket::bind(&config.admin.control_socket)?;
        let admin = match config.admin.address {
            Some(address) => Some(AdminServer::bind(address).await?),
            None => None,
        };
        Ok(Self { control, admin })
    }

    /// Opens them once the predecessor has let them go.
    async fn take_over(config: &Config, predecessor: &Path) -> Result<Self> {
        let path = &config.admin.control_socket;
        let control = if path == predecessor {
            ControlSocket::replace(path)?
        } else {
            ControlSocket::bind(path)?
        };
        let Some(address) = config.admin.address else { return Ok(Self { control, admin: None }) };
        let deadline = tokio::time::Instant::now() + LETTING_GO;
        loop {
            match AdminServer::bind(address).await {
                Ok(admin) => return Ok(Self { control, admin: Some(admin) }),
                Err(error) if tokio::time::Instant::now() > deadline => {
                    // Connections are captured already: better without metrics than not at all.
                    tracing::error!(%error, "continuing without the admin address until it is free");
                    return Ok(Self { control, admin: None });
                }
                Err(_) => tokio::time::sleep(ANSWERED).await,
            }
        }
    }
}

// === helpers ===

/// Ready is only who captures all that there is to capture, and is not being replaced.
const fn measured(readiness: Readiness, missing: usize, replaced: bool) -> Readiness {
    match readiness {
        Readiness::Draining => Readiness::Draining,
        _ if replaced => Readiness::Replaced,
        Readiness::Ready if missing > 0 => Readiness::Waiting { workloads: missing },
        readiness => readiness,
    }
}

/// Starts weir's own log as configured, and warns of deprecated settings.
pub(super) fn start_log(config: &Config) -> Result<LogHandle> {
    let log = log::init(&Log { level: log_filter(config), ..config.log.clone() })?;
    if let Some((name, instead)) = config.http.engine.deprecated() {
        tracing::warn!(name, instead, "deprecated name of an HTTP engine");
    }
    Ok(log)
}

/// The filter of weir's own log.
pub(super) fn log_filter(config: &Config) -> String {
    let mut filter = config.log.level.clone();
    if config.log.bpf != BpfLog::Off {
        // What the BPF programs log comes with their crate's name as its target.
        filter.push_str(",weir_ebpf=trace");
    }
    filter
}

/// Gives up what the session does not need; before any other thread is started. `paths` will be
/// changed besides what the configuration names, and `signals` be sent to a command.
pub(super) fn reduce_privileges(
    config: &Config,
    mut paths: Vec<PathBuf>,
    signals: bool,
) -> Result<()> {
    paths.push(config.admin.control_socket.clone());
    paths.extend(config.record.file.clone().filter(|path| path != Path::new("-")));
    Ok(privileges::reduce(&Extra { paths, address: config.admin.address, signals })?)
}

/// For everything but serving connections, which has threads of its own where there are several.
pub(super) fn runtime() -> Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().context("cannot start the runtime")
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
        format!("cannot open record file {}; use a path in an existing directory", path.display())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_is_who_captures_everything_and_is_not_being_replaced() {
        use Readiness::{Draining, Ready, Replaced, Starting, Waiting};
        for (readiness, missing, replaced, expected) in [
            (Ready, 0, false, Ready),
            (Ready, 2, false, Waiting { workloads: 2 }),
            (Starting, 2, false, Starting),
            (Ready, 0, true, Replaced),
            (Ready, 2, true, Replaced),
            (Draining, 2, true, Draining),
        ] {
            assert_eq!(measured(readiness, missing, replaced), expected);
        }
    }
}
