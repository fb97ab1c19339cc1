//! Where a workload is captured: its cgroup, its network namespace, and weir's listeners there.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{Origin, WorkloadSpec};
use crate::{
    capture::{CaptureError, Instance, Listeners, Netns, RawSockets, WorkloadMaps},
    config::WorkloadSettings,
    host::cgroup,
};

/// A place that was found, with listeners that nothing leads to yet.
pub(super) struct Place {
    pub(super) cgroup: PathBuf,
    pub(super) cgroup_id: u64,
    pub(super) netns: Netns,
    pub(super) kernel: Arc<WorkloadMaps>,
    pub(super) listeners: Listeners,
    /// What answers connections that are held, or why none are.
    pub(super) hold: Result<RawSockets, String>,
}

// === impl Place ===

impl Place {
    /// Finds it and listens there; `hold` says whether outbound connections are to be held, or why
    /// not. Blocks: processes are looked through, and a namespace is entered.
    pub(super) fn find(
        instance: Arc<Instance>,
        start: &WorkloadSpec,
        hold: Result<(), String>,
    ) -> Result<Self, CaptureError> {
        let cgroup = cgroup_of(&start.settings)?;
        let cgroup_id = cgroup::id(&cgroup)?;
        let netns = open_netns(start, &cgroup)?;
        let kernel = Arc::new(WorkloadMaps::new(instance, start.id, start.fresh));
        let mut listeners = Listeners::open(&kernel, &netns)?;
        let hold = hold.and_then(|()| {
            listeners.open_hold(&kernel, &netns).map_err(|error| {
                let workload = start.settings.workload.name.as_str();
                tracing::warn!(%error, workload, "connect(2) does not wait for destinations");
                error.to_string()
            })
        });
        if hold.is_err()
            && let Err(error) = listeners.open_immediate(&kernel, &netns)
        {
            let workload = start.settings.workload.name.as_str();
            tracing::warn!(%error, workload, "all outbound connections share their source ports");
        }
        Ok(Self { cgroup, cgroup_id, netns, kernel, listeners, hold })
    }
}

// === helpers ===

/// The directory of a workload's cgroup, made sure of.
///
/// # Errors
/// Where it is weir's own, or none.
pub fn cgroup_of(settings: &WorkloadSettings) -> Result<PathBuf, CaptureError> {
    let cgroup = settings.workload.cgroup.clone().unwrap_or_default();
    cgroup::id(&cgroup)?;
    if cgroup::own()? == cgroup {
        return Err(CaptureError::OwnCgroup(cgroup));
    }
    Ok(cgroup)
}

fn open_netns(start: &WorkloadSpec, cgroup: &Path) -> Result<Netns, CaptureError> {
    if let Some(path) = &start.settings.workload.netns {
        return Netns::open(path);
    }
    let found = match start.origin {
        Origin::Pod => Netns::of_pod(cgroup)?,
        Origin::Config | Origin::Cli | Origin::Removed => Netns::of_cgroup(cgroup)?,
    };
    match found {
        Some(netns) => Ok(netns),
        // Never the node's own in place of another.
        None if start.origin == Origin::Pod || !start.in_own_netns => {
            Err(CaptureError::NoProcess(cgroup.to_owned()))
        }
        None => Netns::own(),
    }
}
