//! What a run of chaos has come to, as a table.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::ledger::{Cause, Ledger, Time, Verdict, Way};
use crate::load::{Kind, Outcome, Trip};

/// As many losses are told in full.
const TOLD: usize = 30;

/// A run and its verdict.
#[derive(Debug)]
pub struct Report {
    /// Of the schedule.
    pub seed: u64,
    /// For how long things were done.
    pub time: Duration,
    /// How often each was done.
    pub done: BTreeMap<&'static str, usize>,
    /// What went wrong beside connections.
    pub faults: Vec<String>,
    /// All of it.
    pub ledger: Ledger,
}

/// Connections of one kind, or of all.
#[derive(Default)]
struct Row {
    all: usize,
    complete: usize,
    allowed: usize,
    unallowed: usize,
    direct: usize,
    proxied: usize,
    bytes: u64,
}

// === impl Row ===

impl Row {
    fn add(&mut self, trip: &Trip, verdict: Verdict) {
        self.all += 1;
        match verdict {
            Verdict::Complete => self.complete += 1,
            Verdict::Allowed(_) => self.allowed += 1,
            Verdict::Unallowed(_) => self.unallowed += 1,
        }
        match trip.proxied() {
            Some(true) => self.proxied += 1,
            Some(false) => self.direct += 1,
            None => {}
        }
        self.bytes += trip.bytes;
    }

    fn tell(&self, name: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { all, complete, allowed, unallowed, direct, proxied, bytes } = self;
        let mebibytes = *bytes >> 20;
        writeln!(
            f,
            "{name:<14} {all:>8} {proxied:>8} {direct:>8} {complete:>9} {allowed:>8} {unallowed:>10} \
             {mebibytes:>9}"
        )
    }
}

// === impl Report ===

impl Report {
    /// Nothing was lost that may not be, and all else was well too.
    #[must_use]
    pub fn is_well(&self) -> bool {
        self.faults.is_empty() && self.losses().is_empty() && self.wrong_at_servers().is_empty()
    }

    fn losses(&self) -> Vec<(Way, &Trip, &'static str)> {
        let verdicts = self.ledger.judge();
        let judged = self.ledger.trips.iter().zip(verdicts);
        judged
            .filter_map(|((way, trip), verdict)| match verdict {
                Verdict::Unallowed(why) => Some((*way, trip, why)),
                _ => None,
            })
            .collect()
    }

    /// A server's connection may be torn, which is its client's to judge.
    fn wrong_at_servers(&self) -> Vec<&Trip> {
        let is_wrong =
            |trip: &&Trip| !trip.is_well() && !matches!(trip.outcome, Outcome::Broken(_));
        self.ledger.served.iter().filter(is_wrong).collect()
    }

    /// Milliseconds since the first weir was started.
    fn at(&self, time: Time) -> f64 {
        let zero = self.ledger.generations.first().map_or(0, |it| it.serves.begin);
        (time as f64 - zero as f64) / 1e6
    }

    fn tell_losses(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (losses, wrong) = (self.losses(), self.wrong_at_servers());
        if losses.is_empty() && wrong.is_empty() {
            return Ok(());
        }
        writeln!(f, "\nlosses that are not allowed; times in ms")?;
        for (number, it) in self.ledger.generations.iter().enumerate() {
            let (from, to) = (self.at(it.serves.begin), self.at(it.serves.end));
            write!(f, "weir {number} (pid {}) serves {from:.1} to {to:.1}", it.pid)?;
            if let Some((begin, most)) = it.drains {
                write!(f, ", drains from {:.1} for {:.1}", self.at(begin), most as f64 / 1e6)?;
            }
            if let Some(killed) = it.killed {
                write!(f, ", killed {:.1} to {:.1}", self.at(killed.begin), self.at(killed.end))?;
            }
            writeln!(f)?;
        }
        for (number, span) in &self.ledger.troubles.starved {
            let (from, to) = (self.at(span.begin), self.at(span.end));
            writeln!(f, "weir {number} starved {from:.1} to {to:.1}")?;
        }
        for (ways, span) in &self.ledger.troubles.upstreams {
            let (from, to) = (self.at(span.begin), self.at(span.end));
            writeln!(f, "server of {ways:?} dead {from:.1} to {to:.1}")?;
        }
        for (way, trip, why) in losses.into_iter().take(TOLD) {
            write!(f, "{way:?} {why}: ")?;
            self.tell(trip, f)?;
        }
        for trip in wrong.into_iter().take(TOLD) {
            write!(f, "at the server: ")?;
            self.tell(trip, f)?;
        }
        Ok(())
    }

    fn tell(&self, trip: &Trip, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (begin, end) = (self.at(trip.begin), self.at(trip.end));
        let connected = trip.connected.map(|time| self.at(time));
        let Trip { kind, local, seen, rounds, outcome, .. } = trip;
        writeln!(
            f,
            "{begin:.1} to {end:.1}, connected {connected:.1?}, {kind} {outcome:?}, {local:?} seen as \
             {seen:?}, {rounds} rounds"
        )
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {}, {} seconds", self.seed, self.time.as_secs())?;
        writeln!(f, "\n{:<32} {:>6}", "done", "times")?;
        for (name, times) in &self.done {
            writeln!(f, "{name:<32} {times:>6}")?;
        }
        writeln!(
            f,
            "\n{:<14} {:>8} {:>8} {:>8} {:>9} {:>8} {:>10} {:>9}",
            "connections", "all", "proxied", "direct", "complete", "allowed", "unallowed", "MiB"
        )?;
        let verdicts = self.ledger.judge();
        let judged = || self.ledger.trips.iter().zip(&verdicts);
        let row = |of: &dyn Fn(Way, Kind) -> bool| {
            let mut row = Row::default();
            for ((_, trip), verdict) in judged().filter(|((way, trip), _)| of(*way, trip.kind)) {
                row.add(trip, *verdict);
            }
            row
        };
        for kind in Kind::ALL {
            row(&|_, its| its == kind).tell(&kind.to_string(), f)?;
        }
        for way in Way::ALL {
            row(&|its, _| its == way).tell(&format!("way {way:?}"), f)?;
        }
        let all = row(&|_, _| true);
        all.tell("all", f)?;
        writeln!(f, "\n{:<32} {:>6}", "lost, as is allowed, because", "times")?;
        for cause in Cause::ALL {
            let count = verdicts.iter().filter(|it| **it == Verdict::Allowed(cause)).count();
            writeln!(f, "{:<32} {count:>6}", cause.to_string())?;
        }
        self.tell_losses(f)?;
        for fault in &self.faults {
            writeln!(f, "fault: {fault}")?;
        }
        let (lost, wrong) = (all.unallowed, self.wrong_at_servers().len());
        let faults = self.faults.len();
        writeln!(f, "\nnot allowed: {lost} lost, {wrong} wrong at servers, {faults} other faults")
    }
}
