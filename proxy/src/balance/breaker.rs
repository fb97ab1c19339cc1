//! Takes endpoints out that fail, for a while: never more than half of a service's, and never the last.

use std::{
    sync::atomic::{
        AtomicBool, AtomicU32, AtomicU64,
        Ordering::{AcqRel, Acquire, Relaxed, Release},
    },
    time::Duration,
};

use super::Moment;

/// A probe that has told nothing by then was lost; another one is made.
const PROBE: Duration = Duration::from_secs(10);

/// When endpoints are taken out, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Breaker {
    /// So many failures in a row take an endpoint out; 0 never does.
    pub consecutive_failures: u32,
    /// For how long at first. Each further time takes twice as long.
    pub base: Duration,
    /// For how long at most.
    pub max: Duration,
}

/// Whether an endpoint takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It does.
    In,
    /// It does not, until this moment.
    Out(Moment),
    /// Its time is over: one connection may find out whether it works again.
    Due,
    /// One connection is finding out.
    Probing,
}

/// What one endpoint has failed.
#[derive(Debug, Default)]
pub(super) struct Failures {
    in_a_row: AtomicU32,
    /// How often it was taken out since it last worked.
    outs: AtomicU32,
    /// Until when it is out, or has to be probed; "never" where it is in.
    out_until: AtomicU64,
    /// When the last probe began; "never" where there is none.
    probe: AtomicU64,
    /// It did not accept the last connection.
    unreachable: AtomicBool,
}

// === impl Breaker ===

impl Default for Breaker {
    fn default() -> Self {
        Self { consecutive_failures: 5, base: Duration::from_secs(1), max: Duration::from_secs(60) }
    }
}

impl Breaker {
    /// How long the `outs`th time is, half as long to one and a half times as long: endpoints that fell
    /// out together come back one by one.
    fn time(&self, outs: u32, random: f64) -> Duration {
        let doubled = self.base.saturating_mul(1_u32.checked_shl(outs.min(31)).unwrap_or(u32::MAX));
        doubled.mul_f64(0.5 + random).min(self.max)
    }
}

// === impl Failures ===

impl Failures {
    pub(super) fn standing(&self, now: Moment) -> Standing {
        let until = Moment::from_bits(self.out_until.load(Acquire));
        if until == Moment::default() {
            return Standing::In;
        }
        if now < until {
            return Standing::Out(until);
        }
        let probe = Moment::from_bits(self.probe.load(Acquire));
        let is_due = probe == Moment::default() || now.since(probe) > PROBE;
        if is_due { Standing::Due } else { Standing::Probing }
    }

    /// Takes the one place of a probe.
    pub(super) fn begin_probe(&self, now: Moment) -> bool {
        let before = self.probe.load(Acquire);
        let is_due = self.standing(now) == Standing::Due;
        is_due && self.probe.compare_exchange(before, now.to_bits(), AcqRel, Relaxed).is_ok()
    }

    /// It has accepted a connection, and is in again; whether it was out, or unreachable and kept in for
    /// want of others. Failures go on counting: one that accepts and then resets has failed.
    pub(super) fn connected(&self) -> bool {
        let was_unreachable = self.unreachable.swap(false, Relaxed);
        let was_out = self.out_until.swap(0, AcqRel) != 0;
        if was_out {
            self.probe.store(0, Relaxed);
        }
        was_out || was_unreachable
    }

    /// It works.
    pub(super) fn succeeded(&self) {
        self.connected();
        self.in_a_row.store(0, Relaxed);
        self.outs.store(0, Relaxed);
    }

    /// It has failed; whether that asks for taking it out.
    pub(super) fn failed(&self, breaker: &Breaker) -> bool {
        let in_a_row = self.in_a_row.fetch_add(1, Relaxed).saturating_add(1);
        let enough = breaker.consecutive_failures;
        let was_probed = self.out_until.load(Acquire) != 0;
        enough != 0 && (in_a_row >= enough || was_probed)
    }

    /// Takes it out. `random` is from 0 to 1.
    pub(super) fn take_out(&self, breaker: &Breaker, now: Moment, random: f64) {
        let outs = self.outs.fetch_add(1, Relaxed);
        let until = now.plus(breaker.time(outs, random));
        self.out_until.store(until.to_bits(), Release);
        self.probe.store(0, Relaxed);
    }

    /// It stays in although it failed: others are out already.
    pub(super) fn keep_in(&self) {
        self.out_until.store(0, Relaxed);
        self.probe.store(0, Relaxed);
    }

    pub(super) fn set_unreachable(&self) {
        self.unreachable.store(true, Relaxed);
    }

    pub(super) fn is_unreachable(&self) -> bool {
        self.unreachable.load(Relaxed)
    }

    pub(super) fn in_a_row(&self) -> u32 {
        self.in_a_row.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Moment {
        Moment::after(Duration::from_millis(millis))
    }

    #[test]
    fn the_time_out_doubles_up_to_its_limit_and_varies_by_half() {
        let breaker = Breaker::default();
        let range = |outs| (breaker.time(outs, 0.0), breaker.time(outs, 1.0));
        assert_eq!(range(0), (Duration::from_millis(500), Duration::from_millis(1500)));
        assert_eq!(range(3), (Duration::from_secs(4), Duration::from_secs(12)));
        assert_eq!(range(7), (Duration::from_secs(60), Duration::from_secs(60)));
        assert_eq!(range(200), (Duration::from_secs(60), Duration::from_secs(60)));
    }

    #[test]
    fn after_its_time_one_probe_decides() {
        let (failures, breaker) = (Failures::default(), Breaker::default());
        let asks: Vec<bool> = (0..5).map(|_| failures.failed(&breaker)).collect();
        assert_eq!(asks, [false, false, false, false, true]);
        failures.take_out(&breaker, at(0), 0.5);
        assert!(matches!(failures.standing(at(999)), Standing::Out(_)));
        assert!(!failures.begin_probe(at(999)));
        assert_eq!(failures.standing(at(1001)), Standing::Due);
        assert!(failures.begin_probe(at(1001)));
        assert!(!failures.begin_probe(at(1002)), "only one");
        assert_eq!(failures.standing(at(1002)), Standing::Probing);
        assert!(failures.failed(&breaker), "a failed probe is enough");
        failures.take_out(&breaker, at(1002), 0.5);
        assert!(matches!(failures.standing(at(2900)), Standing::Out(_)), "twice as long");
        assert!(failures.begin_probe(at(3100)));
        assert_eq!(failures.standing(at(13_200)), Standing::Due, "a lost probe is made again");
        assert!(failures.connected());
        assert_eq!((failures.standing(at(13_201)), failures.in_a_row()), (Standing::In, 6));
        assert!(failures.failed(&breaker), "it has only accepted");
        failures.succeeded();
        assert_eq!(failures.in_a_row(), 0);
        assert!(!failures.failed(&breaker));
    }

    #[test]
    fn zero_takes_none_out() {
        let breaker = Breaker { consecutive_failures: 0, ..Breaker::default() };
        let failures = Failures::default();
        assert!((0..1000).all(|_| !failures.failed(&breaker)));
    }
}
