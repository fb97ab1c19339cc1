//! Every connection has an outcome, and what was lost has a cause: something that was done at the
//! time, to the very weir, workload or server that carried the connection. Loss without a cause is
//! not to be forgiven; nor is a byte that is wrong, an end in order with bytes missing, or a
//! connection that hangs, whatever was done.

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;

use crate::load::{Outcome, Trip};

/// A time on the monotonic clock, nanoseconds.
pub type Time = u64;

/// From before something was begun until after it was over; the end is [`Time::MAX`] while it goes
/// on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Before its begin.
    pub begin: Time,
    /// After its end.
    pub end: Time,
}

/// Which way a connection goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Way {
    /// From pod A to its client host: captured where it is opened.
    Out,
    /// From a client host to pod B: captured where it is accepted.
    In,
    /// From pod A to pod B: captured twice.
    Across,
    /// From pod B to its client host, which is exempted: weir never carries it.
    Skipped,
}

/// One weir process.
#[derive(Clone, Debug)]
pub struct Generation {
    /// Its process.
    pub pid: u32,
    /// From its start until nothing new came to it any more.
    pub serves: Span,
    /// From the first moment in which it may have begun to drain, and for how long it may.
    pub drains: Option<(Time, Time)>,
    /// `kill -9`.
    pub killed: Option<Span>,
}

/// Times in which a loss has a cause beside the weirs'.
#[derive(Clone, Debug, Default)]
pub struct Troubles {
    /// By generation: no descriptors.
    pub starved: Vec<(usize, Span)>,
    /// A server dead.
    pub upstreams: Vec<(Vec<Way>, Span)>,
    /// Pod B removed, and how long its connections may drain.
    pub removed: Vec<(Span, Time)>,
}

/// Everything that was done and seen.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    /// In the order of their starts.
    pub generations: Vec<Generation>,
    /// Other causes.
    pub troubles: Troubles,
    /// As clients saw them.
    pub trips: Vec<(Way, Trip)>,
    /// As servers saw them; across and in are served by one.
    pub served: Vec<Trip>,
    /// Times without a weir that accepts: what connects then goes direct.
    pub absent: Vec<Span>,
}

/// Why a connection was lost, where that is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// The weir that carried it was killed.
    WeirKilled,
    /// The weir that carried it drained, and its deadline was over.
    DrainDeadline,
    /// Its workload was removed, and the deadline was over.
    RemovedWorkload,
    /// The server was killed, or not there yet.
    UpstreamDied,
    /// weir had no descriptor for it: it was never served.
    Shed,
}

/// What became of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing was lost.
    Complete,
    /// It was lost, and that is allowed.
    Allowed(Cause),
    /// It was not.
    Unallowed(&'static str),
}

// === impl Span ===

impl Span {
    /// Something that goes on from now.
    #[must_use]
    pub const fn since(begin: Time) -> Self {
        Self { begin, end: Time::MAX }
    }

    /// Whether they have a moment in common.
    #[must_use]
    pub const fn meets(&self, other: &Self) -> bool {
        self.begin <= other.end && other.begin <= self.end
    }
}

// === impl Way ===

impl Way {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Out, Self::In, Self::Across, Self::Skipped];

    /// Whether weir may carry it.
    #[must_use]
    pub const fn is_captured(self) -> bool {
        !matches!(self, Self::Skipped)
    }

    /// Whether it goes through pod B's capture.
    #[must_use]
    pub const fn is_through_pod_b(self) -> bool {
        matches!(self, Self::In | Self::Across)
    }
}

// === impl Cause ===

impl Cause {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::WeirKilled,
        Self::DrainDeadline,
        Self::RemovedWorkload,
        Self::UpstreamDied,
        Self::Shed,
    ];
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::WeirKilled => "its weir was killed",
            Self::DrainDeadline => "its weir's drain deadline",
            Self::RemovedWorkload => "its workload's drain deadline",
            Self::UpstreamDied => "the server was killed",
            Self::Shed => "no descriptors for it",
        })
    }
}

// === impl Ledger ===

impl Ledger {
    /// A verdict on every connection, in the order of [`Ledger::trips`].
    #[must_use]
    pub fn judge(&self) -> Vec<Verdict> {
        let accepted = self.accepted();
        self.trips.iter().map(|(way, trip)| self.verdict(*way, trip, &accepted)).collect()
    }

    /// When a server accepted whom, in order.
    fn accepted(&self) -> HashMap<SocketAddr, Vec<Time>> {
        let mut accepted: HashMap<SocketAddr, Vec<Time>> = HashMap::new();
        for trip in &self.served {
            if let Some(seen) = trip.seen {
                accepted.entry(seen).or_default().push(trip.begin);
            }
        }
        accepted
    }

    fn verdict(&self, way: Way, trip: &Trip, accepted: &HashMap<SocketAddr, Vec<Time>>) -> Verdict {
        let within = |span: &Span| {
            trip.connected.is_some_and(|connected| {
                trip.begin > span.begin && connected.max(trip.begin) < span.end
            })
        };
        match &trip.outcome {
            Outcome::Good | Outcome::Left if !way.is_captured() && trip.proxied() == Some(true) => {
                Verdict::Unallowed("captured, though exempted")
            }
            Outcome::Good | Outcome::Left
                if trip.proxied() == Some(true) && self.absent.iter().any(within) =>
            {
                Verdict::Unallowed("captured, though there was no weir to accept it")
            }
            Outcome::Good | Outcome::Left => Verdict::Complete,
            Outcome::Changed(_) => Verdict::Unallowed("changed"),
            Outcome::Truncated(_) => Verdict::Unallowed("bytes missing before an end in order"),
            Outcome::Hung(_) => Verdict::Unallowed("hung"),
            Outcome::Broken(_) => self
                .cause(way, trip, accepted)
                .map_or(Verdict::Unallowed("broken without a cause"), Verdict::Allowed),
        }
    }

    fn cause(
        &self,
        way: Way,
        trip: &Trip,
        accepted: &HashMap<SocketAddr, Vec<Time>>,
    ) -> Option<Cause> {
        let life = Span { begin: trip.begin, end: trip.end };
        // Direct for sure: whatever was done to weir is no cause.
        if way.is_captured() && trip.proxied() != Some(false) {
            let begun = Span { begin: trip.begin, end: under_way(trip, accepted) };
            let carriers = self.generations.iter().enumerate();
            let carriers: Vec<_> = carriers.filter(|(_, it)| it.serves.meets(&begun)).collect();
            let is_one_killed = |(_, it): &(usize, &Generation)| {
                it.killed
                    .is_some_and(|killed| begun.begin <= killed.end && trip.end >= killed.begin)
            };
            if carriers.iter().any(is_one_killed) {
                return Some(Cause::WeirKilled);
            }
            let is_overdue = |(_, it): &(usize, &Generation)| {
                it.drains.is_some_and(|(begin, most)| trip.end >= begin.saturating_add(most))
            };
            if carriers.iter().any(is_overdue) {
                return Some(Cause::DrainDeadline);
            }
            let is_removed = |(span, most): &(Span, Time)| {
                begun.begin <= span.end && trip.end >= span.begin.saturating_add(*most)
            };
            if way.is_through_pod_b() && self.troubles.removed.iter().any(is_removed) {
                return Some(Cause::RemovedWorkload);
            }
            let is_starved = |(number, span): &(usize, Span)| {
                span.meets(&begun) && carriers.iter().any(|(carrier, _)| carrier == number)
            };
            // What is served is not shed.
            if trip.seen.is_none() && self.troubles.starved.iter().any(is_starved) {
                return Some(Cause::Shed);
            }
        }
        let is_upstream =
            |(ways, span): &(Vec<Way>, Span)| ways.contains(&way) && span.meets(&life);
        self.troubles.upstreams.iter().any(is_upstream).then_some(Cause::UpstreamDied)
    }
}

/// When the connection had come to the server, and so through every weir that it had to go through:
/// no later one has a part in it.
fn under_way(trip: &Trip, accepted: &HashMap<SocketAddr, Vec<Time>>) -> Time {
    let times = trip.seen.and_then(|seen| accepted.get(&seen));
    let mut mine =
        times.into_iter().flatten().filter(|time| (trip.begin..=trip.end).contains(time));
    mine.next().copied().unwrap_or(trip.end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Kind;

    fn trip(begin: Time, end: Time, outcome: Outcome) -> Trip {
        let local = Some("10.77.0.1:1000".parse().unwrap());
        let seen = Some("10.77.0.1:2000".parse().unwrap());
        let (kind, connected, loopback) = (Kind::ClientFirst, Some(begin), false);
        Trip { kind, begin, connected, end, local, seen, loopback, rounds: 0, bytes: 0, outcome }
    }

    fn broken(begin: Time, end: Time) -> Trip {
        trip(begin, end, Outcome::Broken("reset".to_owned()))
    }

    /// Two weirs; the first is superseded from 100 to 110 and may drain for 1000, the second is
    /// killed from 300 to 310.
    fn ledger(way: Way, client: Trip) -> Ledger {
        let served = Trip { begin: client.begin + 1, ..client.clone() };
        let serves = Span { begin: 0, end: 110 };
        let old = Generation { pid: 1, serves, drains: Some((100, 1000)), killed: None };
        let (serves, killed) = (Span { begin: 100, end: 310 }, Some(Span { begin: 300, end: 310 }));
        let new = Generation { pid: 2, serves, drains: None, killed };
        let generations = vec![old, new];
        let (trips, served) = (vec![(way, client)], vec![served]);
        Ledger { generations, trips, served, ..Ledger::default() }
    }

    fn verdict(way: Way, client: Trip) -> Verdict {
        ledger(way, client).judge()[0]
    }

    #[test]
    fn a_kill_is_the_cause_for_what_that_weir_carried_and_nothing_else() {
        const KILLED: Verdict = Verdict::Allowed(Cause::WeirKilled);
        const NONE: Verdict = Verdict::Unallowed("broken without a cause");
        assert_eq!(verdict(Way::Out, broken(200, 305)), KILLED);
        assert_eq!(verdict(Way::Out, broken(50, 305)), NONE, "carried by the other one");
        assert_eq!(verdict(Way::Out, broken(200, 290)), NONE, "before the kill");
        assert_eq!(verdict(Way::Out, broken(320, 330)), NONE, "begun after it");
        assert_eq!(verdict(Way::Skipped, broken(200, 305)), NONE, "never carried");
        let direct = Trip { seen: Some("10.77.0.1:1000".parse().unwrap()), ..broken(200, 305) };
        assert_eq!(verdict(Way::Out, direct), NONE, "went direct");
    }

    #[test]
    fn a_drain_is_a_cause_after_its_deadline() {
        assert_eq!(verdict(Way::In, broken(50, 1100)), Verdict::Allowed(Cause::DrainDeadline));
        assert!(matches!(verdict(Way::In, broken(50, 1099)), Verdict::Unallowed(_)));
    }

    #[test]
    fn wrong_bytes_missing_bytes_and_silence_have_no_cause() {
        let text = String::new;
        for outcome in [Outcome::Changed(text()), Outcome::Truncated(text()), Outcome::Hung(text())]
        {
            let verdict = verdict(Way::Out, trip(200, 305, outcome));
            assert!(matches!(verdict, Verdict::Unallowed(_)), "{verdict:?}");
        }
    }

    #[test]
    fn what_is_proxied_without_a_proxy_is_told() {
        let mut ledger = ledger(Way::Out, trip(400, 405, Outcome::Good));
        assert_eq!(ledger.judge()[0], Verdict::Complete);
        ledger.absent.push(Span { begin: 310, end: 500 });
        assert!(matches!(ledger.judge()[0], Verdict::Unallowed(_)));
    }

    #[test]
    fn descriptors_are_a_cause_for_what_was_never_served() {
        let mut ledger = ledger(Way::Out, broken(50, 70));
        ledger.troubles.starved.push((0, Span { begin: 40, end: 60 }));
        assert!(matches!(ledger.judge()[0], Verdict::Unallowed(_)));
        ledger.trips[0].1.seen = None;
        assert_eq!(ledger.judge()[0], Verdict::Allowed(Cause::Shed));
    }

    #[test]
    fn a_dead_server_is_a_cause_for_its_own_clients() {
        let mut ledger = ledger(Way::Out, broken(50, 70));
        ledger.troubles.upstreams.push((vec![Way::In], Span { begin: 40, end: 60 }));
        assert!(matches!(ledger.judge()[0], Verdict::Unallowed(_)));
        ledger.troubles.upstreams.push((vec![Way::Out], Span { begin: 40, end: 60 }));
        assert_eq!(ledger.judge()[0], Verdict::Allowed(Cause::UpstreamDied));
    }
}
