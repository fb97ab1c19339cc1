//! Programs of others that see a cgroup's packets.

use std::path::Path;

use super::{Finding, Severity, blind};
use crate::{
    capture::foreign::{Filters, filters},
    decision::Direction,
};

pub(super) fn findings(cgroup: &Path) -> Vec<Finding> {
    match filters(cgroup, true) {
        Ok(found) => {
            let found = found.iter().filter(|(_, Filters { apart, .. })| !apart.is_empty());
            found.map(|(direction, it)| finding(cgroup, *direction, &it.apart)).collect()
        }
        Err(error) => vec![blind("packet filters", cgroup.display().to_string(), &error)],
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::AttachType;
    use crate::capture::foreign::testing::{CGROUP_SKB, Group, attached_to};

    /// Needs root.
    #[test]
    fn there_is_a_finding_for_each_direction_that_is_filtered() {
        let top = Group::top("filter-findings");
        let leaf = Group::new(&top.0, "leaf");
        assert_eq!(findings(&leaf.0), []);
        let _egress = attached_to(&leaf.0, (CGROUP_SKB, AttachType::Egress), "sd_fw_egress");
        let _ingress = attached_to(&top.0, (CGROUP_SKB, AttachType::Ingress), "sd_fw_ingress");
        let found = findings(&leaf.0);
        let what: Vec<_> = found.iter().map(|finding| finding.what.as_str()).collect();
        assert!(matches!(what[..], [out, _] if out.starts_with("sd_fw_egress")), "{what:?}");
    }
}
