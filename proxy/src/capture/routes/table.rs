//! The workload's routing table in the map that the connect hook reads.

use std::{collections::HashSet, net::IpAddr};

use weir_common::{Route, flags};

use super::prefixes::Prefix;
use crate::capture::{CaptureError, entries::Entries, original::to_ip, quota::List};

/// What the connect hook knows of the routes of a workload.
pub struct Routes {
    entries: Entries,
}

// === impl Routes ===

impl Routes {
    pub(in crate::capture) const fn new(entries: Entries) -> Self {
        Self { entries }
    }

    /// Whether the connect hook takes an address for reachable, and the source address it would
    /// name; `None` while the map is not complete.
    ///
    /// # Errors
    /// Where the map cannot be read.
    pub fn get(&self, addr: IpAddr) -> Result<Option<(bool, Option<IpAddr>)>, CaptureError> {
        let config = self.entries.config()?.unwrap_or_default();
        if config.flags & flags::ROUTES_COMPLETE == 0 {
            return Ok(None);
        }
        let route = self.entries.instance.routes.longest(self.entries.prefix(addr))?;
        let route = route.unwrap_or_default();
        let source = (route.source != [0; 4]).then(|| to_ip(route.source));
        Ok(Some((route.reachable != 0, source)))
    }

    /// The prefixes that an earlier weir has put into the map.
    pub(super) fn installed(&self) -> HashSet<Prefix> {
        self.entries
            .left(|left| &mut left.routes)
            .into_iter()
            .map(|(key, bits, _)| match to_ip(key.addr) {
                IpAddr::V4(v4) => (v4.to_ipv6_mapped(), bits),
                IpAddr::V6(v6) => (v6, bits),
            })
            .collect()
    }

    /// Makes sure that there is room for so many routes.
    pub(super) fn reserve(&self, routes: usize) -> Result<(), CaptureError> {
        self.entries.instance.quotas.set(List::Routes, self.entries.workload, routes)
    }

    pub(super) fn insert(&self, prefix: Prefix, route: Route) -> Result<(), CaptureError> {
        let key = self.entries.prefix(prefix.0.into());
        self.entries.instance.routes.insert(key, prefix.1, route)
    }

    pub(super) fn remove(&self, prefix: Prefix) -> Result<(), CaptureError> {
        self.entries.instance.routes.remove(self.entries.prefix(prefix.0.into()), prefix.1)
    }

    /// Removes all routes. Reads the whole map.
    pub(in crate::capture) fn clear(&self) {
        let Entries { instance, workload, .. } = &self.entries;
        for (key, bits, _) in instance.routes.entries(|key| key == *workload) {
            let _ = instance.routes.remove(key, bits);
        }
    }
}
