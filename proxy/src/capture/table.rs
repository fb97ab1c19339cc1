//! BPF maps as several threads of userspace use them.

use std::sync::Mutex;

use aya::{
    Ebpf, Pod,
    maps::{HashMap, LpmTrie, MapData, MapError, lpm_trie::Key},
};
use weir_common::{PrefixKey, WorkloadId};

use super::CaptureError;
pub(super) use crate::sync::lock;

/// Flag of a map update (`include/uapi/linux/bpf.h`).
pub(super) const BPF_NOEXIST: u64 = 1;

/// A hash map that several threads may change.
pub(super) struct Table<K: Pod, V: Pod> {
    name: &'static str,
    map: Mutex<HashMap<MapData, K, V>>,
}

/// A longest-prefix-match map with keys of full length only: a table that takes memory for the entries that
/// are there, not for those that it has room for.
pub(super) struct Sparse<K: Pod, V: Pod> {
    name: &'static str,
    map: Mutex<LpmTrie<MapData, K, V>>,
}

/// A longest-prefix-match map whose keys begin with the workload.
pub(super) struct Prefixes<V: Pod> {
    name: &'static str,
    map: Mutex<LpmTrie<MapData, PrefixKey, V>>,
}

// === impl Table ===

impl<K: Pod, V: Pod> Table<K, V> {
    pub(super) fn take(ebpf: &mut Ebpf, name: &'static str) -> Result<Self, CaptureError> {
        Ok(Self { name, map: Mutex::new(take(ebpf, name)?) })
    }

    pub(super) fn insert(&self, key: &K, value: &V) -> Result<(), CaptureError> {
        lock(&self.map).insert(key, value, 0).map_err(CaptureError::map("write", self.name))
    }

    /// As [`Self::insert`]; false where there is no room for another entry.
    pub(super) fn insert_if_room(&self, key: &K, value: &V) -> Result<bool, CaptureError> {
        match lock(&self.map).insert(key, value, 0) {
            Err(MapError::SyscallError(error))
                if error.io_error.raw_os_error() == Some(libc::E2BIG) =>
            {
                Ok(false)
            }
            result => result.map(|()| true).map_err(CaptureError::map("write", self.name)),
        }
    }

    /// Puts in the place of a value what `change` makes of it; `None` stands for no entry. One at a time.
    pub(super) fn change(
        &self,
        key: &K,
        change: impl FnOnce(Option<V>) -> Option<V>,
    ) -> Result<(), CaptureError> {
        let mut map = lock(&self.map);
        let before = match map.get(key, 0) {
            Ok(value) => Some(value),
            Err(MapError::KeyNotFound) => None,
            Err(error) => return Err(CaptureError::map("read", self.name)(error)),
        };
        match change(before) {
            Some(value) => map.insert(key, value, 0).map_err(CaptureError::map("write", self.name)),
            None => absent_is_fine(map.remove(key), self.name),
        }
    }

    /// Adds an entry unless there is one: replacing it would take the place of one that a program is
    /// just counting in.
    pub(super) fn add(&self, key: &K, value: &V) -> Result<(), CaptureError> {
        match lock(&self.map).insert(key, value, BPF_NOEXIST) {
            Err(MapError::SyscallError(error))
                if error.io_error.raw_os_error() == Some(libc::EEXIST) =>
            {
                Ok(())
            }
            result => result.map_err(CaptureError::map("write", self.name)),
        }
    }

    pub(super) fn get(&self, key: &K) -> Result<Option<V>, CaptureError> {
        match lock(&self.map).get(key, 0) {
            Ok(value) => Ok(Some(value)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(CaptureError::map("read", self.name)(error)),
        }
    }

    pub(super) fn remove(&self, key: &K) -> Result<(), CaptureError> {
        absent_is_fine(lock(&self.map).remove(key), self.name)
    }

    /// Every key.
    pub(super) fn keys(&self) -> Vec<K> {
        lock(&self.map).keys().filter_map(Result::ok).collect()
    }

    /// Every entry whose key passes. Reads the whole map: not for a path that connections take.
    pub(super) fn entries(&self, wanted: impl Fn(&K) -> bool) -> Vec<(K, V)> {
        let map = lock(&self.map);
        let keys = map.keys().filter_map(Result::ok).filter(wanted);
        // A value is a system call more, and mostly others' keys are in there.
        keys.filter_map(|key| Some((key, map.get(&key, 0).ok()?))).collect()
    }
}

// === impl Sparse ===

impl<K: Pod, V: Pod> Sparse<K, V> {
    const BITS: u32 = 8 * size_of::<K>() as u32;

    pub(super) fn take(ebpf: &mut Ebpf, name: &'static str) -> Result<Self, CaptureError> {
        Ok(Self { name, map: Mutex::new(take(ebpf, name)?) })
    }

    pub(super) fn insert(&self, key: &K, value: &V) -> Result<(), CaptureError> {
        lock(&self.map)
            .insert(&Self::full(key), *value, 0)
            .map_err(CaptureError::map("write", self.name))
    }

    pub(super) fn get(&self, key: &K) -> Result<Option<V>, CaptureError> {
        match lock(&self.map).get(&Self::full(key), 0) {
            Ok(value) => Ok(Some(value)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(CaptureError::map("read", self.name)(error)),
        }
    }

    pub(super) fn remove(&self, key: &K) -> Result<(), CaptureError> {
        absent_is_fine(lock(&self.map).remove(&Self::full(key)), self.name)
    }

    /// Every key.
    pub(super) fn keys(&self) -> Vec<K> {
        lock(&self.map).keys().filter_map(Result::ok).map(|key| key.data()).collect()
    }

    /// Every key that passes. Reads all of them.
    pub(super) fn keys_of(&self, wanted: impl Fn(&K) -> bool) -> Vec<K> {
        self.keys().into_iter().filter(wanted).collect()
    }

    fn full(key: &K) -> Key<K> {
        Key::new(Self::BITS, *key)
    }
}

// === impl Prefixes ===

impl<V: Pod> Prefixes<V> {
    pub(super) fn take(ebpf: &mut Ebpf, name: &'static str) -> Result<Self, CaptureError> {
        Ok(Self { name, map: Mutex::new(take(ebpf, name)?) })
    }

    /// `bits` counts from the start of the 128-bit address.
    pub(super) fn insert(&self, key: PrefixKey, bits: u32, value: V) -> Result<(), CaptureError> {
        lock(&self.map)
            .insert(&Key::new(PrefixKey::WORKLOAD_BITS + bits, key), value, 0)
            .map_err(CaptureError::map("write", self.name))
    }

    pub(super) fn remove(&self, key: PrefixKey, bits: u32) -> Result<(), CaptureError> {
        let key = Key::new(PrefixKey::WORKLOAD_BITS + bits, key);
        absent_is_fine(lock(&self.map).remove(&key), self.name)
    }

    pub(super) fn longest(&self, key: PrefixKey) -> Result<Option<V>, CaptureError> {
        match lock(&self.map).get(&Key::new(PrefixKey::BITS, key), 0) {
            Ok(value) => Ok(Some(value)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(CaptureError::map("read", self.name)(error)),
        }
    }

    /// The entries of the workloads that pass, each with its length in bits from the start of the
    /// address. Reads the whole map.
    pub(super) fn entries(&self, wanted: impl Fn(WorkloadId) -> bool) -> Vec<(PrefixKey, u32, V)> {
        let map = lock(&self.map);
        let keys = map.keys().filter_map(Result::ok);
        keys.filter(|key| wanted(WorkloadId::from_be_bytes(key.data().workload_be)))
            .filter_map(|key| {
                let value = map.get(&key, 0).ok()?;
                Some((key.data(), key.prefix_len() - PrefixKey::WORKLOAD_BITS, value))
            })
            .collect()
    }
}

// === helpers ===

/// Moves a map out of the object, as the type that userspace uses it by.
pub(super) fn take<T>(ebpf: &mut Ebpf, name: &'static str) -> Result<T, CaptureError>
where
    T: TryFrom<aya::maps::Map, Error = MapError>,
{
    let map = ebpf.take_map(name).ok_or(CaptureError::Missing(name))?;
    T::try_from(map).map_err(CaptureError::map("open", name))
}

/// Taking away what is not there is done already.
pub(super) fn absent_is_fine(
    result: Result<(), MapError>,
    name: &'static str,
) -> Result<(), CaptureError> {
    match result {
        Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(e)) if e.io_error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        Err(error) => Err(CaptureError::map("delete from", name)(error)),
    }
}
