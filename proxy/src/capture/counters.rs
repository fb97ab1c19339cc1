//! Reads the per-CPU counters that the hooks keep.

use weir_common::{CounterKey, Direction, PortKey, Reason};

use super::{Kernel, kernel::lock};

impl Kernel {
    /// How often each reason occurred, for reasons that did.
    #[must_use]
    pub fn counters(&self) -> Vec<(Reason, u64)> {
        let map = lock(&self.counters);
        Reason::ALL
            .into_iter()
            .filter_map(|reason| {
                let key = CounterKey { workload: self.workload, reason: reason as u32 };
                let count = map.get(&key, 0).ok()?.iter().sum();
                (count > 0).then_some((reason, count))
            })
            .collect()
    }

    /// Connections that the skip rule of a port let pass.
    #[must_use]
    pub fn port_hits(&self, direction: Direction, port: u16) -> u64 {
        lock(&self.port_hits)
            .get(&PortKey::new(self.workload, direction, port), 0)
            .map_or(0, |values| values.iter().sum())
    }
}
