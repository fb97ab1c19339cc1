//! What an earlier weir has left in the maps, by workload. Read once at the start: a look for one
//! workload's entries costs as much as there are entries of all.

use std::collections::HashMap;

use weir_common::{DestinationKey, OpenKey, PortKey, PrefixKey, Route, WorkloadId};

use super::{Instance, Kernel, table::lock};

/// What is in the maps under one number.
#[derive(Default)]
pub(super) struct Left {
    pub(super) ports: Vec<PortKey>,
    /// With lengths in bits from the start of the address, as those of `routes`.
    pub(super) skip_cidrs: Vec<(PrefixKey, u32)>,
    pub(super) routes: Vec<(PrefixKey, u32, Route)>,
    pub(super) inside: Vec<DestinationKey>,
    pub(super) learned: Vec<DestinationKey>,
    pub(super) open: Vec<OpenKey>,
}

/// That of all workloads, as far as it was not asked for yet.
pub(super) type AllLeft = HashMap<WorkloadId, Left>;

impl Kernel {
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
    /// Forgets what was read and not asked for: every workload that was to be found again is.
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
