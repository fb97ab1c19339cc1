//! What has come of the requests of a rule so far.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Counts of a rule. They last as long as the route stays as it is.
#[derive(Debug, Default)]
pub struct Tally([AtomicU64; Count::ALL.len()]);

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Count {
    /// It went to a backend.
    Forwarded,
    /// The client was sent elsewhere.
    Redirected,
    /// The rule lets no more pass.
    Limited,
    /// A fault that the rule asks for.
    Aborted,
    /// There is no backend for it.
    Refused,
    /// A fault that the rule asks for: it has waited.
    Delayed,
}

// === impl Count ===

impl Count {
    /// All of them. The last one comes besides another.
    pub const ALL: [Self; 6] = [
        Self::Forwarded,
        Self::Redirected,
        Self::Limited,
        Self::Aborted,
        Self::Refused,
        Self::Delayed,
    ];

    /// The value of the label `outcome`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Forwarded => "forwarded",
            Self::Redirected => "redirected",
            Self::Limited => "limited",
            Self::Aborted => "aborted",
            Self::Refused => "refused",
            Self::Delayed => "delayed",
        }
    }
}

// === impl Tally ===

impl Tally {
    /// One more.
    pub fn add(&self, what: Count) {
        self.0[what as usize].fetch_add(1, Relaxed);
    }

    /// So many so far.
    #[must_use]
    pub fn get(&self, what: Count) -> u64 {
        self.0[what as usize].load(Relaxed)
    }
}

/// A rule is what it says, not what it has done.
impl PartialEq for Tally {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Tally {}
