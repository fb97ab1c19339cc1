//! Why a workload is not captured, or not meant.

use std::path::PathBuf;

use crate::{
    capture::{
        CaptureError,
        foreign::{Overlap, Relation},
    },
    config::ConfigError,
};

/// A workload could not be added, removed or found.
#[derive(Debug, thiserror::Error)]
pub enum WorkloadError {
    /// The name is taken.
    #[error(
        "a workload {0:?} is captured already; remove it first (`weir workload remove`), or choose another name"
    )]
    Exists(String),
    /// The cgroup is captured under another name.
    #[error("cgroup {} is captured already, as workload {name:?}; remove that one first (`weir workload remove {name}`)", cgroup.display())]
    CapturedAs {
        /// The cgroup.
        cgroup: PathBuf,
        /// The workload that has it.
        name: String,
    },
    /// Another workload of this weir has a cgroup above or below.
    #[error("cgroup {} is {} cgroup {}, which is captured as workload {name:?}: connections would be captured twice; remove that one first (`weir workload remove {name}`)", cgroup.display(), seen_from(*relation), other.display())]
    Nested {
        /// The cgroup that was asked for.
        cgroup: PathBuf,
        /// Where the other one is, seen from there.
        relation: Relation,
        /// The other one.
        other: PathBuf,
        /// The workload that has it.
        name: String,
    },
    /// It is wanted and not captured.
    #[error("workload {name:?} is not captured: {why}; capture starts once this is resolved")]
    Waits {
        /// Its name.
        name: String,
        /// What is missing.
        why: String,
    },
    /// A new process is taking over.
    #[error("this weir is being replaced by another one (--upgrade); try again")]
    BeingReplaced,
    /// No weir is taking over.
    #[error(
        "no handover is in progress on this connection, or it timed out; start the new weir again \
         (--upgrade)"
    )]
    NoHandover,
    /// Programs of another weir are there.
    #[error("cgroup {} is captured by another weir: its program {} is attached to {}; stop that \
             weir, or remove its state (`weir detach --all`)", cgroup.display(), overlap.program, overlap.cgroup.display())]
    Overlap {
        /// The cgroup that was asked for.
        cgroup: PathBuf,
        /// What is there.
        overlap: Overlap,
    },
    /// There is none of this name.
    #[error("no workload {name:?}; known: {}", listed(known))]
    Unknown {
        /// What was asked for.
        name: String,
        /// What there is.
        known: Vec<String>,
    },
    /// There are several.
    #[error("ambiguous workload: pass --workload (known: {})", listed(.0))]
    Unclear(Vec<String>),
    /// There is none at all.
    #[error("no workload is captured; add one with `weir workload add`")]
    None,
    /// A setting is out of range.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The kernel refused.
    #[error(transparent)]
    Capture(#[from] CaptureError),
}

impl WorkloadError {
    /// Whether another capture of the same cgroup is in the way.
    #[must_use]
    pub const fn is_overlap(&self) -> bool {
        matches!(
            self,
            Self::CapturedAs { .. }
                | Self::Nested { .. }
                | Self::Overlap { .. }
                | Self::Capture(CaptureError::Taken { .. })
        )
    }
}

/// Where a cgroup is, if another one is there from its point of view.
const fn seen_from(relation: Relation) -> &'static str {
    match relation {
        Relation::Same => "the same as",
        Relation::Above => "below",
        Relation::Below => "above",
    }
}

fn listed(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}
