//! Programs of others that see a cgroup's packets: systemd's `IPAddressDeny=`,
//! `RestrictNetworkInterfaces=` and `IPAccounting=`, container runtimes' and one's own. weir's
//! connections are of weir's cgroup, and pass only what is attached above both.
//!
//! A program that only counts is taken for a filter too. systemd's has the same name and, with
//! `IPAddressDeny=any`, the same kinds of maps in both cases: only its instructions differ.

use std::path::{Path, PathBuf};

use weir_common::Direction;

use super::{OURS, Tree, called};
use crate::{
    capture::{
        CaptureError,
        bpf::AttachType,
        query::{self, Attached},
    },
    host::cgroup,
};

/// Programs that see packets of a direction's connections at a cgroup.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Filters {
    /// Those that do not see weir's, by name and id.
    pub apart: Vec<String>,
    /// There are some that see weir's too, and no others.
    pub shared: bool,
}

/// The programs that see packets of each direction's connections. `below` asks the cgroups below too.
///
/// # Errors
/// Where a cgroup cannot be asked: it is none, or a capability is missing.
pub fn filters(cgroup: &Path, below: bool) -> Result<[(Direction, Filters); 2], CaptureError> {
    let below = if below { Tree::around(cgroup)?.below } else { Vec::new() };
    let own = cgroup::own()?;
    Ok([
        (Direction::Outbound, on(AttachType::Egress, cgroup, &below, &own)?),
        (Direction::Inbound, on(AttachType::Ingress, cgroup, &below, &own)?),
    ])
}

// === helpers ===

fn on(
    hook: AttachType,
    cgroup: &Path,
    below: &[PathBuf],
    own: &Path,
) -> Result<Filters, CaptureError> {
    let ask = |cgroup: &Path, effective| {
        query::cgroup_programs(cgroup, hook, effective)
            .map_err(|source| CaptureError::Query { cgroup: cgroup.into(), source })
    };
    let mut programs = ask(cgroup, true)?;
    // Gone meanwhile, or not to be asked: then what is there is not known.
    programs.extend(below.iter().flat_map(|it| ask(it, false).unwrap_or_default()));
    if programs.is_empty() {
        return Ok(Filters::default());
    }
    let own: Vec<Attached> = ask(own, true)?;
    let mut names: Vec<String> = programs
        .iter()
        .filter(|program| !own.contains(program) && !program.name.starts_with(OURS))
        .map(called)
        .collect();
    names.sort_unstable();
    names.dedup();
    Ok(Filters { shared: names.is_empty(), apart: names })
}
