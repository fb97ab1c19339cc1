//! BPF programs on a cgroup's hooks that are not of this weir: of another weir, or of others. Only looks;
//! what it finds stays as it is.
//!
//! The order that everything here rests on (`kernel/bpf/cgroup.c`, `compute_effective_progs`): the
//! programs of a cgroup run before those of its ancestors, and those of one cgroup in the order in
//! which they were attached. Each sees what the one before has written. All of them run.

mod filters;
mod refusals;

use std::{
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

pub(crate) use self::refusals::refusals;
pub use self::{
    filters::{Filters, filters},
    refusals::{Refusal, obstacle},
};
use super::{
    CaptureError,
    bpf::AttachType,
    query::{self, Attached},
};
use crate::host::cgroup::{self, descendants};

/// How the name of every program of weir begins.
pub(crate) const OURS: &str = "weir_";
/// The hooks that redirect.
const CONNECT: [AttachType; 2] = [AttachType::Connect4, AttachType::Connect6];

/// Another weir's program on the connect hooks of the same connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overlap {
    /// The cgroup that the program is attached to; the topmost one that can be seen where the
    /// program's own is hidden by a cgroup namespace.
    pub cgroup: PathBuf,
    /// The program's id.
    pub program: u32,
    /// Where it is, seen from the cgroup that was asked for.
    pub relation: Relation,
}

/// Where a cgroup is, seen from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    /// The same.
    Same,
    /// An ancestor.
    Above,
    /// A descendant.
    Below,
}

/// Another weir that captures this cgroup, one above it or one below it: the first of
/// [`overlaps`].
///
/// # Errors
/// As [`overlaps`].
pub fn overlapping(cgroup: &Path) -> Result<Option<Overlap>, CaptureError> {
    Ok(overlaps(cgroup)?.into_iter().next())
}

/// Every program of a weir on the connect hooks of this cgroup, then of those above it (nearest
/// first), then of those below it. Pinned programs count, also when no weir runs: a weir that
/// adopts programs knows their ids.
///
/// # Errors
/// Where the cgroup cannot be asked: it is none, or a capability is missing.
pub fn overlaps(cgroup: &Path) -> Result<Vec<Overlap>, CaptureError> {
    let tree = Tree::around(cgroup)?;
    let mut found: Vec<Overlap> = Vec::new();
    for hook in CONNECT {
        for (relation, cgroup, program) in tree.programs(hook)? {
            if is_ours(&program) {
                found.push(Overlap { cgroup, program: program.id, relation });
            }
        }
    }
    // Stable: within a relation the tree's order stays.
    found.sort_by_key(|overlap| overlap.relation as u8);
    Ok(found)
}

/// Whether programs of others above the cgroup see its connect(2) after weir's program, and do not see
/// weir's own: load balancers and policies of a node that weir is not under.
///
/// # Errors
/// Where a cgroup cannot be asked: it is none, or a capability is missing.
pub fn apart(cgroup: &Path) -> Result<bool, CaptureError> {
    let ask = |hook, effective| {
        query::cgroup_programs(cgroup, hook, effective)
            .map_err(|source| CaptureError::Query { cgroup: cgroup.into(), source })
    };
    let mut above = Vec::new();
    for hook in CONNECT {
        let here = ask(hook, false)?;
        let all = ask(hook, true)?.into_iter();
        above.extend(all.filter(|program| !is_ours(program) && !here.contains(program)));
    }
    if above.is_empty() {
        return Ok(false);
    }
    let own = own_programs();
    Ok(!above.iter().all(|program| own.contains(program)))
}

/// A cgroup's surroundings.
pub(crate) struct Tree {
    pub(crate) here: PathBuf,
    /// Nearest first.
    pub(crate) above: Vec<PathBuf>,
    /// Each before those below it.
    below: Vec<PathBuf>,
}

// === impl Tree ===

impl Tree {
    pub(crate) fn around(cgroup: &Path) -> Result<Self, CaptureError> {
        let failed = |source| CaptureError::Query { cgroup: cgroup.into(), source };
        let here = cgroup.canonicalize().map_err(failed)?;
        let device = here.metadata().map_err(failed)?.dev();
        let is_cgroup = |path: &&Path| {
            path.join("cgroup.procs").exists()
                && path.metadata().is_ok_and(|metadata| metadata.dev() == device)
        };
        let above = here.ancestors().skip(1).take_while(is_cgroup).map(Path::to_path_buf).collect();
        let below = descendants(&here);
        Ok(Self { here, above, below })
    }

    /// Every program of a hook: here, above (nearest first, then hidden ones), below.
    pub(crate) fn programs(
        &self,
        hook: AttachType,
    ) -> Result<Vec<(Relation, PathBuf, Attached)>, CaptureError> {
        let ask = |cgroup: &Path, effective| {
            query::cgroup_programs(cgroup, hook, effective)
                .map_err(|source| CaptureError::Query { cgroup: cgroup.into(), source })
        };
        let mut all = Vec::new();
        let mut add = |relation, cgroup: &Path, programs: Vec<Attached>| {
            all.extend(programs.into_iter().map(|program| (relation, cgroup.to_owned(), program)));
        };
        // Asked first: what is detached from a cgroup meanwhile then looks hidden, not absent.
        let effective = ask(&self.here, true)?;
        let mut seen = ask(&self.here, false)?;
        add(Relation::Same, &self.here, seen.clone());
        for cgroup in &self.above {
            let programs = ask(cgroup, false)?;
            seen.extend(programs.iter().cloned());
            add(Relation::Above, cgroup, programs);
        }
        let hidden = effective.into_iter().filter(|program| !seen.contains(program)).collect();
        add(Relation::Above, self.above.last().unwrap_or(&self.here), hidden);
        for cgroup in &self.below {
            match ask(cgroup, false) {
                Ok(programs) => add(Relation::Below, cgroup, programs),
                Err(CaptureError::Query { source, .. }) if cgroup::is_gone(&source) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(all)
    }
}

// === impl Relation ===

impl Relation {
    /// As a word of a sentence.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Same => "same",
            Self::Above => "above",
            Self::Below => "below",
        }
    }
}

// === helpers ===

/// Whether a program is one of weir's, this one or another.
pub(crate) fn is_ours(program: &Attached) -> bool {
    program.name.starts_with(OURS)
}

/// What weir's own connections pass. Where that cannot be asked, the workload's cgroup could not be
/// either, and the caller has said so.
pub(crate) fn own_programs() -> Vec<Attached> {
    let Ok(own) = cgroup::own() else { return Vec::new() };
    CONNECT
        .into_iter()
        .flat_map(|hook| query::cgroup_programs(&own, hook, true).unwrap_or_default())
        .collect()
}

/// "name (id 7)"; the kernel allows programs without a name.
pub(crate) fn called(program: &Attached) -> String {
    match program.name.as_str() {
        "" => format!("unnamed (id {})", program.id),
        name => format!("{name} (id {})", program.id),
    }
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
