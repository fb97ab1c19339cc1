//! The rules of a workload's ports, in the map that the hooks read.

use std::collections::HashSet;

use weir_common::{Direction, PortKey, PortRule, PortState, Source};

use super::{CaptureError, entries::Entries, quota::List, table::lock};
use crate::ports::PortPolicy;

/// What connections of each port get.
pub struct PortRules {
    entries: Entries,
}

// === impl PortRules ===

impl PortRules {
    pub(super) const fn new(entries: Entries) -> Self {
        Self { entries }
    }

    /// Sets what one port's new connections get; takes effect with the next connect.
    ///
    /// # Errors
    /// Where the map cannot be written.
    pub fn set(
        &self,
        direction: Direction,
        port: u16,
        state: PortState,
        source: Source,
        included: bool,
    ) -> Result<(), CaptureError> {
        let key = PortKey::new(self.entries.workload, direction, port);
        if state == PortState::Detect && source == Source::Default && !included {
            return self.entries.instance.ports.remove(&key);
        }
        let rule = PortRule {
            state: state as u8,
            source: source as u8,
            included: u8::from(included),
            _pad: 0,
        };
        self.entries.instance.ports.insert(&key, &rule)
    }

    /// Lets one port's new connections get what they get without a rule.
    ///
    /// # Errors
    /// Where the map cannot be written.
    pub fn forget(&self, direction: Direction, port: u16) -> Result<(), CaptureError> {
        self.entries.instance.ports.remove(&PortKey::new(self.entries.workload, direction, port))
    }

    /// Makes sure that there is room for so many rules of the workload.
    ///
    /// # Errors
    /// [`CaptureError::Share`] where there is not.
    pub fn reserve(&self, rules: usize) -> Result<(), CaptureError> {
        self.entries.instance.quotas.set(List::Ports, self.entries.workload, rules)
    }

    /// Writes the states of all ports, and removes those that an earlier weir had written.
    ///
    /// # Errors
    /// Where there is no room for them, or the map cannot be written.
    pub fn set_policy(&self, policy: &PortPolicy) -> Result<(), CaptureError> {
        self.reserve(policy.len())?;
        let mut wanted = HashSet::new();
        for direction in [Direction::Outbound, Direction::Inbound] {
            for (port, status) in policy.rules(direction) {
                wanted.insert(PortKey::new(self.entries.workload, direction, port));
                self.set(direction, port, status.state, status.source, status.included)?;
            }
        }
        let left = self.entries.left(|left| &mut left.ports);
        left.iter()
            .filter(|key| !wanted.contains(*key))
            .try_for_each(|key| self.entries.instance.ports.remove(key))
    }

    /// What the connect hook would find for a port.
    ///
    /// # Errors
    /// Where the map cannot be read.
    pub fn get(
        &self,
        direction: Direction,
        port: u16,
    ) -> Result<(PortState, Source, bool), CaptureError> {
        let rule = self
            .entries
            .instance
            .ports
            .get(&PortKey::new(self.entries.workload, direction, port))?
            .unwrap_or_default();
        Ok((
            PortState::from_u8(rule.state).unwrap_or(PortState::Detect),
            Source::from_u8(rule.source).unwrap_or(Source::Default),
            rule.included != 0,
        ))
    }

    /// Removes all rules. Reads the whole map.
    pub(super) fn clear(&self) {
        let Entries { instance, workload, .. } = &self.entries;
        for (key, _) in instance.ports.entries(|key| key.workload == *workload) {
            let _ = instance.ports.remove(&key);
            let _ = lock(&instance.port_hits).remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::capture::{Instance, InstanceOptions, WorkloadMaps};

    /// Needs root.
    #[test]
    fn rules_are_of_one_workload_and_direction() {
        let instance = Arc::new(Instance::open(&InstanceOptions::default()).unwrap());
        let [one, other] = [1, 2].map(|id| WorkloadMaps::new(Arc::clone(&instance), id, true));
        let default = (PortState::Detect, Source::Default, false);
        let skipped = (PortState::Skip, Source::Cli, true);
        one.ports.set(Direction::Outbound, 80, skipped.0, skipped.1, skipped.2).unwrap();
        other.ports.set(Direction::Outbound, 80, skipped.0, skipped.1, skipped.2).unwrap();
        assert_eq!(one.ports.get(Direction::Outbound, 80).unwrap(), skipped);
        assert_eq!(one.ports.get(Direction::Inbound, 80).unwrap(), default);
        one.ports.clear();
        assert_eq!(one.ports.get(Direction::Outbound, 80).unwrap(), default);
        assert_eq!(other.ports.get(Direction::Outbound, 80).unwrap(), skipped);
        other.ports.forget(Direction::Outbound, 80).unwrap();
        assert_eq!(other.ports.get(Direction::Outbound, 80).unwrap(), default);
    }
}
