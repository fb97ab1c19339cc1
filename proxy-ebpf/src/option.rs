//! `cgroup/getsockopt`: SO_ORIGINAL_DST for programs of the workload that ask a redirected socket
//! for it, as netfilter would answer. Level and name are both checked; no other option is touched.

use aya_ebpf::{bindings::bpf_sockopt, macros::cgroup_sockopt, programs::SockoptContext};
use weir_common::{AddrWords, Reason};

use crate::socket::{self, read, write};

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
    if length > PAGE {
        // SAFETY: a field that the hook may write.
        unsafe { write!((*opt).optlen, 0) };
    }
    PROCEED
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
