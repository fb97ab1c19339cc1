//! What of the ports differs from the configuration.

use serde::{Deserialize, Serialize};

use super::{Call, ControlError, Conversation, ports_list::PortLookup, ports_set::push};
use crate::{
    decision::Direction,
    names,
    ports::{PortPolicy, PortSet, PortStatus},
};

/// Asks for the ports whose state is not that of the configuration.
#[derive(Debug, Serialize, Deserialize)]
pub struct PortsDiff;

/// Ports that differ in the same way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PortsDifference {
    /// Seen from the workload.
    #[serde(with = "names::direction")]
    pub direction: Direction,
    /// The ports.
    pub ports: PortSet,
    /// What the configuration says.
    pub configured: PortStatus,
    /// What they have.
    pub current: PortStatus,
    /// For how many seconds, where that does not last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_s: Option<u64>,
}

// === impl PortsDiff ===

impl Call for PortsDiff {
    const NAME: &'static str = "ports_diff";
    const REPLY: &'static str = "ports_diff";
    type Reply = Vec<PortsDifference>;

    fn changes(&self) -> bool {
        false
    }

    async fn answer(self, on: &mut Conversation<'_>) -> Result<Vec<PortsDifference>, ControlError> {
        on.handler.ports_diff(on.workload())
    }
}

// === impl PortsDifference ===

impl PortsDifference {
    /// What differs between two policies.
    #[must_use]
    pub fn of(current: &PortPolicy, configured: &PortPolicy, left_s: PortLookup<'_>) -> Vec<Self> {
        let mut found = Vec::new();
        for direction in [Direction::Outbound, Direction::Inbound] {
            let mut groups = Vec::new();
            for (port, before) in current.difference(direction, configured) {
                let key = (before, current.get(direction, port), left_s(direction, port));
                push(&mut groups, key, port);
            }
            found.extend(groups.into_iter().map(|((configured, current, left_s), ports)| Self {
                direction,
                ports: ports.into_iter().collect(),
                configured,
                current,
                left_s,
            }));
        }
        found
    }
}
