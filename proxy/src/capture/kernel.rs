//! The loaded BPF object: its maps, and its programs not yet attached.

use std::{
    borrow::Cow,
    sync::{Mutex, MutexGuard, PoisonError},
};

use aya::{
    Ebpf, EbpfLoader, Pod,
    maps::{HashMap, LpmTrie, MapData, PerCpuHashMap, SockHash, lpm_trie::Key},
};
use weir_common::{
    CounterKey, DestinationKey, PortKey, PortRule, PrefixKey, Route, TupleKey, WorkloadConfig,
    WorkloadId, maps,
};

use super::CaptureError;

/// Names an object file to load instead of the built-in one; for tests of a freshly built object.
const OBJECT_VARIABLE: &str = "WEIR_BPF_OBJECT";

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../proxy-ebpf/prebuilt/weir.bpf.o"
));

/// How to load.
#[derive(Clone, Copy, Debug)]
pub struct KernelOptions {
    /// The workload that the programs serve.
    pub workload: WorkloadId,
    /// aya-log's level, 1 (error) to 5 (trace); 0 removes every log statement at load.
    pub log_level: u8,
}

/// The programs and maps of one workload.
pub struct Kernel {
    ebpf: Mutex<Ebpf>,
    pub(super) workload: WorkloadId,
    pub(super) workloads: Table<WorkloadId, WorkloadConfig>,
    pub(super) heartbeats: Table<WorkloadId, u64>,
    pub(super) failed: Table<DestinationKey, u64>,
    pub(super) ports: Table<PortKey, PortRule>,
    pub(super) port_hits: Mutex<PerCpuHashMap<MapData, PortKey, u64>>,
    pub(super) counters: Mutex<PerCpuHashMap<MapData, CounterKey, u64>>,
    pub(super) skip_cidrs: Prefixes<u8>,
    pub(super) routes: Prefixes<Route>,
    pub(super) peers: Mutex<Option<SockHash<MapData, TupleKey>>>,
}

/// A hash map that several threads may change.
pub(super) struct Table<K: Pod, V: Pod> {
    name: &'static str,
    map: Mutex<HashMap<MapData, K, V>>,
}

/// A longest-prefix-match map of one workload.
pub(super) struct Prefixes<V: Pod> {
    name: &'static str,
    map: Mutex<LpmTrie<MapData, PrefixKey, V>>,
}

// === impl Kernel ===

impl Kernel {
    /// Loads the object; attaches nothing.
    ///
    /// # Errors
    /// Where the kernel refuses the object or one of its maps.
    pub fn load(options: KernelOptions) -> Result<Self, CaptureError> {
        let object = object()?;
        let mut ebpf = EbpfLoader::new()
            .override_global("WORKLOAD", &options.workload, true)
            .override_global(aya_log::LEVEL, &options.log_level, false)
            .load(&object)?;
        if options.log_level > 0 {
            forward_log(&mut ebpf);
        }
        Ok(Self {
            workload: options.workload,
            workloads: Table::take(&mut ebpf, maps::WORKLOADS)?,
            heartbeats: Table::take(&mut ebpf, maps::HEARTBEATS)?,
            failed: Table::take(&mut ebpf, maps::FAILED)?,
            ports: Table::take(&mut ebpf, maps::PORTS)?,
            port_hits: Mutex::new(take(&mut ebpf, maps::PORT_HITS)?),
            counters: Mutex::new(take(&mut ebpf, maps::COUNTERS)?),
            skip_cidrs: Prefixes::take(&mut ebpf, maps::SKIP_CIDRS)?,
            routes: Prefixes::take(&mut ebpf, maps::ROUTES)?,
            peers: Mutex::new(None),
            ebpf: Mutex::new(ebpf),
        })
    }

    /// The workload that these programs serve.
    #[must_use]
    pub const fn workload(&self) -> WorkloadId {
        self.workload
    }

    /// The object, for what is still in it: programs, and maps that nobody has taken.
    pub(super) fn object(&self) -> MutexGuard<'_, Ebpf> {
        lock(&self.ebpf)
    }

    /// Moves a map out of the object.
    pub(super) fn take<T>(&self, name: &'static str) -> Result<T, CaptureError>
    where
        T: TryFrom<aya::maps::Map, Error = aya::maps::MapError>,
    {
        take(&mut self.object(), name)
    }

    /// Replaces what the hooks know about the workload.
    ///
    /// # Errors
    /// Where the map cannot be written.
    pub fn configure(&self, config: WorkloadConfig) -> Result<(), CaptureError> {
        self.workloads.insert(&self.workload, &config)
    }

    /// Turns flags of the workload on or off.
    pub(super) fn set_flag(&self, flag: u32, on: bool) -> Result<(), CaptureError> {
        let mut config = self.workloads.get(&self.workload)?.unwrap_or_default();
        let before = config.flags;
        if on {
            config.flags |= flag;
        } else {
            config.flags &= !flag;
        }
        if config.flags == before {
            return Ok(());
        }
        self.workloads.insert(&self.workload, &config)
    }
}

// === impl Table ===

impl<K: Pod, V: Pod> Table<K, V> {
    fn take(ebpf: &mut Ebpf, name: &'static str) -> Result<Self, CaptureError> {
        Ok(Self { name, map: Mutex::new(take(ebpf, name)?) })
    }

    pub(super) fn insert(&self, key: &K, value: &V) -> Result<(), CaptureError> {
        lock(&self.map).insert(key, value, 0).map_err(CaptureError::map("write", self.name))
    }

    pub(super) fn get(&self, key: &K) -> Result<Option<V>, CaptureError> {
        match lock(&self.map).get(key, 0) {
            Ok(value) => Ok(Some(value)),
            Err(aya::maps::MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(CaptureError::map("read", self.name)(error)),
        }
    }

    pub(super) fn remove(&self, key: &K) -> Result<(), CaptureError> {
        absent_is_fine(lock(&self.map).remove(key), self.name)
    }
}

// === impl Prefixes ===

impl<V: Pod> Prefixes<V> {
    fn take(ebpf: &mut Ebpf, name: &'static str) -> Result<Self, CaptureError> {
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
            Err(aya::maps::MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(CaptureError::map("read", self.name)(error)),
        }
    }
}

// === helpers ===

fn object() -> Result<Cow<'static, [u8]>, CaptureError> {
    let Some(path) = std::env::var_os(OBJECT_VARIABLE) else { return Ok(Cow::Borrowed(OBJECT)) };
    std::fs::read(&path).map(Cow::Owned).map_err(|source| CaptureError::Socket {
        action: "read the object named by WEIR_BPF_OBJECT",
        source,
        hint: "",
    })
}

/// Moves a map out of the object, as the type that userspace uses it by.
fn take<T>(ebpf: &mut Ebpf, name: &'static str) -> Result<T, CaptureError>
where
    T: TryFrom<aya::maps::Map, Error = aya::maps::MapError>,
{
    let map = ebpf.take_map(name).ok_or(CaptureError::Missing(name))?;
    T::try_from(map).map_err(CaptureError::map("open", name))
}

/// A poisoned lock guards a map descriptor, which no panic can leave half changed.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn absent_is_fine(
    result: Result<(), aya::maps::MapError>,
    name: &'static str,
) -> Result<(), CaptureError> {
    match result {
        Ok(()) | Err(aya::maps::MapError::KeyNotFound) => Ok(()),
        Err(aya::maps::MapError::SyscallError(e))
            if e.io_error.raw_os_error() == Some(libc::ENOENT) =>
        {
            Ok(())
        }
        Err(error) => Err(CaptureError::map("delete from", name)(error)),
    }
}

/// Sends what the BPF programs log to `tracing`, from a task that ends with the runtime.
fn forward_log(ebpf: &mut Ebpf) {
    match aya_log::EbpfLogger::init(ebpf) {
        // SAFETY: the logger owns its ring buffer's descriptor for as long as it lives.
        Ok(logger) => match unsafe { tokio::io::unix::AsyncFd::register(logger) } {
            Ok(mut logger) => {
                tokio::spawn(async move {
                    while let Ok(mut ready) = logger.readable_mut().await {
                        ready.get_inner_mut().flush();
                        ready.clear_ready();
                    }
                });
            }
            Err(error) => tracing::warn!(%error, "no BPF log"),
        },
        Err(error) => tracing::warn!(%error, "no BPF log"),
    }
}
