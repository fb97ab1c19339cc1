//! The life of a daemon: captured workloads with their telemetry, admin endpoints and control socket,
//! from start to the end of the drain.

use std::{sync::Arc, time::Duration};

use tokio::{sync::watch, task::JoinSet};
use weir_common::Reason;

use super::{
    DaemonError, Reload, Signals,
    control::Control,
    endpoints::{self, Endpoints},
    handover::OldProcess,
    signals::Hangup,
    supervisor::Supervisor,
};
use crate::{
    admin::{
        client::Connection,
        control::BoundSocket,
        http::{AdminServer, Readiness},
        node::NodeState,
        ui::Ui,
    },
    budget::Budgets,
    config::{Admin, Config, ProcessConfig, RecordConfig, Traffic, WorkloadSettings},
    log::LogHandle,
    otlp::{Exporter, Target},
    service::Sources,
    telemetry::{
        Spans, Telemetry, TelemetryOptions,
        record::{Observer, RecordLog, Rotation},
        stats::StatsSnapshot,
    },
    workload::Workload,
    workloads::{Ending, StartOptions, Workloads},
};

/// How long the record log may take to reach its file at the end, and spans their collector.
const FLUSH: Duration = Duration::from_secs(5);
/// The same for a collector that has not answered at all, where a command has ended and the shell waits.
const UNANSWERED: Duration = Duration::from_millis(500);
/// The answer to a request reaches its client well within this.
const ANSWERED: Duration = Duration::from_millis(50);

/// A weir that captures.
pub(crate) struct Daemon {
    workloads: Arc<Workloads>,
    handler: Arc<Control>,
    telemetry: Telemetry,
    log: LogHandle,
    traffic: Traffic,
    readiness: watch::Sender<Readiness>,
    control: JoinSet<()>,
    admin: JoinSet<()>,
    /// To an old process that does not answer.
    _silent: Option<Connection>,
    sources: Sources,
    /// Of spans, if they go anywhere.
    exporter: Option<Exporter>,
    /// It is around one command.
    is_session: bool,
    linger: bool,
    supervisor: Supervisor,
    /// Its signs of life, until the process exits.
    watching: JoinSet<()>,
}

/// What to start with, besides the configuration.
pub(crate) struct SessionOptions {
    /// The process's own workload.
    pub(crate) own: Option<WorkloadSettings>,
    /// The instance's name; `None` for one that vanishes with the process.
    pub(crate) instance: Option<String>,
    /// Whether to replace a running weir, by a handover.
    pub(crate) upgrade: bool,
    /// Of `weir node`: the state of its pods, by which it is ready.
    pub(crate) node: Option<Arc<NodeState>>,
    /// And its name, by which endpoints on it are known.
    pub(crate) node_name: Option<String>,
    /// Whether it answers probes after a handover to a new process, until a signal: a supervisor
    /// would start it again.
    pub(crate) linger: bool,
    /// The control socket, where it is open already.
    pub(crate) control: Option<BoundSocket>,
    /// What is to be told of every record.
    pub(crate) observers: Vec<Arc<dyn Observer>>,
}

/// What is left at the end.
pub(crate) struct Summary {
    pub(crate) stats: StatsSnapshot,
    /// Those of the kernel, of all workloads together.
    pub(crate) decisions: Vec<(Reason, u64)>,
    /// Connections that were closed at the deadline.
    pub(crate) cut: usize,
}

// === impl Daemon ===

impl Daemon {
    /// Everything that can be refused is tried before the first hook is attached.
    ///
    /// # Errors
    /// Where a file, an address or a workload is refused. Nothing is captured then.
    pub(crate) async fn start(
        config: Config,
        log: LogHandle,
        options: SessionOptions,
    ) -> Result<Self, DaemonError> {
        let SessionOptions { own, instance, upgrade, node, node_name, linger, control, observers } =
            options;
        let (telemetry, exporter) = telemetry(&config)?;
        telemetry.observe(observers);
        let old = match &instance {
            Some(instance) if upgrade => OldProcess::of(instance).await?,
            _ => None,
        };
        let is_session = instance.is_none();
        let sources = Sources::start(&config.process, node_name);
        let services = Arc::clone(sources.services());
        let Config { process, traffic, .. } = config;
        let (process, traffic) = (Arc::new(process), Traffic::new(traffic));
        let options = StartOptions { instance, handover: old.is_some(), services };
        let start = Workloads::start(
            Arc::clone(&process),
            traffic.clone(),
            telemetry.clone(),
            own,
            options,
        );
        let mut silent = None;
        let (workloads, Endpoints { control, admin }) = match old {
            None => {
                let endpoints = Endpoints::open(&process.admin, control).await?;
                (start.await?, endpoints)
            }
            Some(old) => {
                let workloads = start.await?;
                let control = old.control().to_owned();
                silent = old.retire(&workloads).await?;
                workloads.settle_in().await;
                (workloads, Endpoints::take_over(&process.admin, &control).await?)
            }
        };
        workloads.announce(control.path())?;
        let readiness = node
            .as_ref()
            .map_or_else(|| watch::Sender::new(Readiness::Ready), |node| node.readiness());
        let handler = Arc::new(Control::new(
            Arc::clone(&workloads),
            telemetry.clone(),
            log.clone(),
            admin.as_ref().map(AdminServer::address),
            node,
        ));
        let mut daemon = Self {
            workloads,
            handler: Arc::clone(&handler),
            telemetry,
            log,
            traffic,
            readiness,
            control: JoinSet::new(),
            admin: JoinSet::new(),
            _silent: silent,
            sources,
            exporter,
            is_session,
            linger,
            supervisor: Supervisor::default(),
            watching: JoinSet::new(),
        };
        let ui = process.admin.ui.then(|| Ui::new(control.path().to_owned()));
        daemon.control.spawn(control.serve(handler));
        daemon.serve_probes(admin, process.admin.address, ui);
        Ok(daemon)
    }

    /// Serves probes, metrics and the page, where an address is configured.
    fn serve_probes(
        &mut self,
        admin: Option<AdminServer>,
        address: Option<std::net::SocketAddr>,
        ui: Option<Ui>,
    ) {
        let (readiness, workloads) = (self.readiness.subscribe(), Arc::downgrade(&self.workloads));
        let ready = move || {
            let workloads = workloads.upgrade();
            let missing = workloads.as_ref().map_or(0, |it| it.missing());
            let replaced = workloads.is_some_and(|it| it.changeable().is_err());
            measured(*readiness.borrow(), missing, replaced)
        };
        let telemetry = self.telemetry.clone();
        match (admin, address) {
            (Some(admin), _) => drop(self.admin.spawn(admin.serve(telemetry, ready, ui))),
            (None, Some(address)) => {
                self.admin.spawn(async move {
                    endpoints::when_free(address).await.serve(telemetry, ready, ui).await;
                });
            }
            (None, None) => {}
        }
    }

    /// What is captured, to be changed.
    #[cfg(feature = "node")]
    pub(crate) fn captured(&self) -> Arc<Workloads> {
        Arc::clone(&self.workloads)
    }

    /// The names of what is captured.
    pub(crate) fn workloads(&self) -> Vec<String> {
        self.workloads.list().iter().map(|it| it.name().to_string()).collect()
    }

    /// Waits until a new process has taken over.
    pub(crate) async fn handover(&self) -> Ending {
        let schema = self.handler.replaced().await;
        Ending::Replaced { same_maps: schema == self.workloads.instance().pins().schema() }
    }

    /// The workload of this name.
    pub(crate) fn workload(&self, name: &str) -> Option<Arc<Workload>> {
        self.workloads.get(name)
    }

    /// Where services are told from.
    pub(crate) const fn sources(&self) -> &Sources {
        &self.sources
    }

    /// weir's own log.
    pub(crate) const fn log(&self) -> &LogHandle {
        &self.log
    }

    /// How connections are served, to be changed.
    pub(crate) const fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    /// Writes further records to a file that is opened anew under the same name.
    pub(crate) async fn reopen_records(&self) {
        let telemetry = self.telemetry.clone();
        let _ = tokio::task::spawn_blocking(move || telemetry.reopen_records()).await;
    }

    /// Tells the supervisor from here on how this process does.
    fn supervise(&mut self) {
        self.supervisor = Supervisor::of_process();
        self.supervisor.ready(&self.status());
        let workloads = Arc::downgrade(&self.workloads);
        let visit = move || {
            let workloads = workloads.upgrade();
            async move {
                if let Some(workloads) = workloads {
                    workloads.visit_workers().await;
                }
            }
        };
        self.watching.spawn(self.supervisor.clone().watch(visit));
    }

    /// One line for the supervisor.
    fn status(&self) -> String {
        match &self.workloads()[..] {
            [] => "no workload yet".to_owned(),
            all => format!("workloads: {}", all.join(", ")),
        }
    }

    /// Waits until a signal, or a handover to a new process, ends the capture. Reloads at each
    /// SIGHUP before. The supervisor, if there is one, is told that weir is ready.
    pub(crate) async fn until_over(
        &mut self,
        signals: &mut Signals,
        reload: &mut Reload<'_>,
    ) -> Ending {
        self.supervise();
        loop {
            tokio::select! {
                ending = self.handover() => return ending,
                hangup = signals.next() => match hangup {
                    None => return Ending::Stop,
                    Some(Hangup::Reload) => {
                        self.supervisor.reloading();
                        reload.run(self).await;
                        self.supervisor.ready(&self.status());
                    }
                    Some(Hangup::TerminalGone) => {
                        tracing::info!("terminal closed");
                        return Ending::Stop;
                    }
                },
            }
        }
    }

    /// Drains as [`Self::finish`] does, saying so; another signal ends it at once.
    pub(crate) async fn drain(mut self, deadline: Duration, ending: Ending, signals: &mut Signals) {
        match ending {
            Ending::Stop => {
                tracing::info!(?deadline, "draining; a second signal exits immediately");
            }
            Ending::Replaced { .. } => {
                tracing::info!(?deadline, "another weir has taken over; draining");
            }
        }
        self.supervisor.stopping(deadline);
        let _watching = std::mem::take(&mut self.watching);
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
    pub(crate) async fn finish(mut self, deadline: Duration, ending: Ending) -> Summary {
        self.handler.set_draining();
        self.readiness.send_replace(Readiness::Draining);
        if ending != Ending::Stop {
            // The new process needs the admin address. The reply to its call is on its way.
            tokio::time::sleep(ANSWERED).await;
            self.control.shutdown().await;
            self.admin.shutdown().await;
        }
        let decisions = self.workloads.decisions();
        let cut = self.workloads.finish(deadline, ending).await;
        self.control.shutdown().await;
        self.admin.shutdown().await;
        let stats = self.telemetry.stats();
        let telemetry = self.telemetry.clone();
        let records = tokio::task::spawn_blocking(move || telemetry.flush_records(FLUSH));
        if let Some(exporter) = self.exporter.take() {
            let unanswered = if self.is_session { UNANSWERED } else { FLUSH };
            exporter.finish(FLUSH, unanswered).await;
        }
        let _ = records.await;
        Summary { stats, decisions, cut }
    }
}

// === helpers ===

/// Ready only if everything is captured and no new process is taking over.
const fn measured(readiness: Readiness, missing: usize, replaced: bool) -> Readiness {
    match readiness {
        Readiness::Draining => Readiness::Draining,
        _ if replaced => Readiness::Replaced,
        Readiness::Ready if missing > 0 => Readiness::Waiting { workloads: missing },
        readiness => readiness,
    }
}

/// Everything that is counted, and the exporter of spans.
fn telemetry(config: &Config) -> Result<(Telemetry, Option<Exporter>), DaemonError> {
    let (records, budgets) = (records(&config.process)?, Budgets::new(&config.budgets()));
    let otlp = &config.process.otlp;
    let (target, ignored) = Target::of_process(otlp);
    for problem in ignored {
        tracing::warn!(problem, "ignoring a variable of the environment");
    }
    let Admin { destinations, destination_label: label, .. } = config.process.admin;
    let options = TelemetryOptions { records, spans: None, budgets, destinations, label };
    let Some(target) = target else { return Ok((Telemetry::with(options), None)) };
    let (spans, waiting, export) = Spans::new(otlp.clone(), target.url.clone());
    let telemetry = Telemetry::with(TelemetryOptions { spans: Some(spans), ..options });
    let exporter = Exporter::start(target, waiting, export, telemetry.clone());
    Ok((telemetry, Some(exporter)))
}

fn records(config: &ProcessConfig) -> Result<Option<RecordLog>, DaemonError> {
    let Some(path) = &config.record.file else { return Ok(None) };
    let RecordConfig { format, max_size, keep, .. } = config.record;
    let rotation = (max_size > 0).then_some(Rotation { max_size: max_size as u64, keep });
    RecordLog::open(path, format, rotation)
        .map(Some)
        .map_err(|source| DaemonError::Records { path: path.clone(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_weir_is_ready_if_it_captures_everything_and_is_not_being_replaced() {
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
