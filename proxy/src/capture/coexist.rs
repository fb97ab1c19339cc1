//! Who else works on the same connections: another weir, other BPF programs on the cgroup's hooks,
//! sock maps, `sk_lookup` programs, packet filters. Only looks; what it finds stays as it is.
//!
//! The order that everything here rests on (`kernel/bpf/cgroup.c`, `compute_effective_progs`): the
//! programs of a cgroup run before those of its ancestors, and those of one cgroup in the order in
//! which they were attached. Each sees what the one before has written. All of them run.

mod filters;
mod hooks;
mod mesh;
mod nftables;
mod packets;
mod sockets;
mod xtables;

pub use filters::{Filters, filters};
pub use hooks::apart;
pub use mesh::{Mesh, cilium, meshes};
pub use packets::inside;

use std::{
    fs, io,
    os::{fd::BorrowedFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
};

use super::{
    CaptureError,
    query::{self, Attached, Hook},
};

/// How the name of every program of weir begins.
const OURS: &str = "weir_";

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

/// What else works on a workload's connections.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// One for each thing, or group of like things.
    pub findings: Vec<Finding>,
}

/// One thing that works on the same connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The kind: "connect hooks", "nftables", …
    pub area: &'static str,
    /// What was found, by name.
    pub what: String,
    /// Where.
    pub place: String,
    /// What that means for weir, and weir for it.
    pub effect: String,
    /// How much that matters.
    pub severity: Severity,
    /// The next step; empty where nothing needs doing.
    pub advice: String,
}

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Both work; good to know.
    Note,
    /// weir works with less, or the other one does.
    Warn,
    /// weir cannot attach.
    Fail,
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
/// first), then of those below it. Pinned programs count, also when no weir runs: whoever adopts
/// programs knows their ids.
///
/// # Errors
/// Where the cgroup cannot be asked: it is none, or a capability is missing.
pub fn overlaps(cgroup: &Path) -> Result<Vec<Overlap>, CaptureError> {
    let tree = Tree::around(cgroup)
        .map_err(|source| CaptureError::Query { cgroup: cgroup.into(), source })?;
    let mut found: Vec<Overlap> = Vec::new();
    for hook in [Hook::Connect4, Hook::Connect6] {
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

/// What else works on the connections of a cgroup and a network namespace. What cannot be looked
/// at is a finding too. `netns` is entered by a thread of its own.
#[must_use]
pub fn survey(cgroup: &Path, netns: BorrowedFd<'_>) -> Survey {
    let mut findings = hooks::findings(cgroup);
    findings.extend(filters::findings(cgroup));
    findings.extend(sockets::maps());
    findings.extend(sockets::lookup(netns));
    findings.extend(packets::findings(netns));
    Survey { findings }
}

/// Why the kernel refuses weir's programs on a cgroup, in words for an error message; none where
/// nothing is in the way, or where that cannot be asked. For a failed attach with `EPERM`, whose
/// cause the kernel does not tell. `optional`: of a hook that weir does without.
#[must_use]
pub fn obstacle(cgroup: &Path, optional: bool) -> Option<String> {
    let severity = if optional { Severity::Warn } else { Severity::Fail };
    let is_wanted = |it: &Finding| it.area == hooks::EXCLUSIVE && it.severity == severity;
    let finding = hooks::findings(cgroup).into_iter().find(is_wanted)?;
    let Finding { what, place, effect, advice, .. } = finding;
    Some(format!("{what} ({place}) {effect}; {advice}"))
}

/// A cgroup's surroundings.
struct Tree {
    here: PathBuf,
    /// Nearest first.
    above: Vec<PathBuf>,
    /// Depth first.
    below: Vec<PathBuf>,
}

// === impl Tree ===

impl Tree {
    fn around(cgroup: &Path) -> io::Result<Self> {
        let here = cgroup.canonicalize()?;
        let device = here.metadata()?.dev();
        let is_cgroup = |path: &&Path| {
            path.join("cgroup.procs").exists()
                && path.metadata().is_ok_and(|metadata| metadata.dev() == device)
        };
        let above = here.ancestors().skip(1).take_while(is_cgroup).map(Path::to_path_buf).collect();
        let mut below = Vec::new();
        descend(&here, &mut below);
        Ok(Self { here, above, below })
    }

    /// Every program of a hook: here, above (nearest first, then hidden ones), below.
    fn programs(&self, hook: Hook) -> Result<Vec<(Relation, PathBuf, Attached)>, CaptureError> {
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
                Err(CaptureError::Query { source, .. }) if is_gone(&source) => {}
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

fn is_ours(program: &Attached) -> bool {
    program.name.starts_with(OURS)
}

/// A cgroup that was removed while we looked.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ENODEV)
}

fn descend(cgroup: &Path, into: &mut Vec<PathBuf>) {
    // Removed meanwhile, or not ours to read: then nothing of it can be said.
    let Ok(entries) = fs::read_dir(cgroup) else { return };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            into.push(entry.path());
            descend(&entry.path(), into);
        }
    }
}

/// "name (id 7)"; the kernel allows programs without a name.
fn called(program: &Attached) -> String {
    match program.name.as_str() {
        "" => format!("unnamed (id {})", program.id),
        name => format!("{name} (id {})", program.id),
    }
}

/// A finding that says why nothing can be said.
fn blind(area: &'static str, place: impl Into<String>, why: &dyn std::fmt::Display) -> Finding {
    Finding {
        area,
        what: "unknown".into(),
        place: place.into(),
        effect: format!("cannot be read: {why}"),
        severity: Severity::Warn,
        advice: "run as root to read it".into(),
    }
}

#[cfg(test)]
mod tests;
