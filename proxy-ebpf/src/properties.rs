//! What the application has set on the socket that connects: what the proxy's connection is to have
//! too, and what no other connection can have. Part of the connect hook.
//!
//! Read from the kernel's own structure (`fields.rs`), for about 20 ns. A field that is not known
//! leaves its property as not asked for.

use aya_ebpf::{bindings::bpf_sock, helpers::bpf_get_current_uid_gid};
use weir_common::{OriginalDestination, Properties, Reason, Set};

use crate::{
    fields::{
        AO_INFO, CA_NAME, CA_OPS, CA_SET, CA_SET_SHIFT, CGROUP, EGRESS, FIRST_PROGRAM, HOP_LIMIT6,
        HOP_LIMIT6_SHIFT, IS_MPTCP, KEEPALIVE_INTERVAL, KEEPALIVE_PROBES, KEEPALIVE_TIME, LOCKS,
        LOCKS_SHIFT, MD5_INFO, MaybeTcp, OWNER, PACING, PINET6, PRIORITY, RECEIVE_BUFFER,
        SEND_BUFFER, SOCK_KEEPOPEN, SOCKET_FLAGS, TCLASS6, TOS, TTL, Tcp, USER_TIMEOUT,
    },
    socket::{self, read},
};

/// Bits of `sk_userlocks` (include/net/sock.h).
const SNDBUF_LOCK: u8 = 1;
const RCVBUF_LOCK: u8 = 2;
const BINDPORT_LOCK: u8 = 8;
/// The kernel assigns such a port on request only.
const FIRST_UNPRIVILEGED: u32 = 1024;
/// What of the traffic class is not the kernel's own (`INET_ECN_MASK`).
const DSCP: u8 = 0xfc;
/// A hop limit that was not set: -1 in nine bits, which is a bit field of that size before Linux 6.9.
const DEFAULT_HOPS: u16 = 0x1ff;

/// Whether programs filter what the socket sends (`cgroup_skb/egress` on its cgroup or above). Userspace
/// searches for them too, and finds out which they are, up to a second later.
#[inline(always)]
pub fn is_filtered(tcp: MaybeTcp) -> bool {
    let Some(tcp) = tcp.get() else { return false };
    // SAFETY: the types are the fields' own.
    unsafe {
        let Some(cgroup) = tcp.follow(&CGROUP) else { return false };
        let Some(programs) = cgroup.follow(&EGRESS) else { return false };
        programs.read::<u64>(&FIRST_PROGRAM).is_some_and(|first| first != 0)
    }
}

/// Excludes sockets with options that no connection of the proxy can have.
#[inline(always)]
pub fn transferable(sk: *mut bpf_sock, tcp: MaybeTcp) -> Result<(), Reason> {
    let mut locks = None;
    if let Some(tcp) = tcp.get() {
        // One after the other: the verifier takes pointers, and allows no arithmetic on them.
        // SAFETY: the types are the fields' own.
        if unsafe { tcp.read::<u64>(&MD5_INFO) }.is_some_and(|keys| keys != 0) {
            return Err(Reason::Signed);
        }
        // SAFETY: as above.
        if unsafe { tcp.read::<u64>(&AO_INFO) }.is_some_and(|keys| keys != 0) {
            return Err(Reason::Signed);
        }
        // SAFETY: as above.
        locks = unsafe { tcp.read::<u8>(&LOCKS) };
    }
    let bound = match locks {
        Some(locks) => locks >> LOCKS_SHIFT.load() & BINDPORT_LOCK != 0,
        None => {
            // SAFETY: non-null, as the caller has seen; a field that `bpf_sock_is_valid_access` allows.
            let port = unsafe { read!((*sk).src_port) };
            port != 0 && port < FIRST_UNPRIVILEGED
        }
    };
    if bound { Err(Reason::BoundPort) } else { Ok(()) }
}

/// Notes what the proxy's connection is to have.
#[inline(always)]
pub fn note(tcp: MaybeTcp, dest: &mut OriginalDestination) {
    let to = &mut dest.properties;
    let ids = bpf_get_current_uid_gid();
    to.uid = ids as u32;
    to.gid = (ids >> 32) as u32;
    to.set = Set::OWNER;
    let v4 = socket::is_v4(&dest.addr);
    if let Some(tcp) = tcp.get() {
        // SAFETY: every type is its field's own.
        unsafe {
            owner(tcp, to);
            if tcp.read::<u8>(&IS_MPTCP).is_some_and(|is| is != 0) {
                to.set |= Set::MPTCP;
            }
            patience(tcp, to);
            if v4 {
                header4(tcp, to);
            } else {
                header6(tcp, to);
            }
            queues(tcp, to);
            congestion(tcp, to);
        }
    }
}

/// The user that created the socket, not the one that connects it: firewall rules by owner use the former.
#[inline(always)]
unsafe fn owner(tcp: Tcp, to: &mut Properties) {
    // SAFETY: the type is the field's own.
    if let Some(uid) = unsafe { tcp.read::<u32>(&OWNER) } {
        to.uid = uid;
    }
}

#[inline(always)]
unsafe fn patience(tcp: Tcp, to: &mut Properties) {
    // SAFETY: every type is its field's own.
    unsafe {
        if let Some(flags) = tcp.read::<u64>(&SOCKET_FLAGS)
            && flags & SOCK_KEEPOPEN != 0
        {
            to.set |= Set::KEEPALIVE;
        }
        to.keepalive_time = tcp.read::<u32>(&KEEPALIVE_TIME).unwrap_or(0);
        to.keepalive_interval = tcp.read::<u32>(&KEEPALIVE_INTERVAL).unwrap_or(0);
        to.keepalive_probes = tcp.read::<u8>(&KEEPALIVE_PROBES).unwrap_or(0);
        to.user_timeout = tcp.read::<u32>(&USER_TIMEOUT).unwrap_or(0);
    }
}

#[inline(always)]
unsafe fn header4(tcp: Tcp, to: &mut Properties) {
    // SAFETY: every type is its field's own.
    unsafe {
        to.traffic_class = tcp.read::<u8>(&TOS).unwrap_or(0) & DSCP;
        hops(tcp.read::<u16>(&TTL), to);
    }
}

#[inline(always)]
unsafe fn header6(tcp: Tcp, to: &mut Properties) {
    // SAFETY: every type is its field's own.
    unsafe {
        let Some(ipv6) = tcp.follow(&PINET6) else { return };
        to.traffic_class = ipv6.read::<u8>(&TCLASS6).unwrap_or(0) & DSCP;
        let field = ipv6.read::<u16>(&HOP_LIMIT6);
        hops(field.map(|field| field >> (HOP_LIMIT6_SHIFT.load() & 0xf)), to);
    }
}

#[inline(always)]
fn hops(field: Option<u16>, to: &mut Properties) {
    if let Some(hops) = field
        && hops & DEFAULT_HOPS != DEFAULT_HOPS
    {
        to.hop_limit = hops as u8;
        to.set |= Set::HOP_LIMIT;
    }
}

#[inline(always)]
unsafe fn queues(tcp: Tcp, to: &mut Properties) {
    // SAFETY: every type is its field's own.
    unsafe {
        to.priority = tcp.read::<u32>(&PRIORITY).unwrap_or(0);
        if let Some(pacing) = tcp.read::<u64>(&PACING)
            && pacing != u64::MAX
        {
            to.pacing = pacing;
            to.set |= Set::PACING;
        }
        let Some(locks) = tcp.read::<u8>(&LOCKS) else { return };
        let locks = locks >> LOCKS_SHIFT.load();
        if locks & RCVBUF_LOCK != 0
            && let Some(size) = tcp.read::<u32>(&RECEIVE_BUFFER)
        {
            to.receive_buffer = size;
            to.set |= Set::RECEIVE_BUFFER;
        }
        if locks & SNDBUF_LOCK != 0
            && let Some(size) = tcp.read::<u32>(&SEND_BUFFER)
        {
            to.send_buffer = size;
            to.set |= Set::SEND_BUFFER;
        }
    }
}

#[inline(always)]
unsafe fn congestion(tcp: Tcp, to: &mut Properties) {
    // SAFETY: every type is its field's own.
    unsafe {
        let Some(set) = tcp.read::<u8>(&CA_SET) else { return };
        if set >> CA_SET_SHIFT.load() & 1 == 0 {
            return;
        }
        let Some(algorithm) = tcp.follow(&CA_OPS) else { return };
        let Some(name) = algorithm.read_pair(&CA_NAME) else { return };
        to.congestion = name;
        to.set |= Set::CONGESTION;
    }
}
