//! Workloads that are wanted and cannot be captured now: their cgroup or network namespace is not
//! there (yet, or between two starts of a service), or the kernel has refused them.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{WorkloadError, Workloads, read, write};
use crate::{
    blocking::blocking,
    config::WorkloadSettings,
    workload::{Missing, Origin, Wait, Workload, WorkloadSpec},
};

/// Time between two attempts that the kernel refuses, at first and at most.
const BACKOFF: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(30)];

/// One that waits.
pub(super) struct Waiting {
    start: WorkloadSpec,
    wait: Wait,
    again: Instant,
    backoff: Duration,
}

/// What is known of one that waits.
#[derive(Clone, Debug)]
pub struct WaitingWorkload {
    /// Its settings.
    pub settings: WorkloadSettings,
    /// Who wants it.
    pub origin: Origin,
    /// Why it is not captured.
    pub wait: Wait,
}

// === impl Waiting ===

impl Waiting {
    pub(super) fn new(start: WorkloadSpec, wait: Wait, again: Instant) -> Self {
        Self { start, wait, again, backoff: BACKOFF[0] }
    }

    pub(super) const fn start(&self) -> &WorkloadSpec {
        &self.start
    }

    pub(super) const fn wait(&self) -> &Wait {
        &self.wait
    }
}

// === impl Workloads ===

impl Workloads {
    /// Every workload that is wanted and not captured, by name.
    #[must_use]
    pub fn waiting(&self) -> Vec<WaitingWorkload> {
        let waiting = read(&self.waiting);
        let known = |it: &Waiting| WaitingWorkload {
            settings: it.start.settings.clone(),
            origin: it.start.origin,
            wait: it.wait.clone(),
        };
        waiting.values().map(known).collect()
    }

    /// How many workloads are wanted and not captured, or not as they should be.
    #[must_use]
    pub fn missing(&self) -> usize {
        let unwell = self.list().iter().filter(|workload| workload.wait().is_some()).count();
        read(&self.waiting).len() + unwell
    }

    pub(super) fn insert_waiting(&self, waiting: Waiting) {
        let name = waiting.start.settings.workload.name.as_str().into();
        write(&self.waiting).insert(name, waiting);
    }

    /// Takes a workload off a place that does not exist any more, until there is one again. `next`
    /// is locked.
    pub(super) fn let_go(self: &Arc<Self>, workload: &Arc<Workload>, wait: Wait) {
        let name = Arc::clone(workload.name());
        {
            let mut running = write(&self.running);
            // It may have been removed meanwhile.
            if !running.get(&name).is_some_and(|it| Arc::ptr_eq(it, workload)) {
                return;
            }
            running.remove(&name);
        }
        tracing::warn!(workload = &*name, reason = wait.why, "not captured until it is back");
        self.insert_waiting(Waiting::new(workload.start_again(), wait, Instant::now()));
        workload.let_go();
        let deadline = self.shared.process.drain.deadline;
        let workload = Arc::clone(workload);
        self.removals.spawn(async move {
            // Its slots are the next one's by now.
            workload.drain(deadline, true).await;
            workload.restore_client_ip().await;
        });
    }

    /// Captures what can be captured by now. `next` is locked.
    pub(super) async fn start_waiting(&self) {
        let due: Vec<(Arc<str>, WorkloadSpec)> = {
            let now = Instant::now();
            let waiting = read(&self.waiting);
            let due = waiting.iter().filter(|(_, it)| it.again <= now);
            due.map(|(name, it)| (Arc::clone(name), it.start.again())).collect()
        };
        for (name, start) in due {
            let settings = start.settings.clone();
            if let Some(wait) = blocking(move || Wait::of(&settings)).await {
                self.goes_on_waiting(&name, wait);
                continue;
            }
            // What is in the maps under its number is looked for again.
            self.shared.instance.all_found();
            let started = self.add_locked(start, false).await;
            self.shared.instance.all_found();
            match started {
                Ok(_) => {
                    write(&self.waiting).remove(&name);
                    tracing::info!(workload = &*name, "captured again");
                }
                Err(error) => {
                    let missing = match &error {
                        WorkloadError::Capture(crate::capture::CaptureError::NoProcess(_)) => {
                            Missing::Process
                        }
                        _ => Missing::Start,
                    };
                    self.goes_on_waiting(&name, Wait { missing, why: error.to_string() });
                }
            }
        }
    }

    fn goes_on_waiting(&self, name: &str, wait: Wait) {
        let mut all = write(&self.waiting);
        let Some(waiting) = all.get_mut(name) else { return };
        if wait.missing == Missing::Start {
            if waiting.wait.missing != Missing::Start {
                tracing::warn!(workload = name, reason = wait.why, "cannot capture; retrying");
            }
            waiting.again = Instant::now() + waiting.backoff;
            waiting.backoff = (waiting.backoff * 2).min(BACKOFF[1]);
        } else {
            waiting.backoff = BACKOFF[0];
        }
        waiting.wait = wait;
    }
}
