//! From one weir to the next without a connection that fails: the new process puts its listeners into
//! the slots and its programs into the links while the old process still accepts; then the
//! old process lets go of what only one can have, empties its queues and finishes.
//!
//! From the handover on, the old process changes nothing, and takes nothing that the new process
//! would not know of. If the new process goes before the old process has retired, everything is taken
//! back.

use std::sync::{Arc, Weak};

use super::{WorkloadError, Workloads, lock};
use crate::{
    blocking::blocking,
    capture::{WorkloadMaps, lock_directory},
    workload::{Missing, Wait},
};

/// Whose the workloads are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Reign {
    /// This weir's.
    #[default]
    Ours,
    /// A new process is attaching its programs.
    Ceding,
    /// A new process has gone without having come to serve.
    Lapsed,
    /// A new process's.
    Over,
}

/// A handover that is under way. Dropped before the old process has retired, it takes everything
/// back.
pub struct Handover {
    workloads: Weak<Workloads>,
}

// === impl Handover ===

impl Drop for Handover {
    fn drop(&mut self) {
        let Some(workloads) = self.workloads.upgrade() else { return };
        let mut reign = lock(&workloads.reign);
        if *reign == Reign::Ceding {
            *reign = Reign::Lapsed;
            drop(reign);
            workloads.woken.notify_one();
        }
    }
}

// === impl Workloads ===

impl Workloads {
    pub(super) fn reign(&self) -> Reign {
        *lock(&self.reign)
    }

    /// Whether workloads and their settings may be changed: what is changed while a new process reads
    /// them would be lost.
    ///
    /// # Errors
    /// Where a new process is about to take over, or has.
    pub fn changeable(&self) -> Result<(), WorkloadError> {
        if self.reign() == Reign::Ours { Ok(()) } else { Err(WorkloadError::BeingReplaced) }
    }

    /// True where a new process has asked for the workloads and not given up.
    #[must_use]
    pub fn is_being_replaced(&self) -> bool {
        matches!(self.reign(), Reign::Ceding | Reign::Over)
    }

    /// The old process's part, first: nothing is changed from now on. What is being added or put
    /// back is finished before.
    ///
    /// # Errors
    /// Where there is a new process already.
    pub async fn hand_over(self: &Arc<Self>) -> Result<Handover, WorkloadError> {
        {
            let mut reign = lock(&self.reign);
            if *reign != Reign::Ours {
                return Err(WorkloadError::BeingReplaced);
            }
            *reign = Reign::Ceding;
        }
        let handover = Handover { workloads: Arc::downgrade(self) };
        let _finished = self.next.lock().await;
        for workload in self.list() {
            workload.cede();
        }
        Ok(handover)
    }

    /// The old process's part, last: lets go of locks and events, and gives no more signs of life,
    /// so that it does not hide a new process that hangs.
    ///
    /// # Errors
    /// Where there is no handover, or none any more.
    pub async fn retire(&self) -> Result<(), WorkloadError> {
        {
            let mut reign = lock(&self.reign);
            if *reign != Reign::Ceding {
                return Err(WorkloadError::NoHandover);
            }
            *reign = Reign::Over;
        }
        self.retired.cancel();
        self.guarding.cancel();
        self.settle_events().await;
        for workload in self.list() {
            workload.stop_following();
            workload.release_claim();
        }
        self.shared.instance.release_lock();
        Ok(())
    }

    /// The old process's part, where the new process has gone.
    pub(super) async fn take_back(&self) {
        let _one_at_a_time = self.next.lock().await;
        tracing::warn!("the new process has exited during the handover; continuing");
        // What is in the maps is read again.
        self.shared.instance.all_found();
        for workload in self.list() {
            if let Err(error) = workload.take_back().await {
                tracing::warn!(%error, workload = &**workload.name(), "capture is impaired");
                workload.set_wait(Some(Wait { missing: Missing::Hooks, why: error.to_string() }));
            }
        }
        let known = self.numbers();
        let instance = Arc::clone(&self.shared.instance);
        blocking(move || {
            instance.all_found();
            let unknown = instance.pinned_workloads().into_iter().filter(|id| !known.contains(id));
            for id in unknown.collect::<Vec<_>>() {
                let theirs = WorkloadMaps::new(Arc::clone(&instance), id, false);
                theirs.links.detach();
                theirs.forget();
            }
        })
        .await;
        *lock(&self.reign) = Reign::Ours;
    }

    /// The new process's part, once the old process has retired or is gone; again with each look of
    /// the guard where it hangs and holds them still.
    pub async fn settle_in(self: &Arc<Self>) {
        if !*lock(&self.unsettled) || self.shared.instance.take_lock().is_err() {
            return;
        }
        *lock(&self.unsettled) = false;
        let instance = Arc::clone(&self.shared.instance);
        blocking(move || instance.disown_other_schemas()).await;
        for workload in self.list() {
            let cgroup = workload.settings().workload.cgroup.clone().unwrap_or_default();
            match lock_directory(&cgroup) {
                Ok(Some(claim)) => workload.take_claim(claim),
                // It is captured all the same: this only keeps others from trying.
                _ => tracing::warn!(cgroup = %cgroup.display(), "cannot lock the cgroup"),
            }
        }
        if let Err(error) = self.follow_events().await {
            tracing::warn!(%error, "connections that go direct are not recorded");
        }
    }
}
