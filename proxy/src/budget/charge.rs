//! Memory that one connection keeps of what its peers have sent, charged to its workload. What a
//! usual connection keeps is free, and the rest is charged in large pieces: the counters are shared
//! by all threads.

use super::{Resource, Share};

/// Bytes of each connection that are not charged: it costs more than that anyway, and connections
/// have a budget of their own.
const FREE: usize = 4 << 10;

/// What is charged at a time.
const CHUNK: usize = 16 << 10;

/// Bytes charged to a workload; dropping it gives them back.
#[derive(Debug, Default)]
pub(crate) struct Charge {
    /// `None` charges no share.
    share: Option<Share>,
    charged: usize,
}

// === impl Charge ===

impl Charge {
    /// Charges nothing yet.
    #[must_use]
    pub(crate) const fn to(share: Option<Share>) -> Self {
        Self { share, charged: 0 }
    }

    /// So many bytes are kept now. False, and counted, where that is more than the workload may
    /// keep: then they have to go.
    #[must_use]
    #[inline]
    pub(crate) fn keep(&mut self, bytes: usize) -> bool {
        let due = bytes.saturating_sub(FREE);
        due <= self.charged && self.charged - due <= 2 * CHUNK || self.settle(due)
    }

    /// Bytes that are charged.
    #[cfg(test)]
    pub(crate) fn charged(&self) -> usize {
        self.charged
    }

    fn settle(&mut self, due: usize) -> bool {
        let Some(share) = &self.share else { return true };
        let due = due.next_multiple_of(CHUNK);
        if due <= self.charged {
            share.give(Resource::Memory, (self.charged - due) as u64);
        } else if !share.add(Resource::Memory, (due - self.charged) as u64) {
            share.exceeded(Resource::Memory);
            return false;
        }
        self.charged = due;
        true
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        if let Some(share) = &self.share {
            share.give(Resource::Memory, self.charged as u64);
        }
    }
}
