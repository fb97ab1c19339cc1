//! Programs of others that see a cgroup's packets: systemd's `IPAddressDeny=`,
//! `RestrictNetworkInterfaces=` and `IPAccounting=`, container runtimes' and one's own. weir's
//! connections are of weir's cgroup, and pass only what is attached above both.

use std::path::Path;

use weir_common::Direction;

use super::{Finding, Severity, Tree, blind, called};
use crate::capture::{
    CaptureError, cgroup,
    query::{self, Attached, Hook},
};

/// Programs that see packets of a direction's connections at a cgroup.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Filters {
    /// Those that do not see weir's, by name and id.
    pub apart: Vec<String>,
    /// There are some that see weir's too, and no others.
    pub shared: bool,
}

/// The programs that see packets of a direction's connections. `below` asks the cgroups below too.
///
/// # Errors
/// Where a cgroup cannot be asked: it is none, or a capability is missing.
pub fn filters(cgroup: &Path, direction: Direction, below: bool) -> Result<Filters, CaptureError> {
    let hook = match direction {
        Direction::Outbound => Hook::Egress,
        Direction::Inbound => Hook::Ingress,
    };
    let ask = |cgroup: &Path, effective| {
        query::cgroup_programs(cgroup, hook, effective)
            .map_err(|source| CaptureError::Query { cgroup: cgroup.into(), source })
    };
    let mut programs = ask(cgroup, true)?;
    if below {
        let tree = Tree::around(cgroup)
            .map_err(|source| CaptureError::Query { cgroup: cgroup.into(), source })?;
        // Gone meanwhile, or not to be asked: then what is there is not known.
        programs.extend(tree.below.iter().flat_map(|it| ask(it, false).unwrap_or_default()));
    }
    if programs.is_empty() {
        return Ok(Filters::default());
    }
    let own: Vec<Attached> = ask(&cgroup::own()?, true)?;
    let mut names: Vec<String> =
        programs.iter().filter(|program| !own.contains(program)).map(called).collect();
    names.sort_unstable();
    names.dedup();
    Ok(Filters { shared: names.is_empty(), apart: names })
}

pub(super) fn findings(cgroup: &Path) -> Vec<Finding> {
    let look = |direction: Direction| match filters(cgroup, direction, true) {
        Ok(Filters { apart, .. }) if apart.is_empty() => None,
        Ok(Filters { apart, .. }) => Some(finding(cgroup, direction, &apart)),
        Err(error) => Some(blind("packet filters", cgroup.display().to_string(), &error)),
    };
    [Direction::Outbound, Direction::Inbound].into_iter().filter_map(look).collect()
}

// === helpers ===

fn finding(cgroup: &Path, direction: Direction, found: &[String]) -> Finding {
    let (hook, way) = match direction {
        Direction::Outbound => ("egress", "outbound"),
        Direction::Inbound => ("ingress", "inbound"),
    };
    Finding {
        area: "packet filters",
        what: format!("{} on {hook}", found.join(", ")),
        place: cgroup.display().to_string(),
        effect: format!(
            "sees the packets of this cgroup, but not weir's: {way} connections go direct, so that \
             they do not bypass it"
        ),
        severity: Severity::Warn,
        advice: "detach it (systemd: IPAddressDeny=, IPAddressAllow=, IPAccounting=, \
                 RestrictNetworkInterfaces=), or attach it to a cgroup above both"
            .into(),
    }
}
