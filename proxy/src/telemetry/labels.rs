//! The labels of every metric, and which workload and pod a series is of.

use std::{
    fmt,
    hash::{Hash, Hasher},
    sync::Arc,
};

use prometheus_client::encoding::{EncodeLabelSet, LabelSetEncoder};

use super::codes::{GrpcLabel, StatusLabel};
use crate::pod::Pod;

/// What is said of a pod beside its workload's name. As many values as pods are captured: series of
/// a pod that is gone go too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodLabels {
    namespace: String,
    pod: String,
    workload_kind: String,
    workload_name: String,
}

/// The workload that a series is of: the label `workload`, and a pod's labels beside it.
#[derive(Clone, Debug)]
pub(super) struct Of {
    pub(super) workload: Arc<str>,
    pub(super) pod: Option<Arc<PodLabels>>,
}

/// Labels that name a workload.
pub(super) trait OfWorkload {
    fn of(&self) -> &Of;
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Base {
    pub(super) direction: &'static str,
    #[prometheus(flatten)]
    pub(super) of: Of,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct WorkloadLabels {
    #[prometheus(flatten)]
    pub(super) of: Of,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct PeerLabels {
    pub(super) direction: &'static str,
    /// `src`: the client's side; `dst`: the upstream's.
    pub(super) peer: &'static str,
    #[prometheus(flatten)]
    pub(super) of: Of,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct CloseLabels {
    pub(super) direction: &'static str,
    pub(super) peer: &'static str,
    #[prometheus(flatten)]
    pub(super) of: Of,
    /// Empty for an orderly close.
    pub(super) errno: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ResponseLabels {
    pub(super) direction: &'static str,
    #[prometheus(flatten)]
    pub(super) of: Of,
    pub(super) status_code: Option<StatusLabel>,
    pub(super) classification: &'static str,
    pub(super) grpc_status: Option<GrpcLabel>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct LatencyLabels {
    pub(super) direction: &'static str,
    #[prometheus(flatten)]
    pub(super) of: Of,
    pub(super) status_code: StatusLabel,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct DetectLabels {
    #[prometheus(flatten)]
    pub(super) of: Of,
    pub(super) result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ConnectionLabels {
    pub(super) direction: &'static str,
    #[prometheus(flatten)]
    pub(super) of: Of,
    pub(super) treatment: &'static str,
    pub(super) source: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct DowngradeLabels {
    pub(super) direction: &'static str,
    #[prometheus(flatten)]
    pub(super) of: Of,
    pub(super) reason: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct UnpoolableLabels {
    pub(super) direction: &'static str,
    #[prometheus(flatten)]
    pub(super) of: Of,
    pub(super) reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct RetryLabels {
    pub(super) direction: &'static str,
    #[prometheus(flatten)]
    pub(super) of: Of,
    pub(super) level: &'static str,
    pub(super) outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct TimeoutLabels {
    pub(super) direction: &'static str,
    #[prometheus(flatten)]
    pub(super) of: Of,
    pub(super) limit: &'static str,
}

/// What an exemplar says: not a label, so that a trace makes no series.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ExemplarLabels {
    pub(super) trace_id: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct OutcomeLabels {
    pub(super) outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ErrnoLabels {
    pub(super) errno: String,
}

// === impl PodLabels ===

impl PodLabels {
    /// The namespace of the pod.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The name of the pod.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.pod
    }

    /// The kind of what it belongs to, such as `Deployment`; `Pod` for none.
    #[must_use]
    pub fn kind(&self) -> &str {
        &self.workload_kind
    }

    /// The name of what it belongs to.
    #[must_use]
    pub fn owner(&self) -> &str {
        &self.workload_name
    }
}

impl From<&Pod> for PodLabels {
    fn from(pod: &Pod) -> Self {
        Self {
            namespace: pod.namespace.clone(),
            pod: pod.name.clone(),
            workload_kind: pod.workload_kind.clone(),
            workload_name: pod.workload_name.clone(),
        }
    }
}

// === impl Of ===

/// By name: at a time, one pod has it.
impl PartialEq for Of {
    fn eq(&self, other: &Self) -> bool {
        self.workload == other.workload
    }
}

impl Eq for Of {}

impl Hash for Of {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.workload.hash(state);
    }
}

impl EncodeLabelSet for Of {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), fmt::Error> {
        let pod = self.pod.as_deref().map(|pod| {
            [
                ("namespace", &*pod.namespace),
                ("pod", &*pod.pod),
                ("workload_kind", &*pod.workload_kind),
                ("workload_name", &*pod.workload_name),
            ]
        });
        let labels = [("workload", &*self.workload)].into_iter().chain(pod.into_iter().flatten());
        labels.into_iter().try_for_each(|label| EncodeLabelSet::encode(&[label], encoder))
    }
}

macro_rules! of_workload {
    ($($labels:ty),+) => {
        $(impl OfWorkload for $labels {
            fn of(&self) -> &Of {
                &self.of
            }
        })+
    };
}

of_workload!(
    Base,
    WorkloadLabels,
    PeerLabels,
    CloseLabels,
    ResponseLabels,
    LatencyLabels,
    DetectLabels,
    ConnectionLabels,
    DowngradeLabels,
    UnpoolableLabels,
    RetryLabels,
    TimeoutLabels
);
