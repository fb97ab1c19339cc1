//! What else works on the same connections: another weir, other BPF programs on the cgroup's hooks,
//! sock maps, `sk_lookup` programs, packet filters. Only looks; what it finds stays as it is.

mod filters;
mod hooks;
mod mesh;
mod nftables;
mod packets;
mod sockets;
mod xtables;

pub use mesh::{Mesh, cilium, meshes};
pub use packets::inside;

use std::{os::fd::BorrowedFd, path::Path};

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

// === helpers ===

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
