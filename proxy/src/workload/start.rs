//! What a workload is started with, and what is kept of it for the next start.

use serde::{Deserialize, Serialize};
use weir_common::WorkloadId;

use super::TemporaryPort;
use crate::{
    capture::{CaptureError, Installed, Lock, RememberedPort, WorkloadMaps},
    config::WorkloadSettings,
    decision::Source,
    pod::Pod,
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
    /// None any more: it has been removed, and its last connections are being finished.
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
    /// Port states that do not last, with what those ports had before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub temporary: Vec<TemporaryPort>,
}

/// What to start.
#[derive(Debug)]
pub struct WorkloadSpec {
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
    /// The right to capture the cgroup; `None` while an old process still has it.
    pub claim: Option<Lock>,
    /// The pod that it is.
    pub pod: Option<Pod>,
    /// Without processes that tell another one, its network namespace is weir's own. False for one
    /// that is known to have had another.
    pub in_own_netns: bool,
}

/// What is needed to clear up after a workload, where its description is not understood.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Residue {
    /// As in [`Description`].
    #[serde(default)]
    pub netns_inode: u64,
    /// As in [`Description`].
    #[serde(default)]
    pub client_ip: Option<Installed>,
}

// === impl Description ===

impl Description {
    /// Keeps it with the pins, in place of the one before.
    ///
    /// # Errors
    /// Where the kernel refuses the map or its pin.
    pub fn keep(&self, kernel: &WorkloadMaps) -> Result<(), CaptureError> {
        kernel.remember(&serde_json::to_vec(self).unwrap_or_default())
    }

    /// Reads one that was written by this weir or another.
    ///
    /// # Errors
    /// Where it is not understood; with what can be read all the same.
    pub fn read(text: &[u8]) -> Result<Self, (serde_json::Error, Residue)> {
        serde_json::from_slice(text)
            .map_err(|error| (error, serde_json::from_slice(text).unwrap_or_default()))
    }
}

// === impl WorkloadSpec ===

impl WorkloadSpec {
    /// The same for another attempt.
    #[must_use]
    pub fn again(&self) -> Self {
        Self {
            settings: self.settings.clone(),
            ports: self.ports.clone(),
            claim: None,
            pod: self.pod.clone(),
            ..*self
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Guards against descriptions that are dropped without a word, and leave everything behind.
    #[test]
    fn a_description_that_is_not_understood_tells_what_to_clear_up() {
        let text =
            br#"{"settings": {"workload": {"fail": "sideways"}}, "netns_inode": 4026531840}"#;
        let (error, residue) = Description::read(text).unwrap_err();
        assert!(error.to_string().contains("sideways"), "{error}");
        assert_eq!(residue.netns_inode, 4_026_531_840);
        let (_, residue) = Description::read(b"\xff").unwrap_err();
        assert_eq!((residue.netns_inode, residue.client_ip), (0, None));
    }
}
