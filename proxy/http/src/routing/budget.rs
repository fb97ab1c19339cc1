//! How many requests may be sent once more. Pure: the time is given.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

/// Of the requests of the last [`WINDOW`] seconds so many in a hundred may be sent once more,
const PERCENT: u64 = 20;
/// and so many in each second besides.
const FLOOR: u64 = 10;
const WINDOW: u64 = 10;

/// Bits of the numbers in a slot: the second, requests, repeats by their share, repeats by the floor.
const COUNT: u32 = 20;
const MOST: u64 = (1 << COUNT) - 1;

/// What the requests to one service may cost it besides themselves. Shared by everything that sends some.
#[derive(Debug)]
pub struct RetryBudget {
    start: Instant,
    /// One for each second, in turn. Threads that come at the same time may exceed it by one each.
    slots: [AtomicU64; WINDOW as usize],
}

/// What happened in one second.
#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    second: u64,
    requests: u64,
    by_share: u64,
    by_floor: u64,
}

// === impl RetryBudget ===

impl RetryBudget {
    /// Without requests. No time that is given later is before this one.
    #[must_use]
    pub const fn new(start: Instant) -> Self {
        Self { start, slots: [const { AtomicU64::new(0) }; WINDOW as usize] }
    }

    /// A request has come.
    pub fn request(&self, now: Instant) {
        self.count(self.second(now), |slot| slot.requests += 1);
    }

    /// Whether one may be sent once more, which is counted then.
    pub fn take(&self, now: Instant) -> bool {
        let second = self.second(now);
        let recent = self.slots.iter().map(|word| Slot::unpack(word.load(Relaxed)));
        let recent = recent.filter(|slot| (second.wrapping_sub(slot.second) & MOST) < WINDOW);
        let (requests, by_share) =
            recent.fold((0, 0), |sum, slot| (sum.0 + slot.requests, sum.1 + slot.by_share));
        if (by_share + 1) * 100 <= requests * PERCENT {
            self.count(second, |slot| slot.by_share += 1);
            return true;
        }
        let here = Slot::unpack(self.slot(second).load(Relaxed));
        let is_free = here.second != second & MOST || here.by_floor < FLOOR;
        if is_free {
            self.count(second, |slot| slot.by_floor += 1);
        }
        is_free
    }

    fn second(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.start).as_secs()
    }

    fn slot(&self, second: u64) -> &AtomicU64 {
        &self.slots[(second % WINDOW) as usize]
    }

    fn count(&self, second: u64, add: impl Fn(&mut Slot)) {
        let change = |word| {
            let mut slot = Slot::unpack(word);
            if slot.second != second & MOST {
                slot = Slot { second: second & MOST, ..Slot::default() };
            }
            add(&mut slot);
            Some(slot.pack())
        };
        // It always has a value.
        let _ = self.slot(second).fetch_update(Relaxed, Relaxed, change);
    }
}

// === impl Slot ===

impl Slot {
    const fn unpack(word: u64) -> Self {
        Self {
            second: word >> (64 - COUNT),
            requests: (word >> (64 - 2 * COUNT)) & MOST,
            by_share: (word >> (64 - 3 * COUNT)) & MOST,
            by_floor: word & ((1 << (64 - 3 * COUNT)) - 1),
        }
    }

    fn pack(self) -> u64 {
        (self.second << (64 - COUNT))
            | (self.requests.min(MOST) << (64 - 2 * COUNT))
            | (self.by_share.min(MOST) << (64 - 3 * COUNT))
            | self.by_floor.min((1 << (64 - 3 * COUNT)) - 1)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Requests at this rate for so many seconds, each of which would be sent three times more. How many were.
    fn storm(budget: &RetryBudget, start: Instant, (rate, seconds): (u32, u32)) -> u64 {
        let mut again = 0;
        for number in 0..rate * seconds {
            let now = start + Duration::from_secs(1) * number / rate;
            budget.request(now);
            again += (0..3).filter(|_| budget.take(now)).count() as u64;
        }
        again
    }

    #[test]
    fn however_many_would_be_sent_again_a_fifth_and_ten_a_second_are() {
        for (rate, seconds) in [(1, 60), (5, 30), (100, 30), (1000, 25), (20_000, 3)] {
            let start = Instant::now();
            let budget = RetryBudget::new(start);
            let again = storm(&budget, start, (rate, seconds));
            let (requests, seconds) = (u64::from(rate * seconds), u64::from(seconds));
            assert!(again <= requests / 5 + 10 * seconds, "{again} of {requests}");
            // It is used up: a share of 20 % all the time, and the floor where there is use for it.
            let wanted = (requests * 3).min(requests / 5 + 10 * seconds);
            assert!(again * 100 >= wanted * 95, "{again} of {wanted}");
        }
    }

    #[test]
    fn amplification_stays_below_a_quarter_where_the_floor_is_nothing() {
        let start = Instant::now();
        let budget = RetryBudget::new(start);
        let again = storm(&budget, start, (10_000, 20));
        assert!(again <= 200_000 / 4, "{again}");
    }

    #[test]
    fn a_quiet_service_has_the_floor_of_the_second_and_no_savings() {
        let start = Instant::now();
        let budget = RetryBudget::new(start);
        let later = start + Duration::from_secs(3600);
        let taken = |now| (0..100).filter(|_| budget.take(now)).count();
        assert_eq!((taken(later), taken(later)), (10, 0));
        assert_eq!(taken(later + Duration::from_secs(1)), 10);
    }

    #[test]
    fn requests_count_for_ten_seconds() {
        let start = Instant::now();
        let at = |second| start + Duration::from_secs(second);
        let budget = RetryBudget::new(start);
        (0..1000).for_each(|_| budget.request(at(0)));
        let taken = |second| (0..1000).filter(|_| budget.take(at(second))).count();
        assert_eq!(taken(0), 210);
        assert_eq!((taken(5), taken(9)), (10, 10));
        (0..1000).for_each(|_| budget.request(at(9)));
        assert_eq!(taken(9), 200);
        // What was used in the first second is forgotten with its requests.
        assert_eq!((taken(10), taken(18), taken(19)), (10, 10, 10));
    }

    #[test]
    fn a_slot_keeps_its_numbers_and_what_is_too_much_stays_the_most() {
        let slot = Slot { second: 5, requests: 7, by_share: 9, by_floor: 10 };
        let same = Slot::unpack(slot.pack());
        assert_eq!((same.second, same.requests, same.by_share, same.by_floor), (5, 7, 9, 10));
        let full = Slot { requests: 1 << 40, ..slot };
        let same = Slot::unpack(full.pack());
        assert_eq!((same.second, same.requests, same.by_share), (5, MOST, 9));
    }

    #[test]
    fn threads_share_it() {
        let start = Instant::now();
        let budget = RetryBudget::new(start);
        let taken = std::thread::scope(|scope| {
            let each = || {
                (0..10_000).filter(|_| {
                    budget.request(start);
                    budget.take(start)
                })
            };
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(move || each().count())).collect();
            threads.into_iter().map(|it| it.join().unwrap()).sum::<usize>()
        });
        assert!((8_000..=8_010 + 4 * 2).contains(&taken), "{taken}");
    }
}
