//! `cgroup/getpeername4|6` and `cgroup/getsockname4|6`: a redirected socket answers with the
//! addresses that a direct connection would have.

use aya_ebpf::{macros::cgroup_sock_addr, programs::SockAddrContext};
use weir_common::{AddrWords, OriginalDestination, Reason};

use crate::socket::{self, write};

const PROCEED: i32 = 1;

#[cgroup_sock_addr(getpeername4)]
pub fn weir_peername4(ctx: SockAddrContext) -> i32 {
    if let Some(dest) = redirected(&ctx) {
        write4(&ctx, &dest.addr);
        write_port(&ctx, dest.port);
    }
    PROCEED
}

#[cgroup_sock_addr(getpeername6)]
pub fn weir_peername6(ctx: SockAddrContext) -> i32 {
    if let Some(dest) = redirected(&ctx) {
        write6(&ctx, &dest.addr);
        write_port(&ctx, dest.port);
    }
    PROCEED
}

#[cgroup_sock_addr(getsockname4)]
pub fn weir_sockname4(ctx: SockAddrContext) -> i32 {
    if let Some(dest) = renamed(&ctx) {
        write4(&ctx, &dest.source);
    }
    PROCEED
}

#[cgroup_sock_addr(getsockname6)]
pub fn weir_sockname6(ctx: SockAddrContext) -> i32 {
    if let Some(dest) = renamed(&ctx) {
        write6(&ctx, &dest.source);
    }
    PROCEED
}

#[inline(always)]
fn redirected(ctx: &SockAddrContext) -> Option<&'static OriginalDestination> {
    let dest = socket::stored(socket::of_address(ctx.sock_addr).cast())?;
    (dest.reason == Reason::Redirected as u8).then_some(dest)
}

/// A redirected socket whose source is known; one that the application bound answers truly anyway.
#[inline(always)]
fn renamed(ctx: &SockAddrContext) -> Option<&'static OriginalDestination> {
    let dest = redirected(ctx)?;
    let w = &dest.source;
    (dest.bound == 0 && w[0] | w[1] | w[2] | w[3] != 0).then_some(dest)
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
