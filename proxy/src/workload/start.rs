//! What a workload is started with, and what is kept of it for the next start.

use serde::{Deserialize, Serialize};
use weir_common::WorkloadId;

use crate::{
    capture::{Installed, Lock, RememberedPort},
    config::WorkloadSettings,
    decision::Source,
    workload::Pod,
};

/// Who wanted a workload captured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// The flags or the file that weir was started with: gone when they are.
    Config,
    /// `weir workload add`: there until it is removed.
    Cli,
    /// A pod's or its namespace's annotation, by way of `weir node`.
    Pod,
    /// Nobody any more: it has been removed, and its last connections are being finished.
    Removed,
}

/// What is kept of a workload for the time after a restart.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Description {
    /// Its settings.
    pub settings: WorkloadSettings,
    /// Who wanted it.
    pub origin: Origin,
    /// Inode of its network namespace, to find that again.
    pub netns_inode: u64,
    /// What was changed in the namespace for `preserve_client_ip`.
    pub client_ip: Option<Installed>,
    /// Which programs are attached (`Instance::programs`); `None` before they all are.
    #[serde(default)]
    pub programs: Option<u64>,
    /// The pod that it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Pod>,
}

/// What to start.
#[derive(Debug)]
pub struct Start {
    /// Its settings, resolved and valid.
    pub settings: WorkloadSettings,
    /// Who wants it.
    pub origin: Origin,
    /// The number that its keys carry.
    pub id: WorkloadId,
    /// Nothing is in the maps under this number.
    pub fresh: bool,
    /// Port states set with `weir ports` on an earlier weir.
    pub ports: Vec<RememberedPort>,
    /// What an earlier weir has changed in the namespace.
    pub client_ip: Option<Installed>,
    /// Which programs an earlier weir has left attached.
    pub programs: Option<u64>,
    /// The right to capture the cgroup; `None` while a predecessor still has it.
    pub claim: Option<Lock>,
    /// The pod that it is.
    pub pod: Option<Pod>,
}

// === impl Origin ===

impl Origin {
    /// Who says what its port lists say.
    #[must_use]
    pub const fn source(self) -> Source {
        match self {
            Self::Pod => Source::Annotation,
            Self::Config | Self::Cli | Self::Removed => Source::Config,
        }
    }

    /// Whether it is captured again after a restart without being named again.
    #[must_use]
    pub const fn comes_back(self) -> bool {
        matches!(self, Self::Cli | Self::Pod)
    }
}
