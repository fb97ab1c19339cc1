//! The maps, and the constants that are patched at load.
//!
//! The kernel makes a bucket of 16 bytes for each entry that a hash map, sock hash or LRU has room for, at
//! once, and all entries of an LRU. So a table that is mostly empty and has few entries where it is not is a trie
//! of longest prefixes, which takes memory for the entries that are there: its keys have full length.

use core::ptr;

use aya_ebpf::{
    Global,
    bindings::{BPF_F_CLONE, BPF_F_NO_PREALLOC, BPF_NOEXIST, bpf_map_type},
    btf_maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuHashMap, RingBuf, SkStorage, SockHash},
    macros::btf_map,
};
use weir_common::{
    CloseEvent, ConnectionKey, CounterKey, DestinationKey, Direction, HoldEvent, ListenerKey,
    Listening, Name, NameKey, OpenKey, OptionEvent, OriginalDestination, PortBlock, PortBlockKey,
    PortKey, PrefixKey, Reason, Route, SeedKey, Seeds, Shares, ToldOptions, TupleKey, Usage,
    WorkloadConfig, WorkloadId, spread,
};

pub const NO_PREALLOC: usize = BPF_F_NO_PREALLOC as usize;
const MAX_WORKLOADS: usize = Shares::MAX_WORKLOADS;
/// One for each family, one for outbound IPv4, and those on `::1`; rounded up.
const LISTENERS_EACH: usize = (3 + spread::PLACES6 as usize).next_power_of_two();

/// The workload that this instance serves. For `connect`, `inbound`, `hold` and `weir_stream`, which are
/// loaded once per workload; all others are loaded once, and take the workload from the socket.
#[unsafe(no_mangle)]
pub static WORKLOAD: Global<u32> = Global::new(0);

/// 1 where `bpf_sk_lookup.ingress_ifindex` is there (Linux 5.17). The verifier never looks at the branch that the constant rules out.
#[unsafe(no_mangle)]
pub static INGRESS_IFINDEX: Global<u32> = Global::new(0);

/// 1 where sockops programs may ask for the current cgroup (Linux 6.4).
#[unsafe(no_mangle)]
pub static SOCKOPS_CGROUP: Global<u32> = Global::new(0);

/// Socket-local storage that accepted sockets get a copy of from their listener (`BPF_F_CLONE`,
/// Linux 5.4), which aya's `SkStorage` cannot ask for. The fields are what its BTF is read for.
#[repr(C)]
pub struct InheritedStorage<T> {
    r#type: *const [i32; bpf_map_type::BPF_MAP_TYPE_SK_STORAGE as usize],
    key: *const i32,
    value: *const T,
    max_entries: *const [i32; 0],
    map_flags: *const [i32; NO_PREALLOC | BPF_F_CLONE as usize],
}

// SAFETY: the pointers are never followed.
unsafe impl<T> Sync for InheritedStorage<T> {}

#[btf_map]
pub static WORKLOADS: HashMap<WorkloadId, WorkloadConfig, MAX_WORKLOADS, NO_PREALLOC> =
    HashMap::new();

/// All ports of a workload in both directions are 1,024 entries. Userspace sees to it that each workload
/// has room for sixteen.
#[btf_map]
pub static PORTS: HashMap<PortBlockKey, PortBlock, 32_768, NO_PREALLOC> = HashMap::new();

/// Of skip rules that were hit; one that finds no room is not counted.
#[btf_map]
pub static PORT_HITS: PerCpuHashMap<PortKey, u64, 16_384, NO_PREALLOC> = PerCpuHashMap::new();

#[btf_map]
pub static SKIP_CIDRS: LpmTrie<PrefixKey, u8, 65_536> = LpmTrie::new();

/// Entries are hints of a few seconds. Userspace alone writes them, and removes the oldest of the workload
/// with the most.
#[btf_map]
pub static FAILED: HashMap<DestinationKey, u64, 16_384, NO_PREALLOC> = HashMap::new();

#[btf_map]
pub static ROUTES: LpmTrie<PrefixKey, Route, 1_048_576> = LpmTrie::new();

#[btf_map]
pub static LISTENERS: SockHash<ListenerKey, { MAX_WORKLOADS * LISTENERS_EACH }> = SockHash::new();

#[btf_map]
pub static HEARTBEAT: Array<u64, 1> = Array::new();

#[btf_map]
pub static LISTENING: HashMap<
    DestinationKey,
    Listening,
    { Shares::LISTENING_ENTRIES },
    NO_PREALLOC,
> = HashMap::new();

#[btf_map]
pub static SEEDS: LpmTrie<PortKey, Seeds, 65_536> = LpmTrie::new();

/// A listener that finds no room is not followed: userspace finds out about its close.
#[btf_map]
pub static SEEDED: SockHash<SeedKey, 16_384> = SockHash::new();

/// An eviction would let the proxy connect to itself, so this is no LRU.
#[btf_map]
pub static INSIDE: LpmTrie<DestinationKey, u8, 65_536> = LpmTrie::new();

/// As `FAILED`: without its entry the next connection goes through the proxy.
#[btf_map]
pub static LEARNED: HashMap<DestinationKey, u64, 16_384, NO_PREALLOC> = HashMap::new();

/// Entries live from the SYN to the end of the handshake, or of the attempt.
#[btf_map]
pub static PENDING: HashMap<
    ConnectionKey,
    OriginalDestination,
    { Shares::PENDING_ENTRIES },
    NO_PREALLOC,
> = HashMap::new();

/// Where a completed handshake moves an entry of `PENDING`: an accepted socket cannot be mistaken.
#[btf_map]
pub static ACCEPTED: SkStorage<OriginalDestination> = SkStorage::new();

/// Where there is no room a listener's connections are not counted, and may be short of ports.
#[btf_map]
pub static OPEN: HashMap<OpenKey, u32, { MAX_WORKLOADS * LISTENERS_EACH }, NO_PREALLOC> =
    HashMap::new();

/// A destination that finds no room is tapped where the workload's engine is the tap.
#[btf_map]
pub static PROXIED: LpmTrie<DestinationKey, u8, 65_536> = LpmTrie::new();

#[btf_map]
pub static USAGE: HashMap<WorkloadId, Usage, MAX_WORKLOADS, NO_PREALLOC> = HashMap::new();

#[btf_map]
pub static SHARES: Array<Shares, 1> = Array::new();

#[btf_map]
pub static SOCKETS: SkStorage<OriginalDestination> = SkStorage::new();

/// An entry that is evicted has its MPTCP socket answer with the proxy's address.
#[btf_map]
pub static NAMES: LruHashMap<NameKey, Name, 4096> = LruHashMap::new();

/// Thirty-two reasons of each workload that there can be.
#[btf_map]
pub static COUNTERS: PerCpuHashMap<CounterKey, u64, 32_768, NO_PREALLOC> = PerCpuHashMap::new();

/// Userspace makes it as large only where `sk_msg` is on.
#[btf_map]
pub static PEERS: SockHash<TupleKey, 131_072> = SockHash::new();

/// 1 on a listener of the workload that is counted in `LISTENING`.
#[btf_map]
pub static COUNTED: SkStorage<u32> = SkStorage::new();

/// Marks the proxy's own listeners with their workload, and with them what they accept.
#[btf_map]
pub static OWN: InheritedStorage<u32> = InheritedStorage::new();

/// The way that a socket's first message took, which all later ones follow.
#[btf_map]
pub static WAYS: SkStorage<u32> = SkStorage::new();

/// Room for some three thousand events.
pub const EVENTS_BYTES: usize = 1 << 19;

#[btf_map]
pub static EVENTS: RingBuf<CloseEvent, EVENTS_BYTES> = RingBuf::new();

/// Room for some three thousand events. A SYN without room is told when it comes again.
const HOLDS_BYTES: usize = 1 << 19;

#[btf_map]
pub static HOLDS: RingBuf<HoldEvent, HOLDS_BYTES> = RingBuf::new();

#[btf_map]
pub static TOLD: SkStorage<ToldOptions> = SkStorage::new();

/// Room for some five thousand events.
const OPTIONS_BYTES: usize = 1 << 18;

#[btf_map]
pub static OPTIONS: RingBuf<OptionEvent, OPTIONS_BYTES> = RingBuf::new();

// === impl InheritedStorage ===

impl<T> InheritedStorage<T> {
    const fn new() -> Self {
        Self {
            r#type: ptr::null(),
            key: ptr::null(),
            value: ptr::null(),
            max_entries: ptr::null(),
            map_flags: ptr::null(),
        }
    }
}

// === helpers ===

/// Adds one to the counter of this instance's workload.
#[inline(always)]
pub fn count(direction: Direction, reason: Reason) {
    count_of(WORKLOAD.load(), direction, reason);
}

/// Adds one to the counter of a workload.
#[inline(always)]
pub fn count_of(workload: WorkloadId, direction: Direction, reason: Reason) {
    let key = CounterKey { workload, reason: reason as u16, direction: direction as u16 };
    increment(&COUNTERS, &key);
}

/// Adds one to a per-CPU counter, making it where it is not there yet.
#[inline(always)]
pub fn increment<K, const MAX: usize>(counters: &PerCpuHashMap<K, u64, MAX, NO_PREALLOC>, key: &K) {
    if let Some(value) = counters.get_ptr_mut(key) {
        // SAFETY: a per-CPU slot, and a BPF program is not preempted by itself on its CPU.
        unsafe { *value += 1 };
    } else {
        let _ = counters.insert(key, 1u64, u64::from(BPF_NOEXIST));
    }
}
