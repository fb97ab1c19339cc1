//! Workloads that are Kubernetes pods, which `weir node` keeps in step with the cluster.

use std::sync::Arc;

use tokio::task::spawn_blocking;

use super::{WorkloadError, Workloads};
use crate::{
    config::WorkloadSettings,
    pod::Pod,
    workload::{Origin, Workload},
};

/// Pods whose programs are loaded ahead. Those of a burst that is larger are loaded as they come.
const SPARES: u32 = 4;

impl Workloads {
    /// Has the programs of the next pods loaded before these come, for ever: verifying them takes the
    /// kernel longer than all else that it takes to capture a pod.
    pub async fn keep_spares(self: Arc<Self>) {
        loop {
            let next = *self.next.lock().await;
            let instance = Arc::clone(&self.shared.instance);
            let prepared = spawn_blocking(move || instance.prepare(next..next + SPARES)).await;
            if let Ok(Err(error)) = prepared {
                // Capturing a pod says the same, to whom it concerns.
                tracing::debug!(%error, "cannot load programs in advance");
            }
            self.added.notified().await;
        }
    }

    /// Captures a pod.
    ///
    /// # Errors
    /// As [`Workloads::add`]; also where no process tells the pod's network namespace.
    pub async fn add_pod(
        &self,
        settings: WorkloadSettings,
        pod: Pod,
    ) -> Result<Arc<Workload>, WorkloadError> {
        let added = self.add_new(settings, Origin::Pod, Some(pod)).await;
        if added.is_ok() {
            self.added.notify_one();
        }
        added
    }

    /// Every pod that is captured.
    #[must_use]
    pub fn pods(&self) -> Vec<Arc<Workload>> {
        self.list().into_iter().filter(|workload| workload.pod().is_some()).collect()
    }
}
