//! A workload's listener slots, as the accept loops see them.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::{accept::Slots, capture::Listeners, telemetry::Telemetry};

/// The listeners' slots, as the accept loops see them.
pub(super) struct WorkloadSlots {
    pub(super) listeners: Listeners,
    pub(super) telemetry: Telemetry,
    /// No connections are wanted now.
    pub(super) withdrawn: AtomicBool,
    /// Nor ever again: draining.
    pub(super) over: AtomicBool,
}

// === impl WorkloadSlots ===

impl Slots for WorkloadSlots {
    fn withdraw(&self) {
        self.withdrawn.store(true, Ordering::Release);
        if let Err(error) = self.listeners.withdraw() {
            tracing::warn!(%error, "listener slots not emptied");
        }
    }

    fn offer(&self) {
        if self.over.load(Ordering::Acquire) {
            return;
        }
        self.withdrawn.store(false, Ordering::Release);
        if let Err(error) = self.listeners.offer_where_empty() {
            tracing::warn!(%error, "listener slots not filled");
        }
    }

    fn exhausted(&self, error: &std::io::Error) {
        self.telemetry.exhausted(error);
    }

    fn shed(&self, count: u64) {
        self.telemetry.shed(count);
    }
}
