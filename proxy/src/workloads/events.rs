//! The task that reads the kernel's close events: of connections that went direct.

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::capture::{CaptureError, DirectClose, Events, Instance};

/// Reads until it is settled.
pub(super) struct CloseEvents {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

// === impl CloseEvents ===

impl CloseEvents {
    /// Begins to read.
    ///
    /// # Errors
    /// Where the instance's ring buffer cannot be opened.
    pub(super) fn follow(
        instance: &Instance,
        report: impl Fn(DirectClose) + Send + Sync + 'static,
    ) -> Result<Self, CaptureError> {
        let mut events = Events::new(instance)?;
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            stopped.run_until_cancelled(events.run(&report)).await;
            events.drain(&report);
        });
        Ok(Self { stop, task })
    }

    /// Reads what there is, and ends.
    pub(super) async fn settle(self) {
        self.stop.cancel();
        let _ = self.task.await;
    }
}
