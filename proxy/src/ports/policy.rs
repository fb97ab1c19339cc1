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
    /// For how long, in seconds; absent for a change that lasts.
    #[serde(default, rename = "for_s", skip_serializing_if = "Option::is_none")]
    pub lifetime_s: Option<u64>,
}

/// Puts ports back to what the configuration says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PortsReset {
    /// `None` for both.
    #[serde(default, with = "names::direction::optional")]
    pub direction: Option<Direction>,
    /// `None` for all.
    #[serde(default)]
    pub ports: Option<PortSet>,
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
        directions(self.direction)
    }
}

// === impl PortsReset ===

impl PortsReset {
    /// The directions that are meant.
    pub fn directions(&self) -> impl Iterator<Item = Direction> + use<> {
        directions(self.direction)
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
        let table = self.table_mut(direction);
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

    /// The state that was set at run time (`weir ports`), if one was.
    #[must_use]
    pub fn set_at_run_time(&self, direction: Direction, port: u16) -> Option<PortState> {
        let (state, source) = *self.table(direction).rules.get(&port)?;
        (source == Source::Cli).then_some(state)
    }

    /// The ports whose state was set at run time.
    pub fn run_time_ports(&self, direction: Direction) -> impl Iterator<Item = u16> + '_ {
        let rules = self.table(direction).rules.iter();
        rules.filter(|(_, (_, source))| *source == Source::Cli).map(|(port, _)| *port)
    }

    /// Gives a port the state that was set at run time before, or what another policy has, and
    /// returns the change, if it is one.
    pub fn put_back(
        &mut self,
        direction: Direction,
        port: u16,
        state: Option<PortState>,
        configured: &Self,
    ) -> Option<PortChange> {
        let before = self.get(direction, port);
        let rule = match state {
            Some(state) => Some((state, Source::Cli)),
            None => configured.table(direction).rules.get(&port).copied(),
        };
        let table = self.table_mut(direction);
        match rule {
            Some(rule) => drop(table.rules.insert(port, rule)),
            None => drop(table.rules.remove(&port)),
        }
        let after = self.get(direction, port);
        (before != after).then_some(PortChange { direction, port, before, after })
    }

    /// The ports whose status is another one than in the other policy, ascending, with the other's
    /// status.
    pub fn difference<'a>(
        &'a self,
        direction: Direction,
        other: &'a Self,
    ) -> impl Iterator<Item = (u16, PortStatus)> + 'a {
        let ports: PortSet = self.rules(direction).map(|(port, _)| port).collect();
        let ports = ports.union(&other.rules(direction).map(|(port, _)| port).collect());
        let all: Vec<u16> = ports.iter().collect();
        all.into_iter().filter_map(move |port| {
            let status = other.get(direction, port);
            (self.get(direction, port) != status).then_some((port, status))
        })
    }

    fn table_mut(&mut self, direction: Direction) -> &mut Table {
        match direction {
            Direction::Outbound => &mut self.outbound,
            Direction::Inbound => &mut self.inbound,
        }
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

fn directions(only: Option<Direction>) -> impl Iterator<Item = Direction> + use<> {
    let all = [Direction::Outbound, Direction::Inbound];
    all.into_iter().filter(move |direction| only.is_none_or(|only| only == *direction))
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
    fn ports_get_back_what_the_configuration_says() {
        let configured = policy();
        let mut policy = configured.clone();
        let (out, set) = (Direction::Outbound, ports("25,80,3306"));
        policy.set(out, &set, PortState::Detect, Source::Cli);
        policy.set(out, &ports("80"), PortState::Skip, Source::Cli);
        assert_eq!(policy.run_time_ports(out).collect::<Vec<_>>(), [25, 80, 3306]);
        let states: Vec<_> =
            policy.difference(out, &configured).map(|(port, it)| (port, it.state)).collect();
        let expected = [(25, PortState::Opaque), (80, PortState::Detect), (3306, PortState::Skip)];
        assert_eq!(states, expected);
        assert_eq!(policy.difference(Direction::Inbound, &configured).count(), 0);
        let change = policy.put_back(out, 80, Some(PortState::Opaque), &configured).unwrap();
        assert_eq!((change.before.state, change.after.state), (PortState::Skip, PortState::Opaque));
        assert_eq!(policy.set_at_run_time(out, 80), Some(PortState::Opaque));
        for port in [25, 80, 3306] {
            assert!(policy.put_back(out, port, None, &configured).is_some());
            assert!(policy.put_back(out, port, None, &configured).is_none());
        }
        assert_eq!(policy, configured);
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
