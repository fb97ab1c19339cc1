//! What is found again after a restart: which workloads there were, in a form that only userspace
//! understands, and the port states that were set with `weir ports`.
//!
//! Both are in pinned maps, descriptions in one each (`state.rs`). The maps of a weir with another
//! schema are read too: of descriptions there has only ever been one layout, of port rules two.

use std::{collections::HashMap, os::fd::AsFd, path::Path};

use aya::{
    Pod,
    maps::{HashMap as BpfHashMap, Map, MapData},
};
use weir_common::{
    Direction, PORT_BLOCK, PortBlock, PortBlockKey, PortKey, PortRule, PortState, Source,
    WorkloadId, maps,
};

use super::{Instance, bpf, pins, state};

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
    for (key, rule) in port_rules(schema) {
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

/// The rules of ports, also of a weir that had an entry of four bytes for each: state, source, whether it
/// is included, and none.
fn port_rules(schema: &Path) -> Vec<(PortKey, PortRule)> {
    let path = schema.join("maps").join(maps::PORTS);
    let value_size = bpf::open_pinned(&path)
        .and_then(|map| bpf::map_info(map.as_fd()))
        .map_or(0, |info| info.value_size as usize);
    if value_size == size_of::<OldPortRule>() {
        let old = entries::<PortKey, OldPortRule>(schema, maps::PORTS).into_iter();
        let rule = |[state, source, included, _]: OldPortRule| PortRule { state, source, included };
        return old.map(|(key, old)| (key, rule(old))).collect();
    }
    let blocks = entries::<PortBlockKey, PortBlock>(schema, maps::PORTS).into_iter();
    blocks.flat_map(|(key, block)| rules_of(key, block)).collect()
}

type OldPortRule = [u8; 4];

fn rules_of(key: PortBlockKey, block: PortBlock) -> impl Iterator<Item = (PortKey, PortRule)> {
    let PortBlockKey { workload, block: number, direction, _pad } = key;
    (0..PORT_BLOCK).filter_map(move |place| {
        let port = number.checked_mul(PORT_BLOCK)?.checked_add(place)?;
        let rule = block.rule(port);
        let key = PortKey { workload, port, direction, _pad };
        (rule != PortRule::default()).then_some((key, rule))
    })
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

#[cfg(test)]
mod tests {
    use aya_obj::generated::bpf_map_type::BPF_MAP_TYPE_HASH;

    use super::*;
    use crate::capture::pins::Pins;

    fn pin<K: Pod, V: Pod>(path: &Path, entries: &[(K, V)]) {
        let (key, value) = (size_of::<K>() as u32, size_of::<V>() as u32);
        let layout = aya_obj::Map::new_from_params(BPF_MAP_TYPE_HASH as u32, key, value, 64, 0);
        let data = MapData::create(layout, "test", None).unwrap();
        bpf::pin(data.fd().as_fd(), path).unwrap();
        let mut map = BpfHashMap::<_, K, V>::try_from(Map::HashMap(data)).unwrap();
        entries.iter().for_each(|(key, value)| map.insert(key, value, 0).unwrap());
    }

    /// Needs root. Guards against an upgrade that loses what was set at run time.
    #[test]
    fn ports_set_at_run_time_are_found_in_both_layouts() {
        let pins = Pins::private().unwrap();
        let (schema, path) = (pins.own_schema(), pins.map(maps::PORTS));
        let (skip, cli) = (PortState::Skip, Source::Cli);
        let found = || recall(&schema).ports.remove(&7).unwrap_or_default();
        let expected =
            RememberedPort { direction: Direction::Inbound, port: 8_443, state: PortState::Skip };
        assert_eq!(found(), []);

        let key = |port| PortKey::new(7, Direction::Inbound, port);
        let config = [skip as u8, Source::Config as u8, 1, 0];
        pin(&path, &[(key(8_443), [skip as u8, cli as u8, 1, 0]), (key(80), config)]);
        assert_eq!(found(), [expected]);

        std::fs::remove_file(&path).unwrap();
        let mut block = PortBlock::EMPTY;
        let rule = |source| PortRule { state: skip as u8, source: source as u8, included: 1 };
        block.set(8_443, rule(cli));
        block.set(8_444, rule(Source::Config));
        pin(&path, &[(PortBlockKey::of(7, Direction::Inbound, 8_443), block)]);
        assert_eq!(found(), [expected]);
    }
}
