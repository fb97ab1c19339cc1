//! From one weir to the next without a connection that fails: the successor puts its listeners into
//! the slots and its programs into the links while the predecessor still accepts; then the
//! predecessor lets go of what only one can have, empties its queues and finishes.

use std::sync::Arc;

use super::{WorkloadError, Workloads};
use crate::capture::lock_directory;

impl Workloads {
    /// The predecessor's part: lets go of locks and events, and gives no more signs of life, so
    /// that it does not hide a successor that hangs.
    pub async fn retire(&self) {
        self.retired.cancel();
        self.settle_events().await;
        for workload in self.list() {
            workload.release_claim();
        }
        self.shared.instance.release_lock();
    }

    /// The successor's part, once the predecessor has retired.
    ///
    /// # Errors
    /// Where a third process was faster.
    pub async fn succeed(self: &Arc<Self>) -> Result<(), WorkloadError> {
        self.shared.instance.take_lock()?;
        for workload in self.list() {
            let cgroup = workload.settings().workload.cgroup.clone().unwrap_or_default();
            match lock_directory(&cgroup) {
                Ok(Some(claim)) => workload.take_claim(claim),
                // It is captured all the same: this only keeps others from trying.
                _ => tracing::warn!(cgroup = %cgroup.display(), "cgroup not locked"),
            }
        }
        self.follow_events().await?;
        Ok(())
    }
}
