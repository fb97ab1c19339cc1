//! What holds for one request on its route besides where it goes, and how far it is.

use std::time::Instant;

use super::limits::{Deadlines, TimeLimits};

/// The reason of an answer for which an endpoint was too late.
pub const TIMEOUT: &str = "timeout";

/// A request whose rule has limits.
#[derive(Debug)]
pub struct Plan {
    limits: TimeLimits,
    /// Once it has begun.
    pub deadlines: Option<Deadlines>,
    /// When its owner is to look at it, if that is arranged.
    pub(crate) armed: Option<Instant>,
}

// === impl Plan ===

impl Plan {
    /// For a request that has not begun.
    #[must_use]
    pub const fn new(limits: TimeLimits) -> Self {
        Self { limits, deadlines: None, armed: None }
    }

    /// Its head has come; `moved` as in [`Deadlines::new`].
    pub fn begin(&mut self, now: Instant, moved: u64) {
        self.deadlines = Some(Deadlines::new(self.limits, now, moved));
    }
}
