//! Which state each port of a workload is in, and who said so. Pure: `capture` mirrors the result
//! into the kernel's maps.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use weir_common::{Direction, PortState, Source};

use super::{DEFAULT_OPAQUE_PORTS, PortSet};
use crate::names;

/// The lists of one direction, already resolved against the defaults.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicyInput {
    /// Ports that the kernel lets pass.
    pub skip: PortSet,
    /// Ports proxied without detection.
    pub opaque: PortSet,
    /// If not empty, only these ports are captured.
    pub include: PortSet,
}

/// What one port's connections get.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortStatus {
    /// The state.
    #[serde(with = "names::state")]
    pub state: PortState,
    /// Who said so.
    #[serde(with = "names::source")]
    pub source: Source,
    /// False if there is an include list that the port is not on: the kernel lets it pass.
    pub included: bool,
}

/// One port whose status is another one now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortChange {
    /// The direction.
    #[serde(with = "names::direction")]
    pub direction: Direction,
    /// The port.
    pub port: u16,
    /// What it was.
    pub before: PortStatus,
    /// What it is.
    pub after: PortStatus,
}

/// A change of port states.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PortsSet {
    /// `None` for both.
    #[serde(default, with = "names::direction::optional")]
    pub direction: Option<Direction>,
    /// The ports.
    pub ports: PortSet,
    /// Their new state.
    #[serde(with = "names::state")]
    pub state: PortState,
}

/// Both directions of one workload. A port is in exactly one state in each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortPolicy {
    outbound: Table,
    inbound: Table,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Table {
    /// Ports that a rule names; all others are detect by default.
    rules: BTreeMap<u16, (PortState, Source)>,
    include: PortSet,
}

// === impl PortsSet ===

impl PortsSet {
    /// The directions that are meant.
    pub fn directions(&self) -> impl Iterator<Item = Direction> + use<> {
        let all = [Direction::Outbound, Direction::Inbound];
        let only = self.direction;
        all.into_iter().filter(move |direction| only.is_none_or(|only| only == *direction))
    }
}

// === impl PortPolicy ===

impl PortPolicy {
    /// The policy of these lists. A port that is on both lists is skipped: that is what Linkerd
    /// does, and what an opaque list for both directions beside a skip list for one must mean.
    /// `source` is who says what differs from the defaults.
    #[must_use]
    pub fn new(outbound: PolicyInput, inbound: PolicyInput, source: Source) -> Self {
        Self { outbound: Table::new(outbound, source), inbound: Table::new(inbound, source) }
    }

    /// This policy with the ports that were set at run time (`weir ports`) in another.
    #[must_use]
    pub fn with_ports_set_in(mut self, other: &Self) -> Self {
        for (mine, theirs) in
            [(&mut self.outbound, &other.outbound), (&mut self.inbound, &other.inbound)]
        {
            let set = theirs.rules.iter().filter(|(_, (_, source))| *source == Source::Cli);
            mine.rules.extend(set.map(|(port, rule)| (*port, *rule)));
        }
        self
    }

    /// What connections to this port get.
    #[must_use]
    pub fn get(&self, direction: Direction, port: u16) -> PortStatus {
        self.table(direction).get(port)
    }

    /// True if only the ports of an include list are captured.
    #[must_use]
    pub fn has_include_list(&self, direction: Direction) -> bool {
        !self.table(direction).include.is_empty()
    }

    /// Every port that differs from "detect by default": the ones the kernel needs a rule for.
    pub fn rules(&self, direction: Direction) -> impl Iterator<Item = (u16, PortStatus)> + '_ {
        let table = self.table(direction);
        let ports: PortSet = table.rules.keys().copied().collect();
        let ports: Vec<u16> = ports.union(&table.include).iter().collect();
        ports.into_iter().map(|port| (port, table.get(port)))
    }

    /// How many rules the kernel needs for it.
    #[must_use]
    pub fn len(&self) -> usize {
        let rules = |table: &Table| {
            let of_list = table.include.iter().filter(|port| !table.rules.contains_key(port));
            table.rules.len() + of_list.count()
        };
        rules(&self.outbound) + rules(&self.inbound)
    }

    /// True where no port has a rule.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Puts ports into a state and returns those whose status changed, ascending.
    pub fn set(
        &mut self,
        direction: Direction,
        ports: &PortSet,
        state: PortState,
        source: Source,
    ) -> Vec<PortChange> {
        let table = match direction {
            Direction::Outbound => &mut self.outbound,
            Direction::Inbound => &mut self.inbound,
        };
        let mut changes = Vec::new();
        for port in ports.iter() {
            let before = table.get(port);
            if before.state != state {
                table.rules.insert(port, (state, source));
                changes.push(PortChange { direction, port, before, after: table.get(port) });
            }
        }
        changes
    }

    fn table(&self, direction: Direction) -> &Table {
        match direction {
            Direction::Outbound => &self.outbound,
            Direction::Inbound => &self.inbound,
        }
    }
}

// === impl Table ===

impl Table {
    fn new(input: PolicyInput, by: Source) -> Self {
        let mut rules = BTreeMap::new();
        for port in input.opaque.iter() {
            let source = if is_default_opaque(port) { Source::Default } else { by };
            rules.insert(port, (PortState::Opaque, source));
        }
        for port in DEFAULT_OPAQUE_PORTS.into_iter().filter(|port| !input.opaque.contains(*port)) {
            // The defaults were replaced: that this port is detected is the config's doing.
            rules.insert(port, (PortState::Detect, by));
        }
        for port in input.skip.iter() {
            rules.insert(port, (PortState::Skip, by));
        }
        Self { rules, include: input.include }
    }

    fn get(&self, port: u16) -> PortStatus {
        let (state, source) =
            self.rules.get(&port).copied().unwrap_or((PortState::Detect, Source::Default));
        PortStatus {
            state,
            source,
            included: self.include.is_empty() || self.include.contains(port),
        }
    }
}

fn is_default_opaque(port: u16) -> bool {
    DEFAULT_OPAQUE_PORTS.contains(&port)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports(list: &str) -> PortSet {
        super::super::PortList::parse(list).unwrap().set
    }

    fn policy() -> PortPolicy {
        let opaque: PortSet = DEFAULT_OPAQUE_PORTS.into_iter().collect();
        PortPolicy::new(
            PolicyInput {
                skip: ports("3306,4406"),
                opaque: opaque.union(&ports("4406,9000")),
                include: PortSet::default(),
            },
            PolicyInput { opaque, include: ports("80"), ..PolicyInput::default() },
            Source::Config,
        )
    }

    #[test]
    fn skip_wins_over_opaque_and_names_its_source() {
        let policy = policy();
        let status = |port| {
            let PortStatus { state, source, .. } = policy.get(Direction::Outbound, port);
            (state, source)
        };
        assert_eq!(status(3306), (PortState::Skip, Source::Config));
        assert_eq!(status(4406), (PortState::Skip, Source::Config));
        assert_eq!(status(9000), (PortState::Opaque, Source::Config));
        assert_eq!(status(25), (PortState::Opaque, Source::Default));
        assert_eq!(status(80), (PortState::Detect, Source::Default));
    }

    #[test]
    fn include_list_excludes_every_other_port() {
        let policy = policy();
        assert!(policy.get(Direction::Inbound, 80).included);
        assert!(!policy.get(Direction::Inbound, 81).included);
        assert!(policy.get(Direction::Outbound, 81).included);
        assert!(policy.rules(Direction::Inbound).any(|(port, s)| port == 80 && s.included));
    }

    #[test]
    fn what_was_set_at_run_time_outlives_other_lists() {
        let mut before = policy();
        before.set(Direction::Outbound, &ports("80"), PortState::Skip, Source::Cli);
        let none = || PolicyInput::default();
        let after = PortPolicy::new(none(), none(), Source::Annotation).with_ports_set_in(&before);
        let status = after.get(Direction::Outbound, 80);
        assert_eq!((status.state, status.source), (PortState::Skip, Source::Cli));
        assert_eq!(after.get(Direction::Outbound, 9000).state, PortState::Detect);
        assert_eq!(after.get(Direction::Outbound, 25).source, Source::Annotation);
    }

    #[test]
    fn set_reports_only_what_changed() {
        let mut policy = policy();
        let set = ports("80,3306");
        let changes = policy.set(Direction::Outbound, &set, PortState::Skip, Source::Cli);
        assert_eq!(changes.iter().map(|c| c.port).collect::<Vec<_>>(), [80]);
        assert_eq!(changes[0].before.state, PortState::Detect);
        assert_eq!(changes[0].after.source, Source::Cli);
        assert_eq!(policy.get(Direction::Inbound, 80).state, PortState::Detect);
        assert!(policy.set(Direction::Outbound, &set, PortState::Skip, Source::Cli).is_empty());
        policy.set(Direction::Outbound, &set, PortState::Detect, Source::Cli);
        assert_eq!(policy.get(Direction::Outbound, 3306).state, PortState::Detect);
    }
}
