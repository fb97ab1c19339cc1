//! The estimate of an endpoint's latency: a peak EWMA in two atomics.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use super::Moment;

/// How fast an estimate forgets: what Finagle and Linkerd use.
const DECAY: Duration = Duration::from_secs(10);

/// A peak EWMA: a slower sample counts at once, faster ones by and by, and an endpoint without samples
/// becomes cheaper until it is tried again.
///
/// Estimate and time are two atomics. A reader between two writes sees one sample's decay with another's
/// value, which is off by the time between both.
#[derive(Debug, Default)]
pub(super) struct Latency {
    /// Bits of the seconds; zero without any estimate.
    seconds: AtomicU64,
    /// When the last sample was taken; "never" where the estimate is a first guess.
    sampled: AtomicU64,
}

// === impl Latency ===

impl Latency {
    /// The estimate in seconds; `None` without any.
    pub(super) fn estimate(&self, now: Moment) -> Option<f64> {
        let seconds = f64::from_bits(self.seconds.load(Relaxed));
        match self.sampled.load(Relaxed) {
            _ if seconds == 0.0 => None,
            0 => Some(seconds),
            sampled => Some(seconds * remaining(now.since(Moment::from_bits(sampled)))),
        }
    }

    /// Whether nothing has been measured.
    pub(super) fn is_cold(&self) -> bool {
        self.sampled.load(Relaxed) == 0
    }

    /// A first guess, which the first sample replaces.
    pub(super) fn guess(&self, latency: Duration) {
        if self.is_cold() {
            self.seconds.store(positive(latency).to_bits(), Relaxed);
        }
    }

    /// A measurement.
    pub(super) fn sample(&self, latency: Duration, now: Moment) {
        let sample = positive(latency);
        let before = self.sampled.swap(now.to_bits(), Relaxed);
        let keep = remaining(now.since(Moment::from_bits(before)));
        let next = |bits: u64| {
            let old = f64::from_bits(bits);
            let next = if before == 0 || sample >= old * keep {
                sample
            } else {
                old * keep + sample * (1.0 - keep)
            };
            Some(next.to_bits())
        };
        // The closure always gives a value.
        let _ = self.seconds.fetch_update(Relaxed, Relaxed, next);
    }

    /// Forgets everything.
    pub(super) fn reset(&self) {
        self.sampled.store(0, Relaxed);
        self.seconds.store(0, Relaxed);
    }
}

// === helpers ===

/// The part of an estimate that is left after this time.
fn remaining(elapsed: Duration) -> f64 {
    (-elapsed.as_secs_f64() / DECAY.as_secs_f64()).exp()
}

/// Zero stands for no estimate.
fn positive(latency: Duration) -> f64 {
    latency.as_secs_f64().max(1e-9)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment::after(Duration::from_secs(seconds))
    }

    fn millis(latency: &Latency, now: Moment) -> u64 {
        Duration::from_secs_f64(latency.estimate(now).unwrap()).as_millis() as u64
    }

    #[test]
    fn a_slow_sample_counts_at_once_and_fades_with_time() {
        let latency = Latency::default();
        assert!(latency.is_cold() && latency.estimate(at(0)).is_none());
        latency.sample(Duration::from_millis(10), at(0));
        latency.sample(Duration::from_millis(100), at(0));
        assert_eq!(millis(&latency, at(0)), 100);
        // A fast one at the same time changes nothing; after the time of decay it is 63 % of the whole.
        latency.sample(Duration::from_millis(10), at(0));
        assert_eq!(millis(&latency, at(0)), 100);
        latency.sample(Duration::from_millis(10), at(10));
        assert_eq!(millis(&latency, at(10)), 43);
        assert_eq!(millis(&latency, at(30)), 5, "without samples it becomes cheaper");
    }

    #[test]
    fn a_guess_stands_until_something_is_measured() {
        let latency = Latency::default();
        latency.guess(Duration::from_millis(80));
        assert!(latency.is_cold());
        assert_eq!(millis(&latency, at(100)), 80);
        latency.sample(Duration::from_millis(3), at(100));
        latency.guess(Duration::from_millis(80));
        assert_eq!(millis(&latency, at(100)), 3);
    }
}
