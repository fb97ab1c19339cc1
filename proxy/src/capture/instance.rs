//! What all workloads of a process share in the kernel: the maps, and the programs that serve any
//! workload. Both are pinned (`pins.rs`), so that what comes after a crash finds them again.

use std::{
    borrow::Cow,
    collections::HashSet,
    net::SocketAddr,
    os::fd::OwnedFd,
    path::PathBuf,
    sync::{Mutex, MutexGuard, OnceLock},
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, MapData, PerCpuHashMap, RingBuf, SkStorage, SockHash},
    programs::ProgramType,
    sys::is_helper_supported,
};
use aya_obj::generated::bpf_func_id;
use tokio::io::unix::AsyncFd;
use weir_common::{
    CounterKey, DestinationKey, Direction, ListenerKey, Listening, OpenKey, PortBlock,
    PortBlockKey, PortKey, Route, Seeds, Shares, TupleKey, Usage, WorkloadConfig, WorkloadId, maps,
};

use super::{
    CaptureError,
    entries::AllLeft,
    fields,
    layout::{InUse, Layouts},
    memory::{MapMemory, OpenMaps},
    original::{address_of, words},
    pins::{Lock, Pins, control, digest, directories, lock_holder},
    preexisting::Seeded,
    quota::{Hints, Quotas},
    spares::Spares,
    state,
    table::{Prefixes, Sparse, Table, lock, take},
    trial::{self, Support},
};

/// Names an object file to load instead of the built-in one; for tests of a freshly built object.
const OBJECT_VARIABLE: &str = "WEIR_BPF_OBJECT";

/// The tap's ring buffer where the tap is not loaded: the smallest that there is on every processor.
const NO_TAP_BYTES: u32 = 65_536;
/// Sockets that `sk_msg` redirects between, where it is on.
const PEERS_ENTRIES: u32 = 131_072;

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../proxy-ebpf/prebuilt/weir.bpf.o"
));

/// The maps and shared programs of one process.
pub struct Instance {
    pub(super) pins: Pins,
    lock: Mutex<Option<Lock>>,
    object: Cow<'static, [u8]>,
    loading: Loading,
    shared: Mutex<Ebpf>,
    pub(super) spares: Spares,
    pub(super) left: Mutex<Option<AllLeft>>,
    pub(super) in_use: InUse,
    open_maps: OpenMaps,
    pub(super) workloads: Table<WorkloadId, WorkloadConfig>,
    pub(super) heartbeat: Mutex<Array<MapData, u64>>,
    pub(super) quotas: Quotas,
    pub(super) failed: Hints,
    pub(super) learned: Hints,
    pub(super) proxied: Sparse<DestinationKey, u8>,
    pub(super) listening: Table<DestinationKey, Listening>,
    pub(super) seeds: Sparse<PortKey, Seeds>,
    pub(super) seeded: Mutex<Seeded>,
    pub(super) inside: Sparse<DestinationKey, u8>,
    pub(super) own: Mutex<SkStorage<MapData, u32>>,
    pub(super) ports: Table<PortBlockKey, PortBlock>,
    pub(super) port_hits: Mutex<PerCpuHashMap<MapData, PortKey, u64>>,
    pub(super) counters: Mutex<PerCpuHashMap<MapData, CounterKey, u64>>,
    pub(super) skip_cidrs: Prefixes<u8>,
    pub(super) routes: Prefixes<Route>,
    pub(super) listeners: Mutex<SockHash<MapData, ListenerKey>>,
    pub(super) open: Table<OpenKey, u32>,
    pub(super) usage: Table<WorkloadId, Usage>,
    pub(super) shares: Mutex<Array<MapData, Shares>>,
    /// With `sk_msg` on: the map of sockets.
    pub(super) peers: Mutex<Option<SockHash<MapData, TupleKey>>>,
    /// The link of the program for the proxy's own cgroup.
    pub(super) proxy_side: Mutex<Option<OwnedFd>>,
}

/// What the programs are loaded for.
#[derive(Clone, Copy, Debug)]
struct Loading {
    /// As [`InstanceOptions::log_level`].
    log_level: u8,
    /// The kernel tells the inbound program which interface a connection comes in by.
    ingress_ifindex: bool,
    /// As [`InstanceOptions::sk_msg`].
    sk_msg: bool,
}

/// Which instance, and how to load it.
#[derive(Clone, Debug, Default)]
pub struct InstanceOptions {
    /// Its name in the bpffs; `None` for one that vanishes with the process.
    pub name: Option<String>,
    /// aya-log's level, 1 (error) to 5 (trace); 0 removes every log statement at load.
    pub log_level: u8,
    /// Go on without the lock: a process that holds it is about to hand over.
    pub unlocked: bool,
    /// Make room for the sockets that `sk_msg` redirects between.
    pub sk_msg: bool,
}

// === impl Instance ===

impl Instance {
    /// Opens the instance's maps, or makes them, and loads the programs; attaches nothing.
    ///
    /// # Errors
    /// [`CaptureError::TooOld`] before anything is made; [`CaptureError::Running`] where another
    /// process serves it; else what the kernel refuses.
    pub fn open(options: &InstanceOptions) -> Result<Self, CaptureError> {
        refuse_old_kernels()?;
        let (pins, lock) = match &options.name {
            None => (Pins::private()?, None),
            Some(name) => match Pins::named(name) {
                Ok(pins) => {
                    let lock = pins.lock()?;
                    if lock.is_none() && !options.unlocked {
                        return Err(running(name, &pins));
                    }
                    (pins, lock)
                }
                Err(error @ CaptureError::NoBpffs) => {
                    tracing::warn!(%error, "continuing without pinned state: workloads and \
                                            settings are lost when this process exits");
                    (Pins::private()?, None)
                }
                Err(error) => return Err(error),
            },
        };
        let object = object()?;
        let layouts = layouts(&object)?;
        let remade = layouts.clear(&pins)?;
        let loading = Loading {
            log_level: options.log_level,
            ingress_ifindex: trial::ingress_ifindex() == Support::Yes,
            sk_msg: options.sk_msg,
        };
        let mut ebpf = load(&object, &pins, 0, loading, NO_TAP_BYTES)?;
        // No program that is loaded from here uses them.
        maps::OF_TAP.iter().for_each(|name| drop(ebpf.take_map(name)));
        let open_maps = OpenMaps::of(&ebpf, |_| true);
        if options.log_level > 0 {
            forward_log(&mut ebpf);
        }
        Ok(Self {
            workloads: Table::take(&mut ebpf, maps::WORKLOADS)?,
            heartbeat: Mutex::new(take(&mut ebpf, maps::HEARTBEAT)?),
            quotas: Quotas::new(|map| layouts.room(map)),
            failed: Hints::new(Table::take(&mut ebpf, maps::FAILED)?, layouts.room(maps::FAILED)),
            learned: Hints::new(
                Table::take(&mut ebpf, maps::LEARNED)?,
                layouts.room(maps::LEARNED),
            ),
            proxied: Sparse::take(&mut ebpf, maps::PROXIED)?,
            listening: Table::take(&mut ebpf, maps::LISTENING)?,
            seeds: Sparse::take(&mut ebpf, maps::SEEDS)?,
            seeded: Mutex::new(take(&mut ebpf, maps::SEEDED)?),
            inside: Sparse::take(&mut ebpf, maps::INSIDE)?,
            own: Mutex::new(take(&mut ebpf, maps::OWN)?),
            ports: Table::take(&mut ebpf, maps::PORTS)?,
            port_hits: Mutex::new(take(&mut ebpf, maps::PORT_HITS)?),
            counters: Mutex::new(take(&mut ebpf, maps::COUNTERS)?),
            skip_cidrs: Prefixes::take(&mut ebpf, maps::SKIP_CIDRS)?,
            routes: Prefixes::take(&mut ebpf, maps::ROUTES)?,
            listeners: Mutex::new(take(&mut ebpf, maps::LISTENERS)?),
            open: Table::take(&mut ebpf, maps::OPEN)?,
            usage: Table::take(&mut ebpf, maps::USAGE)?,
            shares: Mutex::new(take(&mut ebpf, maps::SHARES)?),
            peers: Mutex::new(None),
            proxy_side: Mutex::new(None),
            in_use: layouts.in_use(&pins, remade),
            open_maps,
            pins,
            lock: Mutex::new(lock),
            object,
            loading,
            shared: Mutex::new(ebpf),
            spares: Spares::default(),
            left: Mutex::default(),
        })
    }

    /// Where it is pinned.
    #[must_use]
    pub const fn pins(&self) -> &Pins {
        &self.pins
    }

    /// Takes the lock that another process has just let go; nothing happens where it is held here
    /// already.
    ///
    /// # Errors
    /// Where another process still holds it.
    pub fn take_lock(&self) -> Result<(), CaptureError> {
        // A second descriptor of the same directory would find it locked (flock(2)).
        if lock(&self.lock).is_some() {
            return Ok(());
        }
        match self.pins.lock()? {
            Some(new) => *lock(&self.lock) = Some(new),
            None => return Err(running(&self.pins.root().display().to_string(), &self.pins)),
        }
        Ok(())
    }

    /// Lets go of the lock: a successor is taking over.
    pub fn release_lock(&self) {
        *lock(&self.lock) = None;
    }

    /// False once what is pinned was removed. No program may be attached again then: it would
    /// get maps of their own.
    #[must_use]
    pub fn is_pinned(&self) -> bool {
        let announced = || control(self.pins.root()).is_symlink();
        self.pins.map(maps::WORKLOADS).exists() && (self.pins.is_private() || announced())
    }

    /// The workloads of which something is pinned in this schema.
    #[must_use]
    pub fn pinned_workloads(&self) -> Vec<WorkloadId> {
        let number = |path: PathBuf| path.file_name()?.to_str()?.parse().ok();
        let mut found: Vec<WorkloadId> =
            directories(&self.pins.own_schema()).into_iter().filter_map(number).collect();
        found.extend(state::read(&self.pins.state()).into_iter().map(|(id, _)| id));
        found.sort_unstable();
        found.dedup();
        found
    }

    /// True where the kernel tells the inbound program which interface a connection came in by.
    #[must_use]
    pub const fn knows_ingress_ifindex(&self) -> bool {
        self.loading.ingress_ifindex
    }

    /// Gives back what loading has needed and nothing needs again: glibc keeps 2 MB of it in its
    /// heap, in between what is in use.
    pub fn trim_memory() {
        #[cfg(target_env = "gnu")]
        // SAFETY: it touches only memory that is free, under malloc's own locks (malloc_trim(3)).
        unsafe {
            libc::malloc_trim(0);
        }
    }

    /// Names the programs that it attaches: those of a weir that has the same name for them are the
    /// same. None has where they use maps of this process.
    #[must_use]
    pub fn programs(&self) -> u64 {
        let Loading { log_level, ingress_ifindex, sk_msg } = self.loading;
        let constants = [log_level, u8::from(ingress_ifindex), u8::from(sk_msg)];
        let fields = fields::constants().iter().flat_map(|(_, offset)| offset.to_ne_bytes());
        let own = sk_msg.then(|| std::process::id().to_ne_bytes());
        let own = own.into_iter().flatten();
        digest(self.object.iter().copied().chain(constants).chain(fields).chain(own))
    }

    /// What its maps look like.
    #[cfg(test)]
    pub(super) fn layouts(&self) -> &'static Layouts {
        layouts(&self.object).expect("it was read before")
    }

    /// The programs that are loaded for one workload, with its number in them.
    pub(super) fn load_for(&self, workload: WorkloadId) -> Result<Ebpf, CaptureError> {
        load(&self.object, &self.pins, workload, self.loading, NO_TAP_BYTES)
    }

    /// Has these destinations proxied whatever the engine, and no others that were before.
    ///
    /// # Errors
    /// Where the map cannot be written: there are more than 65,536.
    pub fn set_proxied(
        &self,
        before: &HashSet<SocketAddr>,
        now: &HashSet<SocketAddr>,
    ) -> Result<(), CaptureError> {
        let key = |it: &SocketAddr| {
            DestinationKey::new(0, Direction::Outbound, words(it.ip()), it.port())
        };
        for address in now.difference(before) {
            self.proxied.insert(&key(address), &1)?;
        }
        for address in before.difference(now) {
            self.proxied.remove(&key(address))?;
        }
        Ok(())
    }

    /// Whether a destination is proxied whatever the engine.
    ///
    /// # Errors
    /// Where the map cannot be read.
    pub fn is_proxied(&self, address: SocketAddr) -> Result<bool, CaptureError> {
        let key = DestinationKey::new(0, Direction::Outbound, words(address.ip()), address.port());
        Ok(self.proxied.get(&key)?.is_some())
    }

    /// Destinations that are proxied whatever the engine.
    #[must_use]
    pub fn proxied(&self) -> HashSet<SocketAddr> {
        let address = |key: DestinationKey| SocketAddr::new(address_of(key.addr), key.port);
        self.proxied.keys().into_iter().map(address).collect()
    }

    /// What the kernel has allocated for each map of the instance, except those of the tap.
    #[must_use]
    pub fn map_memory(&self) -> Vec<MapMemory> {
        self.open_maps.memory().collect()
    }

    /// The object, as it is loaded.
    pub(super) fn object(&self) -> &[u8] {
        &self.object
    }

    /// The programs of the tap, whose kernel functions are in `object`, with a ring buffer of this size.
    pub(super) fn load_tap(&self, object: &[u8], ring_bytes: u32) -> Result<Ebpf, CaptureError> {
        load(object, &self.pins, 0, self.loading, ring_bytes)
    }

    /// The programs that serve every workload, and maps that were not taken.
    pub(super) fn shared(&self) -> MutexGuard<'_, Ebpf> {
        lock(&self.shared)
    }

    /// Moves a map out of the shared object.
    pub(super) fn take<T>(&self, name: &'static str) -> Result<T, CaptureError>
    where
        T: TryFrom<aya::maps::Map, Error = aya::maps::MapError>,
    {
        take(&mut self.shared(), name)
    }

    /// Moves a ring buffer out of the shared object, to be read when the kernel says that there is
    /// something in it. Needs a tokio runtime.
    pub(super) fn ring(
        &self,
        name: &'static str,
    ) -> Result<AsyncFd<RingBuf<MapData>>, CaptureError> {
        let ring = self.take(name)?;
        // SAFETY: the ring buffer owns its descriptor and keeps it for as long as it lives.
        unsafe { AsyncFd::register(ring) }.map_err(|error| CaptureError::Map {
            action: "watch",
            map: name,
            source: error.into(),
        })
    }
}

// === helpers ===

/// Without a socket's namespace in sockops, connections of two workloads could be taken for each
/// other.
fn refuse_old_kernels() -> Result<(), CaptureError> {
    if trial::netns_cookie_in_sockops() != Support::No {
        // Where it cannot be asked, loading tells why.
        return Ok(());
    }
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    Err(CaptureError::TooOld { release: release.trim().to_owned() })
}

fn running(instance: &str, pins: &Pins) -> CaptureError {
    CaptureError::Running { instance: instance.to_owned(), holder: holder(pins.root()) }
}

/// ` (pid N)` of the process that holds a directory's lock, where that is known.
pub(super) fn holder(directory: &std::path::Path) -> String {
    lock_holder(directory).map_or_else(String::new, |pid| format!(" (pid {pid})"))
}

fn object() -> Result<Cow<'static, [u8]>, CaptureError> {
    let Some(path) = std::env::var_os(OBJECT_VARIABLE) else { return Ok(Cow::Borrowed(OBJECT)) };
    std::fs::read(&path).map(Cow::Owned).map_err(|source| CaptureError::Socket {
        action: "read the object named by WEIR_BPF_OBJECT",
        source,
        hint: "",
    })
}

/// What the object's maps look like. There is one object per process.
fn layouts(object: &[u8]) -> Result<&'static Layouts, CaptureError> {
    static LAYOUTS: OnceLock<Layouts> = OnceLock::new();
    if let Some(layouts) = LAYOUTS.get() {
        return Ok(layouts);
    }
    let layouts = Layouts::of(object)?;
    Ok(LAYOUTS.get_or_init(|| layouts))
}

fn load(
    object: &[u8],
    pins: &Pins,
    workload: WorkloadId,
    loading: Loading,
    tap_bytes: u32,
) -> Result<Ebpf, CaptureError> {
    /// The loader reads and parses the kernel's own types when it is made: 20 ms and 20 MB, of
    /// which nothing is needed, because there is nothing to relocate. So one is enough.
    static LOADER: Mutex<Option<EbpfLoader<'static>>> = Mutex::new(None);
    static LEVELS: [u8; 6] = [0, 1, 2, 3, 4, 5];
    let Loading { log_level, ingress_ifindex, sk_msg } = loading;
    let layouts = layouts(object)?;
    let mut loader = lock(&LOADER);
    let loader = loader.get_or_insert_with(EbpfLoader::new).btf(None);
    loader
        // Four bytes per workload for the rest of the process: that is how long the loader lives.
        .override_global("WORKLOAD", &*Box::leak(Box::new(workload)), true)
        .override_global("INGRESS_IFINDEX", constant(ingress_ifindex), true)
        .override_global("SOCKOPS_CGROUP", constant(sockops_knows_cgroup()), true)
        .map_max_entries(maps::TAP_EVENTS, tap_bytes)
        .map_max_entries(maps::PEERS, if sk_msg { PEERS_ENTRIES } else { 1 })
        .override_global(aya_log::LEVEL, &LEVELS[usize::from(log_level.min(5))], false);
    for (name, offset) in fields::constants() {
        loader.override_global(name, offset, true);
    }
    for name in layouts.names() {
        loader.map_pin_path(name, pins.map(name));
    }
    for name in maps::OF_PROCESS {
        if let Some(path) = pins.own_map(name) {
            loader.map_pin_path(name, path);
        }
    }
    Ok(loader.load(object)?)
}

/// As the programs have it.
const fn constant(on: bool) -> &'static u32 {
    if on { &1 } else { &0 }
}

/// Whether sockops programs can ask for the current cgroup (Linux 6.4).
fn sockops_knows_cgroup() -> bool {
    static KNOWN: OnceLock<bool> = OnceLock::new();
    let helper = bpf_func_id::BPF_FUNC_get_current_cgroup_id;
    *KNOWN.get_or_init(|| {
        is_helper_supported(ProgramType::SockOps, helper).is_ok_and(|supported| supported)
    })
}

/// Sends what the BPF programs log to `tracing`, from a task that ends with the runtime.
fn forward_log(ebpf: &mut Ebpf) {
    match aya_log::EbpfLogger::init(ebpf) {
        // SAFETY: the logger owns its ring buffer's descriptor for as long as it lives.
        Ok(logger) => match unsafe { AsyncFd::register(logger) } {
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
        Err(error) => tracing::warn!(%error, map = maps::LOGS, "no BPF log"),
    }
}
