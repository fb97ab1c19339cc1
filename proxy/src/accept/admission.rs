//! The rules of a workload's budget by which its connections are taken one after the other, whether
//! they wait in a listener's queue or with their SYN held.

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{BATCH, Flood, OVERFLOW, Slots};
use crate::budget::{Resource, Share};

/// What one queue of connections has come to.
#[derive(Default)]
pub(crate) struct Admission {
    /// Connections that are taken although too many are being dialled.
    overflow: u32,
    flood: Flood,
}

// === impl Admission ===

impl Admission {
    /// Withdraws the workload's slots where its budget is nearly used up.
    pub(crate) fn look(slots: &(impl Slots + ?Sized), share: &Share) {
        if share.is_scarce() {
            slots.crowded();
        }
    }

    /// Whether the next one has to wait because too many before it are still being dialled.
    pub(crate) fn is_full(&self, share: &Share) -> bool {
        self.overflow == 0 && share.is_full(Resource::Dialling, 1)
    }

    /// Waits until one of those has been dialled; not for long, and not after the stop.
    pub(crate) async fn wait(&mut self, share: &Share, stop: &CancellationToken) {
        tokio::select! {
            () = share.dialled() => {}
            () = sleep(OVERFLOW) => self.overflow = BATCH,
            () = stop.cancelled() => {}
        }
    }

    /// Takes notice of one that has been taken. `dead`: it had ended by then.
    pub(crate) fn took(&mut self, slots: &(impl Slots + ?Sized), dead: bool) {
        self.overflow = self.overflow.saturating_sub(1);
        if dead {
            slots.dead();
        }
        if self.flood.saw(dead) {
            slots.flooded();
        }
    }
}
