//! What the hooks know about a workload before any other map: its flags and limits, in the entry of
//! `WORKLOADS`. The only writer of that entry.

use std::sync::atomic::{AtomicBool, Ordering};

use weir_common::{Direction, Usage, WorkloadConfig, flags};

use super::{CaptureError, Netns, entries::Entries, entry::Entry, listener};

/// Flags that are found out, whatever the settings say.
const MEASURED: u32 = flags::ROUTES_COMPLETE
    | flags::OUTBOUND_FILTERED
    | flags::INBOUND_FILTERED
    | flags::EGRESS_SHARED
    | flags::SPREAD;

/// The flags and limits of a workload.
pub struct Flags {
    entries: Entries,
    entry: Entry,
    /// It has hold listeners.
    holds: AtomicBool,
    /// Inbound connections are not captured, whatever the settings say.
    inbound_off: AtomicBool,
}

// === impl Flags ===

impl Flags {
    pub(super) fn new(entries: Entries) -> Self {
        Self {
            entries,
            entry: Entry::default(),
            holds: AtomicBool::new(false),
            inbound_off: AtomicBool::new(false),
        }
    }

    /// True where inbound connections are not captured although the settings say so, because weir's
    /// own connections to the workload could come back to it.
    #[must_use]
    pub fn is_inbound_off(&self) -> bool {
        self.inbound_off.load(Ordering::Acquire)
    }

    /// Notes that it has hold listeners.
    pub(super) fn hold(&self) {
        self.holds.store(true, Ordering::Release);
    }

    /// Notes that inbound connections are not captured, whatever the settings say. False where that was
    /// so before.
    pub(super) fn switch_inbound_off(&self) -> bool {
        !self.inbound_off.swap(true, Ordering::AcqRel)
    }

    /// Its connections are held until weir has connected to their destination.
    pub(super) fn is_holding(&self) -> bool {
        self.holds.load(Ordering::Acquire)
    }

    /// What the hooks know about the workload, as it is in the map.
    ///
    /// # Errors
    /// Where the map cannot be read.
    pub fn config(&self) -> Result<Option<WorkloadConfig>, CaptureError> {
        self.entries.config()
    }

    /// Confines the workload to a network namespace: sockets of its cgroup in any other go direct.
    ///
    /// # Errors
    /// Where the map cannot be written.
    pub fn confine(&self, netns_cookie: u64) -> Result<(), CaptureError> {
        self.change(|before| WorkloadConfig { netns_cookie, ..before })
    }

    /// Has so much of what the hooks have counted against the workload's shares forgiven.
    pub(super) fn forgive(&self, in_flight: u32, listening: u32) -> Result<(), CaptureError> {
        self.change(|before| WorkloadConfig {
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
        self.entries.instance.usage.add(&self.entries.workload, &Usage::default())?;
        let off = if self.is_inbound_off() { flags::CAPTURE_INBOUND } else { 0 };
        let hold = if self.is_holding() { flags::HOLD } else { 0 };
        self.change(|before| WorkloadConfig {
            flags: (config.flags | hold | (before.flags & MEASURED)) & !off,
            exempt_cgroup: config.exempt_cgroup,
            heartbeat_limit_ns: config.heartbeat_limit_ns,
            ..before
        })
    }

    /// Lets connections of a direction go direct that a foreign program filters, or captures them
    /// again.
    ///
    /// # Errors
    /// Where the map cannot be written.
    pub fn set_filtered(&self, direction: Direction, filtered: bool) -> Result<(), CaptureError> {
        let flag = match direction {
            Direction::Outbound => flags::OUTBOUND_FILTERED,
            Direction::Inbound => flags::INBOUND_FILTERED,
        };
        self.set(flag, filtered)
    }

    /// Says whether programs that filter what the workload sends filter what weir sends too.
    ///
    /// # Errors
    /// Where the map cannot be written.
    pub fn set_egress_shared(&self, shared: bool) -> Result<(), CaptureError> {
        self.set(flags::EGRESS_SHARED, shared)
    }

    /// Says how many connections a listener may have that all reach at the same address.
    ///
    /// # Errors
    /// Where the map cannot be written.
    fn set_source_ports(&self, source_ports: u32) -> Result<(), CaptureError> {
        self.change(|before| WorkloadConfig { source_ports, ..before })
    }

    /// Turns flags of the workload on or off.
    pub(super) fn set(&self, flag: u32, on: bool) -> Result<(), CaptureError> {
        self.change(|before| WorkloadConfig {
            flags: if on { before.flags | flag } else { before.flags & !flag },
            ..before
        })
    }

    fn change(
        &self,
        change: impl FnOnce(WorkloadConfig) -> WorkloadConfig,
    ) -> Result<(), CaptureError> {
        self.entry.change(&self.entries.instance.workloads, self.entries.workload, change)
    }

    /// Leaves the entry to a successor, which writes it from now on.
    pub fn cede(&self) {
        self.entry.cede();
    }

    /// Takes the entry back from a successor that has not come to serve.
    ///
    /// # Errors
    /// Where the map cannot be written.
    pub fn take_back(&self) -> Result<(), CaptureError> {
        self.entry.take_back(&self.entries.instance.workloads, self.entries.workload)
    }

    /// Tells the hooks how many source ports the namespace has, which an operator may change.
    ///
    /// # Errors
    /// Where the namespace cannot be entered, or the map not be written.
    pub fn count_source_ports(&self, netns: &Netns) -> Result<(), CaptureError> {
        self.set_source_ports(netns.enter(listener::usable_ports)?)
    }

    /// Removes the entry.
    pub(super) fn clear(&self) {
        let Entries { instance, workload, .. } = &self.entries;
        let _ = instance.workloads.remove(workload);
        let _ = instance.usage.remove(workload);
    }
}
