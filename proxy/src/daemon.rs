//! A running weir as its control socket sees it: answers what is asked with what the workload, the
//! telemetry and the log know.

mod explain;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use crate::{
    admin::{
        control::ControlHandler,
        protocol::{
            ControlError, Explanation, KernelCounters, PortsReport, PortsSet, Status,
            WorkloadStatus,
        },
    },
    capture,
    decision::{Direction, Source},
    log::LogHandle,
    ports::PortChange,
    telemetry::{Telemetry, stats::StatsSnapshot},
    workload::{Acceleration, Workload},
};

/// Everything the control socket can ask about.
pub struct Daemon {
    workload: Arc<Workload>,
    telemetry: Telemetry,
    log: LogHandle,
    admin: Option<SocketAddr>,
    started: Instant,
    draining: AtomicBool,
}

// === impl Daemon ===

impl Daemon {
    /// `admin` is where `/metrics` is served.
    #[must_use]
    pub fn new(
        workload: Arc<Workload>,
        telemetry: Telemetry,
        log: LogHandle,
        admin: Option<SocketAddr>,
    ) -> Self {
        let draining = AtomicBool::new(false);
        Self { workload, telemetry, log, admin, started: Instant::now(), draining }
    }

    /// Says from now on that the daemon is draining.
    pub fn set_draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }
}

impl ControlHandler for Daemon {
    fn status(&self) -> Status {
        let draining = self.draining.load(Ordering::Relaxed);
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime: self.started.elapsed(),
            phase: if draining { "draining" } else { "running" }.to_owned(),
            workloads: vec![WorkloadStatus {
                name: self.workload.name().to_owned(),
                cgroup: self.workload.cgroup().display().to_string(),
                listeners: self.workload.addresses(),
                hooks: capture::hooks(),
            }],
            admin: self.admin,
            sk_msg: match self.workload.acceleration() {
                Acceleration::Off => "off".to_owned(),
                Acceleration::On => "on".to_owned(),
                Acceleration::Refused(why) => format!("off: {why}"),
            },
            open_connections: self.telemetry.open_connections() as u64,
            resident_bytes: crate::telemetry::resident_bytes().map(i64::cast_unsigned),
        }
    }

    fn ports(&self) -> Result<PortsReport, ControlError> {
        let kernel = self.workload.kernel();
        Ok(PortsReport::new(&self.workload.policy(), &|direction, port| {
            kernel.port_hits(direction, port)
        }))
    }

    fn set_ports(&self, change: &PortsSet) -> Result<Vec<PortChange>, ControlError> {
        let directions = match change.direction {
            Some(direction) => vec![direction],
            None => vec![Direction::Outbound, Direction::Inbound],
        };
        let mut changes = Vec::new();
        for direction in directions {
            let done = self
                .workload
                .set_ports(direction, &change.ports, change.state, Source::Cli)
                .map_err(|error| ControlError::failed(error.to_string()))?;
            changes.extend(done);
        }
        Ok(changes)
    }

    fn explain(
        &self,
        address: SocketAddr,
        direction: Direction,
    ) -> Result<Explanation, ControlError> {
        explain::explain(&self.workload, &self.telemetry.stats(), address, direction)
            .map_err(|error| ControlError::failed(error.to_string()))
    }

    fn stat(&self) -> StatsSnapshot {
        self.telemetry.stats()
    }

    fn log_level(&self) -> String {
        self.log.current()
    }

    fn set_log_level(&self, filter: &str) -> Result<String, ControlError> {
        self.log.set(filter).map_err(|error| ControlError::refused(error.to_string()))?;
        Ok(self.log.current())
    }

    fn kernel_counters(&self) -> Result<KernelCounters, ControlError> {
        let counters = self.workload.kernel().counters();
        let by_reason = counters.into_iter().map(|(r, n)| (r.name().to_owned(), n)).collect();
        let workloads = [(self.workload.name().to_owned(), by_reason)].into();
        Ok(KernelCounters { workloads })
    }
}
