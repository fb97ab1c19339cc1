//! sockops: follows a workload's sockets through their TCP states.
//!
//! * before the SYN of a redirected connection: its original destination goes into `PENDING`,
//!   under the address that the proxy will see as its peer;
//! * at the handshake, with `sk_msg` on: both ends go into `PEERS`, and at no other time;
//! * at the end of a connection that went direct: an event with its figures.

use aya_ebpf::{
    bindings::{
        BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB, BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB,
        BPF_SOCK_OPS_STATE_CB, BPF_SOCK_OPS_STATE_CB_FLAG, BPF_SOCK_OPS_TCP_CONNECT_CB,
        bpf_sock_ops,
    },
    helpers::{bpf_get_netns_cookie, bpf_ktime_get_ns},
    macros::sock_ops,
    programs::SockOpsContext,
};
use weir_common::{
    AddrWords, CloseEvent, ConnectionKey, Direction, OriginalDestination, Reason, TupleKey, flags,
};

use crate::{
    maps::{EVENTS, PEERS, PENDING, WORKLOADS, count},
    socket::{self, either, read, read_words},
};

const BPF_ANY: u64 = 0;
const BPF_NOEXIST: u64 = 1;
const TCP_SYN_SENT: u32 = 2;
const TCP_CLOSE: u32 = 7;

/// For the workload's cgroup.
#[sock_ops]
pub fn weir_stream(ctx: SockOpsContext) -> u32 {
    match ctx.op() {
        BPF_SOCK_OPS_TCP_CONNECT_CB => connecting(&ctx),
        BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB => established(&ctx),
        BPF_SOCK_OPS_STATE_CB => changed(&ctx),
        _ => {}
    }
    1
}

/// For the proxy's own cgroup, with `sk_msg` on: the accepted end of a captured connection.
#[sock_ops]
pub fn weir_proxy_side(ctx: SockOpsContext) -> u32 {
    if ctx.op() == BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB {
        let tuple = tuple(&ctx, ctx.family() == socket::AF_INET);
        let key = ConnectionKey {
            netns_cookie: tuple.netns_cookie,
            addr: tuple.remote_addr,
            port: tuple.remote_port,
            _pad: [0; 6],
        };
        // SAFETY: only its presence counts.
        if unsafe { PENDING.get(&key) }.is_some() {
            insert_peer(&ctx, tuple);
        }
    }
    1
}

#[inline(always)]
fn connecting(ctx: &SockOpsContext) {
    let Some(dest) = stored(ctx) else { return };
    if dest.reason != Reason::Redirected as u8 {
        let _ = ctx.set_cb_flags((ctx.cb_flags() | BPF_SOCK_OPS_STATE_CB_FLAG) as i32);
        return;
    }
    let key = ConnectionKey {
        netns_cookie: netns_cookie(ctx),
        addr: local_addr(ctx, socket::is_v4(&dest.addr)),
        port: ctx.local_port() as u16,
        _pad: [0; 6],
    };
    if PENDING.insert(&key, *dest, BPF_ANY).is_err() {
        count(Direction::Outbound, Reason::PendingFull);
    }
}

#[inline(always)]
fn established(ctx: &SockOpsContext) {
    let Some(dest) = stored(ctx) else { return };
    if dest.reason != Reason::Redirected as u8 {
        return;
    }
    // SAFETY: userspace replaces entries, it does not write into them.
    let Some(config) = (unsafe { WORKLOADS.get(&dest.workload) }) else { return };
    if config.flags & flags::SK_MSG != 0 {
        let tuple = tuple(ctx, socket::is_v4(&dest.addr));
        insert_peer(ctx, tuple);
    }
}

/// Reports a connection that went direct when its socket closes.
#[inline(always)]
fn changed(ctx: &SockOpsContext) {
    if ctx.arg(1) != TCP_CLOSE {
        return;
    }
    let Some(dest) = stored(ctx) else { return };
    if dest.reason == Reason::Redirected as u8 {
        return;
    }
    let Some(mut event) = EVENTS.reserve(0) else { return };
    let ops = ctx.ops;
    // SAFETY: the context is valid for the length of the program.
    let (bytes_sent, bytes_received, srtt, retransmits) = unsafe {
        (
            read!((*ops).bytes_acked),
            read!((*ops).bytes_received),
            read!((*ops).srtt_us),
            read!((*ops).total_retrans),
        )
    };
    event.write(CloseEvent {
        destination: *dest,
        bytes_sent,
        bytes_received,
        // SAFETY: plain helper call.
        duration_ns: unsafe { bpf_ktime_get_ns() }.wrapping_sub(dest.connected_ns),
        // The kernel keeps eight times the smoothed value.
        srtt_us: srtt >> 3,
        retransmits,
        established: u32::from(ctx.arg(0) != TCP_SYN_SENT),
        _pad: 0,
    });
    event.submit(0);
}

#[inline(always)]
fn insert_peer(ctx: &SockOpsContext, mut key: TupleKey) {
    // SAFETY: the context is valid for the length of the program. EBUSY (a socket that is in
    // another program's map) and a full map leave the connection on the TCP stack.
    let _ = unsafe { PEERS.update(&mut key, &mut *ctx.ops, BPF_NOEXIST) };
}

#[inline(always)]
fn stored(ctx: &SockOpsContext) -> Option<&'static mut OriginalDestination> {
    // SAFETY: the context is valid; `stored` tests for null.
    socket::stored(unsafe { read!((*ctx.ops).__bindgen_anon_2.sk) }.cast())
}

#[inline(always)]
fn netns_cookie(ctx: &SockOpsContext) -> u64 {
    // SAFETY: plain helper call on a valid context.
    unsafe { bpf_get_netns_cookie(ctx.ops.cast::<bpf_sock_ops>().cast()) }
}

#[inline(always)]
fn local_addr(ctx: &SockOpsContext, v4: bool) -> AddrWords {
    let ops = ctx.ops;
    // SAFETY: the context is valid for the length of the program.
    unsafe { either(v4, read!((*ops).local_ip4), read_words!((*ops).local_ip6)) }
}

#[inline(always)]
fn remote_addr(ctx: &SockOpsContext, v4: bool) -> AddrWords {
    let ops = ctx.ops;
    // SAFETY: as above.
    unsafe { either(v4, read!((*ops).remote_ip4), read_words!((*ops).remote_ip6)) }
}

#[inline(always)]
fn tuple(ctx: &SockOpsContext, v4: bool) -> TupleKey {
    TupleKey {
        netns_cookie: netns_cookie(ctx),
        local_addr: local_addr(ctx, v4),
        remote_addr: remote_addr(ctx, v4),
        local_port: ctx.local_port() as u16,
        remote_port: u32::from_be(ctx.remote_port()) as u16,
        _pad: 0,
    }
}
