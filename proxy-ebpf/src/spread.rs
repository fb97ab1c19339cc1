//! Which of weir's listeners an outbound connection is redirected to, and at which address.
//!
//! connect(2) finds a source port that no other connection to the same address and port has. So
//! destinations are spread over the addresses of one listener (IPv4) or over several listeners (IPv6,
//! and IPv4 where loopback has no other address than 127.0.0.1); the latter are counted in `OPEN`, and
//! left alone where they have nearly as many connections as there are ports: afterwards it would be
//! too late, since the kernel chooses the port after the hook.

use aya_ebpf::bindings::BPF_NOEXIST;
use weir_common::{
    AddrWords, LOOPBACK4, ListenerKey, ListenerKind, OpenKey, OriginalDestination, Reason, Usage,
    WorkloadConfig, WorkloadId, flags, hold, spread,
};

use crate::{maps::OPEN, share::add, socket};

/// Where a connection is redirected to.
#[derive(Clone, Copy)]
pub struct Place {
    pub addr: AddrWords,
    /// Host order.
    pub port: u16,
}

const LOOPBACK6: AddrWords = [0, 0, 0, 1_u32.to_be()];

/// The place for a destination. Notes that the connection is held where it will be.
#[inline(always)]
pub fn place(config: &WorkloadConfig, dest: &mut OriginalDestination) -> Result<Place, Reason> {
    let v4 = socket::is_v4(&dest.addr);
    let hash = spread::hash(&dest.addr, dest.port);
    let found = if v4 { place4(config, dest, hash) } else { place6(config, dest, hash) };
    match found {
        Err(Reason::NoListener) => {}
        found => {
            if config.flags & flags::HOLD != 0 {
                dest.hold = hold::NEW;
            }
            return found;
        }
    }
    // Without a listener for outbound connections: the one for inbound ones, which never holds.
    let kind = if v4 { ListenerKind::V4 } else { ListenerKind::V6 };
    let addr = if v4 { socket::mapped(LOOPBACK4) } else { LOOPBACK6 };
    counted(config, dest.workload, kind, 0, addr)
}

#[inline(always)]
fn place4(config: &WorkloadConfig, dest: &OriginalDestination, hash: u32) -> Result<Place, Reason> {
    if config.flags & flags::SPREAD == 0 {
        let addr = socket::mapped(LOOPBACK4);
        return counted(config, dest.workload, ListenerKind::Outbound4, 0, addr);
    }
    let key = key(dest.workload, ListenerKind::Outbound4, 0);
    let port = socket::listener_port(&key).ok_or(Reason::NoListener)?;
    Ok(Place { addr: spread::address(hash), port })
}

#[inline(always)]
fn place6(config: &WorkloadConfig, dest: &OriginalDestination, hash: u32) -> Result<Place, Reason> {
    let mut why = Reason::NoListener;
    let mut attempt = 0;
    while attempt < spread::PLACES6 {
        let place = spread::place(hash, attempt);
        match counted(config, dest.workload, ListenerKind::Outbound6, place, LOOPBACK6) {
            Ok(place) => return Ok(place),
            Err(Reason::ShortOfPorts) => why = Reason::ShortOfPorts,
            Err(_) => {}
        }
        attempt += 1;
    }
    Err(why)
}

/// A listener that all connections reach at the same address, as long as there are source ports.
#[inline(always)]
fn counted(
    config: &WorkloadConfig,
    workload: WorkloadId,
    kind: ListenerKind,
    place: u16,
    addr: AddrWords,
) -> Result<Place, Reason> {
    let port = socket::listener_port(&key(workload, kind, place)).ok_or(Reason::NoListener)?;
    // SAFETY: one aligned word.
    let count = unsafe { OPEN.get(&open_key(workload, &addr, port)) }.copied().unwrap_or(0);
    // Below zero where the count was begun anew while connections were open.
    if config.source_ports != 0 && Usage::used(count, 0) >= config.source_ports {
        return Err(Reason::ShortOfPorts);
    }
    Ok(Place { addr, port })
}

#[inline(always)]
const fn key(workload: WorkloadId, kind: ListenerKind, place: u16) -> ListenerKey {
    ListenerKey { workload, kind: kind as u16, place }
}

/// Counts a connection that has found its source port, once, whichever programs see it. `addr` and
/// `listener` are where it was redirected to.
#[inline(always)]
pub fn opened(dest: &mut OriginalDestination, addr: &AddrWords, listener: u16) {
    if dest.counted != 0 || spread::contains(addr) {
        return;
    }
    let key = open_key(dest.workload, addr, listener);
    if OPEN.get_ptr_mut(&key).is_none() {
        // Another processor may have been faster.
        let _ = OPEN.insert(&key, 0, u64::from(BPF_NOEXIST));
    }
    if let Some(count) = OPEN.get_ptr_mut(&key) {
        dest.counted = 1;
        // SAFETY: an aligned word of a live entry.
        unsafe { add(count, 1) };
    }
}

/// Counts it no more.
#[inline(always)]
pub fn closed(dest: &mut OriginalDestination, addr: &AddrWords, listener: u16) {
    if dest.counted == 0 {
        return;
    }
    dest.counted = 0;
    if let Some(count) = OPEN.get_ptr_mut(&open_key(dest.workload, addr, listener)) {
        // SAFETY: as above.
        unsafe { add(count, -1) };
    }
}

#[inline(always)]
const fn open_key(workload: WorkloadId, addr: &AddrWords, listener: u16) -> OpenKey {
    OpenKey { workload, listener, inet6: !socket::is_v4(addr) as u16 }
}
