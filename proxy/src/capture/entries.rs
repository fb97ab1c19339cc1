//! One workload's entries in the maps of an instance, and what an earlier weir has left of them. That is
//! read once at the start: a search for one workload's entries costs as much as there are entries of all.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use weir_common::{
    DestinationKey, Direction, OpenKey, PortBlockKey, PrefixKey, Route, WorkloadConfig, WorkloadId,
};

use super::{CaptureError, Instance, original::to_words, table::lock};

/// Where the entries of one workload are.
#[derive(Clone)]
pub(super) struct Entries {
    pub(super) instance: Arc<Instance>,
    pub(super) workload: WorkloadId,
    /// No earlier weir has left anything under this number.
    pub(super) fresh: bool,
}

/// What is in the maps under one number.
#[derive(Default)]
pub(super) struct Left {
    pub(super) ports: Vec<PortBlockKey>,
    /// With lengths in bits from the start of the address, as those of `routes`.
    pub(super) skip_cidrs: Vec<(PrefixKey, u32)>,
    pub(super) routes: Vec<(PrefixKey, u32, Route)>,
    pub(super) inside: Vec<DestinationKey>,
    pub(super) learned: Vec<DestinationKey>,
    pub(super) open: Vec<OpenKey>,
}

/// That of all workloads, as far as it was not asked for yet.
pub(super) type AllLeft = HashMap<WorkloadId, Left>;

// === impl Entries ===

impl Entries {
    /// What the hooks know about the workload before any other map.
    ///
    /// # Errors
    /// Where the map cannot be read.
    pub(super) fn config(&self) -> Result<Option<WorkloadConfig>, CaptureError> {
        self.instance.workloads.get(&self.workload)
    }

    /// The key of an address and port.
    pub(super) fn key(&self, direction: Direction, address: SocketAddr) -> DestinationKey {
        DestinationKey::new(self.workload, direction, to_words(address.ip()), address.port())
    }

    /// The key of an address in a map of prefixes.
    pub(super) fn prefix(&self, addr: IpAddr) -> PrefixKey {
        PrefixKey::new(self.workload, to_words(addr))
    }

    /// Takes a part of what an earlier weir has left under this number. To be asked for once.
    pub(super) fn left<T: Default>(&self, part: impl FnOnce(&mut Left) -> &mut T) -> T {
        if self.fresh {
            return T::default();
        }
        let mut all = lock(&self.instance.left);
        let all = all.get_or_insert_with(|| self.instance.read_left());
        all.get_mut(&self.workload).map(|left| std::mem::take(part(left))).unwrap_or_default()
    }
}

impl Instance {
    /// Forgets what was read and not asked for: every workload that was to be found again has been found.
    pub fn all_found(&self) {
        *lock(&self.left) = None;
    }

    fn read_left(&self) -> AllLeft {
        let mut all = AllLeft::new();
        for key in self.ports.keys() {
            all.entry(key.workload).or_default().ports.push(key);
        }
        for key in self.inside.keys() {
            all.entry(key.workload).or_default().inside.push(key);
        }
        for key in self.learned.keys() {
            all.entry(key.workload).or_default().learned.push(key);
        }
        for key in self.open.keys() {
            all.entry(key.workload).or_default().open.push(key);
        }
        let owner = |key: PrefixKey| WorkloadId::from_be_bytes(key.workload_be);
        for (key, bits, _) in self.skip_cidrs.entries(|_| true) {
            all.entry(owner(key)).or_default().skip_cidrs.push((key, bits));
        }
        for (key, bits, route) in self.routes.entries(|_| true) {
            all.entry(owner(key)).or_default().routes.push((key, bits, route));
        }
        all
    }
}
