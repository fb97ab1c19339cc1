//! Rows that are summed up: kept are those by destination, endpoint and name at a time.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use super::{
    By, StatRow,
    row::{Key, Row},
};

/// Rows that are one in what is shown.
#[derive(Debug)]
pub(super) struct Group {
    key: Key,
    pub(super) row: Arc<Row>,
    /// The row is made for the group, and not one that counts.
    is_sum: bool,
    /// What each name is of it: requests, then connections.
    names: BTreeMap<Arc<str>, (u64, u64)>,
}

/// Sums rows up. The reason is that of the first one.
pub(super) fn by(by: By, mut rows: Vec<(Key, Arc<Row>)>) -> Vec<Group> {
    // The same from look to look.
    rows.sort_by(|(one, _), (other, _)| {
        (one.endpoint, &one.name).cmp(&(other.endpoint, &other.name))
    });
    let mut groups: HashMap<Key, Group> = HashMap::with_capacity(rows.len());
    for (key, row) in rows {
        let name = key.name.clone();
        let key = reduced(key, by);
        match groups.get_mut(&key) {
            Some(group) => group.add(&row, name),
            None => drop(groups.insert(key.clone(), Group::new(key, row, name))),
        }
    }
    groups.into_values().collect()
}

/// What is left of a key.
fn reduced(key: Key, by: By) -> Key {
    match by {
        By::Destination => Key { endpoint: None, name: None, ..key },
        By::Endpoint => Key { name: None, ..key },
        By::Name | By::Process | By::Client | By::Path => {
            let destination = key.destination.filter(|_| key.name.is_none());
            Key { endpoint: None, destination, ..key }
        }
    }
}

// === impl Group ===

impl Group {
    fn new(key: Key, row: Arc<Row>, name: Option<Arc<str>>) -> Self {
        let names = name.map(|name| (name, row.weight())).into_iter().collect();
        Self { key, row, is_sum: false, names }
    }

    fn add(&mut self, row: &Row, name: Option<Arc<str>>) {
        if !self.is_sum {
            let sum = Row::new(self.row.why);
            sum.absorb(&self.row);
            (self.row, self.is_sum) = (Arc::new(sum), true);
        }
        self.row.absorb(row);
        if let Some(name) = name {
            let (requests, connections) = row.weight();
            let sum = self.names.entry(name).or_default();
            *sum = (sum.0 + requests, sum.1 + connections);
        }
    }

    pub(super) fn snapshot(&self, by: By) -> StatRow {
        let most = self.names.iter().max_by_key(|(_, weight)| **weight);
        StatRow {
            name: most.map(|(name, _)| name.to_string()),
            further_names: (self.names.len() as u64).saturating_sub(1),
            ..self.row.snapshot(&self.key, by)
        }
    }
}
