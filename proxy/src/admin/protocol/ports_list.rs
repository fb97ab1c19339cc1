//! The port rules of a workload, and how often skip rules were hit.

use serde::{Deserialize, Serialize};

use super::{Call, ControlError, Conversation, ports_set::push};
use crate::{
    decision::{Direction, direction_name},
    names,
    ports::{PortPolicy, PortSet, PortStatus},
};

/// Asks for the ports that are not "detect by default".
#[derive(Debug, Serialize, Deserialize)]
pub struct PortsList;

/// The ports that a rule or a default names.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PortsReport {
    /// One entry per port with hits, and one for all without that have the same status.
    pub rules: Vec<PortsRule>,
    /// Directions in which only included ports are captured.
    pub include_lists: Vec<String>,
}

/// Ports with the same status.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PortsRule {
    /// Seen from the workload.
    #[serde(with = "names::direction")]
    pub direction: Direction,
    /// The ports.
    pub ports: PortSet,
    /// What their connections get.
    #[serde(flatten)]
    pub status: PortStatus,
    /// Connections that the kernel let pass because of the rule.
    pub hits: u64,
    /// For how many seconds they have it, where that does not last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_s: Option<u64>,
}

/// How many seconds a port has what it has; `None` where that lasts.
pub type PortLookup<'a> = &'a dyn Fn(Direction, u16) -> Option<u64>;

// === impl PortsList ===

impl Call for PortsList {
    const NAME: &'static str = "ports_list";
    const REPLY: &'static str = "ports";
    type Reply = PortsReport;

    fn changes(&self) -> bool {
        false
    }

    async fn answer(self, on: &mut Conversation<'_>) -> Result<PortsReport, ControlError> {
        on.handler.ports(on.workload())
    }
}

// === impl PortsReport ===

impl PortsReport {
    /// The rules of a policy, with how often each port's rule was hit, and how long it has it.
    #[must_use]
    pub fn new(
        policy: &PortPolicy,
        hits: &dyn Fn(Direction, u16) -> u64,
        left_s: PortLookup<'_>,
    ) -> Self {
        let mut report = Self::default();
        for direction in [Direction::Outbound, Direction::Inbound] {
            if policy.has_include_list(direction) {
                report.include_lists.push(direction_name(direction).to_owned());
            }
            // Few statuses exist, but any number of ports may have hits.
            let mut quiet = Vec::new();
            for (port, status) in policy.rules(direction) {
                let (hits, left_s) = (hits(direction, port), left_s(direction, port));
                if hits > 0 {
                    let ports = PortSet::from_iter([port]);
                    report.rules.push(PortsRule { direction, ports, status, hits, left_s });
                } else {
                    push(&mut quiet, (status, left_s), port);
                }
            }
            report.rules.extend(quiet.into_iter().map(|((status, left_s), ports)| {
                let ports = ports.into_iter().collect();
                PortsRule { direction, ports, status, hits: 0, left_s }
            }));
        }
        report
    }
}
