//! Reading sockets and addresses the way the kernel hands them to the hooks.

use core::{ffi::c_void, ptr};

use aya_ebpf::{
    bindings::{BPF_SK_STORAGE_GET_F_CREATE, bpf_sock, bpf_sock_addr},
    helpers::{
        bpf_map_lookup_elem, bpf_sk_lookup_tcp, bpf_sk_release, bpf_sk_storage_delete,
        bpf_sk_storage_get, bpf_skc_to_tcp6_sock,
    },
    programs::SkLookupContext,
};
use weir_common::{AddrWords, AddressClass, ListenerKey, OriginalDestination, V4_MAPPED_WORD};

use crate::maps::{LISTENERS, SOCKETS};

pub const IPPROTO_TCP: u32 = 6;
pub const AF_INET: u32 = 2;
pub const AF_INET6: u32 = 10;
/// The context's own network namespace (`enum` in include/uapi/linux/bpf.h).
const BPF_F_CURRENT_NETNS: u64 = u64::MAX;

/// Reads one field of a context. Volatile: the verifier refuses the wider or computed accesses
/// that the compiler would otherwise make of several.
macro_rules! read {
    ($field:expr) => {
        core::ptr::read_volatile(&raw const $field)
    };
}
/// Writes one field of a context; volatile for the same reason.
macro_rules! write {
    ($field:expr, $value:expr) => {
        core::ptr::write_volatile(&raw mut $field, $value)
    };
}
/// Reads the four words of an address field of a context.
macro_rules! read_words {
    ($field:expr) => {
        [read!($field[0]), read!($field[1]), read!($field[2]), read!($field[3])]
    };
}
pub(crate) use {read, read_words, write};

/// An IPv4 address, as it stands in memory, v4-mapped.
#[inline(always)]
pub const fn mapped(v4: u32) -> AddrWords {
    [0, 0, V4_MAPPED_WORD, v4]
}

/// One of two addresses of a context, both read already: read in two branches, the compiler would
/// join the loads into one with a computed offset, which the verifier refuses.
#[inline(always)]
pub const fn either(v4: bool, v4_word: u32, v6: AddrWords) -> AddrWords {
    if v4 { mapped(v4_word) } else { v6 }
}

#[inline(always)]
pub const fn is_v4(addr: &AddrWords) -> bool {
    addr[0] == 0 && addr[1] == 0 && addr[2] == V4_MAPPED_WORD
}

/// 127.0.0.0/8 or ::1.
#[inline(always)]
pub const fn is_loopback(addr: &AddrWords) -> bool {
    AddressClass::of(addr).is_loopback()
}

/// Word by word: `==` on arrays would become a call of `memcmp`.
#[inline(always)]
pub const fn is_same(a: &AddrWords, b: &AddrWords) -> bool {
    a[0] == b[0] && a[1] == b[1] && a[2] == b[2] && a[3] == b[3]
}

/// The two ends of a segment that no connection's socket takes.
pub struct Lookup {
    pub v4: bool,
    pub local: AddrWords,
    pub port: u16,
    pub remote: AddrWords,
    pub remote_port: u16,
}

// === impl Lookup ===

impl Lookup {
    #[inline(always)]
    pub fn of(ctx: &SkLookupContext) -> Self {
        let lookup = ctx.lookup;
        // SAFETY: the context is valid for the length of the program.
        unsafe {
            let v4 = read!((*lookup).family) == AF_INET;
            Self {
                v4,
                local: either(v4, read!((*lookup).local_ip4), read_words!((*lookup).local_ip6)),
                remote: either(v4, read!((*lookup).remote_ip4), read_words!((*lookup).remote_ip6)),
                // Host order, unlike the remote port.
                port: read!((*lookup).local_port) as u16,
                remote_port: u16::from_be(read!((*lookup).remote_port)),
            }
        }
    }
}

/// Whether the segment is one of TCP: for UDP, `sk_lookup` programs run for every datagram.
#[inline(always)]
pub fn is_tcp(ctx: &SkLookupContext) -> bool {
    // SAFETY: as above.
    unsafe { read!((*ctx.lookup).protocol) == IPPROTO_TCP }
}

/// The socket that a `sock_addr` hook was called for.
#[inline(always)]
pub fn of_address(ctx: *mut bpf_sock_addr) -> *mut bpf_sock {
    // SAFETY: the context is valid for the length of the program.
    unsafe { read!((*ctx).__bindgen_anon_1.sk) }
}

/// True for a listener on IPv6 that takes no IPv4 connections (`IPV6_V6ONLY`).
///
/// No context shows that. It is read from the kernel's `struct sock_common`, whose first 20 bytes
/// are the same from 5.15 to 6.18 (include/net/sock.h). If they ever move, connections to a port
/// that only one family listens on are wrongly taken or left; none is lost.
#[inline(always)]
pub fn is_v6_only(sk: *mut bpf_sock) -> bool {
    const BYTE: usize = 19;
    const BIT: u8 = 1 << 5;
    // SAFETY: helper call on a non-null socket; null for other families.
    let tcp6 = unsafe { bpf_skc_to_tcp6_sock(sk.cast()) }.cast::<u8>();
    // SAFETY: the verifier checks the offset against the kernel's own types.
    !tcp6.is_null() && unsafe { tcp6.add(BYTE).read_volatile() } & BIT != 0
}

/// What a hook stored with a socket, if it stored anything.
#[inline(always)]
pub fn stored(sk: *mut c_void) -> Option<&'static mut OriginalDestination> {
    // SAFETY: the map's values are of this type.
    unsafe { storage((&raw const SOCKETS).cast(), sk, 0) }
}

/// The value of a storage map for a socket; with `BPF_SK_STORAGE_GET_F_CREATE` a zeroed one is
/// made where there is none.
///
/// # Safety
/// `map` is a socket storage map whose values are of type `T`, and `sk` a context's socket.
#[inline(always)]
pub unsafe fn storage<T>(
    map: *const c_void,
    sk: *mut c_void,
    flags: u32,
) -> Option<&'static mut T> {
    if sk.is_null() {
        return None;
    }
    // SAFETY: helper call on a non-null socket; the value lives as long as the socket.
    unsafe {
        bpf_sk_storage_get(map.cast_mut().cast(), sk, ptr::null_mut(), u64::from(flags))
            .cast::<T>()
            .as_mut()
    }
}

/// Drops what is stored with a socket, if anything is.
#[inline(always)]
pub fn forget(sk: *mut c_void) {
    if !sk.is_null() {
        // SAFETY: helper call on a non-null socket.
        unsafe { bpf_sk_storage_delete((&raw const SOCKETS).cast_mut().cast(), sk) };
    }
}

/// Stores `value` with a socket of the workload; false where the kernel would not.
#[inline(always)]
pub fn store(sk: *mut c_void, value: &mut OriginalDestination) -> bool {
    store_in((&raw const SOCKETS).cast(), sk, value)
}

/// Stores `value` with a socket, in a storage map whose values are of its type; false where the
/// kernel would not.
#[inline(always)]
pub fn store_in(map: *const c_void, sk: *mut c_void, value: &mut OriginalDestination) -> bool {
    if sk.is_null() {
        return false;
    }
    // SAFETY: as above; on creation the kernel copies `value`.
    let slot = unsafe {
        bpf_sk_storage_get(
            map.cast_mut().cast(),
            sk,
            ptr::from_mut(value).cast(),
            u64::from(BPF_SK_STORAGE_GET_F_CREATE),
        )
        .cast::<OriginalDestination>()
    };
    if slot.is_null() {
        return false;
    }
    // A socket that connects again (after AF_UNSPEC or a failed try) keeps its slot.
    // SAFETY: non-null, and no other program runs for a socket that is just connecting. Word by
    // word: an assignment would become a loop over bytes.
    unsafe {
        let (to, from) = (slot.cast::<u64>(), ptr::from_mut(value).cast::<u64>());
        let mut i = 0;
        while i < size_of::<OriginalDestination>() / 8 {
            ptr::write_volatile(to.add(i), *from.add(i));
            i += 1;
        }
    }
    true
}

/// True where a socket of the context's network namespace listens on this address and port. As for a
/// connection from the same address, which weir's own `sk_lookup` program leaves alone.
#[inline(always)]
pub fn is_listened_on(ctx: *mut c_void, addr: &AddrWords, port: u16) -> bool {
    const TCP_LISTEN: u32 = 10;
    let port_be = port.to_be();
    // Every field of each variant is written: the verifier wants no stack that is not.
    let mut v4 = [addr[3], addr[3], u32::from(port_be) << 16];
    let mut v6 = [
        addr[0],
        addr[1],
        addr[2],
        addr[3],
        addr[0],
        addr[1],
        addr[2],
        addr[3],
        u32::from(port_be) << 16,
    ];
    let (tuple, size) = if is_v4(addr) {
        (v4.as_mut_ptr(), size_of_val(&v4) as u32)
    } else {
        (v6.as_mut_ptr(), size_of_val(&v6) as u32)
    };
    // SAFETY: helper call on a live context and a tuple of that size.
    let sk = unsafe { bpf_sk_lookup_tcp(ctx, tuple.cast(), size, BPF_F_CURRENT_NETNS, 0) };
    if sk.is_null() {
        return false;
    }
    // SAFETY: non-null; released exactly once, and not used after.
    let state = unsafe {
        let state = read!((*sk).state);
        bpf_sk_release(sk.cast());
        state
    };
    state == TCP_LISTEN
}

/// The listener in a slot, with a reference that the caller has to release.
#[inline(always)]
pub fn listener(key: &ListenerKey) -> Option<*mut bpf_sock> {
    // SAFETY: a lookup in a sock hash gives a referenced socket or null.
    let sk = unsafe {
        bpf_map_lookup_elem((&raw const LISTENERS).cast_mut().cast(), ptr::from_ref(key).cast())
    }
    .cast::<bpf_sock>();
    (!sk.is_null()).then_some(sk)
}

/// The port of the listener in a slot, host order; `None` where the slot is empty.
#[inline(always)]
pub fn listener_port(key: &ListenerKey) -> Option<u16> {
    let sk = listener(key)?;
    // SAFETY: non-null; released exactly once, and not used after.
    let port = unsafe {
        let port = read!((*sk).src_port);
        bpf_sk_release(sk.cast());
        port
    };
    Some(port as u16)
}
