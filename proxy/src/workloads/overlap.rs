//! Whether two captures would be of the same connections: those of one cgroup, or of one cgroup and
//! another below it. Each connection would be redirected twice then, and fail.

use std::path::{Path, PathBuf};

use weir_common::WorkloadId;

use super::WorkloadError;
use crate::{
    capture::{
        Instance,
        foreign::{self, Relation},
    },
    workload::WorkloadSpec,
};

/// A workload that has a cgroup, or is to have it.
#[derive(Clone, Debug)]
pub(super) struct Claimed {
    pub(super) id: WorkloadId,
    pub(super) name: String,
    pub(super) cgroup: PathBuf,
}

// === impl Claimed ===

impl From<&WorkloadSpec> for Claimed {
    fn from(start: &WorkloadSpec) -> Self {
        let workload = &start.settings.workload;
        let cgroup = workload.cgroup.clone().unwrap_or_default();
        Self { id: start.id, name: workload.name.clone(), cgroup: resolved(&cgroup) }
    }
}

impl Claimed {
    pub(super) fn new(id: WorkloadId, name: &str, cgroup: &Path) -> Self {
        Self { id, name: name.to_owned(), cgroup: resolved(cgroup) }
    }

    /// Refuses this one where it has a cgroup with one of the others, or is below or above it.
    pub(super) fn refuse_beside<'a>(
        &self,
        others: impl IntoIterator<Item = &'a Self>,
    ) -> Result<(), WorkloadError> {
        for other in others.into_iter().filter(|other| other.id != self.id) {
            let Some(relation) = relation(&self.cgroup, &other.cgroup) else { continue };
            let (cgroup, name) = (self.cgroup.clone(), other.name.clone());
            return Err(match relation {
                Relation::Same => WorkloadError::CapturedAs { cgroup, name },
                relation => {
                    WorkloadError::Nested { cgroup, relation, other: other.cgroup.clone(), name }
                }
            });
        }
        Ok(())
    }

    /// What a new process captures: no two of the same connections, and none of those of any
    /// process but itself under the same number. Blocks.
    pub(super) fn refuse_overlaps(all: &[Self], instance: &Instance) -> Result<(), WorkloadError> {
        for (at, claimed) in all.iter().enumerate() {
            // The own one is the first: what was there before it counts.
            all[at + 1..].iter().try_for_each(|other| claimed.refuse_beside([other]))?;
            if !claimed.cgroup.exists() {
                continue;
            }
            let mine = |overlap: &foreign::Overlap| {
                overlap.relation == Relation::Same && instance.owns_for(claimed.id, overlap.program)
            };
            let overlap = foreign::overlaps(&claimed.cgroup)?.into_iter().find(|it| !mine(it));
            if let Some(overlap) = overlap {
                return Err(WorkloadError::Overlap { cgroup: claimed.cgroup.clone(), overlap });
            }
        }
        Ok(())
    }
}

// === helpers ===

/// Where `other` is, seen from `cgroup`.
fn relation(cgroup: &Path, other: &Path) -> Option<Relation> {
    if cgroup == other {
        Some(Relation::Same)
    } else if cgroup.starts_with(other) {
        Some(Relation::Above)
    } else if other.starts_with(cgroup) {
        Some(Relation::Below)
    } else {
        None
    }
}

/// Without links in it, as far as it exists.
fn resolved(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claimed(id: WorkloadId, cgroup: &str) -> Claimed {
        Claimed { id, name: format!("w{id}"), cgroup: cgroup.into() }
    }

    #[test]
    fn the_same_cgroup_one_above_and_one_below_are_refused_by_name() {
        let there = [claimed(1, "/g/pods/a"), claimed(2, "/g/other")];
        for (cgroup, words) in [
            ("/g/pods/a", "captured already, as workload \"w1\""),
            ("/g/pods/a/b", "below cgroup /g/pods/a"),
            ("/g/pods", "above cgroup /g/pods/a"),
            ("/g", "above cgroup /g/pods/a"),
        ] {
            let error = claimed(3, cgroup).refuse_beside(&there).unwrap_err();
            assert!(error.to_string().contains(words), "{cgroup}: {error}");
            assert!(error.is_overlap());
        }
        for cgroup in ["/g/pods/ab", "/g/pods/b", "/h"] {
            claimed(3, cgroup).refuse_beside(&there).unwrap();
        }
        // Itself is not in its own way.
        claimed(1, "/g/pods/a").refuse_beside(&there).unwrap();
    }
}
