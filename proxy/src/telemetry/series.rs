//! A family of series that can be taken away by workload. Unlike prometheus-client's own, it is
//! encoded from a copy: a scrape holds no lock that connections need.

use std::{
    collections::HashMap,
    fmt,
    hash::Hash,
    sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeMetric, MetricEncoder},
    metrics::{MetricType, TypedMetric, family::MetricConstructor},
};

use super::labels::OfWorkload;
use crate::sync::{read, write};

/// A family of metrics whose labels name a workload. Cloning gives another handle to it.
pub(super) struct Series<S, M, C = fn() -> M> {
    known: Arc<RwLock<HashMap<S, M>>>,
    constructor: C,
}

// === impl Series ===

impl<S, M: Default> Default for Series<S, M> {
    fn default() -> Self {
        Self::new(M::default)
    }
}

impl<S, M, C: Clone> Clone for Series<S, M, C> {
    fn clone(&self) -> Self {
        Self { known: Arc::clone(&self.known), constructor: self.constructor.clone() }
    }
}

impl<S, M, C> fmt::Debug for Series<S, M, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Series").finish_non_exhaustive()
    }
}

impl<S, M, C> Series<S, M, C> {
    pub(super) fn new(constructor: C) -> Self {
        Self { known: Arc::default(), constructor }
    }

    /// Counters stay usable after a panic elsewhere.
    fn read(&self) -> RwLockReadGuard<'_, HashMap<S, M>> {
        read(&self.known)
    }

    fn write(&self) -> RwLockWriteGuard<'_, HashMap<S, M>> {
        write(&self.known)
    }
}

impl<S: Clone + Hash + Eq + OfWorkload, M: Clone, C: MetricConstructor<M>> Series<S, M, C> {
    /// The series with these labels, which begins where there is none.
    pub(super) fn get_or_create(&self, labels: &S) -> M {
        if let Some(found) = self.read().get(labels) {
            return found.clone();
        }
        let mut known = self.write();
        known.entry(labels.clone()).or_insert_with(|| self.constructor.new_metric()).clone()
    }

    /// Takes away what is counted of a workload.
    pub(super) fn forget(&self, workload: &str) {
        self.write().retain(|labels, _| *labels.of().workload != *workload);
    }
}

impl<S, M, C> EncodeMetric for Series<S, M, C>
where
    S: Clone + EncodeLabelSet,
    M: Clone + EncodeMetric + TypedMetric,
{
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        let copy: Vec<(S, M)> =
            self.read().iter().map(|(labels, metric)| (labels.clone(), metric.clone())).collect();
        for (labels, metric) in &copy {
            metric.encode(encoder.encode_family(labels)?)?;
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        M::TYPE
    }

    fn is_empty(&self) -> bool {
        self.read().is_empty()
    }
}
