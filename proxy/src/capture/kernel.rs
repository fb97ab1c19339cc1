//! The kernel side of one workload: its entries in the instance's maps, and its links.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering},
};

use weir_common::{Direction, Usage, WorkloadConfig, WorkloadId, flags};

use super::{
    CaptureError, Instance, attach::Attached, entry::Entry, listener::Loopback, programs::Own,
    state, table::lock,
};

/// Flags that are found out, whatever the settings say.
const MEASURED: u32 = flags::ROUTES_COMPLETE
    | flags::OUTBOUND_FILTERED
    | flags::INBOUND_FILTERED
    | flags::EGRESS_SHARED
    | flags::SPREAD;

/// One workload of an instance.
pub struct Kernel {
    pub(super) instance: Arc<Instance>,
    pub(super) workload: WorkloadId,
    /// No earlier weir has left anything under this number.
    pub(super) fresh: bool,
    /// Its programs' links; pinned too, unless the pins are private.
    pub(super) links: Mutex<Vec<Attached>>,
    /// The program that tells of options ([`super::Options`]); goes with the process.
    pub(super) options: Mutex<Option<Attached>>,
    /// Programs that are loaded and not attached yet.
    pub(super) own: Mutex<Option<Own>>,
    /// It has hold listeners.
    pub(super) holds: AtomicBool,
    /// Programs of others translate or forbid the workload's connections and not weir's.
    apart: AtomicBool,
    entry: Entry,
    /// Inbound connections are not captured, whatever the settings say.
    pub(super) inbound_off: AtomicBool,
    pub(super) loopback: Arc<Loopback>,
}

// === impl Kernel ===

impl Kernel {
    /// The workload with this number; captures nothing. `fresh` says that no earlier weir has left
    /// anything under it, so that the maps need not be searched for that.
    #[must_use]
    pub fn new(instance: Arc<Instance>, workload: WorkloadId, fresh: bool) -> Self {
        Self {
            instance,
            workload,
            fresh,
            links: Mutex::default(),
            options: Mutex::default(),
            own: Mutex::default(),
            holds: AtomicBool::new(false),
            apart: AtomicBool::new(false),
            entry: Entry::default(),
            inbound_off: AtomicBool::new(false),
            loopback: Arc::default(),
        }
    }

    /// True where inbound connections are not captured although the settings say so, because weir's
    /// own connections to the workload could come back to it.
    #[must_use]
    pub fn is_inbound_off(&self) -> bool {
        self.inbound_off.load(Ordering::Acquire)
    }

    /// Its connections are held until weir has connected to their destination.
    pub(super) fn is_holding(&self) -> bool {
        self.holds.load(Ordering::Acquire)
    }

    /// The number that every key of the workload carries.
    #[must_use]
    pub const fn workload(&self) -> WorkloadId {
        self.workload
    }

    /// What it shares with the other workloads.
    #[must_use]
    pub const fn instance(&self) -> &Arc<Instance> {
        &self.instance
    }

    /// Names of the hooks that are attached, in the order of attaching.
    #[must_use]
    pub fn hooks(&self) -> Vec<String> {
        let options: Vec<String> = lock(&self.options).iter().map(Attached::name).collect();
        options.into_iter().chain(lock(&self.links).iter().map(Attached::name)).collect()
    }

    /// What the hooks know about the workload, as it is in the map.
    ///
    /// # Errors
    /// Where the map cannot be read.
    pub fn config(&self) -> Result<Option<WorkloadConfig>, CaptureError> {
        self.instance.workloads.get(&self.workload)
    }

    /// Confines the workload to a network namespace: sockets of its cgroup in any other go direct.
    ///
    /// # Errors
    /// Where the map cannot be written.
    pub fn confine(&self, netns_cookie: u64) -> Result<(), CaptureError> {
        self.change_entry(|before| WorkloadConfig { netns_cookie, ..before })
    }

    /// Has so much of what the hooks have counted against the workload's shares forgiven.
    pub(super) fn forgive(&self, in_flight: u32, listening: u32) -> Result<(), CaptureError> {
        self.change_entry(|before| WorkloadConfig {
            forgiven_in_flight: before.forgiven_in_flight.wrapping_add(in_flight),
            forgiven_listening: before.forgiven_listening.wrapping_add(listening),
            ..before
        })
    }

    /// Replaces what the hooks know about the workload, but for its namespace and what was measured:
    /// that an earlier weir has the map of routes complete stays true, and connections made meanwhile
    /// need it; so does what is forgiven of its shares.
    ///
    /// # Errors
    /// Where the map cannot be written.
    pub fn configure(&self, config: WorkloadConfig) -> Result<(), CaptureError> {
        self.instance.usage.add(&self.workload, &Usage::default())?;
        let off = if self.is_inbound_off() { flags::CAPTURE_INBOUND } else { 0 };
        let hold = if self.is_holding() { flags::HOLD } else { 0 };
        self.change_entry(|before| WorkloadConfig {
            flags: (config.flags | hold | (before.flags & MEASURED)) & !off,
            exempt_cgroup: config.exempt_cgroup,
            heartbeat_limit_ns: config.heartbeat_limit_ns,
            ..before
        })
    }

    /// Lets connections of a direction go direct that somebody else's program filters, or captures them
    /// again.
    ///
    /// # Errors
    /// Where the map cannot be written.
    pub fn set_filtered(&self, direction: Direction, filtered: bool) -> Result<(), CaptureError> {
        let flag = match direction {
            Direction::Outbound => flags::OUTBOUND_FILTERED,
            Direction::Inbound => flags::INBOUND_FILTERED,
        };
        self.set_flag(flag, filtered)
    }

    /// Says whether programs that filter what the workload sends filter what weir sends too.
    ///
    /// # Errors
    /// Where the map cannot be written.
    pub fn set_egress_shared(&self, shared: bool) -> Result<(), CaptureError> {
        self.set_flag(flags::EGRESS_SHARED, shared)
    }

    /// Notes whether programs of others on the connect hooks see the workload's connections and not
    /// weir's ([`super::coexist::apart`]): what weir cannot reach a direct connection may reach.
    pub fn set_apart(&self, apart: bool) {
        self.apart.store(apart, Ordering::Relaxed);
    }

    /// See [`Self::set_apart`].
    #[must_use]
    pub fn is_apart(&self) -> bool {
        self.apart.load(Ordering::Relaxed)
    }

    /// Says how many connections a listener may have that all reach at the same address.
    ///
    /// # Errors
    /// Where the map cannot be written.
    pub(super) fn set_source_ports(&self, source_ports: u32) -> Result<(), CaptureError> {
        self.change_entry(|before| WorkloadConfig { source_ports, ..before })
    }

    /// Turns flags of the workload on or off.
    pub(super) fn set_flag(&self, flag: u32, on: bool) -> Result<(), CaptureError> {
        self.change_entry(|before| WorkloadConfig {
            flags: if on { before.flags | flag } else { before.flags & !flag },
            ..before
        })
    }

    fn change_entry(
        &self,
        change: impl FnOnce(WorkloadConfig) -> WorkloadConfig,
    ) -> Result<(), CaptureError> {
        self.entry.change(&self.instance.workloads, self.workload, change)
    }

    /// Leaves what the hooks know about the workload to a successor, which writes the same entry.
    pub fn cede_entry(&self) {
        self.entry.cede();
    }

    /// Takes the entry back from a successor that has not come to serve.
    ///
    /// # Errors
    /// Where the map cannot be written.
    pub fn take_entry_back(&self) -> Result<(), CaptureError> {
        self.entry.take_back(&self.instance.workloads, self.workload)
    }

    /// Takes the workload's entries out of every map. Reads whole maps; the hooks must be off.
    pub fn forget(&self) {
        let Self { instance, workload, .. } = self;
        let mine = |key: WorkloadId| key == *workload;
        let _ = instance.workloads.remove(workload);
        let _ = instance.usage.remove(workload);
        for (key, _) in instance.ports.entries(|key| mine(key.workload)) {
            let _ = instance.ports.remove(&key);
            let _ = lock(&instance.port_hits).remove(&key);
        }
        for hints in [&instance.failed, &instance.learned] {
            hints.forget(*workload);
        }
        for (key, _) in instance.listening.entries(|key| mine(key.workload)) {
            let _ = instance.listening.remove(&key);
        }
        for (key, _) in instance.open.entries(|key| mine(key.workload)) {
            let _ = instance.open.remove(&key);
        }
        let _ = self.unseed();
        for (key, _) in instance.inside.entries(|key| mine(key.workload)) {
            let _ = instance.inside.remove(&key);
        }
        for (key, bits, _) in instance.skip_cidrs.entries(mine) {
            let _ = instance.skip_cidrs.remove(key, bits);
        }
        for (key, bits, _) in instance.routes.entries(mine) {
            let _ = instance.routes.remove(key, bits);
        }
        for direction in [Direction::Outbound, Direction::Inbound] {
            self.forget_counters(direction);
        }
        instance.quotas.forget(*workload);
        // Last: who is killed before finds the workload again, and forgets it then.
        state::remove(&instance.pins.state(), *workload);
    }
}
