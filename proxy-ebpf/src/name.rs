//! `cgroup/getpeername4|6` and `cgroup/getsockname4|6`: a redirected socket answers with the
//! addresses that a direct connection would have.
//!
//! What it is called is in its storage. An MPTCP socket is not the one that the connect hook saw, which
//! was the TCP socket below it: it is found by what both are connected to (`NAMES`).

use aya_ebpf::{
    helpers::bpf_get_netns_cookie, macros::cgroup_sock_addr, programs::SockAddrContext,
};
use weir_common::{AddrWords, Name, NameKey, OriginalDestination, Reason};

use crate::{
    maps::NAMES,
    socket::{self, read, write},
};

const PROCEED: i32 = 1;
/// include/uapi/linux/in.h.
const IPPROTO_MPTCP: u32 = 262;

#[cgroup_sock_addr(getpeername4)]
pub fn weir_peername4(ctx: SockAddrContext) -> i32 {
    if let Some(name) = name(&ctx) {
        write4(&ctx, &name.addr);
        write_port(&ctx, name.port);
    }
    PROCEED
}

#[cgroup_sock_addr(getpeername6)]
pub fn weir_peername6(ctx: SockAddrContext) -> i32 {
    if let Some(name) = name(&ctx) {
        write6(&ctx, &name.addr);
        write_port(&ctx, name.port);
    }
    PROCEED
}

#[cgroup_sock_addr(getsockname4)]
pub fn weir_sockname4(ctx: SockAddrContext) -> i32 {
    if let Some(name) = renamed(&ctx) {
        write4(&ctx, &name.source);
    }
    PROCEED
}

#[cgroup_sock_addr(getsockname6)]
pub fn weir_sockname6(ctx: SockAddrContext) -> i32 {
    if let Some(name) = renamed(&ctx) {
        write6(&ctx, &name.source);
    }
    PROCEED
}

/// The name of a redirected socket.
#[inline(always)]
fn name(ctx: &SockAddrContext) -> Option<Name> {
    let sk = socket::of_address(ctx.sock_addr);
    if let Some(dest) = socket::stored(sk.cast()) {
        return (dest.reason == Reason::Redirected as u8).then(|| of(dest));
    }
    // SAFETY: the context is valid, and the socket non-null: the branch before has seen to it.
    let is_mptcp = unsafe { read!((*ctx.sock_addr).protocol) } == IPPROTO_MPTCP;
    if !is_mptcp || sk.is_null() {
        return None;
    }
    // SAFETY: non-null; fields that `bpf_sock_is_valid_access` allows.
    let key = unsafe {
        let v4 = read!((*sk).dst_ip4);
        NameKey {
            netns_cookie: bpf_get_netns_cookie(ctx.sock_addr.cast()),
            remote: if v4 != 0 { v4 } else { read!((*sk).dst_ip6[3]) },
            local_port: read!((*sk).src_port) as u16,
            remote_port: u16::from_be(read!((*sk).dst_port)),
        }
    };
    // SAFETY: an entry that is replaced meanwhile is of another socket.
    unsafe { NAMES.get(&key) }.copied()
}

/// The same of one whose source is known; one that the application bound answers truly anyway. So does
/// one that is connected to nothing any more (`AF_UNSPEC`), or listens: its destination is none.
#[inline(always)]
fn renamed(ctx: &SockAddrContext) -> Option<Name> {
    let name = name(ctx)?;
    let w = &name.source;
    if name.bound != 0 || w[0] | w[1] | w[2] | w[3] == 0 {
        return None;
    }
    // SAFETY: non-null, since it has a name; a field that `bpf_sock_is_valid_access` allows.
    let port = unsafe { read!((*socket::of_address(ctx.sock_addr)).dst_port) };
    (port != 0).then_some(name)
}

/// What a redirected socket is to be called.
#[inline(always)]
pub const fn of(dest: &OriginalDestination) -> Name {
    Name { addr: dest.addr, source: dest.source, port: dest.port, bound: dest.bound as u16 }
}

#[inline(always)]
fn write4(ctx: &SockAddrContext, addr: &AddrWords) {
    // SAFETY: the context is valid, and the hook may write these fields.
    unsafe { write!((*ctx.sock_addr).user_ip4, addr[3]) };
}

#[inline(always)]
fn write6(ctx: &SockAddrContext, addr: &AddrWords) {
    // SAFETY: as above, word by word.
    unsafe {
        write!((*ctx.sock_addr).user_ip6[0], addr[0]);
        write!((*ctx.sock_addr).user_ip6[1], addr[1]);
        write!((*ctx.sock_addr).user_ip6[2], addr[2]);
        write!((*ctx.sock_addr).user_ip6[3], addr[3]);
    }
}

#[inline(always)]
fn write_port(ctx: &SockAddrContext, port: u16) {
    // SAFETY: as above.
    unsafe { write!((*ctx.sock_addr).user_port, u32::from(port.to_be())) };
}
