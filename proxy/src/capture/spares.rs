//! Programs of workloads that have not come yet. The kernel takes tens of milliseconds to verify those
//! of one workload, which has its number in them: for a pod that has just begun, that is time in which
//! its connections go direct.

use std::{
    collections::BTreeMap,
    ops::Range,
    os::fd::OwnedFd,
    sync::{Condvar, Mutex, PoisonError},
};

use weir_common::WorkloadId;

use super::{CaptureError, Instance, programs::load_own, table::lock};

/// One workload's programs, by name: their descriptors and nothing else of the object.
type Loaded = Vec<(&'static str, OwnedFd)>;

/// What is loaded ahead.
#[derive(Default)]
pub(super) struct Spares {
    known: Mutex<Known>,
    loaded: Condvar,
}

#[derive(Default)]
struct Known {
    /// `None` while they are being loaded.
    by_number: BTreeMap<WorkloadId, Option<Loaded>>,
    /// The highest number that was asked for: numbers only rise.
    taken: WorkloadId,
}

// === impl Spares ===

impl Spares {
    /// Those of a workload; `None` where they are not being loaded. Waits for those that are being
    /// loaded.
    pub(super) fn take(&self, workload: WorkloadId) -> Option<Loaded> {
        let is_loading = |known: &mut Known| matches!(known.by_number.get(&workload), Some(None));
        let known = lock(&self.known);
        let waited = self.loaded.wait_while(known, is_loading);
        let mut known = waited.unwrap_or_else(PoisonError::into_inner);
        known.taken = known.taken.max(workload);
        let found = known.by_number.remove(&workload).flatten();
        // Numbers that were passed over are not given out any more.
        known.by_number.retain(|number, loaded| *number > workload || loaded.is_none());
        found
    }

    /// Whether these are to be loaded, which the caller does then.
    fn claim(&self, workload: WorkloadId) -> bool {
        let mut known = lock(&self.known);
        let is_new = workload > known.taken && !known.by_number.contains_key(&workload);
        if is_new {
            known.by_number.insert(workload, None);
        }
        is_new
    }

    fn put(&self, workload: WorkloadId, loaded: Option<Loaded>) {
        let mut known = lock(&self.known);
        match loaded.filter(|_| workload > known.taken) {
            Some(loaded) => drop(known.by_number.insert(workload, Some(loaded))),
            None => drop(known.by_number.remove(&workload)),
        }
        self.loaded.notify_all();
    }
}

// === impl Instance ===

impl Instance {
    /// Loads the programs of workloads that are to get these numbers, if that has not been done.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn prepare(&self, workloads: Range<WorkloadId>) -> Result<(), CaptureError> {
        for workload in workloads.filter(|workload| self.spares.claim(*workload)) {
            match self.load_for(workload).and_then(load_own) {
                Ok(own) => self.spares.put(workload, Some(own)),
                Err(error) => {
                    self.spares.put(workload, None);
                    return Err(error);
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::InstanceOptions;

    /// Needs root, as all that loads programs.
    #[test]
    fn programs_are_loaded_once_for_each_number() {
        let instance = Instance::open(&InstanceOptions::default()).unwrap();
        instance.prepare(5..7).unwrap();
        assert!(!instance.spares.claim(5) && !instance.spares.claim(6));
        let own = instance.spares.take(5).expect("it was prepared");
        assert!(own.iter().any(|(name, _)| *name == "weir_connect4"), "it is loaded");
        assert!(instance.spares.take(5).is_none(), "it is in use");
        // No workload gets a number that is behind one that was given out.
        assert!(instance.spares.take(9).is_none());
        instance.prepare(6..10).unwrap();
        assert!(lock(&instance.spares.known).by_number.is_empty());
    }
}
