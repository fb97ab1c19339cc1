//! What the workload listens on: the `LISTENING` map.

use core::arch::asm;

use aya_ebpf::bindings::BPF_NOEXIST;
use weir_common::{AddrWords, DestinationKey, Listening};

use crate::{maps::LISTENING, socket};

const UNSPECIFIED4: AddrWords = socket::mapped(0);
const UNSPECIFIED6: AddrWords = [0; 4];

/// True where a socket of the workload would take a connection to this address and port.
#[inline(always)]
pub fn is_listening(key: &DestinationKey) -> bool {
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

/// Adds a socket; false where the map is full.
#[inline(always)]
pub fn add(key: &DestinationKey, v6_only: bool) -> bool {
    let first = Listening { sockets: 1, v6_only: u32::from(v6_only) };
    // A second try, because another CPU may have been faster with an insert.
    increment(key, v6_only)
        || LISTENING.insert(key, first, u64::from(BPF_NOEXIST)).is_ok()
        || increment(key, v6_only)
}

/// Takes a socket away, and the entry with the last one.
///
/// Between the last test and the removal another socket may begin to listen on the same address
/// and port, if both set `SO_REUSEPORT`. It is forgotten then, and its connections go direct.
#[inline(always)]
pub fn remove(key: &DestinationKey) {
    let Some(entry) = LISTENING.get_ptr_mut(key) else { return };
    if change(entry, -1) == 1 && sockets(entry) == 0 {
        let _ = LISTENING.remove(key);
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

/// Changes the number of sockets, with other CPUs at it too; returns what it was. `core` has no
/// such operation for this target; the kernel has it since 5.12 (`BPF_FETCH`).
#[inline(always)]
fn change(entry: *mut Listening, by: i32) -> u32 {
    let mut value = by as u32;
    // SAFETY: one aligned word of a live entry.
    unsafe {
        asm!(
            "{value} = atomic_fetch_add((u32 *)({at} + 0), {value})",
            at = in(reg) &raw mut (*entry).sockets,
            value = inout(wreg) value,
            options(nostack),
        );
    }
    value
}
