//! The endpoints among which is chosen, and the choice.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use fastrand::Rng;

use super::{Breaker, Moment, Standing, Stats};

/// Up to so many endpoints are all looked at.
const SCAN: usize = 16;
/// Attempts to draw a usable endpoint out of more, before all are looked at.
const DRAWS: usize = 16;
/// Smaller differences are noise of the measurement.
const RESOLUTION: f64 = 0.005;
/// An estimate that differs from the median by no more than this factor counts as the median: single
/// connections are noisy, and connections that stay open are to be spread evenly.
const BAND: f64 = 1.5;
/// A new endpoint costs so many times the median while its first connections are in flight. The very
/// first one comes at the median: with little traffic it would never come otherwise.
const SEED: f64 = 2.0;
/// An endpoint that the service does not prefer is so much farther away.
const NOT_PREFERRED: f64 = 3.0;
/// A new endpoint gets this part of its share at least, where it is to start slowly.
const LEAST_START: f64 = 0.05;
/// The longest time that a new endpoint may take to get its whole share.
pub const LONGEST_SLOW_START: Duration = Duration::from_secs(3600);
/// How long a median holds.
const SUMMARY: Duration = Duration::from_millis(100);

/// An endpoint as the choice sees it.
#[derive(Clone, Debug)]
pub struct Member {
    /// What is known of it.
    pub stats: Arc<Stats>,
    /// 1 for near; more for what is to be used less.
    pub distance: f32,
    /// 1 is usual; an endpoint with 2 gets twice as much.
    pub weight: f32,
}

/// The endpoints of a service that may be used.
#[derive(Debug, Default)]
pub struct Pool {
    /// Preferred ones first.
    members: Box<[Member]>,
    preferred: usize,
    breaker: Breaker,
    /// How long a new member takes to get its whole share; zero for at once.
    slow_start: Duration,
    /// Bits of the median estimate in seconds; zero without any.
    median: AtomicU64,
    summarised: AtomicU64,
    /// Whether any member may be out.
    any_out: AtomicBool,
}

/// A chosen endpoint.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    /// Its place in the pool.
    pub member: usize,
    /// Why it and no other.
    pub why: Why,
    /// What it cost, in seconds.
    pub cost: f64,
}

/// Why an endpoint was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Why {
    /// There is no other.
    Only,
    /// It costs least of all.
    Cheapest,
    /// It costs less than others that were drawn.
    CheaperOfDrawn,
    /// It was out, and one connection is to find out whether it works.
    Probe,
    /// Another one failed before.
    Failover,
    /// All others are out too.
    LastResort,
    /// Requests with the same key go there.
    Affinity,
}

// === impl Why ===

impl Why {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Only,
        Self::Cheapest,
        Self::CheaperOfDrawn,
        Self::Probe,
        Self::Failover,
        Self::LastResort,
        Self::Affinity,
    ];

    /// As in metrics and JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Only => "only",
            Self::Cheapest => "cheapest",
            Self::CheaperOfDrawn => "cheaper_of_drawn",
            Self::Probe => "probe",
            Self::Failover => "failover",
            Self::LastResort => "last_resort",
            Self::Affinity => "affinity",
        }
    }
}

// === impl Pool ===

impl Pool {
    /// The first `preferred` members are those that the service prefers.
    #[must_use]
    pub fn new(members: Box<[Member]>, preferred: usize, breaker: Breaker) -> Self {
        let any_out = AtomicBool::new(true);
        Self { members, preferred, breaker, any_out, ..Self::default() }
    }

    /// The same where members that begin to be used get their share little by little, over this time.
    #[must_use]
    pub fn with_slow_start(self, window: Duration) -> Self {
        Self { slow_start: window, ..self }
    }

    /// How many there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// What is known of a member.
    #[must_use]
    pub fn stats(&self, member: usize) -> &Arc<Stats> {
        &self.members[member].stats
    }

    pub(super) fn weight(&self, member: usize) -> f64 {
        f64::from(self.members[member].weight.max(f32::MIN_POSITIVE))
    }

    /// Chooses a member that is not among `tried`.
    pub fn choose(&self, tried: &[usize], now: Moment, rng: &mut Rng) -> Option<Choice> {
        let left = self.len().checked_sub(tried.len()).filter(|left| *left > 0)?;
        let choice = |member: usize, why| Choice { member, why, cost: self.cost(member, now) };
        self.summarise(now);
        let any_out = self.any_out.load(Relaxed);
        let start = rng.usize(..self.len());
        let around = || (start..self.len()).chain(0..start).filter(|at| !tried.contains(at));
        if any_out
            && let Some(due) = around().find(|at| self.members[*at].stats.failures.begin_probe(now))
        {
            return Some(choice(due, Why::Probe));
        }
        let is_in = |at: &usize| self.members[*at].stats.standing(now) == Standing::In;
        let cheapest = |some: &mut dyn Iterator<Item = usize>, rng: &mut Rng| {
            let (mut best, mut cost, mut equal) = (None, f64::INFINITY, 0);
            for at in some {
                let this = self.cost(at, now);
                equal = if this < cost { 1 } else { equal + usize::from(this == cost) };
                // Of those that cost the same each is as likely.
                if this < cost || (this == cost && rng.usize(..equal) == 0) {
                    (best, cost) = (Some(at), this);
                }
            }
            best
        };
        let why = |why| match (tried.is_empty(), left) {
            (false, _) => Why::Failover,
            (true, 1) => Why::Only,
            (true, _) => why,
        };
        if left > SCAN
            && let drawn = self.draw(tried, now, rng)
            && let Some(drawn) = cheapest(&mut drawn.into_iter().flatten(), rng)
        {
            return Some(choice(drawn, why(Why::CheaperOfDrawn)));
        }
        if let Some(best) = cheapest(&mut around().filter(is_in), rng) {
            return Some(choice(best, why(Why::Cheapest)));
        }
        // All that are left are out: better one that failed than none.
        cheapest(&mut around(), rng).map(|best| choice(best, why(Why::LastResort)))
    }

    /// Two members that are in, a third where one of them is cold; of the preferred ones where there are
    /// any, and then one of the others.
    fn draw(&self, tried: &[usize], now: Moment, rng: &mut Rng) -> [Option<usize>; 3] {
        let mut drawn: [Option<usize>; 3] = [None; 3];
        let mut one = |from: std::ops::Range<usize>, drawn: &[Option<usize>; 3]| {
            (!from.is_empty()).then_some(())?;
            (0..DRAWS).map(|_| rng.usize(from.clone())).find(|at| {
                !tried.contains(at)
                    && !drawn.contains(&Some(*at))
                    && self.members[*at].stats.standing(now) == Standing::In
            })
        };
        let first = if self.preferred > 0 { 0..self.preferred } else { 0..self.len() };
        drawn[0] = one(first.clone(), &drawn);
        drawn[1] = one(first, &drawn);
        let is_cold = |at: usize| self.members[at].stats.latency.is_cold();
        if self.preferred > 0 {
            drawn[2] = one(self.preferred..self.len(), &drawn);
        } else if drawn.iter().flatten().any(|at| is_cold(*at)) {
            drawn[2] = one(0..self.len(), &drawn);
        }
        drawn
    }

    /// What a member costs at present, in seconds.
    #[must_use]
    pub fn cost(&self, member: usize, now: Moment) -> f64 {
        let Member { stats, distance, weight } = &self.members[member];
        let median = f64::from_bits(self.median.load(Relaxed));
        let latency = match stats.latency.estimate(now) {
            None if stats.in_flight() == 0 => median,
            None => median * SEED,
            Some(estimate) if is_noise(estimate, median) => median,
            Some(estimate) => estimate,
        };
        let preference =
            if self.preferred > 0 && member >= self.preferred { NOT_PREFERRED } else { 1.0 };
        let in_flight = f64::from(stats.in_flight()) + 1.0;
        (latency.max(RESOLUTION) + stats.pause(now).as_secs_f64())
            * in_flight
            * f64::from(*distance)
            * preference
            / f64::from(weight.max(f32::MIN_POSITIVE))
            / self.started(stats, now)
    }

    /// The part of its share that a member gets: 1 but for new ones.
    fn started(&self, stats: &Stats, now: Moment) -> f64 {
        if self.slow_start.is_zero() {
            return 1.0;
        }
        let age = stats.age(now).unwrap_or(self.slow_start);
        age.div_duration_f64(self.slow_start).clamp(LEAST_START, 1.0)
    }

    /// A member could not be connected to: it is out for a moment, as far as others are left.
    pub fn refused(&self, member: usize, time: Duration, now: Moment, rng: &mut Rng) {
        let breaker = &self.breaker;
        let stats = &self.members[member].stats;
        stats.failures.set_unreachable();
        let _ = stats.count_failure(time, self.median(now), breaker, now);
        self.take_out(member, now, rng);
    }

    /// A member has failed: it is out after too many failures in a row.
    pub fn failed(&self, member: usize, time: Duration, now: Moment, rng: &mut Rng) {
        let breaker = &self.breaker;
        if self.members[member].stats.count_failure(time, self.median(now), breaker, now) {
            self.take_out(member, now, rng);
        }
    }

    fn take_out(&self, member: usize, now: Moment, rng: &mut Rng) {
        let failures = &self.members[member].stats.failures;
        let is_out = |other: &Member| other.stats.standing(now) != Standing::In;
        let others = self.members.iter().enumerate().filter(|(at, _)| *at != member);
        let out = others.filter(|(_, other)| is_out(other)).count();
        if (out + 1) * 2 <= self.len() {
            failures.take_out(&self.breaker, now, rng.f64());
            self.any_out.store(true, Relaxed);
        } else {
            failures.keep_in();
        }
    }

    /// Whether no member accepted the last connection to it, and none is to be tried again now.
    #[must_use]
    pub fn is_hopeless(&self, now: Moment) -> bool {
        let is_hopeless = |it: &Member| {
            it.stats.failures.is_unreachable() && it.stats.standing(now) != Standing::Due
        };
        self.members.iter().all(is_hopeless)
    }

    /// The median of the estimates; zero without any.
    #[must_use]
    pub fn median(&self, now: Moment) -> Duration {
        self.summarise(now);
        Duration::from_secs_f64(f64::from_bits(self.median.load(Relaxed)))
    }

    /// Looks at all members, where that is some time ago.
    fn summarise(&self, now: Moment) {
        let before = self.summarised.load(Relaxed);
        let is_fresh = before != 0 && now.since(Moment::from_bits(before)) < SUMMARY;
        let few = self.len() <= SCAN;
        if is_fresh && !few {
            return;
        }
        self.summarised.store(now.to_bits(), Relaxed);
        let estimates = || self.members.iter().filter_map(|it| it.stats.latency.estimate(now));
        let median = if few {
            let mut found = [0.0; SCAN];
            let mut count = 0;
            estimates().for_each(|estimate| {
                found[count] = estimate;
                count += 1;
            });
            middle(&mut found[..count])
        } else {
            middle(&mut estimates().collect::<Vec<_>>())
        };
        self.median.store(median.to_bits(), Relaxed);
        let any_out = self.members.iter().any(|it| it.stats.standing(now) != Standing::In);
        self.any_out.store(any_out, Relaxed);
    }
}

// === helpers ===

fn is_noise(estimate: f64, median: f64) -> bool {
    (estimate - median).abs() < RESOLUTION || (median / BAND..=median * BAND).contains(&estimate)
}

/// The lower one of two in the middle: half of the endpoints may be broken.
fn middle(estimates: &mut [f64]) -> f64 {
    if estimates.is_empty() {
        return 0.0;
    }
    let at = (estimates.len() - 1) / 2;
    *estimates.select_nth_unstable_by(at, f64::total_cmp).1
}
