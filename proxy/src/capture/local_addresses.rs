//! Peers whose connections to the workload come from inside its namespace: its own addresses, and with
//! `--preserve-client-ip` the ports that weir connects from.

use std::{
    collections::HashSet,
    net::{IpAddr, SocketAddr},
};

use weir_common::{DestinationKey, Direction};

use super::{CaptureError, entries::Entries, original::to_ip, quota::List};

/// Beyond this many addresses of its own, inbound connections of a workload are not captured.
pub(super) const MOST: usize = 4096;

/// Sources inside the namespace.
pub struct LocalAddresses {
    entries: Entries,
}

// === impl LocalAddresses ===

impl LocalAddresses {
    pub(super) const fn new(entries: Entries) -> Self {
        Self { entries }
    }

    /// Says that connections from this address and port come from inside, or no longer do.
    ///
    /// # Errors
    /// Where there is no room for it, or the map cannot be written.
    pub fn set(&self, source: SocketAddr, inside: bool) -> Result<(), CaptureError> {
        let Entries { instance, workload, .. } = &self.entries;
        let key = self.entries.key(Direction::Inbound, source);
        if inside {
            instance.quotas.add(List::Inside, *workload, 1)?;
            let noted = instance.inside.insert(&key, &1);
            noted.inspect_err(|_| instance.quotas.give_back(List::Inside, *workload, 1))
        } else {
            instance.quotas.give_back(List::Inside, *workload, 1);
            instance.inside.remove(&key)
        }
    }

    /// The addresses that an earlier weir has put into the list; there is room for them.
    pub(super) fn installed(&self) -> HashSet<IpAddr> {
        let Entries { instance, workload, .. } = &self.entries;
        let left = self.entries.left(|left| &mut left.inside);
        let found: HashSet<_> =
            left.iter().filter(|key| key.port == 0).map(|key| to_ip(key.addr)).collect();
        let _ = instance.quotas.set(List::Inside, *workload, found.len());
        found
    }

    /// Replaces the namespace's own addresses.
    ///
    /// # Errors
    /// [`CaptureError::Share`] where there are too many: nothing is changed then; and where the map
    /// cannot be written.
    pub(super) fn replace(
        &self,
        before: &HashSet<IpAddr>,
        now: &HashSet<IpAddr>,
    ) -> Result<(), CaptureError> {
        let Entries { instance, workload, .. } = &self.entries;
        if now.len() > MOST {
            return Err(CaptureError::Share {
                entries: "own addresses",
                count: now.len(),
                limit: MOST,
                advice: "remove some from its network namespace",
            });
        }
        instance.quotas.add(List::Inside, *workload, now.len().saturating_sub(before.len()))?;
        for added in now.difference(before) {
            instance.inside.insert(&self.key(*added), &1)?;
        }
        for gone in before.difference(now) {
            instance.inside.remove(&self.key(*gone))?;
        }
        let fewer = before.len().saturating_sub(now.len());
        instance.quotas.give_back(List::Inside, *workload, fewer);
        Ok(())
    }

    /// Removes all of them. Reads the whole map.
    pub(super) fn clear(&self) {
        let Entries { instance, workload, .. } = &self.entries;
        for key in instance.inside.keys_of(|key| key.workload == *workload) {
            let _ = instance.inside.remove(&key);
        }
    }

    fn key(&self, address: IpAddr) -> DestinationKey {
        self.entries.key(Direction::Inbound, SocketAddr::new(address, 0))
    }
}
