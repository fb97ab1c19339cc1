//! One workload in an instance: its entries in the maps, an object for each kind, and the links of its
//! programs.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use weir_common::{Direction, WorkloadId, flags};

use super::{
    CaptureError, Instance,
    attach::{INBOUND_PROGRAM, Scope},
    bypasses::Bypasses,
    counters::Counters,
    entries::Entries,
    flags::Flags,
    links::{AttachOptions, Links},
    listener::Loopback,
    listening_ports::ListeningPorts,
    local_addresses::LocalAddresses,
    port_rules::PortRules,
    routes::Routes,
    skipped_prefixes::SkippedPrefixes,
    state,
};

/// One workload of an instance.
pub struct WorkloadMaps {
    pub(super) entries: Entries,
    /// Its flags and limits.
    pub flags: Flags,
    /// The rules of its ports.
    pub ports: PortRules,
    /// Destinations that are never captured.
    pub prefixes: SkippedPrefixes,
    /// Destinations that go direct for a while.
    pub bypasses: Bypasses,
    /// Its routing table.
    pub routes: Routes,
    /// What comes from inside its namespace.
    pub local_addresses: LocalAddresses,
    /// What it listens on.
    pub listening: ListeningPorts,
    /// What the hooks have counted.
    pub counters: Counters,
    /// Its programs, attached.
    pub links: Links,
    pub(super) loopback: Arc<Loopback>,
    /// Programs of others translate or forbid the workload's connections and not weir's.
    apart: AtomicBool,
}

// === impl WorkloadMaps ===

impl WorkloadMaps {
    /// The workload with this number; captures nothing. `fresh` says that no earlier weir has left
    /// anything under it, so that the maps need not be searched for that.
    #[must_use]
    pub fn new(instance: Arc<Instance>, workload: WorkloadId, fresh: bool) -> Self {
        let entries = Entries { instance, workload, fresh };
        Self {
            flags: Flags::new(entries.clone()),
            ports: PortRules::new(entries.clone()),
            prefixes: SkippedPrefixes::new(entries.clone()),
            bypasses: Bypasses::new(entries.clone()),
            routes: Routes::new(entries.clone()),
            local_addresses: LocalAddresses::new(entries.clone()),
            listening: ListeningPorts::new(entries.clone()),
            counters: Counters::new(entries.clone()),
            links: Links::new(entries.clone()),
            loopback: Arc::new(Loopback::new(entries.clone())),
            apart: AtomicBool::new(false),
            entries,
        }
    }

    /// The number that every key of the workload carries.
    #[must_use]
    pub const fn workload(&self) -> WorkloadId {
        self.entries.workload
    }

    /// What it shares with the other workloads.
    #[must_use]
    pub const fn instance(&self) -> &Arc<Instance> {
        &self.entries.instance
    }

    /// Notes whether programs of others on the connect hooks see the workload's connections and not
    /// weir's ([`super::foreign::apart`]): what weir cannot reach a direct connection may reach.
    pub fn set_apart(&self, apart: bool) {
        self.apart.store(apart, Ordering::Relaxed);
    }

    /// See [`Self::set_apart`].
    #[must_use]
    pub fn is_apart(&self) -> bool {
        self.apart.load(Ordering::Relaxed)
    }

    /// Keeps a description of the workload with the pins, whatever its length, in place of the one
    /// before.
    ///
    /// # Errors
    /// Where the kernel refuses the map or its pin.
    pub fn remember(&self, description: &[u8]) -> Result<(), CaptureError> {
        state::write(&self.instance().pins.state(), self.workload(), description)
    }

    /// Loads and attaches every program, in place of those that an earlier weir left or a running
    /// one has there. On an error nothing new stays attached.
    ///
    /// When the workload's sockets are being followed and nothing is decided yet by a program with
    /// these maps, calls `followed`, which is told whether they have been followed all the while:
    /// what the maps have to know must be in them by then, or an upgrade to another schema would
    /// let connections pass that its predecessor has captured.
    ///
    /// # Errors
    /// The first program that the kernel refuses, with the cgroup; and what `followed` says.
    pub fn attach(
        &self,
        cgroup: &Path,
        options: AttachOptions<'_>,
        followed: impl FnOnce(bool) -> Result<(), CaptureError>,
    ) -> Result<(), CaptureError> {
        let inbound = options.inbound.filter(|_| !self.flags.is_inbound_off());
        let held = options.held.filter(|_| self.flags.is_holding());
        self.links.attach(cgroup, &AttachOptions { inbound, held, ..options }, followed)
    }

    /// Takes off what decides about new connections: they go direct. What answers for those that are
    /// there stays.
    pub fn stop_capturing(&self) {
        // What goes direct from now on is not reported either.
        let _ = self.flags.set(flags::CAPTURE_INBOUND, false);
        self.links.take_off(|hook| hook.scope == Scope::OneDecides);
    }

    /// Captures no inbound connections any more, and says why, once. Where nothing is attached yet,
    /// nothing will be.
    pub(super) fn switch_inbound_off(&self, reason: &CaptureError) {
        if !self.flags.switch_inbound_off() {
            return;
        }
        tracing::warn!(
            workload.number = self.workload(),
            %reason,
            "inbound connections of a workload are no longer captured: weir could capture its own \
             connections to it; fix the cause and add the workload again"
        );
        let _ = self.flags.set(flags::CAPTURE_INBOUND, false);
        self.links.take_off(|hook| hook.program == INBOUND_PROGRAM);
    }

    /// Takes the workload's entries out of every map. Reads whole maps; the hooks must be off.
    pub fn forget(&self) {
        let Entries { instance, workload, .. } = &self.entries;
        self.flags.clear();
        self.ports.clear();
        self.bypasses.clear();
        self.listening.clear();
        for (key, _) in instance.open.entries(|key| key.workload == *workload) {
            let _ = instance.open.remove(&key);
        }
        self.local_addresses.clear();
        self.prefixes.clear();
        self.routes.clear();
        for direction in [Direction::Outbound, Direction::Inbound] {
            self.counters.clear(direction);
        }
        instance.quotas.forget(*workload);
        // Last: a weir that is killed before finds the workload again, and forgets it then.
        state::remove(&instance.pins.state(), *workload);
    }
}
