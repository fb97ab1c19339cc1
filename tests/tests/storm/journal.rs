//! What happened to weir and what the connections saw, one beside the other.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use weir_tests::load::{Kind, Outcome, Trip};

/// As many are told in full when something went wrong.
const TOLD: usize = 20;

/// Seen from the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Outbound,
    Inbound,
}

/// What was done to weir.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// Until it captured.
    Started,
    /// From the start of the successor until that captured.
    Upgraded,
    /// From the start of a successor until it was dead.
    Doomed,
    /// From before `kill -9` until nothing was left of the process.
    Killed,
    /// From before SIGTERM until it had ended.
    Terminated,
    /// SIGSTOP.
    Stopped,
    /// SIGCONT.
    Continued,
}

/// One thing that was done, and when: nanoseconds of the monotonic clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Event {
    pub(crate) what: What,
    pub(crate) begin: u64,
    pub(crate) end: u64,
}

/// Everything of one storm.
pub(crate) struct Journal {
    events: Vec<Event>,
    trips: Vec<(Way, Trip)>,
    served: Vec<(Way, Trip)>,
    records: Vec<String>,
    /// Whether all weirs ended well and left nothing.
    pub(crate) cleared: Result<()>,
}

// === impl Way ===

impl Way {
    pub(crate) const ALL: [Self; 2] = [Self::Outbound, Self::Inbound];
}

// === impl Journal ===

impl Journal {
    pub(crate) fn new(events: Vec<Event>) -> Self {
        let (trips, served, records) = (Vec::new(), Vec::new(), Vec::new());
        Self { events, trips, served, records, cleared: Ok(()) }
    }

    /// What clients and servers of one direction saw.
    pub(crate) fn add(&mut self, way: Way, trips: Vec<Trip>, served: Vec<Trip>) {
        self.trips.extend(trips.into_iter().map(|trip| (way, trip)));
        self.served.extend(served.into_iter().map(|trip| (way, trip)));
    }

    /// What all weirs recorded, for an explanation when it is needed.
    pub(crate) fn read_records(&mut self, dir: &Path) -> Result<()> {
        for entry in std::fs::read_dir(dir)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "json") {
                let text = std::fs::read_to_string(&path)
                    .with_context(|| format!("cannot read {}", path.display()))?;
                self.records.extend(text.lines().map(str::to_owned));
            }
        }
        Ok(())
    }

    /// Every connection, as its client saw it.
    pub(crate) fn trips(&self) -> impl Iterator<Item = (Way, &Trip)> {
        self.trips.iter().map(|(way, trip)| (*way, trip))
    }

    /// What was done, of one kind.
    pub(crate) fn of(&self, what: What) -> impl Iterator<Item = &Event> {
        self.events.iter().filter(move |event| event.what == what)
    }

    /// No connection failed but those that were allowed to, none lost or changed a byte, all kinds
    /// went through weir, and weir left nothing.
    pub(crate) fn judge(&self, allowed: impl Fn(&Trip, &[Event]) -> bool) -> Result<()> {
        let is_allowed = |trip: &Trip| {
            let torn = matches!(trip.outcome, Outcome::Broken(_)) && allowed(trip, &self.events);
            trip.is_well() || torn
        };
        eprintln!("{}", self.summary());
        let failed = self.trips().filter(|(_, trip)| !is_allowed(trip));
        self.none(failed.collect(), "failed")?;
        // A server's connection may be torn; that is its client's to judge.
        let is_wrong = |trip: &Trip| !trip.is_well() && !matches!(trip.outcome, Outcome::Broken(_));
        let wrong = self.served.iter().filter(|(_, trip)| is_wrong(trip));
        self.none(wrong.map(|(way, trip)| (*way, trip)).collect(), "went wrong for the server")?;
        for way in Way::ALL {
            // One that was torn while it was silent has not been told which way it went.
            for kind in Kind::ORDERLY.into_iter().filter(|kind| *kind != Kind::Silent) {
                let through = |(its, trip): (Way, &Trip)| {
                    its == way && trip.kind == kind && trip.proxied() == Some(true)
                };
                ensure!(self.trips().any(through), "{way:?} {kind}: none went through weir");
            }
        }
        match &self.cleared {
            Ok(()) => Ok(()),
            Err(error) => bail!("all connections were well, but weir was not: {error:#}"),
        }
    }

    /// All connections that went well and that the condition picks went through weir.
    pub(crate) fn all_proxied(&self, picks: impl Fn(Way, &Trip) -> bool) -> Result<()> {
        let direct = |(way, trip): &(Way, &Trip)| {
            trip.is_well() && picks(*way, trip) && trip.proxied() == Some(false)
        };
        self.none(self.trips().filter(direct).collect(), "went direct")
    }

    /// All connections begun in a span went direct, and there were some.
    pub(crate) fn all_direct(&self, from: u64, to: u64) -> Result<()> {
        let within = |trip: &Trip| (from..to).contains(&trip.begin);
        let all: Vec<_> = self.trips().filter(|(_, trip)| within(trip)).collect();
        ensure!(!all.is_empty(), "no connection between {} and {}", self.at(from), self.at(to));
        let other = all.into_iter().filter(|(_, trip)| trip.proxied() != Some(false));
        self.none(other.collect(), "did not go direct while weir was away")
    }

    fn none(&self, trips: Vec<(Way, &Trip)>, what: &str) -> Result<()> {
        if trips.is_empty() {
            return Ok(());
        }
        let mut text = format!("{} connections {what}; times in ms\n", trips.len());
        for event in &self.events {
            let (begin, end) = (self.at(event.begin), self.at(event.end));
            let _infallible = writeln!(text, "{begin:>10} to {end:>10} {:?}", event.what);
        }
        for (way, trip) in trips.iter().take(TOLD) {
            text.push_str(&self.tell(*way, trip));
        }
        bail!(text)
    }

    /// One connection in full, with what weir recorded of its port.
    fn tell(&self, way: Way, trip: &Trip) -> String {
        let (begin, end) = (self.at(trip.begin), self.at(trip.end));
        let Trip { kind, local, seen, rounds, outcome, .. } = trip;
        let ends = format!("{local:?} seen as {seen:?}, {rounds} rounds");
        let mut text = format!("{begin:>10} to {end:>10} {way:?} {kind} {outcome:?} {ends}\n");
        for port in [*local, *seen].into_iter().flatten().map(|address| address.port()) {
            let mine = |record: &&String| {
                record.contains(r#""kind":"connection""#) && record.contains(&format!(":{port}\""))
            };
            for record in self.records.iter().filter(mine) {
                let _infallible = writeln!(text, "    {record}");
            }
        }
        text
    }

    /// Milliseconds since the first event.
    fn at(&self, time: u64) -> String {
        let zero = self.events.first().map_or(0, |event| event.begin);
        format!("{:.1}", (time as f64 - zero as f64) / 1e6)
    }

    fn summary(&self) -> String {
        let mut text = format!(
            "{:<9} {:<12} {:>6} {:>6} {:>6} {:>6} {:>6} {:>7} {:>7}\n",
            "", "kind", "all", "good", "left", "torn", "direct", "proxied", "rounds"
        );
        for way in Way::ALL {
            for kind in Kind::ORDERLY {
                let mine = self.trips().filter(|(its, trip)| *its == way && trip.kind == kind);
                let mine: Vec<&Trip> = mine.map(|(_, trip)| trip).collect();
                let count = |of: &dyn Fn(&Trip) -> bool| mine.iter().filter(|it| of(it)).count();
                let _infallible = writeln!(
                    text,
                    "{:<9} {:<12} {:>6} {:>6} {:>6} {:>6} {:>6} {:>7} {:>7}",
                    format!("{way:?}"),
                    kind.to_string(),
                    mine.len(),
                    count(&|it| it.outcome == Outcome::Good),
                    count(&|it| it.outcome == Outcome::Left),
                    count(&|it| !it.is_well()),
                    count(&|it| it.proxied() == Some(false)),
                    count(&|it| it.proxied() == Some(true)),
                    mine.iter().map(|it| it.rounds).sum::<u64>(),
                );
            }
        }
        text
    }
}
