//! Workloads that are Kubernetes pods, which `weir node` keeps in step with the cluster.

use std::sync::Arc;

use super::{WorkloadError, Workloads};
use crate::{
    config::WorkloadSettings,
    workload::{Origin, Pod, Workload},
};

impl Workloads {
    /// Captures a pod.
    ///
    /// # Errors
    /// As [`Workloads::add`]; also where no process tells the pod's network namespace.
    pub async fn add_pod(
        &self,
        settings: WorkloadSettings,
        pod: Pod,
    ) -> Result<Arc<Workload>, WorkloadError> {
        self.add_new(settings, Origin::Pod, Some(pod)).await
    }

    /// Every pod that is captured.
    #[must_use]
    pub fn pods(&self) -> Vec<Arc<Workload>> {
        self.list().into_iter().filter(|workload| workload.pod().is_some()).collect()
    }
}
