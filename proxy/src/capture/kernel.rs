//! The kernel side of one workload: its entries in the instance's maps, and its links.

use std::sync::{Arc, Mutex};

use weir_common::{Direction, WorkloadConfig, WorkloadId, flags};

use super::{CaptureError, Instance, attach::Attached, entry::Entry, state, table::lock};

/// One workload of an instance.
pub struct Kernel {
    pub(super) instance: Arc<Instance>,
    pub(super) workload: WorkloadId,
    /// No earlier weir has left anything under this number.
    pub(super) fresh: bool,
    /// Its programs' links; pinned too, unless the pins are private.
    pub(super) links: Mutex<Vec<Attached>>,
    entry: Entry,
}

// === impl Kernel ===

impl Kernel {
    /// The workload with this number; captures nothing. `fresh` says that no earlier weir has left
    /// anything under it, so that the maps need not be searched for that.
    #[must_use]
    pub fn new(instance: Arc<Instance>, workload: WorkloadId, fresh: bool) -> Self {
        Self { instance, workload, fresh, links: Mutex::default(), entry: Entry::default() }
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
        lock(&self.links).iter().map(|it| it.hook.name.to_owned()).collect()
    }

    /// Replaces what the hooks know about the workload, but for what is known of its routes: that an
    /// earlier weir has the map complete stays true, and connections made meanwhile need it.
    ///
    /// # Errors
    /// Where the map cannot be written.
    pub fn configure(&self, config: WorkloadConfig) -> Result<(), CaptureError> {
        self.change_entry(|before| WorkloadConfig {
            flags: config.flags | (before.flags & flags::ROUTES_COMPLETE),
            ..config
        })
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
        for (key, _) in instance.ports.entries(|key| mine(key.workload)) {
            let _ = instance.ports.remove(&key);
            let _ = lock(&instance.port_hits).remove(&key);
        }
        for table in [&instance.failed, &instance.learned] {
            for (key, _) in table.entries(|key| mine(key.workload)) {
                let _ = table.remove(&key);
            }
        }
        for (key, _) in instance.listening.entries(|key| mine(key.workload)) {
            let _ = instance.listening.remove(&key);
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
        // Last: who is killed before finds the workload again, and forgets it then.
        state::remove(&instance.pins.state(), *workload);
    }
}
