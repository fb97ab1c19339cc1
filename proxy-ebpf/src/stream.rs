//! sockops: follows a workload's sockets through their TCP states.
//!
//! * before the SYN of a redirected connection: its original destination goes into `PENDING`,
//!   under the address that the proxy will see as its peer;
//! * when the handshake is complete on the proxy's side: from there into the accepted socket's own
//!   storage, so that the proxy cannot take it for another connection's;
//! * at the end of a redirected connection that never got so far: its entry is removed, and the
//!   proxy told if it dials for it;
//! * at the handshake, with `sk_msg` on: both ends go into `PEERS`, and at no other time;
//! * where the workload begins and ends to listen: `LISTENING` is kept in step;
//! * where it accepts a connection that did not come through the proxy: why, into the storage;
//! * at the end of a connection that went direct: an event with its figures.

use aya_ebpf::{
    bindings::{
        BPF_SK_STORAGE_GET_F_CREATE, BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB,
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, BPF_SOCK_OPS_STATE_CB, BPF_SOCK_OPS_STATE_CB_FLAG,
        BPF_SOCK_OPS_TCP_CONNECT_CB, BPF_SOCK_OPS_TCP_LISTEN_CB, bpf_sock, bpf_sock_ops,
    },
    helpers::{bpf_get_current_cgroup_id, bpf_get_netns_cookie, bpf_ktime_get_ns},
    macros::sock_ops,
    programs::SockOpsContext,
};
use weir_common::{
    AddrWords, CLIENT_IP_MARK, CloseEvent, ConnectionKey, DestinationKey, Direction, NameKey,
    OriginalDestination, Reason, Set, TupleKey, WorkloadConfig, flags, tcp_state,
};

use crate::{
    hold, inbound, listening,
    maps::{
        ACCEPTED, COUNTED, EVENTS, NAMES, OWN, PEERS, PENDING, SOCKOPS_CGROUP, WORKLOAD, WORKLOADS,
        count,
    },
    name, report, share,
    socket::{self, either, read, read_words},
    spread,
};

const BPF_ANY: u64 = 0;
const BPF_NOEXIST: u64 = 1;
/// What of a mark is weir's.
const CLIENT_IP_MASK: u32 = 0xffff_0000;

/// For the workload's cgroup.
#[sock_ops]
pub fn weir_stream(ctx: SockOpsContext) -> u32 {
    match ctx.op() {
        BPF_SOCK_OPS_TCP_CONNECT_CB => connecting(&ctx),
        BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB => established(&ctx),
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB => accepted(&ctx),
        BPF_SOCK_OPS_TCP_LISTEN_CB => listens(&ctx),
        BPF_SOCK_OPS_STATE_CB => changed(&ctx),
        _ => {}
    }
    1
}

/// For the proxy's own cgroup: the accepted end of a captured connection.
#[sock_ops]
pub fn weir_proxy_side(ctx: SockOpsContext) -> u32 {
    if ctx.op() == BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB {
        arrived(&ctx);
    }
    1
}

#[inline(always)]
fn connecting(ctx: &SockOpsContext) {
    let Some(dest) = stored(ctx) else { return };
    // A connection that goes direct is followed for its report, a redirected one for its entry.
    follow(ctx);
    if dest.reason != Reason::Redirected as u8 {
        return;
    }
    give_name(ctx, dest);
    let key = pending_key(ctx, dest);
    spread::opened(dest, &key.listener_addr, key.listener);
    // An entry under this key is of an attempt that ended without its end being seen.
    if PENDING.insert(&key, *dest, BPF_NOEXIST).is_err() {
        let replaced = PENDING.insert(&key, *dest, BPF_ANY).is_ok();
        share::release(dest.workload);
        if !replaced {
            // Cannot happen while the shares fit into the map; the proxy refuses the connection.
            count(Direction::Outbound, Reason::HookError);
        }
    }
}

/// Moves the entry of a connection whose handshake is complete to the accepted socket.
#[inline(always)]
fn arrived(ctx: &SockOpsContext) {
    let sk = sk(ctx);
    // SAFETY: the map's values are of this type.
    let own = unsafe { socket::storage::<u32>((&raw const OWN).cast(), sk.cast(), 0) };
    let Some(workload) = own.copied() else { return };
    let key = ConnectionKey {
        netns_cookie: netns_cookie(ctx),
        addr: remote_addr(ctx, ctx.family() == socket::AF_INET),
        listener_addr: local_addr(ctx, ctx.family() == socket::AF_INET),
        workload,
        port: u32::from_be(ctx.remote_port()) as u16,
        listener: ctx.local_port() as u16,
    };
    // SAFETY: an entry is written once, before it is in the map.
    let Some(dest) = (unsafe { PENDING.get(&key) }) else { return };
    let mut dest = *dest;
    if !socket::store_in((&raw const ACCEPTED).cast(), sk.cast(), &mut dest) {
        // The proxy finds it where it is.
        return;
    }
    settle(&key);
    // SAFETY: userspace replaces entries, it does not write into them.
    let Some(config) = (unsafe { WORKLOADS.get(&workload) }) else { return };
    if config.flags & flags::SK_MSG != 0 {
        insert_peer(ctx, tuple(ctx, ctx.family() == socket::AF_INET));
    }
}

/// Removes an entry, and gives its place back: the program that removes it does.
#[inline(always)]
fn settle(key: &ConnectionKey) {
    if PENDING.remove(key).is_ok() {
        share::release(key.workload);
    }
}

/// The key of a redirected socket's own entry.
#[inline(always)]
fn pending_key(ctx: &SockOpsContext, dest: &OriginalDestination) -> ConnectionKey {
    ConnectionKey {
        netns_cookie: netns_cookie(ctx),
        addr: local_addr(ctx, socket::is_v4(&dest.addr)),
        listener_addr: remote_addr(ctx, socket::is_v4(&dest.addr)),
        workload: dest.workload,
        port: ctx.local_port() as u16,
        listener: u32::from_be(ctx.remote_port()) as u16,
    }
}

#[inline(always)]
fn established(ctx: &SockOpsContext) {
    let Some(dest) = stored(ctx) else { return };
    if dest.reason != Reason::Redirected as u8 {
        return;
    }
    learn_source(ctx, dest);
    // SAFETY: userspace replaces entries, it does not write into them.
    let Some(config) = (unsafe { WORKLOADS.get(&dest.workload) }) else { return };
    if config.flags & flags::SK_MSG != 0 {
        let tuple = tuple(ctx, socket::is_v4(&dest.addr));
        insert_peer(ctx, tuple);
    }
}

/// Takes over the source address of the proxy's own connection, which the note of one that was held
/// has by now. The note is there until the acknowledgement arrives that is sent after this.
#[inline(always)]
fn learn_source(ctx: &SockOpsContext, dest: &mut OriginalDestination) {
    if dest.hold == weir_common::hold::NONE || dest.bound != 0 {
        return;
    }
    // SAFETY: userspace replaces entries, it does not write into them.
    let Some(note) = (unsafe { PENDING.get(&pending_key(ctx, dest)) }) else { return };
    if note.connected_ns == dest.connected_ns {
        let (to, from) = (&mut dest.source, &note.source);
        (to[0], to[1], to[2], to[3]) = (from[0], from[1], from[2], from[3]);
        give_name(ctx, dest);
    }
}

/// Says what an MPTCP socket above this one is called.
#[inline(always)]
fn give_name(ctx: &SockOpsContext, dest: &OriginalDestination) {
    if dest.properties.has(Set::MPTCP) {
        // Without room it answers with the proxy's address.
        let _ = NAMES.insert(&name_key(ctx, dest), name::of(dest), BPF_ANY);
    }
}

#[inline(always)]
fn name_key(ctx: &SockOpsContext, dest: &OriginalDestination) -> NameKey {
    NameKey {
        netns_cookie: netns_cookie(ctx),
        remote: remote_addr(ctx, socket::is_v4(&dest.addr))[3],
        local_port: ctx.local_port() as u16,
        remote_port: u32::from_be(ctx.remote_port()) as u16,
    }
}

/// Called when a socket goes from closed to listening, with its lock held: not for a second
/// `listen(2)`, which only changes the backlog (`__inet_listen_sk` in net/ipv4/af_inet.c).
#[inline(always)]
fn listens(ctx: &SockOpsContext) {
    let sk = sk(ctx);
    if sk.is_null() || is_own(sk) {
        return;
    }
    // SAFETY: userspace replaces entries, it does not write into them.
    let Some(config) = (unsafe { WORKLOADS.get(&WORKLOAD.load()) }) else { return };
    if by_proxy(config) {
        if let Some(own) = mark(&raw const OWN, sk) {
            *own = WORKLOAD.load();
        }
        return;
    }
    if is_elsewhere(ctx, config) {
        return;
    }
    // SAFETY: non-null; a field that `bpf_sock_is_valid_access` allows.
    if unsafe { read!((*sk).bound_dev_if) } != 0 {
        // It takes connections of its device only; the proxy's connection is not one.
        return;
    }
    let Some(counted) = mark(&raw const COUNTED, sk) else { return };
    if listening::add(config, &listening_key(ctx), socket::is_v6_only(sk)) {
        *counted = 1;
        follow(ctx);
    } else {
        count(Direction::Inbound, Reason::ListeningFull);
    }
}

/// Called on the way from listening to closed, while the port is still the socket's.
#[inline(always)]
fn listens_no_more(ctx: &SockOpsContext) {
    // SAFETY: the map's values are of this type.
    let counted = unsafe { socket::storage::<u32>((&raw const COUNTED).cast(), sk(ctx).cast(), 0) };
    if let Some(counted) = counted
        && *counted == 1
    {
        *counted = 0;
        listening::remove(&listening_key(ctx));
    }
}

/// A connection that the workload accepts itself. What comes from the proxy, or from inside the
/// namespace, is ignored.
#[inline(always)]
fn accepted(ctx: &SockOpsContext) {
    let sk = sk(ctx);
    if sk.is_null() || is_own(sk) {
        return;
    }
    let v4 = ctx.family() == socket::AF_INET;
    // SAFETY: non-null; a field that `bpf_sock_is_valid_access` allows.
    let mark = unsafe { read!((*sk).mark) };
    let mut dest = OriginalDestination {
        addr: local_addr(ctx, v4),
        source: remote_addr(ctx, v4),
        // SAFETY: plain helper call.
        connected_ns: unsafe { bpf_ktime_get_ns() },
        workload: WORKLOAD.load(),
        port: ctx.local_port() as u16,
        inet6: u8::from(!v4),
        mark,
        ..OriginalDestination::default()
    };
    let remote_port = u32::from_be(ctx.remote_port()) as u16;
    let peer = DestinationKey::new(dest.workload, Direction::Inbound, dest.source, remote_port);
    if inbound::is_inside(&dest.addr, &peer) || mark & CLIENT_IP_MASK == CLIENT_IP_MARK {
        return;
    }
    // SAFETY: userspace replaces entries, it does not write into them.
    let Some(config) = (unsafe { WORKLOADS.get(&dest.workload) }) else { return };
    if config.flags & flags::CAPTURE_INBOUND == 0 || is_elsewhere(ctx, config) {
        return;
    }
    let reason = match inbound::decide(config, &mut dest) {
        Ok(()) => Reason::NoListener,
        Err(reason) => reason,
    };
    dest.reason = reason as u8;
    if socket::store(sk.cast(), &mut dest) {
        follow(ctx);
    }
}

/// At the close of a socket: reports a connection that went direct; of a redirected one, removes the
/// entry that its handshake has left.
#[inline(always)]
fn changed(ctx: &SockOpsContext) {
    if ctx.arg(1) != tcp_state::CLOSE {
        return;
    }
    if ctx.arg(0) == tcp_state::LISTEN {
        return listens_no_more(ctx);
    }
    let Some(dest) = stored(ctx) else { return };
    if dest.reason == Reason::Redirected as u8 {
        if dest.properties.has(Set::MPTCP) {
            let _ = NAMES.remove(&name_key(ctx, dest));
        }
        let key = pending_key(ctx, dest);
        spread::closed(dest, &key.listener_addr, key.listener);
        if dest.hold != weir_common::hold::NONE {
            hold::given_up(&key);
        }
        return settle(&key);
    }
    let Some(mut event) = EVENTS.reserve(0) else {
        let inbound = dest.direction == Direction::Inbound as u8;
        let direction = if inbound { Direction::Inbound } else { Direction::Outbound };
        return count(direction, Reason::ReportLost);
    };
    let figures = report::Figures::of(ctx, dest.direction == Direction::Outbound as u8);
    let ops = ctx.ops;
    // SAFETY: the context is valid for the length of the program.
    let (srtt, retransmits) = unsafe { (read!((*ops).srtt_us), read!((*ops).total_retrans)) };
    event.write(CloseEvent {
        destination: *dest,
        bytes_sent: figures.sent,
        bytes_received: figures.received,
        // SAFETY: plain helper call.
        duration_ns: unsafe { bpf_ktime_get_ns() }.wrapping_sub(dest.connected_ns),
        // The kernel keeps eight times the smoothed value.
        srtt_us: srtt >> 3,
        retransmits,
        state: ctx.arg(0),
        error: figures.error,
    });
    event.submit(report::wake_up());
}

#[inline(always)]
fn insert_peer(ctx: &SockOpsContext, mut key: TupleKey) {
    // SAFETY: the context is valid for the length of the program. EBUSY (a socket that is in
    // another program's map) and a full map leave the connection on the TCP stack.
    let _ = unsafe { PEERS.update(&mut key, &mut *ctx.ops, BPF_NOEXIST) };
}

/// Has `changed` called for the socket. Sockets that a listener accepts inherit the flag, which
/// does no harm to those that have nothing stored.
#[inline(always)]
fn follow(ctx: &SockOpsContext) {
    let _ = ctx.set_cb_flags((ctx.cb_flags() | BPF_SOCK_OPS_STATE_CB_FLAG) as i32);
}

/// True for a socket in another network namespace than the workload's.
#[inline(always)]
fn is_elsewhere(ctx: &SockOpsContext, config: &WorkloadConfig) -> bool {
    config.netns_cookie != 0 && config.netns_cookie != netns_cookie(ctx)
}

/// True where the proxy itself made the system call.
#[inline(always)]
fn by_proxy(config: &WorkloadConfig) -> bool {
    // SAFETY: plain helper call, on a branch that the constant rules out where there is no helper.
    config.exempt_cgroup != 0
        && SOCKOPS_CGROUP.load() != 0
        && config.exempt_cgroup == unsafe { bpf_get_current_cgroup_id() }
}

/// True for the proxy's listeners and what they accept.
#[inline(always)]
fn is_own(sk: *mut bpf_sock) -> bool {
    // SAFETY: the map's values are of this type.
    unsafe { socket::storage::<u32>((&raw const OWN).cast(), sk.cast(), 0) }.is_some()
}

/// The mark that a storage map has for a socket, made where there is none.
#[inline(always)]
fn mark<M>(map: *const M, sk: *mut bpf_sock) -> Option<&'static mut u32> {
    // SAFETY: both maps that this is called for have values of this type.
    unsafe { socket::storage(map.cast(), sk.cast(), BPF_SK_STORAGE_GET_F_CREATE) }
}

#[inline(always)]
fn listening_key(ctx: &SockOpsContext) -> DestinationKey {
    let addr = local_addr(ctx, ctx.family() == socket::AF_INET);
    DestinationKey::new(WORKLOAD.load(), Direction::Inbound, addr, ctx.local_port() as u16)
}

#[inline(always)]
pub fn sk(ctx: &SockOpsContext) -> *mut bpf_sock {
    // SAFETY: the context is valid for the length of the program.
    unsafe { read!((*ctx.ops).__bindgen_anon_2.sk) }
}

#[inline(always)]
fn stored(ctx: &SockOpsContext) -> Option<&'static mut OriginalDestination> {
    socket::stored(sk(ctx).cast())
}

#[inline(always)]
fn netns_cookie(ctx: &SockOpsContext) -> u64 {
    // SAFETY: plain helper call on a valid context.
    unsafe { bpf_get_netns_cookie(ctx.ops.cast::<bpf_sock_ops>().cast()) }
}

#[inline(always)]
pub fn local_addr(ctx: &SockOpsContext, v4: bool) -> AddrWords {
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
