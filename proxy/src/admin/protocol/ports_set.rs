//! Puts ports into a state, for both the proxy and the kernel.

use serde::{Deserialize, Serialize};

use super::{Call, ControlError, Conversation};
use crate::{
    decision::Direction,
    names,
    ports::{PortChange, PortSet, PortStatus, PortsSet},
};

/// Ports that changed in the same way. (One entry per port would make 25 MB of "all of them".)
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PortsChanged {
    /// Seen from the workload.
    #[serde(with = "names::direction")]
    pub direction: Direction,
    /// The ports.
    pub ports: PortSet,
    /// What they were.
    pub before: PortStatus,
    /// What they are.
    pub after: PortStatus,
}

// === impl PortsSet ===

impl Call for PortsSet {
    const NAME: &'static str = "ports_set";
    const REPLY: &'static str = "changed";
    type Reply = Vec<PortsChanged>;

    async fn answer(self, on: &mut Conversation<'_>) -> Result<Vec<PortsChanged>, ControlError> {
        Ok(PortsChanged::group(&on.handler.set_ports(on.workload(), self, on.caller).await?))
    }
}

// === impl PortsChanged ===

impl PortsChanged {
    /// Groups what [`crate::ports::PortPolicy::set`] returned.
    #[must_use]
    pub fn group(changes: &[PortChange]) -> Vec<Self> {
        let mut groups = Vec::new();
        for PortChange { direction, port, before, after } in changes {
            push(&mut groups, (*direction, *before, *after), *port);
        }
        groups
            .into_iter()
            .map(|((direction, before, after), ports)| Self {
                direction,
                ports: ports.into_iter().collect(),
                before,
                after,
            })
            .collect()
    }
}

/// Adds a port to the group with this key; groups keep the order of their first ports.
pub(super) fn push<K: PartialEq>(groups: &mut Vec<(K, Vec<u16>)>, key: K, port: u16) {
    match groups.iter_mut().find(|(existing, _)| *existing == key) {
        Some((_, ports)) => ports.push(port),
        None => groups.push((key, vec![port])),
    }
}
