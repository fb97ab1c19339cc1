//! The Kubernetes pod that a workload is.

use serde::{Deserialize, Serialize};

/// What of a pod is in metrics, and what tells it from another of the same name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    /// Its UID: a StatefulSet's next pod has the name of the one before.
    pub uid: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Kind of what it belongs to in the end: `Deployment` and not `ReplicaSet`; `Pod` for none.
    pub workload_kind: String,
    /// Name of what it belongs to.
    pub workload_name: String,
}
