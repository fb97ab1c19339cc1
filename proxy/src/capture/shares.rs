//! Each workload's shares of the tables that the hooks write for all of them: how large they are,
//! what is used, and what the hooks have counted too much.
//!
//! The hooks count before they redirect, and cannot see every end: a connect(2) that fails between
//! its hook and its SYN has no event. So the counts are compared with the tables now and then, and
//! what stays too high (or too low) is forgiven.

use std::{collections::HashMap, sync::Arc};

use weir_common::{Direction, Reason, Shares, Usage, WorkloadId, maps};

use super::{CaptureError, Instance, Originals, WorkloadMaps, entries::Entries, table::lock};
use crate::budget::Figures;

/// A workload that uses less of its shares than this is not looked at: a wrong count does no harm.
const WORTH_A_LOOK: u32 = 64;

/// What a workload uses of its shares.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShareUse {
    /// Connections on their way from connect(2) to the end of the handshake.
    pub in_flight: u32,
    /// How many of them are allowed.
    pub in_flight_share: u32,
    /// Addresses and ports listened on that the hooks keep.
    pub listening: u32,
    /// How many of them are allowed.
    pub listening_share: u32,
}

/// Compares counts with tables. To be called again and again, a second or more apart.
#[derive(Debug, Default)]
pub struct Reckoning {
    /// By how much the counts were too high at the last look.
    excess: HashMap<WorkloadId, (i64, i64)>,
}

// === impl Instance ===

impl Instance {
    /// Divides the tables among so many workloads.
    ///
    /// # Errors
    /// Where the map cannot be written.
    pub fn share_among(&self, workloads: usize) -> Result<(), CaptureError> {
        lock(&self.shares)
            .set(0, Shares::among(workloads), 0)
            .map_err(CaptureError::map("write", maps::SHARES))
    }

    fn shares(&self) -> Shares {
        lock(&self.shares).get(&0, 0).unwrap_or(Shares::among(Shares::MAX_WORKLOADS))
    }
}

// === impl ShareUse ===

impl ShareUse {
    /// What a workload uses of its shares.
    #[must_use]
    pub fn of(maps: &WorkloadMaps) -> Self {
        let Entries { instance, workload, .. } = &maps.entries;
        let shares = instance.shares();
        let usage = instance.usage.get(workload).ok().flatten().unwrap_or_default();
        let config = maps.entries.config().ok().flatten().unwrap_or_default();
        Self {
            in_flight: Usage::used(usage.in_flight(), config.forgiven_in_flight),
            in_flight_share: shares.in_flight,
            listening: Usage::used(usage.listening, config.forgiven_listening),
            listening_share: shares.listening,
        }
    }

    /// The same beside the budgets of userspace.
    #[must_use]
    pub fn figures(maps: &WorkloadMaps) -> [Figures; 2] {
        let used = Self::of(maps);
        let figures = |budget: &str, used: u32, limit: u32, exceeded| Figures {
            budget: budget.to_owned(),
            used: used.into(),
            limit: limit.into(),
            exceeded,
        };
        let refused = maps.counters.get(Direction::Outbound, Reason::PendingFull);
        let left = maps.counters.get(Direction::Inbound, Reason::ListeningFull);
        [
            figures("in_flight", used.in_flight, used.in_flight_share, refused),
            figures("listening", used.listening, used.listening_share, left),
        ]
    }
}

// === impl Reckoning ===

impl Reckoning {
    /// Looks at those workloads that use much of a share. Reads whole maps where one does: not for a
    /// thread that connections wait for.
    ///
    /// # Errors
    /// Where a map cannot be written.
    pub fn look(
        &mut self,
        workloads: &[Arc<WorkloadMaps>],
        originals: &Originals,
    ) -> Result<(), CaptureError> {
        let used = |maps: &Arc<WorkloadMaps>| {
            let used = ShareUse::of(maps);
            (used.in_flight >= WORTH_A_LOOK || used.listening >= WORTH_A_LOOK)
                .then(|| (Arc::clone(maps), used))
        };
        let busy: Vec<(Arc<WorkloadMaps>, ShareUse)> = workloads.iter().filter_map(used).collect();
        let before = std::mem::take(&mut self.excess);
        if busy.is_empty() {
            return Ok(());
        }
        let in_flight = originals.in_flight();
        for (maps, used) in busy {
            let workload = maps.workload();
            let on_their_way = in_flight.get(&workload).copied().unwrap_or(0);
            let excess = (
                i64::from(used.in_flight) - i64::from(on_their_way),
                i64::from(used.listening) - i64::from(maps.listening.count()),
            );
            let last = before.get(&workload).copied().unwrap_or_default();
            let forgiven = (lasting(excess.0, last.0), lasting(excess.1, last.1));
            if forgiven != (0, 0) {
                maps.flags.forgive(wrapping(forgiven.0), wrapping(forgiven.1))?;
            }
            self.excess.insert(workload, (excess.0 - forgiven.0, excess.1 - forgiven.1));
        }
        Ok(())
    }
}

// === helpers ===

/// What of an excess was there at the last look too: what has come since may be on its way.
fn lasting(now: i64, last: i64) -> i64 {
    if now.signum() == last.signum() { now.signum() * now.abs().min(last.abs()) } else { 0 }
}

/// As the hooks' counters wrap.
const fn wrapping(count: i64) -> u32 {
    count as u32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn shares_of_all_workloads_fit_into_half_of_a_table() {
        for workloads in [0, 1, 2, 7, 8, 9, 250, Shares::MAX_WORKLOADS] {
            let Shares { in_flight, listening } = Shares::among(workloads);
            let all = |share: u32| share as usize * workloads.max(1);
            assert!(in_flight > 0 && all(in_flight) <= Shares::PENDING_ENTRIES / 2, "{workloads}");
            assert!(
                listening > 0 && all(listening) <= Shares::LISTENING_ENTRIES / 2,
                "{workloads}"
            );
        }
    }

    #[test]
    fn what_is_used_is_never_negative_and_wraps() {
        assert_eq!(Usage::used(5, 2), 3);
        assert_eq!(Usage::used(1, 3), 0);
        assert_eq!(Usage::used(2, u32::MAX), 3);
        let usage = Usage { reserved: 1, released: u32::MAX, ..Usage::default() };
        assert_eq!(usage.in_flight(), 2);
    }

    proptest! {
        /// Only what both looks agree on is forgiven, and it never changes sides.
        #[test]
        fn only_what_lasts_is_forgiven(now in -100_000_i64..100_000, last in -100_000_i64..100_000) {
            let forgiven = lasting(now, last);
            prop_assert!(forgiven.abs() <= now.abs().min(last.abs()));
            prop_assert!(forgiven == 0 || forgiven.signum() == now.signum());
            if now.signum() == last.signum() {
                prop_assert_eq!(forgiven.abs(), now.abs().min(last.abs()));
            }
        }
    }
}
