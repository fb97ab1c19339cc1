//! What metrics are told of each workload at a scrape.

use std::{collections::BTreeMap, sync::Arc};

use weir_common::Reason;

use super::{Workloads, waiting::Waiting};
use crate::{
    capture::{Instance, WorkloadMaps},
    config::{WorkloadSettings, fail_name},
    pod::Pod,
    sync::read,
    telemetry::{PodLabels, WorkloadFacts},
    workload::Workload,
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
}

// === helpers ===

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
        decisions: kernel.counters.all(),
        budget: Vec::new(),
    }
}
