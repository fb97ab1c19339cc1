//! Which of several backends a request goes to.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// 2³² divided by the golden ratio: its multiples are spread evenly over 32 bits, however few they are
/// (Weyl's sequence). So shares are exact to one request in many, where chance would need thousands.
pub(super) const STEP: u32 = 0x9e37_79b9;

/// Shares of requests.
#[derive(Debug, Default)]
pub struct Weights {
    /// Up to which part of the total each goes.
    bounds: Box<[u64]>,
    next: AtomicU32,
}

// === impl Weights ===

impl Weights {
    /// Of these weights.
    pub fn new(weights: impl IntoIterator<Item = u32>) -> Self {
        let mut total = 0;
        let add = |weight: u32| {
            total += u64::from(weight);
            total
        };
        Self { bounds: weights.into_iter().map(add).collect(), next: AtomicU32::new(0) }
    }

    /// The next one by its place; `None` if all weights are zero.
    pub fn choose(&self) -> Option<usize> {
        self.at(self.next.fetch_add(STEP, Relaxed))
    }

    /// The one for this key, always the same.
    #[must_use]
    pub fn choose_for(&self, key: u64) -> Option<usize> {
        // The upper half of a product has something of all bits.
        self.at((key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> u32::BITS) as u32)
    }

    /// The one at a place in the whole, of 2³².
    fn at(&self, place: u32) -> Option<usize> {
        let total = self.bounds.last().copied().filter(|total| *total > 0)?;
        let point = (u128::from(place) * u128::from(total)) >> u32::BITS;
        self.bounds.iter().position(|bound| point < u128::from(*bound))
    }

    /// The share of each, from 0 to 1.
    pub fn shares(&self) -> impl Iterator<Item = f64> {
        let total = self.bounds.last().copied().unwrap_or_default().max(1) as f64;
        let before = std::iter::once(0).chain(self.bounds.iter().copied());
        before.zip(self.bounds.iter()).map(move |(from, to)| (to - from) as f64 / total)
    }
}
