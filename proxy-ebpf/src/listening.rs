//! What the workload listens on: the `LISTENING` map, which sockops keeps, and for sockets that it
//! does not see the `SEEDED` one, which the kernel keeps.

use core::ptr;

use aya_ebpf::{
    bindings::{BPF_NOEXIST, bpf_sock},
    btf_maps::lpm_trie::Key,
    helpers::{bpf_map_lookup_elem, bpf_sk_release},
};
use weir_common::{
    AddrWords, DestinationKey, Direction, Listening, PortKey, SEED_PLACES, SeedKey, Seeds,
    WorkloadConfig,
};

use crate::{
    maps::{LISTENING, SEEDED, SEEDS},
    share,
    socket::{self, read, read_words},
};

const TCP_LISTEN: u32 = 10;
const UNSPECIFIED4: AddrWords = socket::mapped(0);
const UNSPECIFIED6: AddrWords = [0; 4];

/// True where a socket of the workload would take a connection to this address and port. Four
/// lookups where none does.
#[inline(always)]
pub fn is_listening(key: &DestinationKey) -> bool {
    is_counted(key) || is_seeded(key, is_open)
}

/// True where one would take it, or would have done so before it stopped listening.
#[inline(always)]
pub fn was_listening(key: &DestinationKey) -> bool {
    is_counted(key) || is_seeded(key, |_| true)
}

#[inline(always)]
fn is_counted(key: &DestinationKey) -> bool {
    if is_there(key, false) {
        return true;
    }
    let v4 = socket::is_v4(&key.addr);
    (v4 && is_there(&DestinationKey { addr: UNSPECIFIED4, ..*key }, false))
        || is_there(&DestinationKey { addr: UNSPECIFIED6, ..*key }, v4)
}

#[inline(always)]
fn is_there(key: &DestinationKey, dual_stack: bool) -> bool {
    // SAFETY: two aligned words, each read once.
    unsafe { LISTENING.get(key) }
        .is_some_and(|entry| entry.sockets != 0 && !(dual_stack && entry.v6_only != 0))
}

/// One lookup says on which addresses the port's sockets listened; only a place that fits is asked
/// whether its socket still does.
#[inline(always)]
fn is_seeded(key: &DestinationKey, is_open: impl Fn(&SeedKey) -> bool) -> bool {
    let port = PortKey::new(key.workload, Direction::Inbound, key.port);
    let Some(seeds) = SEEDS.get(&Key::new(PortKey::BITS, port)) else { return false };
    let v4 = socket::is_v4(&key.addr);
    let mut place = 0;
    while place < SEED_PLACES {
        let seed = SeedKey { workload: key.workload, port: key.port, place: place as u16 };
        if fits(seeds, place, &key.addr, v4) && is_open(&seed) {
            return true;
        }
        place += 1;
    }
    false
}

/// True where the socket in a place would take a connection to the address.
#[inline(always)]
fn fits(seeds: &Seeds, place: usize, addr: &AddrWords, v4: bool) -> bool {
    // SAFETY: fields of a live entry. Word by word, so that no copy of the array is made.
    let (places, v6_only, bound) =
        unsafe { (read!(seeds.places), read!(seeds.v6_only), read_words!(seeds.addrs[place])) };
    let bit = 1 << place;
    places & bit != 0
        && (socket::is_same(&bound, addr)
            || (v4 && socket::is_same(&bound, &UNSPECIFIED4))
            || (socket::is_same(&bound, &UNSPECIFIED6) && !(v4 && v6_only & bit != 0)))
}

/// True while the socket in a place listens on the port. Closed, the kernel takes it out (see
/// `maps::SEEDED`); shut down, it is still there, and may even be bound elsewhere by now.
#[inline(always)]
fn is_open(seed: &SeedKey) -> bool {
    // SAFETY: a lookup in a sock hash gives a referenced socket or null.
    let sk = unsafe {
        bpf_map_lookup_elem((&raw const SEEDED).cast_mut().cast(), ptr::from_ref(seed).cast())
    }
    .cast::<bpf_sock>();
    if sk.is_null() {
        return false;
    }
    // SAFETY: non-null; released exactly once, and not used after.
    let (state, port) = unsafe {
        let read = (read!((*sk).state), read!((*sk).src_port));
        bpf_sk_release(sk.cast());
        read
    };
    state == TCP_LISTEN && port == u32::from(seed.port)
}

/// Adds a socket; false where the workload's share of the map is used up.
#[inline(always)]
pub fn add(config: &WorkloadConfig, key: &DestinationKey, v6_only: bool) -> bool {
    if increment(key, v6_only) {
        return true;
    }
    if !share::begin_listening(config, key.workload) {
        return false;
    }
    let first = Listening { sockets: 1, v6_only: u32::from(v6_only) };
    if LISTENING.insert(key, first, u64::from(BPF_NOEXIST)).is_ok() {
        return true;
    }
    share::end_listening(key.workload);
    // Another CPU may have been faster with an insert.
    increment(key, v6_only)
}

/// Takes a socket away, and the entry with the last one.
///
/// Between the last test and the removal another socket may begin to listen on the same address
/// and port, if both set `SO_REUSEPORT`. It is forgotten then, and its connections go direct.
#[inline(always)]
pub fn remove(key: &DestinationKey) {
    let Some(entry) = LISTENING.get_ptr_mut(key) else { return };
    if change(entry, -1) == 1 && sockets(entry) == 0 && LISTENING.remove(key).is_ok() {
        share::end_listening(key.workload);
    }
}

#[inline(always)]
fn increment(key: &DestinationKey, v6_only: bool) -> bool {
    let Some(entry) = LISTENING.get_ptr_mut(key) else { return false };
    change(entry, 1);
    if !v6_only {
        // SAFETY: one aligned word of a live entry.
        unsafe { (&raw mut (*entry).v6_only).write_volatile(0) };
    }
    true
}

#[inline(always)]
fn sockets(entry: *const Listening) -> u32 {
    // SAFETY: as above.
    unsafe { (&raw const (*entry).sockets).read_volatile() }
}

/// Changes the number of sockets; returns what it was.
#[inline(always)]
fn change(entry: *mut Listening, by: i32) -> u32 {
    // SAFETY: one aligned word of a live entry.
    unsafe { share::add(&raw mut (*entry).sockets, by) }
}
