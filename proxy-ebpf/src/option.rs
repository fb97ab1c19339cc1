//! Options of the workload's sockets.
//!
//! `cgroup/getsockopt`: SO_ORIGINAL_DST for programs of the workload that ask a redirected socket
//! for it, as netfilter would answer. Level and name are both checked; no other option is touched.
//!
//! `cgroup/setsockopt`: tells the proxy (`OPTIONS`) of options that a program sets on a redirected
//! socket, so that its own connection gets them too. The call itself goes on as it was: its value is
//! only read.

use aya_ebpf::{
    bindings::{BPF_SK_STORAGE_GET_F_CREATE, bpf_sock, bpf_sockopt},
    helpers::bpf_ktime_get_ns,
    macros::cgroup_sockopt,
    programs::SockoptContext,
};
use weir_common::{AddrWords, Direction, OptionEvent, Reason, ToldOptions, followed, tcp_state};

use crate::{
    maps::{OPTIONS, TOLD, count_of},
    socket::{self, read, write},
};

const PROCEED: i32 = 1;
const SOL_IP: i32 = 0;
const SOL_IPV6: i32 = 41;
/// `SO_ORIGINAL_DST` and `IP6T_SO_ORIGINAL_DST` (linux/netfilter_ipv4.h, netfilter_ipv6/ip6_tables.h).
const SO_ORIGINAL_DST: i32 = 80;
/// The kernel hands a program one page of the value at most; beyond it only 0 is accepted.
const PAGE: i32 = 4096;

#[repr(C)]
struct SockaddrIn {
    family: u16,
    port_be: u16,
    addr: u32,
    zero: [u8; 8],
}

#[repr(C)]
struct SockaddrIn6 {
    family: u16,
    port_be: u16,
    flowinfo: u32,
    addr: AddrWords,
    scope_id: u32,
}

#[cgroup_sockopt(getsockopt)]
pub fn weir_getsockopt(ctx: SockoptContext) -> i32 {
    let opt = ctx.sockopt;
    // SAFETY: the context is valid for the length of the program.
    let (level, name, length) =
        unsafe { (read!((*opt).level), read!((*opt).optname), read!((*opt).optlen)) };
    if name == SO_ORIGINAL_DST && (level == SOL_IP || level == SOL_IPV6) {
        answer(opt, level);
    }
    pass(opt, length);
    PROCEED
}

#[cgroup_sockopt(setsockopt)]
pub fn weir_setsockopt(ctx: SockoptContext) -> i32 {
    let opt = ctx.sockopt;
    // SAFETY: the context is valid for the length of the program.
    let (level, name, length) =
        unsafe { (read!((*opt).level), read!((*opt).optname), read!((*opt).optlen)) };
    if followed::contains(level, name) {
        // Before the kernel has looked at the value: one that it refuses is the proxy's to ignore.
        tell(opt, level, name, length);
    }
    pass(opt, length);
    PROCEED
}

/// Has the kernel take a value from where the application has it, which is what a length of 0 means,
/// where it is more than the hook was handed: it refuses any other length then
/// (`__cgroup_bpf_run_filter_setsockopt` in kernel/bpf/cgroup.c). All else is left alone: another
/// program may have changed it.
#[inline(always)]
fn pass(opt: *mut bpf_sockopt, length: i32) {
    if length > PAGE {
        // SAFETY: a field that the hook may write.
        unsafe { write!((*opt).optlen, 0) };
    }
}

/// Tells the proxy of an option of a redirected socket.
#[inline(always)]
fn tell(opt: *mut bpf_sockopt, level: i32, name: i32, length: i32) {
    // SAFETY: the context is valid; `stored` tests for null.
    let sk: *mut bpf_sock = unsafe { read!((*opt).__bindgen_anon_1.sk) };
    let Some(dest) = socket::stored(sk.cast()) else { return };
    if dest.reason != Reason::Redirected as u8 || length <= 0 {
        return;
    }
    // SAFETY: non-null, or nothing were stored; fields that `bpf_sock_is_valid_access` allows.
    let (state, port) = unsafe { (read!((*sk).state), read!((*sk).src_port)) };
    if state == tcp_state::CLOSE {
        return;
    }
    // SAFETY: the context is valid.
    let (value, end) = unsafe {
        (
            read!((*opt).__bindgen_anon_2.optval) as usize,
            read!((*opt).__bindgen_anon_3.optval_end) as usize,
        )
    };
    // The kernel hands over 16 bytes at least, with zeroes behind a shorter value.
    if value + OptionEvent::VALUE_BYTES as usize > end {
        return;
    }
    let reserved = if may_tell(sk) { OPTIONS.reserve(0) } else { None };
    let Some(mut event) = reserved else {
        return count_of(dest.workload, Direction::Outbound, Reason::OptionLost);
    };
    let to = event.as_mut_ptr();
    let most = i32::from(OptionEvent::VALUE_BYTES);
    // SAFETY: reserved memory of that type, written field by field; the value's bounds are tested above.
    unsafe {
        (&raw mut (*to).connected_ns).write_volatile(dest.connected_ns);
        (&raw mut (*to).value[0]).write_volatile((value as *const u64).read_volatile());
        (&raw mut (*to).value[1]).write_volatile((value as *const u64).add(1).read_volatile());
        (&raw mut (*to).workload).write_volatile(dest.workload);
        (&raw mut (*to).level).write_volatile(level);
        (&raw mut (*to).name).write_volatile(name);
        (&raw mut (*to).length).write_volatile((if length > most { most } else { length }) as u16);
        (&raw mut (*to).port).write_volatile(port as u16);
    }
    // Wakes the proxy only where it has read all that was told before: a wake-up costs the application
    // more than all else here.
    event.submit(0);
}

/// Whether a socket's share of the ring buffer has room. The hook runs with the socket's lock held.
#[inline(always)]
fn may_tell(sk: *mut bpf_sock) -> bool {
    // SAFETY: the map's values are of this type.
    let told = unsafe {
        socket::storage::<ToldOptions>(
            (&raw const TOLD).cast(),
            sk.cast(),
            BPF_SK_STORAGE_GET_F_CREATE,
        )
    };
    let Some(told) = told else { return false };
    // SAFETY: plain helper call.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    if now_ns - told.since_ns >= ToldOptions::PERIOD_NS {
        told.since_ns = now_ns;
        told.count = 0;
    }
    told.count += 1;
    told.count <= ToldOptions::MOST
}

#[inline(always)]
fn answer(opt: *mut bpf_sockopt, level: i32) {
    // SAFETY: the context is valid; `stored` tests for null, and the bounds are tested below.
    unsafe {
        let Some(dest) = socket::stored(read!((*opt).__bindgen_anon_1.sk).cast()) else { return };
        if dest.reason != Reason::Redirected as u8 {
            return;
        }
        let value = read!((*opt).__bindgen_anon_2.optval) as usize;
        let end = read!((*opt).__bindgen_anon_3.optval_end) as usize;
        if level == SOL_IP && socket::is_v4(&dest.addr) {
            if value + size_of::<SockaddrIn>() > end {
                return;
            }
            *(value as *mut SockaddrIn) = SockaddrIn {
                family: socket::AF_INET as u16,
                port_be: dest.port.to_be(),
                addr: dest.addr[3],
                zero: [0; 8],
            };
            write!((*opt).optlen, size_of::<SockaddrIn>() as i32);
            write!((*opt).retval, 0);
        } else if level == SOL_IPV6 {
            if value + size_of::<SockaddrIn6>() > end {
                return;
            }
            *(value as *mut SockaddrIn6) = SockaddrIn6 {
                family: socket::AF_INET6 as u16,
                port_be: dest.port.to_be(),
                flowinfo: 0,
                addr: dest.addr,
                scope_id: 0,
            };
            write!((*opt).optlen, size_of::<SockaddrIn6>() as i32);
            write!((*opt).retval, 0);
        }
    }
}
