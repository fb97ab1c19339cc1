//! The rows of all workloads. A workload that has as many as it may gives up those of its own that
//! were used longest ago: they are summed up in a row without a destination. Rows of others are not
//! touched.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use super::row::{Key, Row};
use crate::{
    budget::{Budgets, Resource, Share},
    decision::Direction,
    telemetry::lock,
};

/// Of what a workload has, this part is given up at a time: finding the oldest takes a look at all.
const PART: usize = 8;

/// Rows with a name that an endpoint of a destination may have: clients choose names. Requests for others are counted
/// without one.
const NAMES: usize = 32;

/// Why the rows were summed up, as those of a row say why they were treated so.
const SHARED: &str = "shared by further destinations";

/// Rows by workload.
#[derive(Debug)]
pub(super) struct Rows {
    budgets: Budgets,
    bounds: Bounds,
    workloads: Mutex<HashMap<Arc<str>, OfWorkload>>,
}

/// How many rows there are, whatever the budget.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    /// Of a workload.
    rows: usize,
    /// With a name, of an endpoint of a destination.
    names: usize,
}

#[derive(Debug)]
struct OfWorkload {
    share: Share,
    bounds: Bounds,
    rows: HashMap<Key, Kept>,
    /// Rows with a name.
    named: HashMap<Place, usize>,
    /// Grows with each use of a row.
    clock: u64,
}

/// A destination and an endpoint, seen from the workload.
type Place = (Direction, Option<SocketAddr>, Option<SocketAddr>);

#[derive(Debug)]
struct Kept {
    row: Arc<Row>,
    /// What the clock was when it was used last.
    used: u64,
}

// === impl Rows ===

impl Rows {
    pub(super) fn new(budgets: Budgets) -> Self {
        Self::with(budgets, usize::MAX, NAMES)
    }

    /// With so many rows of a workload at most, and so many names of a destination.
    pub(super) fn with(budgets: Budgets, rows: usize, names: usize) -> Self {
        Self { budgets, bounds: Bounds { rows, names }, workloads: Mutex::default() }
    }

    /// The row of a destination, or the one that stands for it.
    pub(super) fn get(&self, key: Key, why: &'static str) -> Arc<Row> {
        let mut workloads = lock(&self.workloads);
        if let Some(workload) = workloads.get_mut(&key.workload) {
            return workload.get(key, why);
        }
        let share = self.budgets.share(&key.workload);
        let (rows, named) = (HashMap::new(), HashMap::new());
        let workload = OfWorkload { share, bounds: self.bounds, rows, named, clock: 0 };
        workloads.entry(Arc::clone(&key.workload)).or_insert(workload).get(key, why)
    }

    /// Takes a workload's rows away.
    pub(super) fn forget(&self, workload: &str) {
        lock(&self.workloads).remove(workload);
    }

    /// What rows have counted, of one workload or of all: they count from zero.
    pub(super) fn take(&self, workload: Option<&str>) -> Vec<(Key, Arc<Row>)> {
        let mut workloads = lock(&self.workloads);
        let meant =
            workloads.iter_mut().filter(|(name, _)| workload.is_none_or(|it| it == &***name));
        meant.flat_map(|(_, of)| of.take()).collect()
    }

    pub(super) fn all(&self) -> Vec<(Key, Arc<Row>)> {
        let workloads = lock(&self.workloads);
        let rows = workloads.values().flat_map(|workload| &workload.rows);
        rows.map(|(key, kept)| (key.clone(), Arc::clone(&kept.row))).collect()
    }
}

// === impl OfWorkload ===

impl OfWorkload {
    fn take(&mut self) -> Vec<(Key, Arc<Row>)> {
        let taken = self.rows.iter().map(|(key, kept)| (key.clone(), Arc::new(kept.row.take())));
        let taken = taken.collect();
        // No connection has the others any more.
        let idle = self.rows.iter().filter(|(_, kept)| Arc::strong_count(&kept.row) == 1);
        let idle: Vec<_> = idle.map(|(key, _)| key.clone()).collect();
        idle.iter().for_each(|key| drop(self.remove(key)));
        taken
    }

    fn get(&mut self, mut key: Key, why: &'static str) -> Arc<Row> {
        self.clock += 1;
        let clock = self.clock;
        let place = (key.direction, key.destination, key.endpoint);
        let has_room = self.named.get(&place).is_none_or(|names| *names < self.bounds.names);
        if !has_room && !self.rows.contains_key(&key) {
            key.name = None;
        }
        if let Some(kept) = self.rows.get_mut(&key) {
            kept.used = clock;
            return Arc::clone(&kept.row);
        }
        let is_full = self.rows.len() >= self.bounds.rows;
        if is_full || !self.share.add(Resource::Rows, 1) {
            if !is_full {
                self.share.exceeded(Resource::Rows);
            }
            self.give_up_oldest();
            if self.rows.len() >= self.bounds.rows || !self.share.add(Resource::Rows, 1) {
                return self.shared(&key);
            }
        }
        let row = Arc::new(Row::new(why));
        if key.name.is_some() {
            *self.named.entry(place).or_default() += 1;
        }
        self.rows.insert(key, Kept { row: Arc::clone(&row), used: clock });
        row
    }

    /// Sums up those that were used longest ago. One that a connection has is not over: what is
    /// still to be counted would be lost.
    fn give_up_oldest(&mut self) {
        let idle = |(key, kept): &(&Key, &Kept)| {
            key.destination.is_some() && Arc::strong_count(&kept.row) == 1
        };
        let mut idle: Vec<_> =
            self.rows.iter().filter(idle).map(|(key, kept)| (kept.used, key.clone())).collect();
        let count = (self.rows.len() / PART).max(1).min(idle.len());
        if count == 0 {
            return;
        }
        idle.select_nth_unstable_by_key(count - 1, |(used, _)| *used);
        for (_, key) in &idle[..count] {
            if let Some(kept) = self.remove(key) {
                self.shared(key).absorb(&kept.row);
            }
        }
    }

    fn remove(&mut self, key: &Key) -> Option<Kept> {
        let kept = self.rows.remove(key)?;
        if key.destination.is_some() {
            self.share.give(Resource::Rows, 1);
        }
        let place = (key.direction, key.destination, key.endpoint);
        if key.name.is_some()
            && let Some(names) = self.named.get_mut(&place)
        {
            *names -= 1;
            if *names == 0 {
                self.named.remove(&place);
            }
        }
        Some(kept)
    }

    /// The row in which those with this decision are summed up. There are few of them: they are not
    /// in the budget.
    fn shared(&mut self, key: &Key) -> Arc<Row> {
        let shared = Key { destination: None, endpoint: None, name: None, ..key.clone() };
        let new = || Kept { row: Arc::new(Row::new(SHARED)), used: 0 };
        Arc::clone(&self.rows.entry(shared).or_insert_with(new).row)
    }
}

impl Drop for OfWorkload {
    fn drop(&mut self) {
        let counted = self.rows.keys().filter(|key| key.destination.is_some()).count();
        self.share.give(Resource::Rows, counted as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        budget::Sizes,
        decision::{Source, Treatment},
        telemetry::stats::By,
    };
    use std::time::Duration;

    fn key(workload: &str, number: u16) -> Key {
        Key {
            workload: workload.into(),
            direction: Direction::Outbound,
            destination: Some(([10, 0, 0, 1], number).into()),
            endpoint: None,
            name: None,
            treatment: Some(Treatment::Tcp),
            source: Some(Source::Detected),
            reason: None,
        }
    }

    fn rows(count: u64) -> Rows {
        Rows::new(Budgets::new(&Sizes { rows: count, ..Sizes::default() }))
    }

    /// A connection that has come and gone.
    fn visit(rows: &Rows, key: Key) {
        let row = rows.get(key, "why");
        row.opened();
        row.moved(1, 2);
        row.closed(Duration::ZERO, None);
    }

    fn of(rows: &Rows, workload: &str) -> Vec<(Key, Arc<Row>)> {
        rows.all().into_iter().filter(|(key, _)| &*key.workload == workload).collect()
    }

    #[test]
    fn a_workload_with_many_destinations_does_not_push_out_anothers_rows() {
        let rows = rows(256);
        (1..=20).for_each(|number| visit(&rows, key("b", number)));
        (1..=u16::MAX).for_each(|number| visit(&rows, key("a", number)));
        assert_eq!(of(&rows, "b").len(), 20);
        (21..=40).for_each(|number| visit(&rows, key("b", number)));
        let b = of(&rows, "b");
        assert_eq!(
            b.iter().filter(|(key, _)| key.destination.is_some()).count(),
            40,
            "there is room"
        );
        let a = of(&rows, "a");
        assert!(a.len() <= 129, "half of what there is, and the sum: {}", a.len());
        let connections: u64 =
            a.iter().map(|(key, row)| row.snapshot(key, By::Destination).connections).sum();
        let bytes: u64 =
            a.iter().map(|(key, row)| row.snapshot(key, By::Destination).bytes_received).sum();
        assert_eq!((connections, bytes), (65_535, 131_070), "nothing is lost");
    }

    #[test]
    fn the_newest_rows_are_kept_and_those_in_use() {
        let rows = rows(128);
        let open = rows.get(key("a", 1), "why");
        open.opened();
        (2..=1000).for_each(|number| visit(&rows, key("a", number)));
        let kept = of(&rows, "a");
        let is_there = |number: u16| kept.iter().any(|(kept, _)| *kept == key("a", number));
        assert!(is_there(1) && (990..=1000).all(is_there));
        assert!(!is_there(2));
        open.moved(7, 0);
        let first = kept.iter().find(|(kept, _)| *kept == key("a", 1)).unwrap();
        assert_eq!(first.1.snapshot(&first.0, By::Destination).bytes_sent, 7);
    }

    #[test]
    fn where_all_rows_are_in_use_new_destinations_share_one() {
        let rows = rows(64);
        let open: Vec<_> = (1..=100).map(|number| rows.get(key("a", number), "why")).collect();
        open.iter().for_each(|row| row.opened());
        let all = of(&rows, "a");
        assert_eq!(all.len(), 33);
        let shared = all.iter().find(|(key, _)| key.destination.is_none()).unwrap();
        assert_eq!(shared.1.snapshot(&shared.0, By::Destination).open, 68);
    }

    #[test]
    fn rows_that_are_taken_count_from_zero_and_only_those_in_use_stay() {
        let rows = rows(64);
        let open = rows.get(key("a", 1), "why");
        open.opened();
        (2..=1000).for_each(|number| visit(&rows, key("a", number)));
        visit(&rows, key("b", 1));
        let snapshot = |all: &[(Key, Arc<Row>)]| -> Vec<_> {
            let rows = all.iter().map(|(key, row)| row.snapshot(key, By::Destination));
            let mut rows: Vec<_> =
                rows.map(|row| (row.connections, row.open, row.bytes_sent)).collect();
            rows.sort_unstable();
            rows
        };
        let taken = snapshot(&rows.take(Some("a")));
        assert_eq!(taken.iter().map(|row| row.0).sum::<u64>(), 1000);
        assert_eq!(taken.iter().map(|row| row.1).sum::<u64>(), 1);
        assert_eq!(snapshot(&of(&rows, "a")), [(0, 1, 0)]);
        assert_eq!(snapshot(&of(&rows, "b")), [(1, 0, 1)], "not asked for");
        assert_eq!(rows.budgets.used(Resource::Rows), 2);
        open.moved(5, 0);
        open.closed(Duration::ZERO, None);
        assert_eq!(snapshot(&rows.take(None)), [(0, 0, 5), (1, 0, 1)]);
        drop(open);
        rows.take(None);
        assert!(rows.all().is_empty());
        assert_eq!(rows.budgets.used(Resource::Rows), 0);
    }

    /// Guards against a client that makes names up: they would push destinations out.
    #[test]
    fn a_destination_has_a_row_for_so_many_names() {
        let rows = rows(1024);
        let named = |destination: u16, name: u32| Key {
            name: Some(format!("{name}.example").into()),
            ..key("a", destination)
        };
        (0..1000).for_each(|name| visit(&rows, named(1, name)));
        visit(&rows, named(2, 0));
        visit(&rows, named(1, 3));
        let of = |number: u16| -> Vec<_> {
            let of = rows
                .all()
                .into_iter()
                .filter(|(it, _)| it.destination == key("a", number).destination);
            of.map(|(key, row)| (key.name, row.weight().1)).collect()
        };
        let first = of(1);
        assert_eq!(first.len(), NAMES + 1);
        assert!(first.contains(&(Some("3.example".into()), 2)), "{first:?}");
        assert!(first.contains(&(None, 1000 - NAMES as u64)), "{first:?}");
        assert_eq!(of(2), [(Some("0.example".into()), 1)]);
        rows.take(None);
        visit(&rows, named(1, 999));
        assert_eq!(of(1), [(Some("999.example".into()), 1)], "there is room again");
    }

    #[test]
    fn rows_go_with_their_workload() {
        let rows = rows(64);
        (1..=1000).for_each(|number| visit(&rows, key("a", number)));
        rows.forget("a");
        assert!(rows.all().is_empty());
        assert_eq!(rows.budgets.used(Resource::Rows), 0);
    }
}
