//! A workload's entry in the map WORKLOADS: what the hooks know about it before any other map.
//!
//! Several threads change parts of it (settings, routes, the end of inbound capture). Each change is
//! made to the copy in memory, under its lock, and the entry is written whole: no change is lost.

use std::sync::Mutex;

use weir_common::{WorkloadConfig, WorkloadId};

use super::{
    CaptureError,
    table::{Table, lock},
};

/// The entry of one workload, and the right to write it.
#[derive(Debug, Default)]
pub(super) struct Entry {
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// As written last; `None` before the first look into the map.
    config: Option<WorkloadConfig>,
    /// A successor writes the entry; changes stay in memory until it is taken back.
    ceded: bool,
}

// === impl Entry ===

impl Entry {
    /// Changes the entry. `change` gets what is there now.
    ///
    /// # Errors
    /// Where the map cannot be read or written; the entry is as before then.
    pub(super) fn change(
        &self,
        map: &Table<WorkloadId, WorkloadConfig>,
        workload: WorkloadId,
        change: impl FnOnce(WorkloadConfig) -> WorkloadConfig,
    ) -> Result<(), CaptureError> {
        let mut known = lock(&self.known);
        let before = match known.config {
            Some(config) => Some(config),
            None => map.get(&workload)?,
        };
        let after = change(before.unwrap_or_default());
        if !known.ceded && before != Some(after) {
            map.insert(&workload, &after)?;
        }
        known.config = Some(after);
        Ok(())
    }

    /// Writes nothing from now on: a successor does.
    pub(super) fn cede(&self) {
        lock(&self.known).ceded = true;
    }

    /// Writes again, and at once all that is known.
    ///
    /// # Errors
    /// Where the map cannot be written.
    pub(super) fn take_back(
        &self,
        map: &Table<WorkloadId, WorkloadConfig>,
        workload: WorkloadId,
    ) -> Result<(), CaptureError> {
        let mut known = lock(&self.known);
        known.ceded = false;
        known.config.map_or(Ok(()), |config| map.insert(&workload, &config))
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, thread};

    use weir_common::flags;

    use super::*;
    use crate::capture::{Instance, InstanceOptions, WorkloadMaps};

    fn kernel() -> Arc<WorkloadMaps> {
        let instance = Instance::open(&InstanceOptions::default()).expect("root may load programs");
        Arc::new(WorkloadMaps::new(Arc::new(instance), 7, true))
    }

    fn flags_of(kernel: &WorkloadMaps) -> u32 {
        let entry = kernel.instance().workloads.get(&7).expect("the map can be read");
        entry.unwrap_or_default().flags
    }

    /// Guards against a change that is read before, and written after, another one. Needs root.
    #[test]
    fn no_change_of_two_threads_is_lost() {
        let kernel = kernel();
        thread::scope(|scope| {
            for flag in [flags::FAIL_CLOSED, flags::ROUTES_COMPLETE, flags::CAPTURE_INBOUND] {
                let kernel = &kernel;
                scope.spawn(move || {
                    for round in 0..2000 {
                        let on = round % 2 == 0;
                        kernel.flags.set(flag, on).expect("the map can be written");
                        assert_eq!(flags_of(kernel) & flag != 0, on, "round {round}");
                    }
                });
            }
        });
    }

    /// Needs root.
    #[test]
    fn what_a_successor_writes_is_overwritten_only_when_taken_back() {
        let kernel = kernel();
        kernel.flags.set(flags::FAIL_CLOSED, true).unwrap();
        kernel.flags.cede();
        let theirs = WorkloadConfig { flags: flags::SK_MSG, ..WorkloadConfig::default() };
        kernel.instance().workloads.insert(&7, &theirs).unwrap();
        kernel.flags.set(flags::ROUTES_COMPLETE, true).unwrap();
        assert_eq!(flags_of(&kernel), flags::SK_MSG);
        kernel.flags.take_back().unwrap();
        assert_eq!(flags_of(&kernel), flags::FAIL_CLOSED | flags::ROUTES_COMPLETE);
    }
}
