//! Keeps the kernel's shares and the descriptors' budget in step with what there is, and says what goes direct
//! because a process is in another network namespace than its workload.

use std::{collections::HashSet, sync::Arc, time::Duration};

use weir_common::{Direction, Reason, WorkloadId};

use super::{PENDING_AGE, Workloads};
use crate::{accept::measure, blocking::blocking, capture::Reckoning};

/// How often the counts are compared with the tables.
const LOOK: Duration = Duration::from_secs(1);
/// Looks between two searches for sockets of other namespaces.
const NETNS_EVERY: u32 = 5;

/// What is kept from one look to the next.
#[derive(Default)]
struct Looks {
    reckoning: Reckoning,
    count: u32,
    workloads: Option<usize>,
    since_sweep: Duration,
    /// Workloads of which it has been said that some of their processes are elsewhere.
    said: HashSet<WorkloadId>,
}

impl Workloads {
    /// Spawns the task that does it.
    pub(super) fn keep_shares(self: &Arc<Self>) {
        let (workloads, retired) = (Arc::downgrade(self), self.retired.clone());
        tokio::spawn(async move {
            let mut ticks = tokio::time::interval(LOOK);
            let mut looks = Looks::default();
            while retired.run_until_cancelled(ticks.tick()).await.is_some() {
                let Some(workloads) = workloads.upgrade() else { return };
                // Maps are read as a whole: not on the thread of the heartbeat.
                looks = blocking(move || {
                    looks.look(&workloads);
                    looks
                })
                .await;
            }
        });
    }
}

// === impl Looks ===

impl Looks {
    fn look(&mut self, workloads: &Workloads) {
        let all = workloads.list();
        let shared = &workloads.shared;
        measure(shared.telemetry.budgets());
        if self.workloads.replace(all.len()) != Some(all.len())
            && let Err(error) = shared.instance.share_among(all.len())
        {
            tracing::warn!(%error, "cannot change the shares of workloads");
        }
        let kernels: Vec<_> = all.iter().map(|it| Arc::clone(&it.kernel)).collect();
        if let Err(error) = self.reckoning.look(&kernels, &shared.originals) {
            tracing::warn!(%error, "cannot correct the shares of workloads");
        }
        self.since_sweep += LOOK;
        if self.since_sweep >= PENDING_AGE {
            self.since_sweep = Duration::ZERO;
            let swept = shared.originals.sweep(PENDING_AGE);
            tracing::debug!(swept, "connections that were never accepted");
        }
        self.count += 1;
        if self.count.is_multiple_of(NETNS_EVERY) {
            for workload in &all {
                let id = workload.kernel().workload();
                let elsewhere =
                    workload.kernel().counters.get(Direction::Outbound, Reason::OtherNetns);
                if elsewhere > 0 && self.said.insert(id) {
                    tracing::warn!(
                        workload = &**workload.name(),
                        connections = elsewhere,
                        "processes of the workload's cgroup are in another network namespace; \
                         their connections go direct (reason other_netns)"
                    );
                }
            }
            let now: HashSet<_> = all.iter().map(|it| it.kernel().workload()).collect();
            self.said.retain(|id| now.contains(id));
        }
    }
}
