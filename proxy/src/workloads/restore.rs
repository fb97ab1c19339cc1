//! What is captured at the start: the process's own workload, and what an earlier weir was told to
//! capture at run time.

use std::sync::Arc;

use tokio::time::Instant;
use weir_common::WorkloadId;

use super::{WorkloadError, Workloads, overlap::Claimed, waiting::Waiting};
use crate::{
    blocking::blocking,
    capture::{self, Installed, Remembered, WorkloadMaps},
    config::WorkloadSettings,
    host::cgroup,
    workload::{
        Description, Missing, Origin, TemporaryPort, Wait, WorkloadSpec, restore_client_ip,
    },
};

/// What an earlier weir has described, as far as it is understood.
#[derive(Default)]
struct Known {
    workloads: Vec<(WorkloadId, Description)>,
    /// To be cleared up where no weir captures them: number, namespace and what was changed there.
    all: Vec<(WorkloadId, u64, Option<Installed>)>,
}

// === impl Known ===

impl Known {
    fn read(remembered: &Remembered) -> Self {
        let mut known = Self::default();
        for (id, text) in &remembered.workloads {
            match Description::read(text) {
                Ok(description) => {
                    known.all.push((*id, description.netns_inode, description.client_ip));
                    known.workloads.push((*id, description));
                }
                Err((error, residue)) => {
                    tracing::warn!(
                        %error,
                        workload.id = id,
                        "cannot parse the description of a workload, which is lost; add it again \
                         with `weir workload add`"
                    );
                    known.all.push((*id, residue.netns_inode, residue.client_ip));
                }
            }
        }
        known
    }
}

// === impl Workloads ===

impl Workloads {
    /// Captures what is wanted, under the numbers that it had before. In a handover all of it is
    /// compared with what others capture, before anything is attached.
    pub(super) async fn restore(
        &self,
        own: Option<WorkloadSettings>,
        remembered: &Remembered,
        handover: bool,
    ) -> Result<(), WorkloadError> {
        let known = Known::read(remembered);
        let mut next = self.next.lock().await;
        let mut starts = Vec::new();
        if let Some(own) = own {
            let before = known.workloads.iter().find(|(_, it)| {
                it.origin != Origin::Removed && it.settings.workload.name == own.workload.name
            });
            starts.push(start(own, Origin::Config, before, *next, remembered));
            *next += u32::from(before.is_none());
        }
        for entry in known.workloads.iter().filter(|(_, it)| it.origin.comes_back()) {
            let name = &entry.1.settings.workload.name;
            if starts.iter().all(|start| start.settings.workload.name != *name) {
                let settings = entry.1.settings.clone();
                starts.push(start(settings, entry.1.origin, Some(entry), 0, remembered));
            }
        }
        if handover {
            let instance = Arc::clone(&self.shared.instance);
            let claimed: Vec<Claimed> = starts.iter().map(Claimed::from).collect();
            blocking(move || Claimed::refuse_overlaps(&claimed, &instance)).await?;
        }
        for start in starts {
            let again = start.again();
            match self.add_locked(start, handover).await {
                Ok(_) => {}
                Err(error) => self.not_restored(again, error)?,
            }
        }
        drop(next);
        self.clear_up(known.all, &remembered.here).await;
        Ok(())
    }

    /// A workload that was wanted and could not be captured now.
    fn not_restored(&self, start: WorkloadSpec, error: WorkloadError) -> Result<(), WorkloadError> {
        let name = start.settings.workload.name.clone();
        let wait = match (start.origin, Wait::of(&start.settings)) {
            // One that cannot come into being is a mistake.
            (Origin::Config, Some(wait)) if is_possible(&start.settings, &wait) => wait,
            (Origin::Config, _) => return Err(error),
            (Origin::Pod | Origin::Removed, _) => {
                tracing::warn!(%error, workload = name, "no longer captured");
                return Ok(());
            }
            (Origin::Cli, Some(wait)) => wait,
            (Origin::Cli, None) => Wait { missing: Missing::Start, why: error.to_string() },
        };
        if wait.missing != Missing::Start && !start.fresh {
            // They are on hooks that are not used any more.
            WorkloadMaps::new(Arc::clone(&self.shared.instance), start.id, false).links.detach();
        }
        tracing::warn!(workload = name, reason = wait.why, "waiting to capture a workload");
        self.shared.telemetry.label(&name, None);
        self.insert_waiting(Waiting::new(start, wait, Instant::now()));
        Ok(())
    }

    /// Forgets what was remembered and is not captured.
    async fn clear_up(&self, all: Vec<(WorkloadId, u64, Option<Installed>)>, here: &[WorkloadId]) {
        let wanted = self.numbers();
        for (_, netns, installed) in all.into_iter().filter(|(id, ..)| !wanted.contains(id)) {
            if let Some(installed) = installed
                && let Some(netns) = blocking(move || capture::Netns::find(netns)).await
            {
                restore_client_ip(&netns, &installed).await;
            }
        }
        for id in here.iter().copied().filter(|id| !wanted.contains(id)) {
            let instance = Arc::clone(&self.shared.instance);
            blocking(move || WorkloadMaps::new(instance, id, false).forget()).await;
        }
        self.shared.instance.remove_stale_links(&wanted);
        self.shared.instance.all_found();
    }
}

// === helpers ===

/// Whether the cgroup may come into being that a workload waits for.
fn is_possible(settings: &WorkloadSettings, wait: &Wait) -> bool {
    wait.missing == Missing::Cgroup
        && settings.workload.cgroup.as_deref().is_some_and(cgroup::is_possible)
}

fn start(
    settings: WorkloadSettings,
    origin: Origin,
    before: Option<&(WorkloadId, Description)>,
    next: WorkloadId,
    remembered: &Remembered,
) -> WorkloadSpec {
    let id = before.map_or(next, |(id, _)| *id);
    WorkloadSpec {
        settings,
        origin,
        id,
        fresh: !remembered.here.contains(&id),
        ports: before.map_or_else(Vec::new, |(id, description)| {
            let found = remembered.ports.get(id).map_or(&[][..], Vec::as_slice);
            TemporaryPort::lasting(&description.temporary, found)
        }),
        client_ip: before.and_then(|(_, description)| description.client_ip),
        // Those of other maps are not on these links.
        programs: before
            .filter(|_| remembered.same_maps)
            .and_then(|(_, description)| description.programs),
        pod: before.and_then(|(_, description)| description.pod.clone()),
        claim: None,
        in_own_netns: true,
    }
}
