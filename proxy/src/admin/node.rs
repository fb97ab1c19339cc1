//! What is said of the node: to `weir status` and to `/ready`.

use std::sync::Mutex;

use tokio::sync::watch;

use super::{http::Readiness, protocol::PodStatus};
use crate::sync::lock;

/// Shared between who keeps it up to date and who is asked.
#[derive(Debug)]
pub struct NodeState {
    known: Mutex<Known>,
    readiness: watch::Sender<Readiness>,
}

#[derive(Debug, Default)]
struct Known {
    /// `None` before the source has told of all.
    pods: Option<Vec<PodStatus>>,
    /// What keeps the source from telling.
    problem: Option<String>,
}

// === impl NodeState ===

impl NodeState {
    /// Nothing is known yet.
    #[must_use]
    pub fn new() -> Self {
        Self { known: Mutex::default(), readiness: watch::Sender::new(Readiness::Starting) }
    }

    /// Whether all pods are captured that should be; a weir that drains says so there.
    #[must_use]
    pub fn readiness(&self) -> watch::Sender<Readiness> {
        self.readiness.clone()
    }

    /// The pods that are to be captured, and how far that has come.
    #[must_use]
    pub fn pods(&self) -> Vec<PodStatus> {
        self.lock().pods.clone().unwrap_or_default()
    }

    /// What keeps weir from knowing which pods there are.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        self.lock().problem.clone()
    }

    /// Says how far it has come.
    pub fn set(&self, pods: Vec<PodStatus>) {
        let missing = pods.iter().filter(|pod| pod.missing).count();
        self.lock().pods = Some(pods);
        let readiness =
            if missing == 0 { Readiness::Ready } else { Readiness::Missing { pods: missing } };
        self.readiness.send_if_modified(|now| {
            let change = *now != readiness && *now != Readiness::Draining;
            if change {
                *now = readiness;
            }
            change
        });
    }

    /// Says what keeps the source from telling.
    pub fn set_problem(&self, problem: Option<String>) {
        self.lock().problem = problem;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Known> {
        lock(&self.known)
    }
}

impl Default for NodeState {
    fn default() -> Self {
        Self::new()
    }
}
