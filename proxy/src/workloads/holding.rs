//! Whether connections are held, decided once at the start, and who reads what the kernel tells of them.

use std::sync::Arc;

use super::{Workloads, lock};
use crate::{
    capture::{CaptureError, Holds, hold},
    config::{Connect, TrafficPolicy},
};

impl Workloads {
    /// Spawns the task that passes on what the kernel tells. It ends with the workloads, not when they
    /// are a successor's: what is held by then is finished here.
    pub(super) fn follow_holds(&self) -> Result<(), CaptureError> {
        if self.shared.hold.is_err() {
            return Ok(());
        }
        let mut holds = Holds::new(&self.shared.instance)?;
        let shared = Arc::downgrade(&self.shared);
        lock(&self.told).spawn(async move {
            let tell = |told| {
                if let Some(shared) = shared.upgrade() {
                    shared.holdings.told(told);
                }
            };
            holds.run(tell).await;
        });
        Ok(())
    }
}

// === helpers ===

/// Whether connections are to be held and can be, as far as the process is concerned; says so where
/// they cannot. No reason: no rule asks for it.
pub(super) fn support(policy: &TrafficPolicy) -> Result<(), String> {
    if policy.forward.connect == Connect::Immediate {
        return Err(String::new());
    }
    hold::support().map_err(|error| {
        tracing::warn!(%error, "connect(2) does not wait for destinations");
        error.to_string()
    })
}
