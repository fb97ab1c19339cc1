//! Port states that were set for a time (`weir ports … --for`): when that is over, and what each port
//! has then. They end with the process too: a restart, an upgrade or another capture of the workload
//! puts the ports back.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::{
    capture::RememberedPort,
    decision::{Direction, PortState},
    names,
};

/// All of a workload.
#[derive(Clone, Debug, Default)]
pub(super) struct Temporary(BTreeMap<(Direction, u16), Until>);

#[derive(Clone, Copy, Debug)]
struct Until {
    deadline: Instant,
    /// The state that had been set with `weir ports`; `None` for that of the configuration.
    before: Option<PortState>,
}

/// What a port has after a change that does not last, in what is kept for a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TemporaryPort {
    /// Seen from the workload.
    #[serde(with = "names::direction")]
    pub direction: Direction,
    /// The port.
    pub port: u16,
    /// The state that had been set with `weir ports`; absent for that of the configuration.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "names::state::optional")]
    pub before: Option<PortState>,
}

// === impl Temporary ===

impl Temporary {
    /// A port is to have what it has, until a deadline. What it had before the first change that
    /// does not last is what it gets back.
    pub(super) fn set(
        &mut self,
        direction: Direction,
        port: u16,
        deadline: Instant,
        before: Option<PortState>,
    ) {
        let new = Until { deadline, before };
        self.0.entry((direction, port)).or_insert(new).deadline = deadline;
    }

    /// What a port has is to last. Returns whether it was not.
    pub(super) fn forget(&mut self, direction: Direction, port: u16) -> bool {
        self.0.remove(&(direction, port)).is_some()
    }

    /// With those of another one that are not in it.
    pub(super) fn union(&self, other: &Self) -> Self {
        let mut all = other.0.clone();
        all.extend(self.0.iter().map(|(key, until)| (*key, *until)));
        Self(all)
    }

    /// Whether what a port has does not last.
    pub(super) fn has(&self, direction: Direction, port: u16) -> bool {
        self.0.contains_key(&(direction, port))
    }

    /// How long a port has what it has, where that does not last.
    pub(super) fn left(&self, direction: Direction, port: u16) -> Option<Duration> {
        let until = self.0.get(&(direction, port))?;
        Some(until.deadline.saturating_duration_since(Instant::now()))
    }

    /// Those whose time is over.
    pub(super) fn over(&self) -> Vec<TemporaryPort> {
        let now = Instant::now();
        let over = self.0.iter().filter(|(_, until)| until.deadline <= now);
        over.map(|(key, until)| described(*key, *until)).collect()
    }

    /// All, as they are kept for a restart.
    pub(super) fn all(&self) -> Vec<TemporaryPort> {
        self.0.iter().map(|(key, until)| described(*key, *until)).collect()
    }
}

// === impl TemporaryPort ===

impl TemporaryPort {
    /// The port states that last, of those that were found.
    #[must_use]
    pub fn lasting(these: &[Self], found: &[RememberedPort]) -> Vec<RememberedPort> {
        let is_one = |it: &&RememberedPort| {
            !these.iter().any(|other| (other.direction, other.port) == (it.direction, it.port))
        };
        let before = these.iter().filter_map(|it| {
            let Self { direction, port, before } = *it;
            Some(RememberedPort { direction, port, state: before? })
        });
        found.iter().filter(is_one).copied().chain(before).collect()
    }
}

// === helpers ===

const fn described((direction, port): (Direction, u16), until: Until) -> TemporaryPort {
    TemporaryPort { direction, port, before: until.before }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUT: Direction = Direction::Outbound;

    #[tokio::test(start_paused = true)]
    async fn a_port_gets_back_what_it_had_before_the_first_change() {
        let mut ports = Temporary::default();
        let after = |seconds| Instant::now() + Duration::from_secs(seconds);
        ports.set(OUT, 80, after(60), Some(PortState::Skip));
        ports.set(OUT, 80, after(90), None);
        ports.set(OUT, 81, after(60), None);
        assert_eq!(ports.left(OUT, 80), Some(Duration::from_secs(90)));
        assert_eq!(ports.left(Direction::Inbound, 80), None);
        assert!(ports.over().is_empty());
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(ports.over().iter().map(|it| it.port).collect::<Vec<_>>(), [81]);
        tokio::time::advance(Duration::from_secs(30)).await;
        let before: Vec<_> = ports.over().iter().map(|it| (it.port, it.before)).collect();
        assert_eq!(before, [(80, Some(PortState::Skip)), (81, None)]);
        assert!(ports.forget(OUT, 80) && !ports.forget(OUT, 80));
        assert!(ports.has(OUT, 81) && !ports.has(OUT, 80));
    }

    /// Guards against a change for ten minutes that a crash makes permanent.
    #[test]
    fn what_does_not_last_is_not_found_again() {
        let port = |port, state| RememberedPort { direction: OUT, port, state };
        let these = [
            TemporaryPort { direction: OUT, port: 80, before: None },
            TemporaryPort { direction: OUT, port: 81, before: Some(PortState::Opaque) },
        ];
        let found =
            [port(80, PortState::Skip), port(81, PortState::Skip), port(82, PortState::Skip)];
        let lasting = [port(82, PortState::Skip), port(81, PortState::Opaque)];
        assert_eq!(TemporaryPort::lasting(&these, &found), lasting);
        let text = serde_json::to_string(&these).unwrap();
        assert_eq!(serde_json::from_str::<Vec<TemporaryPort>>(&text).unwrap(), these);
    }
}
