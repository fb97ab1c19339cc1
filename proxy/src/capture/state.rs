//! A workload's description where it outlives the process: a BPF array of its own, as long as what
//! is in it, pinned under the workload's number.
//!
//! The array is filled before it gets that name, which rename(2) takes from the one before. So what
//! is found under it is one description or the other, and whole, whenever weir was killed.

use std::{
    fs, io,
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use aya::maps::{Array, IterableMap, Map, MapData, MapError};
use aya_obj::generated::bpf_map_type::BPF_MAP_TYPE_ARRAY;
use weir_common::WorkloadId;

use super::{CaptureError, bpf, error::into_io};

/// Bytes of an element: aya wants to know them when it is compiled.
const ELEMENT_BYTES: usize = 4096;
/// As `bpftool map` shows it.
const NAME: &str = "weir_state";

type Element = [u8; ELEMENT_BYTES];

/// Keeps a description under the number of its workload, in place of the one before.
pub(super) fn write(
    directory: &Path,
    workload: WorkloadId,
    description: &[u8],
) -> Result<(), CaptureError> {
    let map = filled(description).map_err(CaptureError::map("write", NAME))?;
    let (name, new) = names(directory, workload);
    put(&map, &new).and_then(|()| fs::rename(&new, &name)).map_err(|source| CaptureError::Pins {
        action: "write",
        path: name,
        source,
        hint: "",
    })
}

/// The descriptions that are kept in a directory, by workload; none where it is not there.
pub(super) fn read(directory: &Path) -> Vec<(WorkloadId, Vec<u8>)> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let mut found = Vec::new();
    for path in entries.filter_map(Result::ok).map(|entry| entry.path()) {
        // What has another name was never finished.
        let name = path.file_name().and_then(|name| name.to_str());
        let Some(workload) = name.and_then(|name| name.parse().ok()) else { continue };
        match content(&path) {
            Ok(description) => found.push((workload, description)),
            Err(error) => tracing::warn!(%error, path = %path.display(), "cannot read the \
                 description of a workload"),
        }
    }
    found.sort_unstable();
    found
}

/// Removes a workload's description.
pub(super) fn remove(directory: &Path, workload: WorkloadId) {
    let (name, new) = names(directory, workload);
    let _ = fs::remove_file(name);
    let _ = fs::remove_file(new);
}

/// Removes every description that is kept in a directory.
pub(super) fn clear(directory: &Path) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.filter_map(Result::ok) {
        let _ = fs::remove_file(entry.path());
    }
}

// === helpers ===

/// The name of a description, and that of one that is being written. A bpffs allows no dots.
fn names(directory: &Path, workload: WorkloadId) -> (PathBuf, PathBuf) {
    (directory.join(workload.to_string()), directory.join(format!("{workload}-new")))
}

/// Pins an array, in place of what a weir that was killed has left.
fn put(map: &Array<MapData, Element>, path: &Path) -> io::Result<()> {
    let _ = fs::remove_file(path);
    bpf::pin(IterableMap::map(map).fd().as_fd(), path)
}

fn filled(description: &[u8]) -> Result<Array<MapData, Element>, MapError> {
    let elements = elements(description);
    let (key, value) = (size_of::<u32>() as u32, ELEMENT_BYTES as u32);
    let array = BPF_MAP_TYPE_ARRAY as u32;
    let layout = aya_obj::Map::new_from_params(array, key, value, elements.len() as u32, 0);
    let mut map = Array::try_from(Map::Array(MapData::create(layout, NAME, None)?))?;
    for (index, element) in (0..).zip(&elements) {
        map.set(index, element, 0)?;
    }
    Ok(map)
}

fn content(path: &Path) -> io::Result<Vec<u8>> {
    let elements = MapData::from_pin(path)
        .and_then(|data| Array::<_, Element>::try_from(Map::Array(data)))
        .and_then(|map| map.iter().collect::<Result<Vec<_>, _>>())
        .map_err(into_io)?;
    description(&elements).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Its length, itself, and zeros up to the end of an element.
fn elements(description: &[u8]) -> Vec<Element> {
    let length = (description.len() as u64).to_le_bytes();
    let mut bytes = [&length, description].concat();
    bytes.resize(bytes.len().next_multiple_of(ELEMENT_BYTES), 0);
    bytes.as_chunks().0.to_vec()
}

/// `None` where there is less than the length says.
fn description(elements: &[Element]) -> Option<Vec<u8>> {
    let (length, bytes) = elements.as_flattened().split_first_chunk()?;
    let length = usize::try_from(u64::from_le_bytes(*length)).ok()?;
    bytes.get(..length).map(<[u8]>::to_vec)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::pins::Pins;

    const LENGTH_BYTES: usize = size_of::<u64>();

    /// No two elements of it are the same.
    fn long(bytes: usize) -> Vec<u8> {
        (0..bytes).map(|at| (at ^ (at >> 8) ^ (at >> 16)) as u8).collect()
    }

    #[test]
    fn every_length_comes_back() {
        let edge = ELEMENT_BYTES - LENGTH_BYTES;
        for bytes in [0, 1, edge - 1, edge, edge + 1, 2 * ELEMENT_BYTES, 3_000_001] {
            let elements = elements(&long(bytes));
            assert_eq!(elements.len(), (bytes + LENGTH_BYTES).div_ceil(ELEMENT_BYTES), "{bytes}");
            assert_eq!(description(&elements), Some(long(bytes)), "{bytes}");
        }
    }

    #[test]
    fn what_is_shorter_than_its_length_is_none() {
        let whole = elements(&long(3 * ELEMENT_BYTES));
        for present in 0..whole.len() {
            assert_eq!(description(&whole[..present]), None, "{present} elements");
        }
    }

    /// Needs root, as all that makes maps.
    #[test]
    fn descriptions_are_replaced_as_a_whole() -> Result<(), CaptureError> {
        let pins = Pins::private()?;
        let directory = pins.state();
        assert_eq!(read(&directory), []);
        write(&directory, 7, &long(2_000_000))?;
        write(&directory, 3, b"another")?;
        assert_eq!(read(&directory), [(3, b"another".to_vec()), (7, long(2_000_000))]);
        for bytes in [5, 500_000, 0] {
            write(&directory, 7, &long(bytes))?;
            assert_eq!(read(&directory)[1], (7, long(bytes)));
        }
        remove(&directory, 7);
        assert_eq!(read(&directory), [(3, b"another".to_vec())]);
        Ok(())
    }

    /// Guards against a mix of two descriptions after a kill in the middle of writing.
    #[test]
    fn what_was_not_finished_is_not_found() -> Result<(), CaptureError> {
        let pins = Pins::private()?;
        let directory = pins.state();
        let (before, after) = (long(10_000), vec![b'x'; 20_000]);
        write(&directory, 1, &before)?;
        let torn = filled(&after).expect("root may make maps");
        put(&torn, &names(&directory, 1).1).expect("root may pin them");
        assert_eq!(read(&directory), [(1, before)]);
        // Nor is it in the way of the next one, or left behind.
        write(&directory, 1, &after)?;
        assert_eq!(read(&directory), [(1, after)]);
        put(&torn, &names(&directory, 1).1).expect("root may pin them");
        remove(&directory, 1);
        assert_eq!(fs::read_dir(&directory).expect("it is there").count(), 0);
        Ok(())
    }
}
