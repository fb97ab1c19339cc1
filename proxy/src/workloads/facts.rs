//! What metrics are told of each workload at a scrape.

use std::sync::Arc;

use super::waiting::Waiting;
use crate::{
    capture::{Instance, WorkloadMaps},
    config::{WorkloadSettings, fail_name},
    pod::Pod,
    telemetry::{PodLabels, WorkloadFacts},
    workload::Workload,
};

/// Of one that runs.
pub(super) fn running(workload: &Workload) -> WorkloadFacts {
    WorkloadFacts {
        capturing: workload.phase() == "capturing",
        waiting: workload.wait().map(|wait| wait.missing.name()),
        inbound: workload.settings().inbound.capture && !workload.kernel().flags.is_inbound_off(),
        budget: workload.budget(),
        ..facts(&workload.settings(), workload.pod(), workload.kernel())
    }
}

/// Of one that waits for its place.
pub(super) fn waiting(waiting: &Waiting, instance: &Arc<Instance>) -> WorkloadFacts {
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
