//! Holding connections: the application's SYN is kept from the proxy's listener until the proxy has
//! connected to the destination, so that connect(2) succeeds or fails as the destination does.
//!
//! `connect` redirects to a hold listener → `stream` notes the connection in `PENDING`, as new →
//! [`weir_hold`], the socket filter of that listener, sees the SYN, tells the proxy (`HOLDS`) and drops
//! it → the proxy dials; when it is connected it sets the note to ready and sends the very same SYN
//! again, which passes → the handshake completes. When it is refused it answers the SYN itself.
//! `stream` tells when the application gives up before. [`weir_missed`] knows of segments that the
//! listener would take for stray ones.
//!
//! `tcp_filter` (net/ipv4/tcp_ipv4.c) runs for a listener before anything is made of a segment. What
//! it drops is dropped silently, and TCP sends a SYN again: so an event without room in the
//! ring buffer is made up for a second later.

use core::{arch::asm, ffi::c_void};

use aya_ebpf::{
    bindings::{BPF_RB_FORCE_WAKEUP, sk_action},
    helpers::{bpf_skb_load_bytes, bpf_skb_load_bytes_relative},
    macros::{sk_lookup, socket_filter},
    programs::{SkBuffContext, SkLookupContext},
};
use weir_common::{AddrWords, ConnectionKey, HELD_BYTES, HoldEvent, OriginalDestination, hold};

use crate::{
    maps::{HOLDS, PENDING, WORKLOAD, WORKLOADS},
    socket::{self, Lookup, read},
};

/// The segment goes on, whatever its length.
const PASS: i64 = 0xffff_ffff;
const DROP: i64 = 0;
/// `enum bpf_hdr_start_off` in include/uapi/linux/bpf.h.
const BPF_HDR_START_NET: u32 = 1;
/// Ethernet types, network order.
const ETH_P_IP: u32 = 0x0800_u16.to_be() as u32;
const ETH_P_IPV6: u32 = 0x86dd_u16.to_be() as u32;
/// Of byte 13 of a TCP header.
const SYN: u8 = 1 << 1;
const RST: u8 = 1 << 2;
const ACK: u8 = 1 << 4;
/// The shortest IP and TCP headers together. What is told is this and at most [`MORE`] bytes more,
/// which is how the verifier is shown the bounds.
const SHORTEST: u32 = 40;
const MORE: u32 = 63;
const _: () = assert!((SHORTEST + MORE) as usize <= HELD_BYTES);

/// For a workload's hold listeners.
#[socket_filter]
pub fn weir_hold(ctx: SkBuffContext) -> i64 {
    // Whatever cannot be held is accepted at once.
    try_hold(&ctx).unwrap_or(PASS)
}

/// For the namespace of a workload whose connections are held: sees each segment that no connection's
/// socket takes, just before the filter of the listener sees it on the same processor, and lets it pass.
#[sk_lookup]
pub fn weir_missed(ctx: SkLookupContext) -> u32 {
    if socket::is_tcp(&ctx) {
        missed(&ctx);
    }
    sk_action::SK_PASS
}

/// What of a segment's headers matters.
struct Headers {
    /// It opens a connection.
    syn: bool,
    source: AddrWords,
    destination: AddrWords,
    source_port: u16,
    port: u16,
    sequence: u32,
    length: u32,
}

#[inline(always)]
fn try_hold(ctx: &SkBuffContext) -> Option<i64> {
    let headers = headers(ctx)?;
    if headers.syn && headers.length.wrapping_sub(SHORTEST) > MORE {
        return None;
    }
    let workload = WORKLOAD.load();
    // SAFETY: userspace replaces entries, it does not write into them.
    let config = unsafe { WORKLOADS.get(&workload) }?;
    let key = ConnectionKey {
        netns_cookie: config.netns_cookie,
        addr: headers.source,
        listener_addr: headers.destination,
        workload,
        port: headers.source_port,
        listener: headers.port,
    };
    let note = PENDING.get_ptr_mut(&key)?;
    if !headers.syn {
        return Some(complete(note));
    }
    // SAFETY: aligned words of a live entry. Of two SYNs at once both may be told: it is one connection
    // for userspace.
    unsafe {
        match (&raw const (*note).hold).read_volatile() {
            hold::NEW => {}
            hold::WAITING => return Some(DROP),
            // Another connection's note, in a rare race, if the number differs.
            hold::READY | hold::ACKNOWLEDGED | hold::MISSED | hold::DELAYED
                if (&raw const (*note).sequence).read_volatile() != headers.sequence =>
            {
                return Some(DROP);
            }
            _ => return Some(PASS),
        }
        let connected_ns = (&raw const (*note).connected_ns).read_volatile();
        // First: once it has been told, userspace puts another entry in this one's place.
        (&raw mut (*note).sequence).write_volatile(headers.sequence);
        (&raw mut (*note).hold).write_volatile(hold::WAITING);
        if !tell(ctx, &key, connected_ns, &headers) {
            (&raw mut (*note).hold).write_volatile(hold::NEW);
        }
    }
    Some(DROP)
}

/// For a segment of a connection whose SYN has passed, until its accepted socket has the note.
///
/// The application may send data on another processor while the acknowledgement before it is being
/// processed. For a moment neither the request nor the accepted socket is to be found then
/// (`inet_ehash_insert` in net/ipv4/inet_hashtables.c, fixed in Linux 6.19), and the listener would answer
/// with a reset. [`weir_missed`] knows of it. Such a segment is dropped: TCP sends it again. Once: with SYN
/// cookies there is no request ever, and what a full queue has refused may complete the handshake later.
#[inline(always)]
fn complete(note: *mut OriginalDestination) -> i64 {
    // SAFETY: an aligned word of a live entry.
    unsafe {
        let hold = &raw mut (*note).hold;
        match hold.read_volatile() {
            hold::READY => hold.write_volatile(hold::ACKNOWLEDGED),
            hold::MISSED => {
                hold.write_volatile(hold::DELAYED);
                return DROP;
            }
            _ => {}
        }
    }
    PASS
}

/// Notes that a segment of a connection has missed its socket, if it is one of a held connection's.
#[inline(always)]
fn missed(ctx: &SkLookupContext) {
    let Lookup { local, port, remote, remote_port, .. } = Lookup::of(ctx);
    if !socket::is_loopback(&local) {
        return;
    }
    let workload = WORKLOAD.load();
    // SAFETY: userspace replaces entries, it does not write into them.
    let Some(config) = (unsafe { WORKLOADS.get(&workload) }) else { return };
    let key = ConnectionKey {
        netns_cookie: config.netns_cookie,
        addr: remote,
        listener_addr: local,
        workload,
        port: remote_port,
        listener: port,
    };
    let Some(note) = PENDING.get_ptr_mut(&key) else { return };
    // SAFETY: an aligned word of a live entry.
    unsafe {
        let hold = &raw mut (*note).hold;
        if hold.read_volatile() == hold::ACKNOWLEDGED {
            hold.write_volatile(hold::MISSED);
        }
    }
}

/// The headers of a segment; `None` for a reset, and where they cannot be read.
#[inline(always)]
fn headers(ctx: &SkBuffContext) -> Option<Headers> {
    let skb = ctx.skb.skb;
    // The filter runs with the TCP header at the beginning.
    let mut tcp = [0_u32; 4];
    // SAFETY: helper call on a live context; the buffer has that size.
    let loaded = unsafe { bpf_skb_load_bytes(skb.cast(), 0, tcp.as_mut_ptr().cast(), 16) };
    let [ports, sequence, _, more] = tcp.map(u32::from_be);
    let flags = (more >> 16) as u8;
    if loaded != 0 || flags & RST != 0 {
        return None;
    }
    // SAFETY: the context is valid for the length of the program.
    let protocol = unsafe { read!((*skb).protocol) };
    let mut source = socket::mapped(0);
    let mut destination = socket::mapped(0);
    let ip_length = if protocol == ETH_P_IP {
        let mut first = [0_u8; 4];
        from_network(ctx, 0, first.as_mut_ptr().cast(), 4)?;
        let mut words = [0_u32; 2];
        from_network(ctx, 12, words.as_mut_ptr().cast(), 8)?;
        [source[3], destination[3]] = words;
        u32::from(first[0] & 0xf) * 4
    } else if protocol == ETH_P_IPV6 {
        let mut next = [0_u8; 4];
        from_network(ctx, 4, next.as_mut_ptr().cast(), 4)?;
        if u32::from(next[2]) != socket::IPPROTO_TCP {
            // Extension headers: they are sent on loopback on request only.
            return None;
        }
        from_network(ctx, 8, source.as_mut_ptr().cast(), 16)?;
        from_network(ctx, 24, destination.as_mut_ptr().cast(), 16)?;
        40
    } else {
        return None;
    };
    Some(Headers {
        syn: flags & (SYN | ACK) == SYN,
        source,
        destination,
        source_port: (ports >> 16) as u16,
        port: ports as u16,
        sequence,
        length: ip_length + (more >> 28) * 4,
    })
}

/// Tells the proxy of a SYN; false where the ring buffer has no room.
#[inline(always)]
fn tell(ctx: &SkBuffContext, key: &ConnectionKey, connected_ns: u64, headers: &Headers) -> bool {
    let length = SHORTEST + masked(headers.length.wrapping_sub(SHORTEST));
    let Some(mut event) = HOLDS.reserve(0) else { return false };
    let to = event.as_mut_ptr();
    // SAFETY: reserved memory of that type.
    let loaded = unsafe {
        write(to, key, connected_ns, headers.sequence, length);
        let packet = (&raw mut (*to).packet).cast();
        let skb = ctx.skb.skb.cast::<c_void>();
        bpf_skb_load_bytes_relative(skb, 0, packet, length, BPF_HDR_START_NET)
    };
    if loaded != 0 {
        event.discard(0);
        return false;
    }
    event.submit(u64::from(BPF_RB_FORCE_WAKEUP));
    true
}

/// Tells the proxy that the application has given a connection up that it dials for.
#[inline(always)]
pub fn given_up(key: &ConnectionKey) {
    // SAFETY: single aligned words are read.
    let Some(note) = (unsafe { PENDING.get(key) }) else { return };
    if note.hold == hold::NEW {
        return;
    }
    // Without room the proxy finds out by itself, a little later.
    let Some(mut event) = HOLDS.reserve(0) else { return };
    // SAFETY: reserved memory of that type.
    unsafe { write(event.as_mut_ptr(), key, note.connected_ns, note.sequence, 0) };
    event.submit(u64::from(BPF_RB_FORCE_WAKEUP));
}

/// Fills an event but for its packet, word by word: an assignment would become a copy by the byte.
///
/// # Safety
/// `to` is reserved memory.
#[inline(always)]
unsafe fn write(
    to: *mut HoldEvent,
    key: &ConnectionKey,
    connected_ns: u64,
    sequence: u32,
    length: u32,
) {
    // SAFETY: the caller's promise; a key is aligned double words.
    unsafe {
        let (words, from) = (to.cast::<u64>(), core::ptr::from_ref(key).cast::<u64>());
        let mut i = 0;
        while i < size_of::<ConnectionKey>() / 8 {
            words.add(i).write_volatile(*from.add(i));
            i += 1;
        }
        (&raw mut (*to).connected_ns).write_volatile(connected_ns);
        (&raw mut (*to).sequence).write_volatile(sequence);
        (&raw mut (*to).length).write_volatile(length);
    }
}

/// Loads bytes of the IP header.
#[inline(always)]
fn from_network(ctx: &SkBuffContext, offset: u32, to: *mut c_void, length: u32) -> Option<()> {
    // SAFETY: helper call on a live context; the callers' buffers have that size.
    let loaded = unsafe {
        bpf_skb_load_bytes_relative(ctx.skb.skb.cast(), offset, to, length, BPF_HDR_START_NET)
    };
    (loaded == 0).then_some(())
}

/// The same number, which is [`MORE`] at most. The compiler knows that too, and would leave out the
/// mask, which the verifier has to see.
#[inline(always)]
fn masked(mut value: u32) -> u32 {
    // SAFETY: no more than arithmetic.
    unsafe {
        asm!(
            "{value} &= {mask}",
            value = inout(wreg) value,
            mask = const MORE,
            options(pure, nomem, nostack),
        );
    }
    value
}
