//! How often which latency was seen, so that a reader can tell what is new between two looks.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Values are counted in ranges of a 32nd of a power of two: the middle of one is off by 1.6 % at most.
/// A row of latencies from 100 µs to 100 ms has at most 320 of them.
const BITS: u32 = 6;

/// Counts by the lower end of their range in microseconds, in ascending order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Latencies(Vec<(u64, u64)>);

// === impl Latencies ===

impl Latencies {
    pub(super) fn of(histogram: &Histogram<u32>) -> Self {
        let mut counts: Vec<(u64, u64)> = Vec::new();
        for step in histogram.iter_recorded() {
            let (from, count) = (range(step.value_iterated_to()), u64::from(step.count_at_value()));
            match counts.last_mut() {
                Some((last, sum)) if *last == from => *sum += count,
                _ => counts.push((from, count)),
            }
        }
        Self(counts)
    }

    /// What was counted after `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let mut before = earlier.0.iter().peekable();
        let grown = self.0.iter().filter_map(|&(from, count)| {
            while before.next_if(|(at, _)| *at < from).is_some() {}
            let then = before.next_if(|(at, _)| *at == from).map_or(0, |(_, count)| *count);
            let grown = count.saturating_sub(then);
            (grown > 0).then_some((from, grown))
        });
        Self(grown.collect())
    }

    /// Adds what another one has counted.
    pub fn add(&mut self, other: &Self) {
        let mut all: Vec<_> = self.0.iter().chain(&other.0).copied().collect();
        all.sort_unstable_by_key(|(from, _)| *from);
        all.dedup_by(|(from, count), (kept, sum)| {
            let is_same = from == kept;
            if is_same {
                *sum += *count;
            }
            is_same
        });
        self.0 = all;
    }

    /// The value in microseconds that this part of all, 0 to 1, does not exceed; `None` if there is none.
    #[must_use]
    pub fn quantile(&self, part: f64) -> Option<u64> {
        let all: u64 = self.0.iter().map(|(_, count)| count).sum();
        let wanted = ((all as f64 * part).ceil() as u64).max(1);
        let mut seen = 0;
        let found = self.0.iter().find(|(_, count)| {
            seen += count;
            seen >= wanted
        });
        found.map(|(from, _)| from + width(*from) / 2)
    }

    /// Whether nothing was counted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

// === helpers ===

/// How wide the range is that a value is in.
const fn width(us: u64) -> u64 {
    1 << (u64::BITS - us.leading_zeros()).saturating_sub(BITS)
}

/// The lower end of the range that a value is in.
const fn range(us: u64) -> u64 {
    us / width(us) * width(us)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: impl IntoIterator<Item = u64>) -> Latencies {
        let mut histogram = Histogram::<u32>::new(2).unwrap();
        values.into_iter().for_each(|value| histogram.record(value).unwrap());
        Latencies::of(&histogram)
    }

    #[test]
    fn percentiles_of_an_interval_know_nothing_of_what_was_before() {
        let slow = of((0..1000).map(|_| 1_000_000));
        let now = of((0..1000).map(|_| 1_000_000).chain((0..98).map(|_| 500)).chain([9000, 9000]));
        let interval = now.since(&slow);
        assert!((490..=510).contains(&interval.quantile(0.5).unwrap()), "{interval:?}");
        assert!((8800..=9200).contains(&interval.quantile(0.99).unwrap()), "{interval:?}");
        assert!(now.quantile(0.5).unwrap() > 900_000);
        assert!(now.since(&now).is_empty());
        assert_eq!(now.since(&now).quantile(0.99), None);
        let mut sum = interval.clone();
        sum.add(&slow);
        assert_eq!(sum, now);
    }

    #[test]
    fn counters_that_have_gone_back_are_not_new() {
        let before = of([100, 100, 200]);
        assert_eq!(of([100, 300]).since(&before), of([300]));
    }

    proptest::proptest! {
        #[test]
        fn a_value_is_off_by_little(value in 1_u64..3_600_000_000) {
            let found = of([value]).quantile(0.5).unwrap();
            proptest::prop_assert!(found.abs_diff(value) as f64 <= value as f64 * 0.025, "{found}");
        }
    }
}
