//! What is found again after a restart: which workloads there were, in a form that only userspace
//! understands, and the port states that were set with `weir ports`.
//!
//! Both are in pinned maps, descriptions in one each (`state.rs`). The maps of a weir with another
//! schema are read too: their layout has only ever been this one.

use std::{collections::HashMap, path::Path};

use aya::{
    Pod,
    maps::{HashMap as BpfHashMap, Map, MapData},
};
use weir_common::{Direction, PortKey, PortRule, PortState, Source, WorkloadId, maps};

use super::{Instance, pins, state};

/// A port state that was set on a running weir.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RememberedPort {
    /// Seen from the workload.
    pub direction: Direction,
    /// The port.
    pub port: u16,
    /// Its state.
    pub state: PortState,
}

/// What an earlier weir has left.
#[derive(Clone, Debug, Default)]
pub struct Remembered {
    /// What [`WorkloadMaps::remember`](super::WorkloadMaps::remember) was given, by workload.
    pub workloads: Vec<(WorkloadId, Vec<u8>)>,
    /// Port changes, by workload.
    pub ports: HashMap<WorkloadId, Vec<RememberedPort>>,
    /// It is in the maps that this weir uses too.
    pub same_maps: bool,
    /// The workloads of which these maps hold anything: besides those of `workloads`, what a weir has
    /// left here that was replaced by one with other maps.
    pub here: Vec<WorkloadId>,
}

// === impl Instance ===

impl Instance {
    /// What there was before: in this schema's maps, or else in those of another one.
    #[must_use]
    pub fn recall(&self) -> Remembered {
        let own = recall(&self.pins.own_schema());
        let mut here = self.workloads.keys();
        if !own.workloads.is_empty() {
            here.extend(own.workloads.iter().map(|(id, _)| *id));
            here.sort_unstable();
            here.dedup();
            return Remembered { same_maps: true, here, ..own };
        }
        let others = self.pins.other_schemas();
        let found = others.iter().map(|schema| recall(schema)).find(|it| !it.workloads.is_empty());
        Remembered { here, ..found.unwrap_or(own) }
    }

    /// Forgets what weirs with other maps were told to capture: this one has taken it over. They may
    /// still be draining, and with their maps comes the next one to find it, after an upgrade back.
    pub fn disown_other_schemas(&self) {
        for schema in self.pins.other_schemas() {
            state::clear(&pins::state(&schema));
        }
    }
}

// === helpers ===

/// What the maps in a schema's directory hold; nothing where they are not to be read.
pub(super) fn recall(schema: &Path) -> Remembered {
    let workloads = state::read(&pins::state(schema));
    let mut remembered = Remembered { workloads, ..Remembered::default() };
    for (key, rule) in entries::<PortKey, PortRule>(schema, maps::PORTS) {
        let direction = if key.direction == Direction::Inbound as u8 {
            Direction::Inbound
        } else {
            Direction::Outbound
        };
        if let (Some(Source::Cli), Some(state)) =
            (Source::from_u8(rule.source), PortState::from_u8(rule.state))
        {
            remembered.ports.entry(key.workload).or_default().push(RememberedPort {
                direction,
                port: key.port,
                state,
            });
        }
    }
    remembered
}

fn entries<K: Pod, V: Pod>(schema: &Path, name: &str) -> Vec<(K, V)> {
    let Ok(data) = MapData::from_pin(schema.join("maps").join(name)) else { return Vec::new() };
    match BpfHashMap::<_, K, V>::try_from(Map::HashMap(data)) {
        Ok(map) => map.iter().filter_map(Result::ok).collect(),
        Err(error) => {
            tracing::warn!(map = name, %error, "a map of an earlier weir has another layout");
            Vec::new()
        }
    }
}
