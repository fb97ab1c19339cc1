//! What metrics are told of each workload at a scrape.

use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
};

use weir_common::Reason;

use super::{Shared, Workloads, waiting::Waiting};
use crate::{
    capture::{Instance, MapMemory, WorkloadMaps},
    config::{WorkloadSettings, fail_name},
    pod::Pod,
    sync::read,
    telemetry::{MapFacts, PodLabels, WorkloadFacts},
    workload::{Missing, Workload},
};

// === impl Workloads ===

impl Workloads {
    /// What the hooks have decided so far, of all workloads together.
    pub(crate) fn decisions(&self) -> Vec<(Reason, u64)> {
        let mut sums: BTreeMap<Reason, u64> = BTreeMap::new();
        for (_, reason, count) in self.facts().iter().flat_map(|facts| &facts.decisions) {
            *sums.entry(*reason).or_default() += count;
        }
        sums.into_iter().collect()
    }

    pub(super) fn facts(&self) -> Vec<WorkloadFacts> {
        let mut all: Vec<_> = self.list().iter().map(|it| running(it)).collect();
        let all_waiting = read(&self.waiting);
        all.extend(all_waiting.values().map(|it| waiting(it, &self.shared.instance)));
        all
    }

    /// What the kernel has allocated for each map.
    #[must_use]
    pub fn map_memory(&self) -> Vec<MapMemory> {
        map_memory(&self.shared)
    }
}

// === helpers ===

/// The same at a scrape.
pub(super) fn maps(shared: Weak<Shared>) -> impl Fn() -> Vec<MapFacts> + Send + Sync {
    move || {
        let maps = shared.upgrade().map_or_else(Vec::new, |shared| map_memory(&shared));
        maps.into_iter().map(|MapMemory { name, bytes }| MapFacts { map: name, bytes }).collect()
    }
}

fn map_memory(shared: &Shared) -> Vec<MapMemory> {
    let mut all = shared.instance.map_memory();
    all.extend(shared.tapping.map_memory());
    all
}

/// Of one that runs.
fn running(workload: &Workload) -> WorkloadFacts {
    WorkloadFacts {
        capturing: workload.phase() == "capturing",
        waiting: workload.wait().map(|wait| wait.missing.name()),
        inbound: workload.settings().inbound.capture && !workload.kernel().flags.is_inbound_off(),
        budget: workload.budget(),
        ..facts(&workload.settings(), workload.pod(), workload.kernel())
    }
}

/// Of one that waits for its place.
fn waiting(waiting: &Waiting, instance: &Arc<Instance>) -> WorkloadFacts {
    let start = waiting.start();
    let kernel = WorkloadMaps::new(Arc::clone(instance), start.id, start.fresh);
    WorkloadFacts {
        waiting: Some(waiting.wait().missing.name()),
        ..facts(&start.settings, start.pod.as_ref(), &kernel)
    }
}

fn facts(settings: &WorkloadSettings, pod: Option<&Pod>, kernel: &WorkloadMaps) -> WorkloadFacts {
    WorkloadFacts {
        workload: settings.workload.name.as_str().into(),
        pod: pod.map(PodLabels::from),
        fail: fail_name(settings.workload.fail),
        learn: settings.workload.learn.name(),
        inbound: settings.inbound.capture,
        capturing: false,
        waiting: None,
        waits: &Missing::NAMES,
        decisions: kernel.counters.all(),
        budget: Vec::new(),
    }
}
