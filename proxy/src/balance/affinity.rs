//! The member that requests with one key go to: the first in an order of the key's own (rendezvous hashing,
//! Thaler and Ravishankar 1998), unless it has more than its share (bounded load, Mirrokni and others 2018). A
//! member that comes or goes moves its own keys and no other.

use super::{Choice, Moment, Pool, Standing, Why};

/// A member has so much more than the mean in flight at most.
const BOUND: f64 = 1.25;

// === impl Pool ===

impl Pool {
    /// Chooses a member that is not among `tried` for requests with this key. `names` of the members, by their
    /// places, are the same in each weir.
    pub fn choose_for(
        &self,
        key: u64,
        name: impl Fn(usize) -> u64,
        tried: &[usize],
        now: Moment,
    ) -> Option<Choice> {
        let score = |at: usize| {
            // In (0, 1): the member with the largest score gets the key, by their weights.
            let hash = mixed(key ^ mixed(name(at)));
            let part = ((hash >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
            -self.weight(at) / part.ln()
        };
        let left = (0..self.len()).filter(|at| !tried.contains(at));
        let mut left: Vec<(usize, f64)> = left.map(|at| (at, score(at))).collect();
        left.sort_by(|(_, one), (_, other)| other.total_cmp(one));
        let left = left.iter().map(|(at, _)| *at);
        let in_flight = |at: usize| f64::from(self.stats(at).in_flight());
        let all = left.clone().map(in_flight).sum::<f64>() + 1.0;
        let weights = left.clone().map(|at| self.weight(at)).sum::<f64>();
        let has_room =
            |at: usize| in_flight(at) + 1.0 <= (BOUND * all * self.weight(at) / weights).ceil();
        let choice = |member: usize, why| {
            let why = if tried.is_empty() { why } else { Why::Failover };
            Some(Choice { member, why, cost: self.cost(member, now) })
        };
        let mut crowded = None;
        for at in left.clone() {
            match self.stats(at).standing(now) {
                Standing::In if has_room(at) => return choice(at, Why::Affinity),
                Standing::In => crowded = crowded.or(Some(at)),
                Standing::Due if self.stats(at).failures.begin_probe(now) => {
                    return choice(at, Why::Probe);
                }
                Standing::Out(_) | Standing::Due | Standing::Probing => {}
            }
        }
        // All that are left are out: better one that failed than none.
        crowded.map_or_else(
            || choice(left.clone().next()?, Why::LastResort),
            |at| choice(at, Why::Affinity),
        )
    }
}

// === helpers ===

/// The finaliser of SplitMix64: each bit depends on all.
const fn mixed(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, sync::Arc, time::Duration};

    use fastrand::Rng;

    use super::*;
    use crate::balance::{Breaker, Member};

    fn now() -> Moment {
        Moment::after(Duration::ZERO)
    }

    fn pool(weights: &[f32]) -> Pool {
        let member =
            |weight: &f32| Member { stats: Arc::default(), distance: 1.0, weight: *weight };
        Pool::new(weights.iter().map(member).collect(), 0, Breaker::default())
    }

    fn of(pool: &Pool, key: u64) -> usize {
        pool.choose_for(key, |at| at as u64, &[], now()).unwrap().member
    }

    fn shares(pool: &Pool, keys: u64) -> Vec<usize> {
        let mut all = vec![0; pool.len()];
        (0..keys).for_each(|key| all[of(pool, key)] += 1);
        all
    }

    #[test]
    fn a_key_stays_and_keys_are_spread_by_weight() {
        let pool = pool(&[1.0, 1.0, 2.0]);
        for key in 0..100 {
            assert_eq!(of(&pool, key), of(&pool, key));
        }
        let shares = shares(&pool, 4000);
        for (share, expected) in shares.iter().zip([1000, 1000, 2000]) {
            assert!(share.abs_diff(expected) < 200, "{shares:?}");
        }
    }

    #[test]
    fn a_member_that_is_out_or_tried_moves_its_own_keys_only() {
        let pool = pool(&[1.0; 5]);
        let before: HashMap<u64, usize> = (0..500).map(|key| (key, of(&pool, key))).collect();
        pool.refused(2, Duration::ZERO, now(), &mut Rng::with_seed(1));
        for (key, member) in &before {
            let after = of(&pool, *key);
            assert!(if *member == 2 { after != 2 } else { after == *member }, "{key}");
            let next = pool.choose_for(*key, |at| at as u64, &[after], now()).unwrap();
            assert!(next.member != after && next.why == Why::Failover);
        }
        assert_eq!(pool.choose_for(1, |at| at as u64, &[0, 1, 2, 3, 4], now()), None);
    }

    #[test]
    fn one_key_of_all_is_shared_when_a_member_has_more_than_its_part() {
        let pool = pool(&[1.0; 4]);
        let in_flight: Vec<_> = (0..100).map(|_| pool.stats(of(&pool, 7)).begin()).collect();
        let counts: Vec<_> = (0..4).map(|at| pool.stats(at).in_flight()).collect();
        assert!(counts.iter().all(|count| *count <= 32), "{counts:?}");
        assert_eq!(counts.iter().sum::<u32>(), 100);
        drop(in_flight);
    }
}
