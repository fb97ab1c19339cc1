//! A point in time that fits into an atomic.

use std::{
    sync::LazyLock,
    time::{Duration, Instant},
};

/// Nanoseconds since the first use of the clock. Zero stands for "never" where a moment is stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(u64);

// === impl Moment ===

impl Moment {
    /// The monotonic clock.
    #[must_use]
    pub fn now() -> Self {
        static ORIGIN: LazyLock<Instant> = LazyLock::new(Instant::now);
        Self::after(ORIGIN.elapsed())
    }

    /// So long after the beginning. Later than "never".
    #[must_use]
    pub fn after(time: Duration) -> Self {
        Self(nanos(time).saturating_add(1))
    }

    /// So much later.
    #[must_use]
    pub fn plus(self, time: Duration) -> Self {
        Self(self.0.saturating_add(nanos(time)))
    }

    /// The time since an earlier moment; zero where it is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    pub(super) const fn to_bits(self) -> u64 {
        self.0
    }

    pub(super) const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }
}

// === helpers ===

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
