//! `cgroup/connect4` and `cgroup/connect6`: decides whether a connection goes to the proxy.
//!
//! The checks are those of `weir_common::decision`. The first that fails lets the connection go direct,
//! and is counted. A connection that goes direct by rule keeps its decision in the socket's storage, so
//! that `stream` can report how it ended.

use aya_ebpf::{
    btf_maps::lpm_trie::Key,
    helpers::{
        bpf_get_current_cgroup_id, bpf_get_current_pid_tgid, bpf_get_netns_cookie,
        bpf_ktime_get_ns, generated,
    },
    macros::cgroup_sock_addr,
    programs::SockAddrContext,
};
use aya_log_ebpf::debug;
use weir_common::{
    AddrWords, AddressClass, DestinationKey, Direction, OriginalDestination, PortKey, PortState,
    PrefixKey, Reason, WorkloadConfig, decision::OUTBOUND, destination, flags,
};

use crate::{
    checks::checks,
    fields::MaybeTcp,
    maps::{FAILED, PORT_HITS, PROXIED, ROUTES, SKIP_CIDRS, WORKLOAD, WORKLOADS, count, increment},
    policy, properties, share,
    socket::{self, read, read_words, write},
    spread::{self, Place},
};

const SOCK_STREAM: u32 = 1;
/// Lets the system call go on.
const PROCEED: i32 = 1;
/// EPERM for the application.
const REFUSE: i32 = 0;

/// Where the parts of the table begin: see [`concerned`], [`by_rule`] and [`by_reach`].
const SCOPE: usize = 1;
const RULES: usize = 5;
const REACH: usize = 10;

#[cgroup_sock_addr(connect4)]
pub fn weir_connect4(ctx: SockAddrContext) -> i32 {
    // SAFETY: the context is valid for the length of the program.
    let v4 = unsafe { read!((*ctx.sock_addr).user_ip4) };
    run::<false>(&ctx, destination(socket::mapped(v4)))
}

#[cgroup_sock_addr(connect6)]
pub fn weir_connect6(ctx: SockAddrContext) -> i32 {
    // SAFETY: as above.
    let addr = unsafe { read_words!((*ctx.sock_addr).user_ip6) };
    run::<true>(&ctx, destination(addr))
}

#[inline(always)]
fn run<const INET6: bool>(ctx: &SockAddrContext, addr: AddrWords) -> i32 {
    // SAFETY: as above.
    let (kind, protocol, port_be) = unsafe {
        (
            read!((*ctx.sock_addr).type_),
            read!((*ctx.sock_addr).protocol),
            read!((*ctx.sock_addr).user_port) as u16,
        )
    };
    checks! { OUTBOUND[0..SCOPE];
        Tcp {
            if kind != SOCK_STREAM || protocol != socket::IPPROTO_TCP {
                count(Direction::Outbound, Reason::NotTcp);
                return PROCEED;
            }
        }
    }
    let mut destination = OriginalDestination {
        addr,
        workload: WORKLOAD.load(),
        port: u16::from_be(port_be),
        inet6: u8::from(INET6),
        direction: Direction::Outbound as u8,
        ..OriginalDestination::default()
    };
    let reason = match try_connect::<INET6>(ctx, &mut destination) {
        Ok(()) => Reason::Redirected,
        Err(reason) => reason,
    };
    count(Direction::Outbound, reason);
    debug!(ctx, "connect port {} reason {}", destination.port, reason as u32);
    if reason as u32 == Reason::FailClosed as u32 { REFUSE } else { PROCEED }
}

#[inline(always)]
fn try_connect<const INET6: bool>(
    ctx: &SockAddrContext,
    dest: &mut OriginalDestination,
) -> Result<(), Reason> {
    let config = match concerned(ctx, dest) {
        Ok(config) => config,
        Err(reason) => {
            // What an earlier connection of the same socket left.
            socket::forget(socket::of_address(ctx.sock_addr).cast());
            return Err(reason);
        }
    };
    note_process(dest);
    match by_rule(config, dest).and_then(|()| by_reach(ctx, config, dest)) {
        Ok(place) => redirect::<INET6>(ctx, dest, place).inspect_err(|_| {
            share::release(dest.workload);
        }),
        Err(reason) => {
            leave(ctx, dest, reason);
            Err(reason)
        }
    }
}

/// Notes who connects.
#[inline(always)]
fn note_process(dest: &mut OriginalDestination) {
    dest.pid = (bpf_get_current_pid_tgid() >> 32) as u32;
    let command = dest.command.as_mut_ptr();
    // SAFETY: helper call; the buffer has that size. Where it fails it is filled with zeroes.
    unsafe { generated::bpf_get_current_comm(command.cast(), size_of_val(&dest.command) as u32) };
}

/// The workload's configuration, where the connection is one of those that weir looks at.
#[inline(always)]
fn concerned(
    ctx: &SockAddrContext,
    dest: &OriginalDestination,
) -> Result<&'static WorkloadConfig, Reason> {
    let config;
    checks! { OUTBOUND[SCOPE..RULES];
        Configured {
            // SAFETY: a copy is not needed: userspace replaces entries, it does not write into them.
            config = unsafe { WORKLOADS.get(&dest.workload) }.ok_or(Reason::Unconfigured)?;
        }
        Namespace {
            // SAFETY: plain helper call on a valid context.
            let netns = unsafe { bpf_get_netns_cookie(ctx.sock_addr.cast()) };
            if config.netns_cookie != 0 && config.netns_cookie != netns {
                return Err(Reason::OtherNetns);
            }
        }
        Loopback {
            if socket::is_loopback(&dest.addr) && config.flags & flags::CAPTURE_LOOPBACK == 0 {
                return Err(Reason::Loopback);
            }
        }
        OwnTraffic {
            if config.exempt_cgroup != 0
                // SAFETY: plain helper call.
                && config.exempt_cgroup == unsafe { bpf_get_current_cgroup_id() }
            {
                return Err(Reason::OwnTraffic);
            }
        }
    }
    Ok(config)
}

/// The settings, and what the proxy learned: ports, prefixes, include list.
#[inline(always)]
fn by_rule(config: &WorkloadConfig, dest: &mut OriginalDestination) -> Result<(), Reason> {
    let rule = policy::rule(dest.workload, Direction::Outbound, dest.port);
    dest.state = rule.state;
    dest.state_source = rule.source;
    checks! { OUTBOUND[RULES..REACH];
        PortRule {
            if dest.state == PortState::Skip as u8 {
                increment(
                    &PORT_HITS,
                    &PortKey::new(dest.workload, Direction::Outbound, dest.port),
                );
                return Err(Reason::SkipPort);
            }
        }
        SkippedPrefix {
            let prefix = Key::new(PrefixKey::BITS, PrefixKey::new(dest.workload, dest.addr));
            if SKIP_CIDRS.get(&prefix).is_some() {
                return Err(Reason::SkipCidr);
            }
        }
        IncludeList {
            if config.flags & flags::INCLUDE_OUTBOUND != 0 && rule.included == 0 {
                return Err(Reason::NotIncluded);
            }
        }
        Learned {
            policy::learned(dest, &destination_key(dest))?;
        }
        Proxied {
            if config.flags & flags::TAP != 0 && !is_balanced(dest) {
                return Err(Reason::Tapped);
            }
        }
    }
    Ok(())
}

/// What the kernel and the proxy can do: route, socket, listener, heartbeat, and a place for the
/// connection on its way, which comes last: it is reserved where the answer is yes.
#[inline(always)]
fn by_reach(
    ctx: &SockAddrContext,
    config: &WorkloadConfig,
    dest: &mut OriginalDestination,
) -> Result<Place, Reason> {
    let tcp = MaybeTcp::of(socket::of_address(ctx.sock_addr));
    let (is_local, place);
    checks! { OUTBOUND[REACH..OUTBOUND.len()];
        Filter {
            if config.flags & flags::OUTBOUND_FILTERED != 0
                || config.flags & flags::EGRESS_SHARED == 0 && properties::is_filtered(tcp)
            {
                return Err(Reason::Filtered);
            }
        }
        Socket {
            bound(ctx, dest)?;
            properties::transferable(socket::of_address(ctx.sock_addr), tcp)?;
        }
        Address {
            if let Some(reason) = AddressClass::of(&dest.addr).refused() {
                return Err(reason);
            }
        }
        Route {
            is_local = route(config, dest)?;
        }
        Listened {
            // What local sockets know needs no proxy: without a listener the kernel refuses at once.
            if is_local
                && !socket::is_listened_on(ctx.sock_addr.cast(), &dest.addr, dest.port)
            {
                return Err(Reason::NotListening);
            }
        }
        Failure {
            if policy::is_ahead(&FAILED, &destination_key(dest)) {
                return Err(Reason::FailedBefore);
            }
        }
        Listener {
            place = spread::place(config, dest)
                .map_err(|reason| policy::without_proxy(config, reason))?;
        }
        Heartbeat {
            // SAFETY: plain helper call.
            dest.connected_ns = unsafe { bpf_ktime_get_ns() };
            if !policy::is_fresh(config, dest.connected_ns) {
                return Err(policy::without_proxy(config, Reason::Stale));
            }
        }
        OwnListener {
            if place.port == dest.port && socket::is_loopback(&dest.addr) {
                return Err(Reason::OwnListener);
            }
        }
        Share {
            if !share::reserve(config, dest.workload) {
                return Err(policy::without_proxy(config, Reason::PendingFull));
            }
        }
    }
    Ok(place)
}

/// Whether weir is to choose the endpoint.
#[inline(always)]
fn is_balanced(dest: &OriginalDestination) -> bool {
    let key = DestinationKey::new(0, Direction::Outbound, dest.addr, dest.port);
    PROXIED.get(&Key::new(DestinationKey::BITS, key)).is_some()
}

#[inline(always)]
const fn destination_key(dest: &OriginalDestination) -> DestinationKey {
    DestinationKey::new(dest.workload, Direction::Outbound, dest.addr, dest.port)
}

/// Notes an address or mark that the application set; a device it is bound to rules us out.
#[inline(always)]
fn bound(ctx: &SockAddrContext, dest: &mut OriginalDestination) -> Result<(), Reason> {
    let sk = socket::of_address(ctx.sock_addr);
    if sk.is_null() {
        return Err(Reason::HookError);
    }
    // SAFETY: non-null; word-wise reads of fields that `bpf_sock_is_valid_access` allows.
    let (device, mark, v4, v6) = unsafe {
        (
            read!((*sk).bound_dev_if),
            read!((*sk).mark),
            read!((*sk).src_ip4),
            read_words!((*sk).src_ip6),
        )
    };
    if device != 0 {
        return Err(Reason::BoundDevice);
    }
    dest.mark = mark;
    if socket::is_v4(&dest.addr) {
        if v4 != 0 {
            dest.source = socket::mapped(v4);
            dest.bound = 1;
        }
    } else if v6[0] | v6[1] | v6[2] | v6[3] != 0 {
        dest.source = v6;
        dest.bound = 1;
    }
    Ok(())
}

/// Lets through what the kernel has no route to: the application gets that error itself. Says
/// whether the destination is in the workload's own namespace, and notes the source address.
#[inline(always)]
fn route(config: &WorkloadConfig, dest: &mut OriginalDestination) -> Result<bool, Reason> {
    let own = socket::is_loopback(&dest.addr);
    if config.flags & flags::ROUTES_COMPLETE == 0 {
        return Ok(own);
    }
    let key = Key::new(PrefixKey::BITS, PrefixKey::new(dest.workload, dest.addr));
    let Some(route) = ROUTES.get(&key) else { return Err(Reason::NoRoute) };
    if route.reachable == 0 {
        return Err(Reason::NoRoute);
    }
    if dest.bound == 0 {
        dest.source = route.source;
    }
    // From an address to itself: one of the namespace's own.
    Ok(own || socket::is_same(&route.source, &dest.addr))
}

/// Remembers the destination with the socket, then rewrites it to the proxy's listener.
#[inline(always)]
fn redirect<const INET6: bool>(
    ctx: &SockAddrContext,
    dest: &mut OriginalDestination,
    to: Place,
) -> Result<(), Reason> {
    dest.reason = Reason::Redirected as u8;
    // Asked once more: kept since the checks, a socket or none would be two states for the verifier in
    // everything between, and take it twice the time.
    properties::note(MaybeTcp::of(socket::of_address(ctx.sock_addr)), dest);
    if !socket::store(socket::of_address(ctx.sock_addr).cast(), dest) {
        return Err(Reason::HookError);
    }
    // SAFETY: fields that `sock_addr_is_valid_access` lets a connect hook write.
    unsafe {
        write!((*ctx.sock_addr).user_port, u32::from(to.port.to_be()));
        if INET6 {
            write!((*ctx.sock_addr).user_ip6[0], to.addr[0]);
            write!((*ctx.sock_addr).user_ip6[1], to.addr[1]);
            write!((*ctx.sock_addr).user_ip6[2], to.addr[2]);
            write!((*ctx.sock_addr).user_ip6[3], to.addr[3]);
        } else {
            write!((*ctx.sock_addr).user_ip4, to.addr[3]);
        }
    }
    Ok(())
}

/// Keeps the decision with a socket that goes direct, for the report at its end.
#[inline(always)]
fn leave(ctx: &SockAddrContext, dest: &mut OriginalDestination, reason: Reason) {
    dest.reason = reason as u8;
    // SAFETY: plain helper call.
    dest.connected_ns = unsafe { bpf_ktime_get_ns() };
    let _ = socket::store(socket::of_address(ctx.sock_addr).cast(), dest);
}
