//! What the control socket asks a running weir, answered from the workloads, the telemetry and the
//! log.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    ops::RangeInclusive,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::future::{BoxFuture, FutureExt, ready};
use tokio::sync::watch;
use weir_http::RequestView;

use super::{
    audit::{self, Author},
    explain,
};
use crate::{
    admin::{
        control::{Caller, ControlHandler},
        node::NodeState,
        protocol::{
            ControlError, ExplainRequest, Explanation, KernelCounters, PortsDifference,
            PortsReport, SpanExport, Status, WorkloadStatus,
        },
    },
    blocking::blocking,
    capture::CaptureError,
    config::WorkloadSettings,
    decision::{Direction, Source, direction_name},
    log::LogHandle,
    ports::{PortChange, PortsReset, PortsSet},
    service::{RequestReport, RoutesReport, ServicesReport},
    telemetry::{
        Export, OpenConnections, Telemetry,
        stats::{By, StatsSnapshot},
        tap::{Tap, TapFilter},
    },
    workload::Workload,
    workloads::{Acceleration, Handover, WaitingWorkload, WorkloadError, Workloads},
};

/// How long a change of ports may last, in seconds; without an end it has no such limit.
const LIFETIME_S: RangeInclusive<u64> = 1..=30 * 24 * 3600;
/// Between two looks whether a handover is over.
const HANDOVER_PAUSE: Duration = Duration::from_secs(1);

/// Everything that the control socket can ask about.
pub(super) struct Control {
    workloads: Arc<Workloads>,
    telemetry: Telemetry,
    log: LogHandle,
    admin: Option<SocketAddr>,
    node: Option<Arc<NodeState>>,
    started: Instant,
    draining: AtomicBool,
    /// The schema of the new process that has taken over.
    new_schema: watch::Sender<Option<String>>,
}

// === impl Control ===

impl Control {
    /// `admin` is where `/metrics` is served; `node` is what `weir node` knows of its pods.
    #[must_use]
    pub(super) fn new(
        workloads: Arc<Workloads>,
        telemetry: Telemetry,
        log: LogHandle,
        admin: Option<SocketAddr>,
        node: Option<Arc<NodeState>>,
    ) -> Self {
        Self {
            workloads,
            telemetry,
            log,
            admin,
            node,
            started: Instant::now(),
            draining: AtomicBool::new(false),
            new_schema: watch::Sender::new(None),
        }
    }

    /// Says from now on that the daemon is draining.
    pub(super) fn set_draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Waits until a new process has taken over, and returns its schema.
    pub(super) async fn replaced(&self) -> String {
        let mut new_schema = self.new_schema.subscribe();
        let seen = new_schema.wait_for(Option::is_some).await;
        // The sender is ours: it is there for as long as we are.
        seen.ok().and_then(|schema| schema.clone()).unwrap_or_default()
    }

    /// The workload that is meant, where it is not captured now.
    fn waiting(&self, workload: Option<&str>) -> Option<WaitingWorkload> {
        let mut waiting = self.workloads.waiting();
        match workload {
            Some(name) => waiting.into_iter().find(|it| it.settings.workload.name == name),
            None if waiting.len() == 1 && self.workloads.list().is_empty() => waiting.pop(),
            None => None,
        }
    }

    /// The workload that is meant, to be changed.
    fn to_change(&self, workload: Option<&str>) -> Result<Arc<Workload>, ControlError> {
        self.workloads.changeable().map_err(refused)?;
        self.meant(workload)
    }

    /// Puts ports back when their time is over; in a handover, once it is known who captures.
    fn revert_after(&self, workload: &Arc<Workload>, lifetime: Duration) {
        let (all, workload) = (Arc::downgrade(&self.workloads), Arc::downgrade(workload));
        tokio::spawn(async move {
            tokio::time::sleep(lifetime).await;
            loop {
                let (Some(all), Some(workload)) = (all.upgrade(), workload.upgrade()) else {
                    return;
                };
                if all.changeable().is_ok() {
                    return match workload.expire_ports().await {
                        Ok(changes) => {
                            audit::ports(Author::Expiry, workload.name(), &changes, None);
                        }
                        Err(error) => {
                            tracing::error!(%error, workload = &**workload.name(), "cannot put ports back");
                        }
                    };
                }
                drop((all, workload));
                tokio::time::sleep(HANDOVER_PAUSE).await;
            }
        });
    }

    /// Leaves the rows of other workloads out.
    fn of(
        &self,
        workload: Option<&str>,
        mut stats: StatsSnapshot,
    ) -> Result<StatsSnapshot, ControlError> {
        if let Some(name) = workload {
            self.meant(Some(name))?;
            stats.rows.retain(|row| &*row.workload == name);
        }
        Ok(stats)
    }

    fn meant(&self, workload: Option<&str>) -> Result<Arc<Workload>, ControlError> {
        self.workloads.meant(workload).map_err(refused)
    }
}

impl ControlHandler for Control {
    fn status(&self) -> Status {
        let draining = self.draining.load(Ordering::Relaxed);
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime: self.started.elapsed(),
            phase: if draining { "draining" } else { "running" }.to_owned(),
            workloads: self.workloads(),
            admin: self.admin,
            sk_msg: match self.workloads.acceleration() {
                Acceleration::Off => "off".to_owned(),
                Acceleration::On => "on".to_owned(),
                Acceleration::Refused(why) => format!("off: {why}"),
            },
            open_connections: self.telemetry.open_connections() as u64,
            kernel_bytes: Some(self.workloads.map_memory().iter().map(|map| map.bytes).sum()),
            resident_bytes: crate::telemetry::resident_bytes().map(i64::cast_unsigned),
            node: self.node.is_some(),
            pods: self.node.as_ref().map(|node| node.pods()).unwrap_or_default(),
            source_problem: self.node.as_ref().and_then(|node| node.problem()),
            spans: self.telemetry.export().map(spans),
        }
    }

    fn ports(&self, workload: Option<&str>) -> Result<PortsReport, ControlError> {
        let workload = self.meant(workload)?;
        let kernel = workload.kernel();
        Ok(PortsReport::new(
            &workload.policy(),
            &|direction, port| kernel.counters.port_hits(direction, port),
            &|direction, port| left_s(&workload, direction, port),
        ))
    }

    fn set_ports(
        &self,
        workload: Option<&str>,
        change: PortsSet,
        caller: Caller,
    ) -> BoxFuture<'_, Result<Vec<PortChange>, ControlError>> {
        let workload = self.to_change(workload);
        async move {
            let (workload, lifetime_s) = (workload?, change.lifetime_s);
            if lifetime_s.is_some_and(|seconds| !LIFETIME_S.contains(&seconds)) {
                return Err(ControlError::bad_request("a change lasts 1 s to 720 h"));
            }
            let set = workload.set_ports(change, Source::Cli).await.map_err(failed)?;
            audit::ports(Author::Caller(caller), workload.name(), &set, lifetime_s);
            if let Some(seconds) = lifetime_s {
                self.revert_after(&workload, Duration::from_secs(seconds));
            }
            Ok(set)
        }
        .boxed()
    }

    fn reset_ports(
        &self,
        workload: Option<&str>,
        reset: PortsReset,
        caller: Caller,
    ) -> BoxFuture<'_, Result<Vec<PortChange>, ControlError>> {
        let workload = self.to_change(workload);
        async move {
            let workload = workload?;
            let changes = workload.reset_ports(reset).await.map_err(failed)?;
            audit::ports(Author::Caller(caller), workload.name(), &changes, None);
            Ok(changes)
        }
        .boxed()
    }

    fn ports_diff(&self, workload: Option<&str>) -> Result<Vec<PortsDifference>, ControlError> {
        let workload = self.meant(workload)?;
        let (current, configured) = (workload.policy(), workload.configured_policy());
        let left_s = |direction, port| left_s(&workload, direction, port);
        Ok(PortsDifference::of(&current, &configured, &left_s))
    }

    fn explain(
        &self,
        workload: Option<&str>,
        address: SocketAddr,
        direction: Direction,
    ) -> BoxFuture<'_, Result<Explanation, ControlError>> {
        if let Some(waiting) = self.waiting(workload) {
            return ready(Ok(explain::waiting(&waiting, address, direction))).boxed();
        }
        let (workload, stats) = (self.meant(workload), self.telemetry.stats());
        async move {
            let workload = workload?;
            let mut explained =
                blocking(move || explain::explain(&workload, &stats, address, direction))
                    .await
                    .map_err(|error| ControlError::failed(error.to_string()))?;
            if direction == Direction::Outbound {
                let service = self.workloads.services().report_at(explained.address);
                explained.service = service.map(Box::new);
            }
            Ok(explained)
        }
        .boxed()
    }

    fn stat(&self, workload: Option<&str>, by: By) -> Result<StatsSnapshot, ControlError> {
        self.of(workload, self.telemetry.stats_by(by))
    }

    fn sample_stat(&self, workload: Option<&str>, by: By) -> Result<StatsSnapshot, ControlError> {
        self.of(workload, self.telemetry.sample_stats(by))
    }

    fn reset_stat(&self, workload: Option<&str>, by: By) -> Result<StatsSnapshot, ControlError> {
        if let Some(name) = workload {
            self.meant(Some(name))?;
        }
        Ok(self.telemetry.reset_stats(workload, by))
    }

    fn connections(
        &self,
        workload: Option<&str>,
        filter: TapFilter,
        limit: usize,
    ) -> BoxFuture<'_, Result<OpenConnections, ControlError>> {
        let meant = workload.map(|name| self.meant(Some(name))).transpose();
        let (telemetry, workload) = (self.telemetry.clone(), workload.map(str::to_owned));
        async move {
            meant?;
            Ok(blocking(move || telemetry.connections(workload.as_deref(), &filter, limit)).await)
        }
        .boxed()
    }

    fn services(&self, service: Option<&str>) -> ServicesReport {
        self.workloads.services().report(service)
    }

    fn used_services(&self) -> ServicesReport {
        self.workloads.services().report_used()
    }

    fn routes(&self) -> RoutesReport {
        self.workloads.services().report_routes()
    }

    fn explain_request(
        &self,
        workload: Option<&str>,
        request: &ExplainRequest,
    ) -> Result<Option<RequestReport>, ControlError> {
        let workload = self.meant(workload)?;
        let namespace = workload.pod().map(|pod| pod.namespace.as_str());
        let ExplainRequest { address, method, target, fields } = request;
        let of = |name: &str| {
            let is_it = |it: &&(String, String)| it.0.eq_ignore_ascii_case(name);
            fields.iter().find(is_it).map(|it| it.1.as_str())
        };
        let named: Vec<_> = fields.iter().map(|it| (it.0.as_str(), it.1.as_str())).collect();
        let host = address.to_string();
        let view = RequestView::new(method, of("host").or(Some(&host)), target, &named);
        Ok(self.workloads.services().report_request(*address, namespace, &view))
    }

    fn tap(&self, workload: Option<&str>, filter: TapFilter) -> Result<Tap, ControlError> {
        if let Some(name) = workload {
            self.meant(Some(name))?;
        }
        self.telemetry
            .tap(workload.map(str::to_owned), filter)
            .map_err(|error| ControlError::refused(error.to_string()))
    }

    fn log_level(&self) -> String {
        self.log.current()
    }

    fn set_log_level(&self, filter: &str, caller: Caller) -> Result<String, ControlError> {
        let before = self.log.current();
        LogHandle::check(filter).map_err(|error| ControlError::bad_request(error.to_string()))?;
        audit::log_level(caller, &before, filter);
        self.log.set(filter).map_err(|error| ControlError::bad_request(error.to_string()))?;
        Ok(self.log.current())
    }

    fn kernel_counters(&self) -> Result<KernelCounters, ControlError> {
        let mut workloads: BTreeMap<String, BTreeMap<String, BTreeMap<String, u64>>> =
            BTreeMap::new();
        for workload in self.workloads.list() {
            let directions = workloads.entry(workload.name().to_string()).or_default();
            for (direction, reason, count) in workload.kernel().counters.all() {
                let reasons = directions.entry(direction_name(direction).to_owned()).or_default();
                reasons.insert(reason.name().to_owned(), count);
            }
        }
        Ok(KernelCounters { workloads })
    }

    fn workloads(&self) -> Vec<WorkloadStatus> {
        let mut all: Vec<_> = self.workloads.list().iter().map(|it| status(it)).collect();
        all.extend(self.workloads.waiting().iter().map(waiting_status));
        all.sort_by(|one, other| one.name.cmp(&other.name));
        all
    }

    fn add_workload(
        &self,
        settings: WorkloadSettings,
        caller: Caller,
    ) -> BoxFuture<'_, Result<WorkloadStatus, ControlError>> {
        async move {
            let workload = self.workloads.add(settings).await.map_err(refused)?;
            audit::workload(caller, workload.name(), "added");
            Ok(status(&workload))
        }
        .boxed()
    }

    fn remove_workload(&self, name: &str, caller: Caller) -> Result<(), ControlError> {
        self.workloads.remove(name).map_err(refused)?;
        audit::workload(caller, name, "removed");
        Ok(())
    }

    fn hand_over(&self) -> BoxFuture<'_, Result<Handover, ControlError>> {
        async move {
            if self.draining.load(Ordering::Relaxed) {
                return Err(ControlError::refused(
                    "this weir is draining; start another one after it has exited",
                ));
            }
            self.workloads.hand_over().await.map_err(refused)
        }
        .boxed()
    }

    fn retire(&self, schema: &str) -> BoxFuture<'_, Result<(), ControlError>> {
        let schema = schema.to_owned();
        async move {
            self.workloads.retire().await.map_err(refused)?;
            self.draining.store(true, Ordering::Relaxed);
            self.new_schema.send_replace(Some(schema));
            Ok(())
        }
        .boxed()
    }
}

// === helpers ===

/// Rounded up: what is shown as 0 s is over.
fn left_s(workload: &Workload, direction: Direction, port: u16) -> Option<u64> {
    let left = workload.port_state_left(direction, port)?;
    Some(left.as_secs() + u64::from(left.subsec_nanos() > 0))
}

fn failed(error: CaptureError) -> ControlError {
    ControlError::failed(error.to_string())
}

fn spans(export: Export) -> SpanExport {
    let counts = &export.counts;
    SpanExport {
        url: export.url.to_string(),
        exported: counts.exported.get(),
        dropped: counts.dropped.get(),
        rejected: counts.rejected.get(),
        failed: counts.failed.get(),
        problem: export.problem(),
    }
}

fn status(workload: &Workload) -> WorkloadStatus {
    WorkloadStatus {
        inbound: workload.settings().inbound.capture && !workload.kernel().flags.is_inbound_off(),
        preserve_client_ip: workload.client_ip().is_some(),
        budget: workload.budget(),
        phase: workload.phase().to_owned(),
        why: workload.wait().map(|wait| wait.why),
        open_connections: workload.open_connections() as u64,
        connect: match workload.not_held() {
            None => "hold".to_owned(),
            Some("") => "immediate".to_owned(),
            Some(why) => format!("immediate: {why}"),
        },
        listeners: workload.own().listed().collect(),
        engine: match workload.tap().refused() {
            Some(why) => format!("passthrough: {why}"),
            None if workload.tap().is_on() => "tap".to_owned(),
            None => String::new(),
        },
        hooks: workload.kernel().links.hooks().into_iter().chain(workload.tap().hooks()).collect(),
        ..waiting_for(&workload.settings())
    }
}

fn waiting_status(waiting: &WaitingWorkload) -> WorkloadStatus {
    WorkloadStatus { why: Some(waiting.wait.why.clone()), ..waiting_for(&waiting.settings) }
}

/// One of which there are only settings.
fn waiting_for(settings: &WorkloadSettings) -> WorkloadStatus {
    let path = |path: &std::path::PathBuf| path.display().to_string();
    WorkloadStatus {
        name: settings.workload.name.clone(),
        cgroup: settings.workload.cgroup.as_ref().map(path).unwrap_or_default(),
        netns: settings.workload.netns.as_ref().map(path),
        fail: settings.workload.fail,
        inbound: settings.inbound.capture,
        preserve_client_ip: settings.inbound.preserve_client_ip,
        learn: settings.workload.learn,
        phase: "waiting".to_owned(),
        why: None,
        open_connections: 0,
        budget: Vec::new(),
        connect: String::new(),
        engine: String::new(),
        listeners: Vec::new(),
        hooks: Vec::new(),
    }
}

fn refused(error: WorkloadError) -> ControlError {
    match error {
        WorkloadError::Capture(error) => ControlError::failed(error.to_string()),
        error => ControlError::refused(error.to_string()),
    }
}
