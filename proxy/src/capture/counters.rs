//! Reads the per-CPU counters that the hooks keep.

use weir_common::{CounterKey, Direction, PortKey, Reason};

use super::{Kernel, table::lock};

impl Kernel {
    /// How often each reason occurred in each direction, for reasons that did.
    #[must_use]
    pub fn counters(&self) -> Vec<(Direction, Reason, u64)> {
        let map = lock(&self.instance.counters);
        [Direction::Outbound, Direction::Inbound]
            .into_iter()
            .flat_map(|direction| Reason::ALL.map(|reason| (direction, reason)))
            .filter_map(|(direction, reason)| {
                let count = map.get(&self.counter(direction, reason), 0).ok()?.iter().sum();
                (count > 0).then_some((direction, reason, count))
            })
            .collect()
    }

    /// How often one reason occurred in a direction.
    #[must_use]
    pub fn count(&self, direction: Direction, reason: Reason) -> u64 {
        let values = lock(&self.instance.counters).get(&self.counter(direction, reason), 0);
        values.map_or(0, |values| values.iter().sum())
    }

    /// Connections that the skip rule of a port let pass.
    #[must_use]
    pub fn port_hits(&self, direction: Direction, port: u16) -> u64 {
        lock(&self.instance.port_hits)
            .get(&PortKey::new(self.workload, direction, port), 0)
            .map_or(0, |values| values.iter().sum())
    }

    /// Starts the counters of a direction at nothing.
    pub(super) fn forget_counters(&self, direction: Direction) {
        let mut map = lock(&self.instance.counters);
        for reason in Reason::ALL {
            let _ = map.remove(&self.counter(direction, reason));
        }
    }

    const fn counter(&self, direction: Direction, reason: Reason) -> CounterKey {
        CounterKey { workload: self.workload, reason: reason as u16, direction: direction as u16 }
    }
}
