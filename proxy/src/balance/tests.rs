//! What holds for every choice, and the shares that come of many.

mod simulation;

use std::{sync::Arc, time::Duration};

use fastrand::Rng;
use proptest::prelude::*;

use super::*;

fn at(millis: u64) -> Moment {
    Moment::after(Duration::from_millis(millis))
}

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn pool(count: usize) -> Pool {
    pool_of(count, |_| (1.0, 1.0), 0)
}

fn pool_of(count: usize, member: impl Fn(usize) -> (f32, f32), preferred: usize) -> Pool {
    let member = |at| {
        let (distance, weight) = member(at);
        Member { stats: Arc::default(), distance, weight }
    };
    Pool::new((0..count).map(member).collect(), preferred, Breaker::default())
}

fn out(pool: &Pool, now: Moment) -> usize {
    (0..pool.len()).filter(|at| pool.stats(*at).standing(now) != Standing::In).count()
}

#[test]
fn the_cheapest_is_chosen_with_its_reason() {
    let (pool, mut rng) = (pool(3), Rng::with_seed(1));
    for (at_, time) in [(0, 30), (1, 10), (2, 30)] {
        pool.stats(at_).answered(millis(time), at(0));
    }
    let choice = pool.choose(&[], at(0), &mut rng).unwrap();
    assert_eq!((choice.member, choice.why), (1, Why::Cheapest));
    assert!((choice.cost - 0.010).abs() < 1e-9, "{choice:?}");
    // With three in flight it costs 40 ms.
    let _three: Vec<_> = (0..3).map(|_| pool.stats(1).begin()).collect();
    assert_ne!(pool.choose(&[], at(0), &mut rng).unwrap().member, 1);
    let next = pool.choose(&[0, 2], at(0), &mut rng).unwrap();
    assert_eq!((next.member, next.why), (1, Why::Failover));
    assert_eq!(pool.choose(&[0, 1, 2], at(0), &mut rng), None);
}

#[test]
fn one_endpoint_is_never_taken_out() {
    let (pool, mut rng) = (pool(1), Rng::with_seed(1));
    for i in 0..20 {
        pool.refused(0, millis(0), at(i), &mut rng);
        let choice = pool.choose(&[], at(i), &mut rng).unwrap();
        assert_eq!(choice.why, Why::Only);
    }
}

#[test]
fn a_refusing_endpoint_is_out_at_once_and_probed_once() {
    let (pool, mut rng) = (pool(4), Rng::with_seed(1));
    pool.refused(2, millis(0), at(0), &mut rng);
    assert!((0..100).all(|_| pool.choose(&[], at(100), &mut rng).unwrap().member != 2));
    let probe = pool.choose(&[], at(2000), &mut rng).unwrap();
    assert_eq!((probe.member, probe.why), (2, Why::Probe));
    assert_ne!(pool.choose(&[], at(2000), &mut rng).unwrap().member, 2);
    pool.stats(2).connected(millis(1), at(2001));
    assert_eq!(out(&pool, at(2001)), 0);
}

#[test]
fn a_failure_costs_a_second_however_fast_it_was() {
    let (pool, mut rng) = (pool(4), Rng::with_seed(1));
    for member in 0..4 {
        pool.stats(member).answered(millis(20), at(0));
    }
    pool.failed(0, millis(1), at(0), &mut rng);
    assert!(pool.cost(0, at(0)) >= 1.0);
    for member in 0..4 {
        pool.stats(member).answered(millis(300), at(0));
    }
    pool.failed(1, millis(1), at(1), &mut rng);
    assert!(pool.cost(1, at(1)) > 2.9, "ten medians: {}", pool.cost(1, at(1)));
}

#[test]
fn a_pause_costs_what_is_left_of_it_and_is_no_failure() {
    let (pool, mut rng) = (pool(3), Rng::with_seed(1));
    for member in 0..3 {
        pool.stats(member).answered(millis(20), at(0));
    }
    for _ in 0..50 {
        pool.stats(0).limited(millis(1000), at(0));
    }
    assert_eq!((pool.stats(0).failed(), out(&pool, at(0))), (0, 0));
    assert!((pool.cost(0, at(0)) - 1.020).abs() < 1e-6, "{}", pool.cost(0, at(0)));
    assert!((pool.cost(0, at(600)) - 0.420).abs() < 0.002, "{}", pool.cost(0, at(600)));
    assert_eq!(pool.cost(0, at(1000)), pool.cost(1, at(1000)), "it is over");
    pool.stats(0).limited(millis(500), at(0));
    assert_eq!(pool.stats(0).pause(at(0)), millis(1000), "the longest of them counts");
    // However long it asks for, and even if all of them do, one is chosen.
    for member in 0..3 {
        pool.stats(member).limited(Duration::MAX, at(0));
    }
    assert_eq!(pool.stats(0).pause(at(0)), Duration::from_secs(60));
    assert!(pool.choose(&[], at(0), &mut rng).is_some());
    // An endpoint that answers is there.
    pool.refused(1, millis(0), at(0), &mut rng);
    pool.stats(1).limited(millis(1), at(1));
    assert_eq!(out(&pool, at(1)), 0);
}

#[test]
fn a_new_endpoint_starts_slowly_where_that_is_asked_for() {
    let slow = || pool(4).with_slow_start(Duration::from_secs(10));
    let shares = |pool: Pool, age: u64| {
        pool.stats(3).start(at(0));
        let mut rng = Rng::with_seed(7);
        let open: Vec<_> = (0..120)
            .map(|_| pool.stats(pool.choose(&[], at(age), &mut rng).unwrap().member).begin())
            .collect();
        assert_eq!(open.len(), 120);
        pool.stats(3).in_flight()
    };
    // Three with a whole share, one with a half or the least.
    assert_eq!([0, 5_000, 10_000, 60_000].map(|age| shares(slow(), age)), [2, 17, 30, 30]);
    assert_eq!(shares(pool(4), 0), 30);
    assert_eq!(spread(&slow(), 120), [30; 4], "those that were there from the beginning");
}

#[test]
fn an_endpoint_on_a_lossy_path_costs_more_than_its_round_trip_time() {
    let pool = pool(3);
    for (member, resent) in [(0, 0.0), (1, 0.1), (2, 7.0)] {
        pool.stats(member).carried(millis(10), resent, at(0));
    }
    let estimates = [0, 1, 2].map(|member| pool.stats(member).estimate(at(0)).unwrap());
    assert_eq!(estimates, [millis(10), millis(30), millis(210)]);
}

#[test]
fn distance_and_weight_shift_the_shares() {
    let near = |at: usize| if at < 5 { (1.0, 1.0) } else { (1.5, 1.0) };
    assert_eq!(spread(&pool_of(10, near, 0), 100), [12, 12, 12, 12, 12, 8, 8, 8, 8, 8]);
    let heavy = |at: usize| if at == 0 { (1.0, 3.0) } else { (1.0, 1.0) };
    let shares = spread(&pool_of(4, heavy, 0), 60);
    assert_eq!(shares, [30, 10, 10, 10]);
}

#[test]
fn preferred_endpoints_take_all_until_they_cost_three_times_as_much() {
    for count in [4, 40] {
        let pool = pool_of(count, |_| (1.0, 1.0), 2);
        let shares = spread(&pool, 4);
        assert_eq!(shares[..2].iter().sum::<u32>(), 4, "{shares:?}");
        let shares = spread(&pool, 40);
        assert!(shares[2..].iter().sum::<u32>() > 0, "{shares:?}");
    }
}

/// Connections per endpoint with so many open.
fn spread(pool: &Pool, connections: usize) -> Vec<u32> {
    let mut rng = Rng::with_seed(7);
    let open: Vec<_> = (0..connections)
        .map(|_| pool.stats(pool.choose(&[], at(0), &mut rng).unwrap().member).begin())
        .collect();
    let shares = (0..pool.len()).map(|at| pool.stats(at).in_flight()).collect();
    drop(open);
    shares
}

#[derive(Clone, Copy, Debug)]
enum Event {
    Connected(usize, u64),
    Answered(usize, u64),
    Failed(usize, u64),
    Refused(usize),
    Limited(usize, u64),
    Pass(u64),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let one = prop_oneof![
        (0..64_usize, 0..3000_u64).prop_map(|(at, time)| Event::Connected(at, time)),
        (0..64_usize, 0..3000_u64).prop_map(|(at, time)| Event::Answered(at, time)),
        (0..64_usize, 0..3000_u64).prop_map(|(at, time)| Event::Failed(at, time)),
        (0..64_usize).prop_map(Event::Refused),
        (0..64_usize, 0..100_000_u64).prop_map(|(at, time)| Event::Limited(at, time)),
        (0..20_000_u64).prop_map(Event::Pass),
    ];
    proptest::collection::vec(one, 0..200)
}

proptest! {
    #[test]
    fn something_is_always_chosen_and_at_most_half_is_out(
        count in 1..40_usize, preferred in 0..40_usize, seed: u64, events in events()
    ) {
        let pool = pool_of(count, |_| (1.0, 1.0), preferred.min(count));
        let (mut rng, mut now) = (Rng::with_seed(seed), 0);
        for event in events {
            match event {
                Event::Connected(to, time) => pool.stats(to % count).connected(millis(time), at(now)),
                Event::Answered(to, time) => pool.stats(to % count).answered(millis(time), at(now)),
                Event::Failed(to, time) => pool.failed(to % count, millis(time), at(now), &mut rng),
                Event::Refused(to) => pool.refused(to % count, millis(0), at(now), &mut rng),
                Event::Limited(to, time) => pool.stats(to % count).limited(millis(time), at(now)),
                Event::Pass(time) => now += time,
            }
            prop_assert!(out(&pool, at(now)) * 2 <= count);
            let choice = pool.choose(&[], at(now), &mut rng).unwrap();
            prop_assert!(choice.cost.is_finite() && choice.cost > 0.0);
        }
        let mut tried = Vec::new();
        while let Some(choice) = pool.choose(&tried, at(now), &mut rng) {
            prop_assert!(!tried.contains(&choice.member));
            tried.push(choice.member);
        }
        prop_assert_eq!(tried.len(), count, "each one is tried once");
    }

    #[test]
    fn an_estimate_is_between_the_samples(samples in proptest::collection::vec(1..10_000_u64, 1..50)) {
        let stats = Stats::default();
        for (i, sample) in samples.iter().enumerate() {
            stats.answered(Duration::from_micros(*sample), at(i as u64));
        }
        let now = at(samples.len() as u64 - 1);
        let estimate = stats.estimate(now).unwrap().as_micros() as u64;
        prop_assert!(estimate <= *samples.iter().max().unwrap());
        prop_assert!(estimate + 1 >= *samples.iter().min().unwrap());
    }
}
