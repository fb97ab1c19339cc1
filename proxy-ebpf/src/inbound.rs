//! `sk_lookup`: decides whether a connection to the workload goes to the proxy.
//!
//! It runs in the workload's network namespace for every segment that no established socket takes:
//! new connections, and stray segments of old ones. The checks are those of `weir_common::decision`. The
//! first that fails lets the kernel look further as if weir were not there. The accepted socket's
//! local address is the original destination, so nothing has to be remembered.

use aya_ebpf::{
    EbpfContext as _,
    bindings::{BPF_SK_LOOKUP_F_REPLACE, sk_action},
    btf_maps::lpm_trie::Key,
    helpers::{bpf_ktime_get_ns, bpf_sk_assign, bpf_sk_release},
    macros::sk_lookup,
    programs::SkLookupContext,
};
use weir_common::{
    AddrWords, DestinationKey, Direction, ListenerKey, ListenerKind, OriginalDestination, PortKey,
    PortState, Reason, WorkloadConfig, decision::INBOUND, flags,
};

use crate::{
    checks::checks,
    listening,
    maps::{INGRESS_IFINDEX, INSIDE, PORT_HITS, WORKLOAD, WORKLOADS, count, increment},
    policy,
    socket::{self, Lookup, read},
};

/// Of `lo`, in every namespace.
const LOOPBACK_IFINDEX: u32 = 1;
const ENOENT: i32 = 2;

/// Where the parts of the table begin: see [`permit`], [`steer`] and [`try_inbound`].
const RULES: usize = 3;
const LISTENING: usize = 7;
const PROXY: usize = 8;

#[sk_lookup]
pub fn weir_inbound(ctx: SkLookupContext) -> u32 {
    if !socket::is_tcp(&ctx) {
        // Not counted: too many.
        return sk_action::SK_PASS;
    }
    let reason = match try_inbound(&ctx) {
        Ok(()) => Reason::Redirected,
        Err(None) => return sk_action::SK_PASS,
        Err(Some(reason)) => reason,
    };
    count(Direction::Inbound, reason);
    // Without a socket the kernel answers with a reset.
    if reason as u32 == Reason::FailClosed as u32 { sk_action::SK_DROP } else { sk_action::SK_PASS }
}

/// The error is why the connection goes direct; `None` where inbound connections are not captured.
#[inline(always)]
fn try_inbound(ctx: &SkLookupContext) -> Result<(), Option<Reason>> {
    let Lookup { v4, local, port, remote, remote_port } = Lookup::of(ctx);
    let peer = DestinationKey::new(WORKLOAD.load(), Direction::Inbound, remote, remote_port);
    let config;
    checks! { INBOUND[0..RULES];
        Configured {
            // SAFETY: userspace replaces entries, it does not write into them.
            config = unsafe { WORKLOADS.get(&peer.workload) }.ok_or(Reason::Unconfigured)?;
        }
        Captured {
            if config.flags & flags::CAPTURE_INBOUND == 0 {
                return Err(None);
            }
        }
        Outside {
            if from_loopback(ctx) || is_inside(&local, &peer) {
                return Err(Some(Reason::FromInside));
            }
        }
    }
    let mut dest = OriginalDestination {
        addr: local,
        workload: peer.workload,
        port,
        ..OriginalDestination::default()
    };
    if let Err(reason) = steer(config, &mut dest) {
        if reason as u32 == Reason::SkipPort as u32 {
            increment(&PORT_HITS, &PortKey::new(dest.workload, Direction::Inbound, port));
        }
        return Err(Some(reason));
    }
    checks! { INBOUND[PROXY..INBOUND.len()];
        Heartbeat {
            // SAFETY: plain helper call.
            if !policy::is_fresh(config, unsafe { bpf_ktime_get_ns() }) {
                return Err(Some(policy::without_proxy(config, Reason::Stale)));
            }
        }
        Listener {
            let kind = if v4 { ListenerKind::V4 } else { ListenerKind::V6 };
            let key = ListenerKey { workload: dest.workload, kind: kind as u16, place: 0 };
            // In place of what a program before this one has chosen: during an upgrade both weirs are
            // attached, and the younger one comes last. Another dispatcher loses nothing by it: it is
            // asked again for the proxy's connection from inside, which this program leaves alone.
            match assign(ctx, &key) {
                Ok(()) => {}
                Err(error) if error == -ENOENT => {
                    return Err(Some(policy::without_proxy(config, Reason::NoListener)));
                }
                Err(_) => return Err(Some(Reason::HookError)),
            }
        }
    }
    Ok(())
}

/// Gives the connection to the listener in a slot.
#[inline(always)]
fn assign(ctx: &SkLookupContext, key: &ListenerKey) -> Result<(), i32> {
    let sk = socket::listener(key).ok_or(-ENOENT)?;
    // SAFETY: a referenced socket, released exactly once.
    let result = unsafe {
        let result =
            bpf_sk_assign(ctx.as_ptr().cast(), sk.cast(), u64::from(BPF_SK_LOOKUP_F_REPLACE));
        bpf_sk_release(sk.cast());
        result
    };
    if result == 0 { Ok(()) } else { Err(result as i32) }
}

/// Whether a connection that is just coming goes to the proxy.
#[inline(always)]
fn steer(config: &WorkloadConfig, dest: &mut OriginalDestination) -> Result<(), Reason> {
    let key = permit(config, dest)?;
    checks! { INBOUND[LISTENING..PROXY];
        Listened {
            if !listening::is_listening(&key) {
                return Err(Reason::NotListening);
            }
        }
    }
    Ok(())
}

/// The same for a connection that the workload has accepted, so that a socket did listen. For
/// sockops, whose programs cannot look into a sock hash.
#[inline(always)]
pub fn decide(config: &WorkloadConfig, dest: &mut OriginalDestination) -> Result<(), Reason> {
    let key = permit(config, dest)?;
    if listening::was_listening(&key) { Ok(()) } else { Err(Reason::NotListening) }
}

/// The settings, and what the proxy learned. Fills in the port's state.
#[inline(always)]
fn permit(
    config: &WorkloadConfig,
    dest: &mut OriginalDestination,
) -> Result<DestinationKey, Reason> {
    dest.direction = Direction::Inbound as u8;
    let rule = policy::rule(dest.workload, Direction::Inbound, dest.port);
    dest.state = rule.state;
    dest.state_source = rule.source;
    let key = DestinationKey::new(dest.workload, Direction::Inbound, dest.addr, dest.port);
    checks! { INBOUND[RULES..LISTENING];
        PortRule {
            if dest.state == PortState::Skip as u8 {
                return Err(Reason::SkipPort);
            }
        }
        IncludeList {
            if config.flags & flags::INCLUDE_INBOUND != 0 && rule.included == 0 {
                return Err(Reason::NotIncluded);
            }
        }
        Filter {
            if config.flags & flags::INBOUND_FILTERED != 0 {
                return Err(Reason::Filtered);
            }
        }
        Learned {
            policy::learned(dest, &key)?;
        }
    }
    Ok(key)
}

/// True for a peer that is in the same network namespace as the workload: by its address, or
/// because userspace says so (see `maps::INSIDE` in weir-common).
#[inline(always)]
pub fn is_inside(local: &AddrWords, peer: &DestinationKey) -> bool {
    socket::is_same(local, &peer.addr)
        || socket::is_loopback(&peer.addr)
        || is_known(&DestinationKey { port: 0, ..*peer })
        || is_known(peer)
}

#[inline(always)]
fn is_known(peer: &DestinationKey) -> bool {
    INSIDE.get(&Key::new(DestinationKey::BITS, *peer)).is_some()
}

/// True where the segment came through `lo` to an address of `lo`; false also where the kernel
/// cannot say. A segment through `lo` to an address of another device counts as that device's
/// (`__ip_route_output_key_hash` in net/ipv4/route.c, `ip6_rcv_core` in net/ipv6/ip6_input.c).
#[inline(always)]
fn from_loopback(ctx: &SkLookupContext) -> bool {
    // SAFETY: the field is read only where the kernel has it.
    INGRESS_IFINDEX.load() != 0
        && unsafe { read!((*ctx.lookup).ingress_ifindex) } == LOOPBACK_IFINDEX
}
