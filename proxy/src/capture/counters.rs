//! The per-CPU counters that the hooks keep.

use weir_common::{CounterKey, Direction, PortKey, Reason};

use super::{entries::Entries, table::lock};

/// What the hooks have counted of a workload.
pub struct Counters {
    entries: Entries,
}

// === impl Counters ===

impl Counters {
    pub(super) const fn new(entries: Entries) -> Self {
        Self { entries }
    }

    /// How often each reason occurred in each direction, for reasons that did.
    #[must_use]
    pub fn all(&self) -> Vec<(Direction, Reason, u64)> {
        let map = lock(&self.entries.instance.counters);
        [Direction::Outbound, Direction::Inbound]
            .into_iter()
            .flat_map(|direction| Reason::ALL.map(|reason| (direction, reason)))
            .filter_map(|(direction, reason)| {
                let count = map.get(&self.key(direction, reason), 0).ok()?.iter().sum();
                (count > 0).then_some((direction, reason, count))
            })
            .collect()
    }

    /// How often one reason occurred in a direction.
    #[must_use]
    pub fn get(&self, direction: Direction, reason: Reason) -> u64 {
        let values = lock(&self.entries.instance.counters).get(&self.key(direction, reason), 0);
        values.map_or(0, |values| values.iter().sum())
    }

    /// Connections that the skip rule of a port let pass.
    #[must_use]
    pub fn port_hits(&self, direction: Direction, port: u16) -> u64 {
        lock(&self.entries.instance.port_hits)
            .get(&PortKey::new(self.entries.workload, direction, port), 0)
            .map_or(0, |values| values.iter().sum())
    }

    /// Starts the counters of a direction at nothing.
    pub(super) fn clear(&self, direction: Direction) {
        let mut map = lock(&self.entries.instance.counters);
        for reason in Reason::ALL {
            let _ = map.remove(&self.key(direction, reason));
        }
    }

    const fn key(&self, direction: Direction, reason: Reason) -> CounterKey {
        CounterKey {
            workload: self.entries.workload,
            reason: reason as u16,
            direction: direction as u16,
        }
    }
}
