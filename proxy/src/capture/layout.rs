//! What the maps of the object look like, and whether what is pinned under their names does: a pin
//! can be any object, put there by a mishap or by hand. What does not fit is made anew.

use std::{
    collections::{BTreeMap, HashMap},
    fs, io,
    os::fd::{AsFd, BorrowedFd},
    path::Path,
};

use aya_obj::generated::bpf_map_type;
use weir_common::maps;

use super::{
    CaptureError,
    bpf::{self, MapInfo},
    pinned_links::remove_tree,
    pins::Pins,
    query,
};

/// The maps that the programs of several processes share, by name; each program keeps its own
/// constants, and each process its own [`maps::OF_PROCESS`].
#[derive(Debug)]
pub(super) struct Layouts(BTreeMap<String, Layout>);

/// What fixes how a map is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Layout {
    kind: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    flags: u32,
}

/// The pinned maps as they are in use, by name.
#[derive(Debug)]
pub(super) struct InUse {
    ids: HashMap<String, u32>,
    /// Some were made anew beside others that were not: programs that are attached may use those
    /// before.
    pub(super) remade: bool,
}

// === impl Layouts ===

impl Layouts {
    /// The maps that an object describes.
    ///
    /// # Errors
    /// Where it is no object.
    pub(super) fn of(object: &[u8]) -> Result<Self, CaptureError> {
        let parsed = aya_obj::Object::parse(object).map_err(aya::EbpfError::ParseError)?;
        let is_shared = |name: &str| {
            let own = maps::OF_PROCESS.contains(&name) || maps::OF_TAP.contains(&name);
            !name.starts_with('.') && !own
        };
        let shared = parsed.maps.into_iter().filter(|(name, _)| is_shared(name));
        Ok(Self(shared.map(|(name, map)| (name, Layout::of(&map))).collect()))
    }

    /// Their names.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// How many entries there is room for in a map; 0 where there is none of this name.
    pub(super) fn room(&self, map: &str) -> usize {
        self.0.get(map).map_or(0, |layout| layout.max_entries as usize)
    }

    /// Removes what is pinned under the maps' names and is something else, and says so. Returns
    /// whether any map is missing then that others are there without.
    ///
    /// # Errors
    /// Where something cannot be removed.
    pub(super) fn clear(&self, pins: &Pins) -> Result<bool, CaptureError> {
        let mut found = 0;
        let mut removed = Vec::new();
        for (name, layout) in &self.0 {
            let path = pins.map(name);
            match Layout::of_pin(&path) {
                Ok(pinned) if pinned == *layout => found += 1,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Ok(_) | Err(_) => {
                    remove(&path)?;
                    removed.push(name.as_str());
                }
            }
        }
        if removed.is_empty() && (found == 0 || found == self.0.len()) {
            return Ok(false);
        }
        tracing::warn!(
            removed = removed.join(", "),
            missing = self.0.len() - found - removed.len(),
            path = %pins.root().display(),
            "pinned maps are missing or have another layout; recreated: their content is lost"
        );
        Ok(found > 0)
    }

    /// The maps that are pinned now, all of which fit.
    pub(super) fn in_use(&self, pins: &Pins, remade: bool) -> InUse {
        let id = |name: &str| {
            let map = bpf::open_pinned(&pins.map(name)).ok()?;
            bpf::map_info(map.as_fd()).ok().map(|info| info.id)
        };
        let ids = self.names().filter_map(|name| Some((name.to_owned(), id(name)?))).collect();
        InUse { ids, remade }
    }
}

// === impl Layout ===

impl Layout {
    fn of(map: &aya_obj::Map) -> Self {
        let kind = map.map_type();
        // As the loader has it (aya's `value_size_override`).
        let is_ring = kind == bpf_map_type::BPF_MAP_TYPE_RINGBUF as u32;
        Self {
            kind,
            key_size: map.key_size(),
            value_size: if is_ring { 0 } else { map.value_size() },
            max_entries: map.max_entries(),
            flags: map.map_flags(),
        }
    }

    /// That of a pinned map.
    ///
    /// # Errors
    /// Where there is nothing under this name, or no map.
    fn of_pin(path: &Path) -> io::Result<Self> {
        let object = bpf::open_pinned(path)?;
        let MapInfo { kind, key_size, value_size, max_entries, flags, .. } =
            bpf::map_info(object.as_fd())?;
        Ok(Self { kind, key_size, value_size, max_entries, flags })
    }
}

// === impl InUse ===

impl InUse {
    /// Whether a program uses these maps: none of the same name that is another.
    ///
    /// # Errors
    /// Where the kernel does not tell.
    pub(super) fn is_used_by(&self, link: BorrowedFd<'_>) -> io::Result<bool> {
        let (_, program) = bpf::link_target(link)?;
        for id in query::program(program)?.maps {
            let map = bpf::map_info(bpf::map_by_id(id)?.as_fd())?;
            if self.ids.get(&map.name()).is_some_and(|own| *own != id) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

// === helpers ===

/// Removes whatever has a name.
pub(super) fn remove(path: &Path) -> Result<(), CaptureError> {
    if path.is_dir() {
        remove_tree(path);
    } else {
        let _ = fs::remove_file(path);
    }
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        _ => Err(CaptureError::Pins {
            action: "remove",
            path: path.into(),
            source: io::Error::from_raw_os_error(libc::ENOTEMPTY),
            hint: "; not created by weir: remove it by hand",
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use aya::maps::{Map, MapData};

    use super::*;
    use crate::capture::{Instance, InstanceOptions, bpf};

    fn layouts(instance: &Instance) -> &'static Layouts {
        instance.layouts()
    }

    /// A map that is none of the object's, under the name of one.
    fn pin_another(path: &Path, value_size: u32) {
        let kind = bpf_map_type::BPF_MAP_TYPE_HASH as u32;
        let layout = aya_obj::Map::new_from_params(kind, 4, value_size, 7, 0);
        let map = Map::HashMap(MapData::create(layout, "another", None).unwrap());
        let Map::HashMap(data) = &map else { unreachable!() };
        bpf::pin(data.fd().as_fd(), path).unwrap();
    }

    /// Needs root, as all that makes maps. Guards against a start that uses whatever is pinned.
    #[test]
    fn what_is_pinned_under_a_maps_name_and_does_not_fit_is_removed() {
        let instance = Instance::open(&InstanceOptions::default()).unwrap();
        let (pins, layouts) = (instance.pins(), layouts(&instance));
        let all = layouts.names().count();
        assert_eq!(layouts.in_use(pins, false).ids.len(), all);
        assert!(!layouts.clear(pins).unwrap(), "everything fits");
        assert_eq!(layouts.in_use(pins, false).ids.len(), all);

        let names = [maps::PENDING, maps::HEARTBEAT, maps::LISTENING, maps::PORTS];
        let path = |name: &str| pins.map(name);
        for name in names {
            fs::remove_file(path(name)).unwrap();
        }
        pin_another(&path(maps::PENDING), 8);
        fs::create_dir(path(maps::HEARTBEAT)).unwrap();
        // Another map of the object itself.
        fs::rename(path(maps::WORKLOADS), path(maps::LISTENING)).unwrap();
        assert!(layouts.clear(pins).unwrap(), "others are there");
        assert_eq!(layouts.in_use(pins, true).ids.len(), all - names.len() - 1);
        for name in names {
            assert!(!path(name).exists(), "{name}");
        }
    }

    #[test]
    fn a_map_whose_values_have_another_size_is_not_read_into_ours() {
        let instance = Instance::open(&InstanceOptions::default()).unwrap();
        let path = instance.pins().map(maps::PENDING);
        fs::remove_file(&path).unwrap();
        for (value_size, fits) in [(8, true), (4, false), (64, false)] {
            pin_another(&path, value_size);
            let map = bpf::open_pinned(&path).unwrap();
            assert_eq!(bpf::Taken::<u32, u64>::new(map).is_ok(), fits, "{value_size}");
            fs::remove_file(&path).unwrap();
        }
    }
}
