//! The rules of a workload's ports, in the map that the hooks read: a block of ports in each entry.

use std::collections::HashMap;

use weir_common::{Direction, PortBlock, PortBlockKey, PortRule, PortState, Source};

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
        self.put(direction, port, rule(state, source, included))
    }

    /// Lets one port's new connections get what they get without a rule.
    ///
    /// # Errors
    /// Where the map cannot be written.
    pub fn forget(&self, direction: Direction, port: u16) -> Result<(), CaptureError> {
        self.put(direction, port, PortRule::default())
    }

    /// Makes sure that there is room for the rules of a policy.
    ///
    /// # Errors
    /// [`CaptureError::Share`] where there is not.
    pub fn reserve(&self, policy: &PortPolicy) -> Result<(), CaptureError> {
        let blocks = self.blocks(policy).len();
        self.entries.instance.quotas.set(List::Ports, self.entries.workload, blocks)
    }

    /// Writes the states of all ports, and removes those that an earlier weir had written.
    ///
    /// # Errors
    /// Where there is no room for them, or the map cannot be written.
    pub fn set_policy(&self, policy: &PortPolicy) -> Result<(), CaptureError> {
        self.reserve(policy)?;
        let wanted = self.blocks(policy);
        for (key, block) in &wanted {
            self.entries.instance.ports.insert(key, block)?;
        }
        let left = self.entries.left(|left| &mut left.ports);
        left.iter()
            .filter(|key| !wanted.contains_key(key))
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
        let key = PortBlockKey::of(self.entries.workload, direction, port);
        let block = self.entries.instance.ports.get(&key)?.unwrap_or(PortBlock::EMPTY);
        let rule = block.rule(port);
        Ok((
            PortState::from_u8(rule.state).unwrap_or(PortState::Detect),
            Source::from_u8(rule.source).unwrap_or(Source::Default),
            rule.included != 0,
        ))
    }

    /// Removes all rules. Reads the whole map.
    pub(super) fn clear(&self) {
        let Entries { instance, workload, .. } = &self.entries;
        for key in instance.ports.keys().iter().filter(|key| key.workload == *workload) {
            let _ = instance.ports.remove(key);
        }
        let mut hits = lock(&instance.port_hits);
        let keys: Vec<_> = hits.keys().filter_map(Result::ok).collect();
        for key in keys.iter().filter(|key| key.workload == *workload) {
            let _ = hits.remove(key);
        }
    }

    fn put(&self, direction: Direction, port: u16, rule: PortRule) -> Result<(), CaptureError> {
        let key = PortBlockKey::of(self.entries.workload, direction, port);
        self.entries.instance.ports.change(&key, |block| {
            let mut block = block.unwrap_or(PortBlock::EMPTY);
            block.set(port, rule);
            (!block.is_empty()).then_some(block)
        })
    }

    /// The entries that a policy has.
    fn blocks(&self, policy: &PortPolicy) -> HashMap<PortBlockKey, PortBlock> {
        let mut blocks = HashMap::new();
        for direction in [Direction::Outbound, Direction::Inbound] {
            for (port, status) in policy.rules(direction) {
                let key = PortBlockKey::of(self.entries.workload, direction, port);
                let rule = rule(status.state, status.source, status.included);
                blocks.entry(key).or_insert(PortBlock::EMPTY).set(port, rule);
            }
        }
        blocks.retain(|_, block| !block.is_empty());
        blocks
    }
}

// === helpers ===

fn rule(state: PortState, source: Source, included: bool) -> PortRule {
    PortRule { state: state as u8, source: source as u8, included: u8::from(included) }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        capture::{Instance, InstanceOptions, WorkloadMaps},
        ports::{PolicyInput, PortSet},
    };

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
        assert_eq!(instance.ports.keys(), [], "blocks without rules go");
    }

    /// Needs root. Guards against rules that take an entry of the table each.
    #[test]
    fn scattered_ports_take_no_more_entries_than_there_are_blocks() {
        let instance = Arc::new(Instance::open(&InstanceOptions::default()).unwrap());
        let workload = WorkloadMaps::new(Arc::clone(&instance), 1, true);
        let scattered = PortSet::from_ranges((0..10_000).map(|n| (6 * n, 6 * n)));
        let skip = |skip| {
            let outbound = PolicyInput { skip, ..PolicyInput::default() };
            PortPolicy::new(outbound, PolicyInput::default(), Source::Config)
        };
        workload.ports.set_policy(&skip(scattered)).unwrap();
        let blocks = || {
            let is_outbound = |key: &&PortBlockKey| key.direction == Direction::Outbound as u8;
            instance.ports.keys().iter().filter(is_outbound).count()
        };
        assert_eq!(blocks(), 60_000_usize.div_ceil(128));
        let get = |port| workload.ports.get(Direction::Outbound, port).unwrap();
        assert_eq!(get(59_994), (PortState::Skip, Source::Config, true));
        assert_eq!(get(59_995), (PortState::Detect, Source::Default, false));
        let all = skip(PortSet::from_ranges([(0, u16::MAX)]));
        workload.ports.set_policy(&all).unwrap();
        assert_eq!(blocks(), 512);
        assert_eq!(get(59_995), (PortState::Skip, Source::Config, true));
        workload.ports.clear();
        assert_eq!(instance.ports.keys(), []);
    }
}
