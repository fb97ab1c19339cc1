//! What others ask of a workload.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use super::{Origin, Workload};
use crate::{
    budget::Figures,
    capture::{Installed, Netns, OwnAddresses, ShareUse, WorkloadMaps},
    config::WorkloadSettings,
    decision::{Direction, Source},
    learn::Learning,
    pod::Pod,
    ports::PortPolicy,
    sync::lock,
};

// === impl Workload ===

impl Workload {
    /// The policy as it stands.
    #[must_use]
    pub fn policy(&self) -> PortPolicy {
        lock(&self.policy).clone()
    }

    /// The policy that the configuration says.
    #[must_use]
    pub fn configured_policy(&self) -> PortPolicy {
        self.settings().port_policy(self.origin.source())
    }

    /// How long a port has its state, where that does not last.
    #[must_use]
    pub fn port_state_left(&self, direction: Direction, port: u16) -> Option<Duration> {
        lock(&self.temporary).left(direction, port)
    }

    /// True where a port's state was set with `weir ports`.
    #[must_use]
    pub fn has_cli_ports(&self) -> bool {
        let policy = lock(&self.policy);
        let mut all = [Direction::Outbound, Direction::Inbound]
            .into_iter()
            .flat_map(|direction| policy.rules(direction));
        all.any(|(_, status)| status.source == Source::Cli)
    }

    /// Its name in metrics and records.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        &self.context.workload
    }

    /// Its settings as they stand.
    #[must_use]
    pub fn settings(&self) -> Arc<WorkloadSettings> {
        Arc::clone(&lock(&self.settings))
    }

    /// The pod that it is.
    #[must_use]
    pub const fn pod(&self) -> Option<&Pod> {
        self.pod.as_ref()
    }

    /// Who wanted it.
    #[must_use]
    pub const fn origin(&self) -> Origin {
        self.origin
    }

    /// Its network namespace.
    #[must_use]
    pub const fn netns(&self) -> &Netns {
        &self.netns
    }

    /// The kernel side.
    #[must_use]
    pub fn kernel(&self) -> &WorkloadMaps {
        &self.kernel
    }

    /// What was learned of its destinations.
    #[must_use]
    pub fn learning(&self) -> &Learning {
        &self.context.learning
    }

    /// The addresses of its listeners.
    #[must_use]
    pub fn own(&self) -> &OwnAddresses {
        self.slots.listeners.own()
    }

    /// Why connect(2) does not wait for destinations; `None` where it does.
    #[must_use]
    pub fn not_held(&self) -> Option<&str> {
        self.holding.is_none().then_some(&self.not_held)
    }

    /// Proxied connections that are open.
    #[must_use]
    pub fn open_connections(&self) -> usize {
        self.connections.len()
    }

    /// What it has of what all workloads share, and may have.
    #[must_use]
    pub fn budget(&self) -> Vec<Figures> {
        let mut figures = self.slots.share.figures();
        figures.extend(ShareUse::figures(&self.kernel));
        figures
    }

    /// What was changed in its namespace for `preserve_client_ip`.
    #[must_use]
    pub const fn client_ip(&self) -> Option<&Installed> {
        self.client_ip.as_ref()
    }

    /// `capturing`, `waiting`, `exhausted`, `flooded` or `draining`.
    #[must_use]
    pub fn phase(&self) -> &'static str {
        if self.context.drain.is_cancelled() {
            "draining"
        } else if self.wait().is_some() {
            "waiting"
        } else if self.slots.withdrawn.load(Ordering::Acquire) {
            self.slots.phase()
        } else {
            "capturing"
        }
    }
}
