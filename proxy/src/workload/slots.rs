//! A workload's listener slots, as the accept loops see them. They are empty while new connections
//! are to go direct: because the process has too few descriptors, because the workload's budget is
//! nearly used up, or because most of what comes is over before it can be accepted.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::time::{Instant, sleep};

use crate::{
    accept::Slots,
    budget::{Resource, Share},
    capture::{CaptureError, Listeners},
    sync::lock,
    telemetry::Telemetry,
};

/// The first look whether the budget has room again; each further one comes twice as late.
const FIRST_LOOK: Duration = Duration::from_millis(50);
/// The latest.
const LAST_LOOK: Duration = Duration::from_secs(1);
/// How long a flood goes direct, and twice as long for each that follows another within a minute.
const CALM: Duration = Duration::from_secs(1);
/// The same after many in a row.
const LONGEST_CALM: Duration = Duration::from_secs(32);
const IN_A_ROW: Duration = Duration::from_secs(60);

/// What leads to a workload's listeners in the kernel.
pub(super) trait Way: Send + Sync {
    /// Leads there no more.
    fn close(&self) -> Result<(), CaptureError>;
    /// Leads there again, unless to another listener by now.
    fn open(&self) -> Result<(), CaptureError>;
}

/// The listeners' slots, as the accept loops see them.
pub(super) struct WorkloadSlots<W = Listeners> {
    pub(super) listeners: W,
    pub(super) telemetry: Telemetry,
    pub(super) share: Share,
    workload: Arc<str>,
    /// No connections are wanted now.
    pub(super) withdrawn: AtomicBool,
    /// Nor ever again: draining.
    pub(super) over: AtomicBool,
    /// Connections that do not come here are refused: a flood is not let pass.
    pub(super) fails_closed: AtomicBool,
    why: Mutex<Why>,
    /// For the tasks that offer them again.
    this: Weak<Self>,
}

/// Why they are withdrawn; nothing of it at the start.
#[derive(Debug, Default)]
struct Why {
    exhausted: bool,
    crowded: bool,
    flooded: bool,
    /// How long the last flood went direct, and until when.
    calm: Duration,
    ended: Option<Instant>,
}

// === impl Way ===

impl Way for Listeners {
    fn close(&self) -> Result<(), CaptureError> {
        self.withdraw()
    }

    fn open(&self) -> Result<(), CaptureError> {
        self.offer_where_empty()
    }
}

// === impl WorkloadSlots ===

impl<W: Way + 'static> WorkloadSlots<W> {
    /// Empty slots: they are filled when the workload begins.
    pub(super) fn new(
        listeners: W,
        telemetry: &Telemetry,
        workload: &Arc<str>,
        fails_closed: bool,
    ) -> Arc<Self> {
        Arc::new_cyclic(|this| Self {
            listeners,
            share: telemetry.share(workload),
            telemetry: telemetry.clone(),
            workload: Arc::clone(workload),
            withdrawn: AtomicBool::new(true),
            over: AtomicBool::new(false),
            fails_closed: AtomicBool::new(fails_closed),
            why: Mutex::default(),
            this: this.clone(),
        })
    }

    /// Why new connections go direct, as a phase of the workload.
    pub(super) fn phase(&self) -> &'static str {
        let why = self.why();
        if why.flooded && !why.exhausted && !why.crowded { "flooded" } else { "exhausted" }
    }

    fn why(&self) -> MutexGuard<'_, Why> {
        lock(&self.why)
    }

    fn close(&self) {
        self.withdrawn.store(true, Ordering::Release);
        if let Err(error) = self.listeners.close() {
            tracing::warn!(%error, "cannot empty listener slots");
        }
    }

    /// Fills the slots unless there is a reason left.
    fn open(&self, why: &Why) {
        if why.is_any() || self.over.load(Ordering::Acquire) {
            return;
        }
        self.withdrawn.store(false, Ordering::Release);
        if let Err(error) = self.listeners.open() {
            tracing::warn!(%error, "cannot fill listener slots");
        }
    }

    async fn offer_when_plenty(this: Weak<Self>) {
        let mut pause = FIRST_LOOK;
        loop {
            sleep(pause).await;
            pause = (pause * 2).min(LAST_LOOK);
            let Some(this) = this.upgrade() else { return };
            if !this.share.is_plenty() {
                continue;
            }
            tracing::info!(workload = &*this.workload, "the budget has capacity again: capturing");
            let mut why = this.why();
            why.crowded = false;
            return this.open(&why);
        }
    }

    async fn offer_when_calm(this: Weak<Self>, calm: Duration) {
        sleep(calm).await;
        let Some(this) = this.upgrade() else { return };
        tracing::info!(workload = &*this.workload, "capturing again after a flood");
        let mut why = this.why();
        why.flooded = false;
        why.ended = Some(Instant::now());
        this.open(&why);
    }
}

impl<W: Way + 'static> Slots for WorkloadSlots<W> {
    fn withdraw(&self) {
        self.why().exhausted = true;
        self.close();
    }

    fn offer(&self) {
        let mut why = self.why();
        why.exhausted = false;
        self.open(&why);
    }

    fn held(&self) -> u64 {
        self.share.used(Resource::Descriptors)
    }

    fn share(&self) -> Option<&Share> {
        Some(&self.share)
    }

    fn crowded(&self) {
        let mut why = self.why();
        if why.crowded || self.over.load(Ordering::Acquire) {
            return;
        }
        why.crowded = true;
        for resource in [Resource::Connections, Resource::Descriptors] {
            if self.share.is_scarce_of(resource) {
                self.share.exceeded(resource);
                tracing::warn!(
                    workload = &*self.workload,
                    budget = resource.name(),
                    used = self.share.used(resource),
                    limit = self.share.limit(resource),
                    "the workload's budget is nearly used up: its new connections go direct"
                );
            }
        }
        self.close();
        tokio::spawn(Self::offer_when_plenty(self.this.clone()));
    }

    fn flooded(&self) {
        let mut why = self.why();
        let closed = self.fails_closed.load(Ordering::Relaxed);
        if why.flooded || closed || self.over.load(Ordering::Acquire) {
            return;
        }
        let in_a_row = why.ended.is_some_and(|ended| ended.elapsed() < IN_A_ROW);
        why.calm = if in_a_row { (why.calm * 2).min(LONGEST_CALM) } else { CALM };
        why.flooded = true;
        tracing::warn!(
            workload = &*self.workload,
            time = ?why.calm,
            "most connections of the workload are reset before they can be accepted: new ones go \
             direct for a while"
        );
        self.close();
        tokio::spawn(Self::offer_when_calm(self.this.clone(), why.calm));
    }

    fn dead(&self) {
        self.telemetry.accepted_dead(&self.workload);
    }

    fn exhausted(&self, error: &std::io::Error) {
        self.telemetry.accept_failed(error.raw_os_error().unwrap_or_default());
    }

    fn shed(&self, count: u64) {
        self.telemetry.accept_shed(count);
    }
}

// === impl Why ===

impl Why {
    const fn is_any(&self) -> bool {
        self.exhausted || self.crowded || self.flooded
    }
}

#[cfg(test)]
mod tests;
