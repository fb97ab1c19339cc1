//! How much of the tables that all workloads share one of them may fill, of those that only
//! userspace writes. A workload chooses how many entries it wants (its annotations, its addresses
//! and routes, where it connects to); what the others need is not its to take.
//!
//! Two policies. *Lists* (port rules, prefixes, own addresses, routes) are kept whole or refused: a
//! part would be another list. Each workload is sure of a floor, and has at most a quarter of the
//! table; between the two is what the others have left. *Hints* (destinations that failed or were
//! learned) may be forgotten at any time: where there is no room, the workload that has most loses
//! its oldest.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Mutex,
};

use weir_common::{DestinationKey, WorkloadId, maps};

use super::{
    CaptureError,
    table::{Table, lock},
};

/// As many as a table's floors are for (`WORKLOADS` has room for as many).
const WORKLOADS: usize = 1024;

/// A table of lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum List {
    Ports,
    Prefixes,
    Inside,
    Routes,
}

/// What each workload has of each table of lists.
pub(super) struct Quotas {
    accounts: Mutex<[Account; List::ALL.len()]>,
}

#[derive(Debug)]
struct Account {
    held: HashMap<WorkloadId, usize>,
    /// What is held beyond the floors.
    pooled: usize,
    /// What each workload is sure of.
    floor: usize,
    /// What is there beyond all floors.
    pool: usize,
    /// What one workload may have at most.
    most: usize,
}

/// A table of hints.
pub(super) struct Hints {
    table: Table<DestinationKey, u64>,
    held: Mutex<Held>,
}

/// Which hints there are, by workload and age.
#[derive(Debug)]
struct Held {
    workloads: HashMap<WorkloadId, Aged>,
    total: usize,
    most: usize,
    next: u64,
}

#[derive(Debug, Default)]
struct Aged {
    numbers: HashMap<DestinationKey, u64>,
    by_age: BTreeMap<u64, DestinationKey>,
}

// === impl List ===

impl List {
    const ALL: [Self; 4] = [Self::Ports, Self::Prefixes, Self::Inside, Self::Routes];

    /// The map that it is.
    pub(super) const fn map(self) -> &'static str {
        match self {
            Self::Ports => maps::PORTS,
            Self::Prefixes => maps::SKIP_CIDRS,
            Self::Inside => maps::INSIDE,
            Self::Routes => maps::ROUTES,
        }
    }

    /// What is divided among all workloads that there can be. Of the ports it is more: a workload that says
    /// nothing has rules in sixteen blocks, and none can have more than 1,024.
    const fn floors(self, capacity: usize) -> usize {
        match self {
            Self::Ports => capacity / 2,
            Self::Prefixes | Self::Inside | Self::Routes => capacity / 4,
        }
    }

    const fn entries(self) -> &'static str {
        match self {
            Self::Ports => "blocks of 128 ports with rules",
            Self::Prefixes => "skipped prefixes",
            Self::Inside => "own addresses and dials from clients' addresses",
            Self::Routes => "routes",
        }
    }

    const fn advice(self) -> &'static str {
        match self {
            Self::Ports => "shorten its lists of ports, or those of other workloads",
            Self::Prefixes => "shorten its list of skipped prefixes",
            Self::Inside | Self::Routes => "remove some from its network namespace",
        }
    }
}

// === impl Quotas ===

impl Quotas {
    /// `capacity` tells how many entries a map has room for.
    pub(super) fn new(capacity: impl Fn(&str) -> usize) -> Self {
        let account = |list: List| {
            let capacity = capacity(list.map());
            Account::new(capacity, list.floors(capacity))
        };
        Self { accounts: Mutex::new(List::ALL.map(account)) }
    }

    /// Says that a workload has so many entries from now on.
    ///
    /// # Errors
    /// [`CaptureError::Share`] where those are too many; it has as many as before then.
    pub(super) fn set(
        &self,
        list: List,
        workload: WorkloadId,
        count: usize,
    ) -> Result<(), CaptureError> {
        self.change(list, workload, |_| count)
    }

    /// Says that a workload has so many entries more.
    ///
    /// # Errors
    /// As [`Self::set`].
    pub(super) fn add(
        &self,
        list: List,
        workload: WorkloadId,
        count: usize,
    ) -> Result<(), CaptureError> {
        self.change(list, workload, |held| held + count)
    }

    /// Says that a workload has so many entries less.
    pub(super) fn give_back(&self, list: List, workload: WorkloadId, count: usize) {
        // Fewer are never too many.
        let _ = self.change(list, workload, |held| held.saturating_sub(count));
    }

    /// Says that a workload has none of anything any more.
    pub(super) fn forget(&self, workload: WorkloadId) {
        for list in List::ALL {
            let _ = self.set(list, workload, 0);
        }
    }

    fn change(
        &self,
        list: List,
        workload: WorkloadId,
        count: impl FnOnce(usize) -> usize,
    ) -> Result<(), CaptureError> {
        lock(&self.accounts)[list as usize].change(workload, count).map_err(|refused| {
            CaptureError::Share {
                entries: list.entries(),
                count: refused.count,
                limit: refused.limit,
                advice: list.advice(),
            }
        })
    }
}

/// More than the workload's share.
#[derive(Debug, PartialEq, Eq)]
struct Refused {
    count: usize,
    limit: usize,
}

// === impl Account ===

impl Account {
    /// `floors` is the part of it that is divided among all workloads that there can be.
    fn new(capacity: usize, floors: usize) -> Self {
        let most = capacity / 4;
        let floor = floors / WORKLOADS;
        let pool = capacity - floor * WORKLOADS;
        Self { held: HashMap::new(), pooled: 0, floor, pool, most }
    }

    fn change(
        &mut self,
        workload: WorkloadId,
        count: impl FnOnce(usize) -> usize,
    ) -> Result<(), Refused> {
        let held = self.held.get(&workload).copied().unwrap_or_default();
        let count = count(held);
        let others = self.pooled - held.saturating_sub(self.floor);
        let limit = self.most.min(self.floor + self.pool.saturating_sub(others));
        if count > limit && count > held {
            return Err(Refused { count, limit });
        }
        self.pooled = others + count.saturating_sub(self.floor);
        if count == 0 {
            self.held.remove(&workload);
        } else {
            self.held.insert(workload, count);
        }
        Ok(())
    }
}

// === impl Hints ===

impl Hints {
    /// Uses half of the table: an earlier weir may have left as many, and another one that is about to hand
    /// over still adds some.
    pub(super) fn new(table: Table<DestinationKey, u64>, capacity: usize) -> Self {
        Self { table, held: Mutex::new(Held::at_most(capacity / 2)) }
    }

    /// Gives a destination a hint, in place of the one before.
    ///
    /// # Errors
    /// Where the map cannot be written.
    pub(super) fn insert(&self, key: &DestinationKey, value: u64) -> Result<(), CaptureError> {
        let mut held = lock(&self.held);
        if let Some(oldest) = held.insert(key) {
            let _ = self.table.remove(&oldest);
        }
        let mut inserted = self.table.insert_if_room(key, &value);
        if matches!(inserted, Ok(false)) {
            self.remove_unknown(&held);
            inserted = self.table.insert(key, &value).map(|()| true);
        }
        inserted.map(drop).inspect_err(|_| held.remove(key))
    }

    /// Removes what other processes have left: hints may be forgotten.
    fn remove_unknown(&self, held: &Held) {
        for key in self.table.keys().iter().filter(|key| !held.has(key)) {
            let _ = self.table.remove(key);
        }
    }

    /// The hint about a destination.
    ///
    /// # Errors
    /// Where the map cannot be read.
    pub(super) fn get(&self, key: &DestinationKey) -> Result<Option<u64>, CaptureError> {
        self.table.get(key)
    }

    /// Takes a hint back.
    ///
    /// # Errors
    /// Where the map cannot be written.
    pub(super) fn remove(&self, key: &DestinationKey) -> Result<(), CaptureError> {
        lock(&self.held).remove(key);
        self.table.remove(key)
    }

    /// Every destination that has one, also of an earlier weir.
    pub(super) fn keys(&self) -> Vec<DestinationKey> {
        self.table.keys()
    }

    /// Takes all hints of a workload back. Reads the whole map.
    pub(super) fn forget(&self, workload: WorkloadId) {
        lock(&self.held).forget(workload);
        for (key, _) in self.table.entries(|key| key.workload == workload) {
            let _ = self.table.remove(&key);
        }
    }
}

// === impl Held ===

impl Held {
    fn at_most(most: usize) -> Self {
        Self { workloads: HashMap::new(), total: 0, most, next: 0 }
    }

    /// Adds a hint, as the youngest; returns the one that has to go for it.
    fn insert(&mut self, key: &DestinationKey) -> Option<DestinationKey> {
        self.remove(key);
        let evicted = if self.total < self.most { None } else { self.evict() };
        let aged = self.workloads.entry(key.workload).or_default();
        aged.numbers.insert(*key, self.next);
        aged.by_age.insert(self.next, *key);
        self.next += 1;
        self.total += 1;
        evicted
    }

    fn has(&self, key: &DestinationKey) -> bool {
        self.workloads.get(&key.workload).is_some_and(|aged| aged.numbers.contains_key(key))
    }

    fn remove(&mut self, key: &DestinationKey) {
        let Some(aged) = self.workloads.get_mut(&key.workload) else { return };
        let Some(number) = aged.numbers.remove(key) else { return };
        aged.by_age.remove(&number);
        self.total -= 1;
        if aged.numbers.is_empty() {
            self.workloads.remove(&key.workload);
        }
    }

    /// Removes the oldest of the workload that has most.
    fn evict(&mut self) -> Option<DestinationKey> {
        let most = self.workloads.values().max_by_key(|aged| aged.numbers.len())?;
        let oldest = *most.by_age.values().next()?;
        self.remove(&oldest);
        Some(oldest)
    }

    fn forget(&mut self, workload: WorkloadId) {
        if let Some(aged) = self.workloads.remove(&workload) {
            self.total -= aged.numbers.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use weir_common::Direction;

    use super::*;

    const CAPACITY: usize = 16 * WORKLOADS;

    fn key(workload: WorkloadId, port: u16) -> DestinationKey {
        DestinationKey::new(workload, Direction::Outbound, [0; 4], port)
    }

    #[test]
    fn workloads_that_fill_a_table_leave_the_others_their_floor() {
        let mut account = Account::new(CAPACITY, CAPACITY / 4);
        let greedy = CAPACITY / 4;
        assert_eq!(
            account.change(1, |_| greedy + 1),
            Err(Refused { count: greedy + 1, limit: greedy })
        );
        // Each takes what it can get.
        for workload in 1..=8 {
            if account.change(workload, |_| greedy).is_err() {
                let limit = account.change(workload, |_| greedy).unwrap_err().limit;
                account.change(workload, |_| limit).unwrap();
            }
        }
        for workload in 9..=WORKLOADS as WorkloadId {
            account.change(workload, |_| account_floor()).unwrap();
            assert!(account.change(workload, |held| held + 1).is_err());
        }
        assert!(account.held.values().sum::<usize>() <= CAPACITY);
    }

    fn account_floor() -> usize {
        Account::new(CAPACITY, CAPACITY / 4).floor
    }

    #[test]
    fn what_is_given_back_is_there_for_others_and_less_is_never_refused() {
        let mut account = Account::new(CAPACITY, CAPACITY / 4);
        for workload in 1..=4 {
            let _ = account.change(workload, |_| CAPACITY / 4);
        }
        assert!(account.change(5, |_| 100).is_err());
        account.change(1, |held| held - 50).unwrap();
        account.change(2, |_| 0).unwrap();
        account.change(5, |_| 100).unwrap();
        assert!(!account.held.contains_key(&2));
    }

    /// Guards against a restart that refuses what it had before, in whatever order it asks.
    #[test]
    fn what_fits_in_one_order_fits_in_any() {
        let counts = [CAPACITY / 4, 3, CAPACITY / 4, CAPACITY / 8, 200, CAPACITY / 16];
        for turn in 0..counts.len() {
            let mut account = Account::new(CAPACITY, CAPACITY / 4);
            let mut order = counts;
            order.rotate_left(turn);
            for (workload, count) in (1..).zip(order) {
                account.change(workload, |_| count).unwrap();
            }
        }
    }

    #[test]
    fn a_refusal_names_object_count_and_limit() {
        let quotas = Quotas::new(|_| CAPACITY);
        let error = quotas.set(List::Ports, 1, 131_070).unwrap_err().to_string();
        for word in [
            "blocks of 128 ports with rules for one workload: 131070",
            "limit 4096",
            "shorten its lists of ports",
        ] {
            assert!(error.contains(word), "{error}");
        }
        quotas.set(List::Ports, 1, 4000).unwrap();
        quotas.set(List::Routes, 1, 4096).unwrap();
        quotas.add(List::Inside, 1, 4096).unwrap();
        assert!(quotas.add(List::Inside, 1, 1).is_err());
        quotas.give_back(List::Inside, 1, 1);
        quotas.add(List::Inside, 1, 1).unwrap();
        quotas.forget(1);
        quotas.set(List::Inside, 2, 4096).unwrap();
    }

    #[test]
    fn who_has_most_hints_loses_its_oldest() {
        let mut held = Held::at_most(4);
        assert_eq!(held.insert(&key(1, 1)), None);
        for port in 1..=3 {
            assert_eq!(held.insert(&key(2, port)), None);
        }
        // Again, and so the youngest.
        assert_eq!(held.insert(&key(2, 1)), None);
        assert_eq!(held.insert(&key(2, 4)), Some(key(2, 2)));
        assert_eq!(held.insert(&key(3, 1)), Some(key(2, 3)));
        assert_eq!(held.insert(&key(2, 5)), Some(key(2, 1)));
        held.forget(2);
        assert_eq!(held.total, 2);
        held.remove(&key(1, 1));
        held.remove(&key(1, 1));
        assert_eq!((held.total, held.workloads.len()), (1, 1));
    }
}
