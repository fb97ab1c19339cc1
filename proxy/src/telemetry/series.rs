//! A family of series that can be taken away by workload: prometheus-client's own can only be asked
//! for each set of labels, and does not tell which it has.

use std::{
    collections::HashMap,
    fmt,
    hash::Hash,
    sync::{Arc, Mutex},
};

use prometheus_client::metrics::family::{Family, MetricConstructor};

use super::{labels::OfWorkload, lock};

/// A family of metrics whose labels name a workload.
pub(super) struct Series<S, M, C = fn() -> M> {
    family: Family<S, M, C>,
    /// The labels of each workload's series.
    known: Arc<Mutex<HashMap<Arc<str>, Vec<S>>>>,
}

// === impl Series ===

impl<S: Clone + Hash + Eq, M: Default> Default for Series<S, M> {
    fn default() -> Self {
        Self::new(M::default)
    }
}

impl<S, M, C: Clone> Clone for Series<S, M, C> {
    fn clone(&self) -> Self {
        Self { family: self.family.clone(), known: Arc::clone(&self.known) }
    }
}

impl<S, M, C> fmt::Debug for Series<S, M, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Series").finish_non_exhaustive()
    }
}

impl<S: Clone + Hash + Eq, M, C> Series<S, M, C> {
    pub(super) fn new(constructor: C) -> Self {
        Self { family: Family::new_with_constructor(constructor), known: Arc::default() }
    }

    /// For the registry.
    pub(super) fn family(&self) -> Family<S, M, C>
    where
        C: Clone,
    {
        self.family.clone()
    }
}

impl<S: Clone + Hash + Eq + OfWorkload, M: Clone, C: MetricConstructor<M>> Series<S, M, C> {
    /// The series with these labels, which begins where there is none.
    pub(super) fn get_or_create(&self, labels: &S) -> M {
        if let Some(found) = self.family.get(labels) {
            return found.clone();
        }
        let mut known = lock(&self.known);
        let of_workload = known.entry(Arc::clone(&labels.of().workload)).or_default();
        if !of_workload.contains(labels) {
            of_workload.push(labels.clone());
        }
        // With the lock held: what is forgotten meanwhile would stay.
        self.family.get_or_create_owned(labels)
    }

    /// Takes away what is counted of a workload.
    pub(super) fn forget(&self, workload: &str) {
        let mut known = lock(&self.known);
        for labels in known.remove(workload).unwrap_or_default() {
            self.family.remove(&labels);
        }
    }
}
