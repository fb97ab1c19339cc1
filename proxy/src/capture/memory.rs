//! What the kernel has allocated for maps, as it tells of each descriptor: `map_mem_usage` of each kind of map
//! (include/linux/bpf.h; before Linux 6.4 what the map was charged for when it was made).

use std::{
    fs, io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use aya::{
    Ebpf,
    maps::{Map, MapData},
};

/// Maps of this process, by name.
#[derive(Debug, Default)]
pub(super) struct OpenMaps(Vec<(String, OwnedFd)>);

/// What the kernel has allocated for one map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapMemory {
    /// Its name.
    pub name: String,
    /// Bytes now.
    pub bytes: u64,
}

// === impl OpenMaps ===

impl OpenMaps {
    /// Those of a loaded object whose names pass.
    pub(super) fn of(object: &Ebpf, wanted: impl Fn(&str) -> bool) -> Self {
        let wanted = object.maps().filter(|(name, _)| wanted(name));
        let open = wanted.filter_map(|(name, map)| {
            Some((name.to_owned(), data(map)?.fd().as_fd().try_clone_to_owned().ok()?))
        });
        Self(open.collect())
    }

    /// What the kernel tells; nothing of a map that it does not tell of.
    pub(super) fn memory(&self) -> impl Iterator<Item = MapMemory> {
        self.0.iter().filter_map(|(name, map)| {
            let bytes = memory(map.as_fd()).ok()??;
            Some(MapMemory { name: name.trim_start_matches('.').to_owned(), bytes })
        })
    }
}

// === helpers ===

/// `memlock` of a map's descriptor (`bpf_map_show_fdinfo` in kernel/bpf/syscall.c).
fn memory(map: BorrowedFd<'_>) -> io::Result<Option<u64>> {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", map.as_raw_fd()))?;
    let line = info.lines().find_map(|line| line.strip_prefix("memlock:"));
    Ok(line.and_then(|bytes| bytes.trim().parse().ok()))
}

/// Of the kinds of maps that the object has.
const fn data(map: &Map) -> Option<&MapData> {
    match map {
        Map::Array(data)
        | Map::HashMap(data)
        | Map::LpmTrie(data)
        | Map::LruHashMap(data)
        | Map::PerCpuHashMap(data)
        | Map::RingBuf(data)
        | Map::SkStorage(data)
        | Map::SockHash(data) => Some(data),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use weir_common::{Direction, PortState, Source, maps};

    use crate::capture::{Instance, InstanceOptions, WorkloadMaps};

    fn total(instance: &Instance) -> u64 {
        instance.map_memory().iter().map(|map| map.bytes).sum()
    }

    /// Needs root. Guards against tables that are large before there is anything in them.
    #[test]
    fn an_instance_takes_less_than_eight_mebibytes() {
        let instance = Instance::open(&InstanceOptions::default()).unwrap();
        let all = instance.map_memory();
        for name in [maps::PENDING, maps::PORTS, maps::HOLDS, maps::PEERS, maps::LOGS] {
            assert!(all.iter().any(|map| map.name == name), "{name} in {all:?}");
        }
        assert!(all.iter().all(|map| !maps::OF_TAP.contains(&map.name.as_str())), "{all:?}");
        let total = total(&instance);
        assert!((1 << 20..8 << 20).contains(&total), "{total} bytes: {all:?}");
    }

    /// Needs root. Of 10,000 rules in as many blocks as there can be.
    #[test]
    fn scattered_rules_take_no_more_than_those_of_all_ports() {
        let instance = Arc::new(Instance::open(&InstanceOptions::default()).unwrap());
        let workload = WorkloadMaps::new(Arc::clone(&instance), 1, true);
        let before = total(&instance);
        for port in 0..512 {
            let set = (Direction::Outbound, port * 128, PortState::Skip, Source::Cli, false);
            workload.ports.set(set.0, set.1, set.2, set.3, set.4).unwrap();
        }
        let scattered = total(&instance) - before;
        assert!((1..=128 << 10).contains(&scattered), "{scattered}");
        for port in 1..128 {
            workload
                .ports
                .set(Direction::Outbound, port, PortState::Skip, Source::Cli, false)
                .unwrap();
        }
        assert_eq!(total(&instance) - before, scattered);
    }
}
