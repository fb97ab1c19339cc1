//! What is done, and when: drawn from a seed and from nothing else, so that the same seed makes the
//! same plan. What connections do meanwhile is up to the kernel.

use std::fmt;
use std::time::Duration;

use fastrand::Rng;

use crate::load::Kind;

/// Above this many connections cannot be captured until more descriptors are free (`accept.rs`).
const ROOM: std::ops::Range<usize> = 4..24;

/// Which server is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upstream {
    /// What pod A connects to outside.
    Host,
    /// The application in pod B.
    Pod,
}

/// Settings of one weir.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setup {
    /// `--drain-deadline`.
    pub deadline: Duration,
    /// `--http-engine`.
    pub engine: &'static str,
    /// `--learn`.
    pub learn: &'static str,
    /// Behaves as one with another layout of the maps; only seen in upgrades.
    pub other_layout: bool,
    /// At its predecessor's control socket.
    pub same_socket: bool,
}

/// One thing to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// `weir ports STATE PORT`.
    Ports {
        /// `skip`, `opaque` or `detect`.
        state: &'static str,
        /// Of whose port.
        kind: Kind,
        /// `--outbound`, `--inbound` or none.
        direction: Option<&'static str>,
        /// Of pod B, or of pod A.
        of_pod_b: bool,
    },
    /// `weir workload remove`, and `add` after so long.
    Workload(Duration),
    /// SIGSTOP, and SIGCONT after so long.
    Stop(Duration),
    /// `kill -9`, and another weir after so long.
    Kill(Duration, Setup),
    /// `kill -9` of the oldest weir that drains.
    KillRetired,
    /// SIGTERM, and another weir as soon as this one has let go.
    Terminate(Setup),
    /// Another weir takes over.
    Upgrade(Setup),
    /// Another weir is about to take over, and is killed after so long.
    Doomed(Duration, Setup),
    /// No descriptors but so many for so long.
    Starve(usize, Duration),
    /// `kill -9` of a server, and another one after so long.
    UpstreamDies(Upstream, Duration),
    /// SIGSTOP for a server, and SIGCONT after so long.
    UpstreamStops(Upstream, Duration),
}

/// An endless row of actions.
#[derive(Debug)]
pub struct Schedule(Rng);

// === impl Schedule ===

impl Schedule {
    /// The one of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(Rng::with_seed(seed))
    }

    /// A seed for something else.
    pub fn seed(&mut self) -> u64 {
        self.0.u64(..)
    }

    /// Whether the application is to see its client's address.
    pub fn preserves_client_ip(&mut self) -> bool {
        self.0.bool()
    }

    /// Settings of a weir.
    pub fn setup(&mut self) -> Setup {
        let deadline = Duration::from_secs(self.choose(&[3, 20, 120]));
        let engine = self.choose(&["passthrough", "passthrough", "terminate"]);
        let learn = self.choose(&["off", "opaque", "bypass"]);
        let (other_layout, same_socket) = (self.0.u8(..4) == 0, self.0.bool());
        Setup { deadline, engine, learn, other_layout, same_socket }
    }

    /// How long nothing is done, and what then.
    pub fn step(&mut self) -> (Duration, Action) {
        (self.span(50, 1500), self.action())
    }

    fn action(&mut self) -> Action {
        match self.0.u8(..20) {
            0..=5 => Action::Ports {
                state: self.choose(&["skip", "opaque", "detect"]),
                kind: self.choose(&Kind::ALL),
                direction: self.choose(&[None, Some("--outbound"), Some("--inbound")]),
                of_pod_b: self.0.bool(),
            },
            6..=7 => Action::Workload(self.span(0, 1500)),
            8..=9 => Action::Stop(self.span(50, 4000)),
            10..=11 => Action::Kill(self.span(0, 1500), self.setup()),
            12 => Action::KillRetired,
            13 => Action::Terminate(self.setup()),
            14..=15 => Action::Upgrade(self.setup()),
            16 => Action::Doomed(self.span(0, 1200), self.setup()),
            17 => Action::Starve(self.0.usize(ROOM), self.span(500, 8000)),
            18 => Action::UpstreamDies(self.upstream(), self.span(0, 2000)),
            _ => Action::UpstreamStops(self.upstream(), self.span(50, 3000)),
        }
    }

    fn upstream(&mut self) -> Upstream {
        self.choose(&[Upstream::Host, Upstream::Pod])
    }

    fn span(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(self.0.u64(from..=to))
    }

    fn choose<T: Copy>(&mut self, among: &[T]) -> T {
        among[self.0.usize(..among.len())]
    }
}

// === impl Setup ===

impl Setup {
    /// As flags.
    #[must_use]
    pub fn flags(&self) -> Vec<String> {
        let deadline = format!("{}s", self.deadline.as_secs());
        let words = ["--drain-deadline", &deadline, "--http-engine", self.engine];
        [&words[..], &["--learn", self.learn]].concat().into_iter().map(str::to_owned).collect()
    }
}

// === impl Action ===

impl Action {
    /// What its kind is called.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Ports { .. } => "ports changed",
            Self::Workload(_) => "workload removed and added",
            Self::Stop(_) => "weir stopped and continued",
            Self::Kill(..) => "weir killed and started",
            Self::KillRetired => "retired weir killed",
            Self::Terminate(_) => "weir terminated and started",
            Self::Upgrade(_) => "weir upgraded",
            Self::Doomed(..) => "upgrade killed on the way",
            Self::Starve(..) => "weir without descriptors",
            Self::UpstreamDies(..) => "server killed and started",
            Self::UpstreamStops(..) => "server stopped and continued",
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_makes_one_schedule_with_everything_in_it() {
        let draw = |seed| {
            let mut schedule = Schedule::new(seed);
            (0..400).map(|_| schedule.step()).collect::<Vec<_>>()
        };
        let one = draw(7);
        assert_eq!(one, draw(7));
        assert_ne!(one, draw(8));
        let names = one.iter().map(|(_, action)| action.name());
        assert_eq!(names.collect::<std::collections::BTreeSet<_>>().len(), 11);
    }
}
