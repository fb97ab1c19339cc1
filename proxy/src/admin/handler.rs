//! What the control socket asks the daemon, and what is kept while it is asked.

use std::net::SocketAddr;

use futures_util::future::BoxFuture;

use super::control::Reader;
use super::protocol::{
    ControlError, ExplainRequest, Explanation, KernelCounters, PortsDifference, PortsReport,
    Status, WorkloadStatus,
};
use crate::{
    config::WorkloadSettings,
    decision::Direction,
    ports::{PortChange, PortsReset, PortsSet},
    service::{RequestReport, RoutesReport, ServicesReport},
    telemetry::{
        OpenConnections,
        stats::{By, StatsSnapshot},
        tap::{Tap, TapFilter},
    },
    workloads::Handover,
};

/// What a running weir can do. Called on the runtime, one call per request: must be quick and
/// must not block on the network. A failed call must have changed nothing.
pub trait ControlHandler: Send + Sync + 'static {
    /// What is running.
    fn status(&self) -> Status;
    /// The port rules of a workload and their hits.
    ///
    /// # Errors
    /// If the workload is not clear or the kernel's maps can't be read.
    fn ports(&self, workload: Option<&str>) -> Result<PortsReport, ControlError>;
    /// Puts ports into a state and returns what [`crate::ports::PortPolicy::set`] did.
    ///
    /// # Errors
    /// If it is refused or the kernel's maps can't be written.
    fn set_ports(
        &self,
        workload: Option<&str>,
        change: PortsSet,
        caller: Caller,
    ) -> BoxFuture<'_, Result<Vec<PortChange>, ControlError>>;
    /// Puts ports back to what the configuration says, and returns what that changed.
    ///
    /// # Errors
    /// If it is refused or the kernel's maps can't be written.
    fn reset_ports(
        &self,
        workload: Option<&str>,
        reset: PortsReset,
        caller: Caller,
    ) -> BoxFuture<'_, Result<Vec<PortChange>, ControlError>>;
    /// The ports whose state is not that of the configuration.
    ///
    /// # Errors
    /// If the workload is not clear.
    fn ports_diff(&self, workload: Option<&str>) -> Result<Vec<PortsDifference>, ControlError>;
    /// What a connection would get.
    ///
    /// # Errors
    /// If the kernel's maps or the workload's sockets can't be read.
    fn explain(
        &self,
        workload: Option<&str>,
        address: SocketAddr,
        direction: Direction,
    ) -> BoxFuture<'_, Result<Explanation, ControlError>>;
    /// Numbers per destination or endpoint, of one workload or of all.
    ///
    /// # Errors
    /// If there is no such workload.
    fn stat(&self, workload: Option<&str>, by: By) -> Result<StatsSnapshot, ControlError>;
    /// The same with all latencies.
    ///
    /// # Errors
    /// If there is no such workload.
    fn sample_stat(&self, workload: Option<&str>, by: By) -> Result<StatsSnapshot, ControlError>;
    /// The same so far, which count from zero from then on.
    ///
    /// # Errors
    /// If there is no such workload.
    fn reset_stat(&self, workload: Option<&str>, by: By) -> Result<StatsSnapshot, ControlError>;
    /// Open connections, of one workload or of all, that pass a filter: at most `limit`.
    ///
    /// # Errors
    /// If there is no such workload.
    fn connections(
        &self,
        workload: Option<&str>,
        filter: TapFilter,
        limit: usize,
    ) -> BoxFuture<'_, Result<OpenConnections, ControlError>>;
    /// The services that are known: the one of this name, or all of them.
    fn services(&self, service: Option<&str>) -> ServicesReport;
    /// The services that connections were made to.
    fn used_services(&self) -> ServicesReport;
    /// The routes that are known.
    fn routes(&self) -> RoutesReport;
    /// What becomes of a request; `None` if its destination has no routes.
    ///
    /// # Errors
    /// If the workload is not clear.
    fn explain_request(
        &self,
        workload: Option<&str>,
        request: &ExplainRequest,
    ) -> Result<Option<RequestReport>, ControlError>;
    /// Records from now on, of one workload or of all.
    ///
    /// # Errors
    /// If there is no such workload, or there are too many readers.
    fn tap(&self, workload: Option<&str>, filter: TapFilter) -> Result<Tap, ControlError>;
    /// The log filter in effect.
    fn log_level(&self) -> String;
    /// Changes the log filter and returns the one in effect.
    ///
    /// # Errors
    /// If it does not parse.
    fn set_log_level(&self, filter: &str, caller: Caller) -> Result<String, ControlError>;
    /// How often the kernel decided what.
    ///
    /// # Errors
    /// If the kernel's maps can't be read.
    fn kernel_counters(&self) -> Result<KernelCounters, ControlError>;
    /// What is captured.
    fn workloads(&self) -> Vec<WorkloadStatus>;
    /// Captures one more workload.
    ///
    /// # Errors
    /// If it is refused; nothing was changed then.
    fn add_workload(
        &self,
        settings: WorkloadSettings,
        caller: Caller,
    ) -> BoxFuture<'_, Result<WorkloadStatus, ControlError>>;
    /// Captures a workload no more.
    ///
    /// # Errors
    /// If there is none of this name.
    fn remove_workload(&self, name: &str, caller: Caller) -> Result<(), ControlError>;
    /// Changes nothing from now on, until the successor that asks has taken over or is gone: then
    /// the answer is dropped.
    ///
    /// # Errors
    /// If it is draining, or another successor is there.
    fn hand_over(&self) -> BoxFuture<'_, Result<Handover, ControlError>>;
    /// Lets go of everything that a successor needs, and begins to drain.
    ///
    /// # Errors
    /// If there was no hand-over, or it has been taken back.
    fn retire(&self, schema: &str) -> BoxFuture<'_, Result<(), ControlError>>;
}

/// Who asks: the process that has connected, as the kernel says (`SO_PEERCRED`, unix(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Its user.
    pub uid: u32,
    /// Its process; absent where it is in a PID namespace that weir does not see.
    pub pid: Option<i32>,
    access: Access,
}

/// What a caller may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    /// Anything: weir's own user, and root.
    Full,
    /// Ask, and change nothing: the user of the command of `weir exec`.
    Read,
    /// Nothing: it has been given a descriptor that it could not have opened.
    None,
}

/// The connection of one client, as its calls see it.
pub struct Conversation<'a> {
    /// The daemon.
    pub(super) handler: &'a dyn ControlHandler,
    /// What is to follow the reply.
    pub(super) tap: Option<Tap>,
    /// Under way for as long as the connection lasts, and thus as the new process.
    pub(super) handover: Option<Handover>,
    /// Whether the client had closed the connection when the present request was read.
    pub(super) hung_up: bool,
    /// Who is at the other end.
    pub(super) caller: Caller,
    workload: Option<String>,
}

// === impl Caller ===

impl Caller {
    pub(super) fn new(uid: u32, pid: Option<i32>, reader: Option<Reader>) -> Self {
        let access = if uid == 0 || uid == nix::unistd::geteuid().as_raw() {
            Access::Full
        } else if reader.is_some_and(|reader| reader.uid == uid) {
            Access::Read
        } else {
            Access::None
        };
        Self { uid, pid, access }
    }

    /// Refuses what the caller may not do.
    pub(super) fn permit(&self, changes: bool) -> Result<(), ControlError> {
        let uid = self.uid;
        match self.access {
            Access::Full => Ok(()),
            Access::Read if !changes => Ok(()),
            Access::Read => Err(ControlError::denied(format!(
                "user {uid} may ask this weir and not change it; run the command as root"
            ))),
            Access::None => Err(ControlError::denied(format!(
                "user {uid} may not use this control socket; run the command as root"
            ))),
        }
    }
}

// === impl Conversation ===

impl<'a> Conversation<'a> {
    pub(super) const fn new(handler: &'a dyn ControlHandler, caller: Caller) -> Self {
        Self { handler, tap: None, handover: None, hung_up: false, caller, workload: None }
    }

    /// The workload that the present request is about.
    pub(super) fn workload(&self) -> Option<&str> {
        self.workload.as_deref()
    }

    pub(super) fn set_workload(&mut self, workload: Option<String>) {
        self.workload = workload;
    }
}
