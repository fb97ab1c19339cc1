//! The tap: what a workload sends and reads on connections that go direct, copied for userspace.
//!
//! `connect` lets the connection go direct (`Reason::Tapped`) → `weir_tap_stream` (sockops) keeps a
//! [`TapSocket`] with the socket when its handshake is complete → `weir_tap_egress` (cgroup_skb) copies
//! what the workload sends, as it leaves, and `weir_tap_read` what it reads, as it is copied to it
//! (the tracepoint in `skb_copy_datagram_iter`) → `weir_tap_end` says when the socket is gone. All write
//! to one ring buffer, so that a request is always in front of the response to it.
//!
//! Each byte is checked by its sequence number: what does not follow the byte before ends the tap of the
//! connection, and is told. Nothing here delays or changes a byte; `weir_tap_egress` lets every packet
//! pass. These programs are loaded by themselves, where a workload asks for the tap: `weir_tap_read` needs
//! Linux 6.12.

mod content;
mod events;
mod maps;
mod source;

use aya_ebpf::{
    bindings::{
        __sk_buff, BPF_SK_STORAGE_GET_F_CREATE, BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB,
        BPF_SOCK_OPS_STATE_CB, bpf_sock,
    },
    helpers::{
        bpf_get_socket_cookie, bpf_probe_read_kernel, bpf_sk_fullsock, bpf_sk_storage_delete,
    },
    macros::{btf_tracepoint, cgroup_skb, sock_ops},
    programs::{BtfTracePointContext, SkBuffContext, SockOpsContext},
};
use weir_common::{
    Direction, OriginalDestination, PortState, Reason, TapSide, TapSocket, tap_lost, tap_protocol,
    tcp_state,
};

use self::{
    maps::TAPS,
    source::{Packet, Received},
};
use crate::{
    fields::{COPIED_SEQ, IS_MPTCP, SKB_CB, SKB_LEN, SKB_SK, Tcp},
    maps::count_of,
    report::Figures,
    socket::{self, read},
    stream,
};

/// What the workload sends, and what it reads.
const SENT: usize = 0;
const RECEIVED: usize = 1;

/// Lets the packet pass.
const PASS: i32 = 1;

const FIN: u8 = 1;
const SYN: u8 = 2;

/// For a workload's cgroup: begins with an established connection, and ends with a closed one.
#[sock_ops]
pub fn weir_tap_stream(ctx: SockOpsContext) -> u32 {
    match ctx.op() {
        BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB => established(&ctx),
        BPF_SOCK_OPS_STATE_CB if ctx.arg(1) == tcp_state::CLOSE => closed(&ctx),
        _ => {}
    }
    1
}

/// For a workload's cgroup: what leaves its sockets.
#[cgroup_skb(egress)]
pub fn weir_tap_egress(ctx: SkBuffContext) -> i32 {
    sent(ctx.skb.skb);
    PASS
}

/// For the machine: what is copied to readers of sockets.
#[btf_tracepoint(function = "skb_copy_datagram_iovec")]
pub fn weir_tap_read(ctx: BtfTracePointContext) -> i32 {
    received(ctx.arg(0), ctx.arg(1));
    0
}

/// For the machine: TCP sockets that are destroyed. A closed socket can still be read from.
#[btf_tracepoint(function = "tcp_destroy_sock")]
pub fn weir_tap_end(ctx: BtfTracePointContext) -> i32 {
    if let Some(tap) = tap_of(ctx.arg::<*const u8>(0).cast_mut().cast()) {
        events::ended(tap);
    }
    0
}

#[inline(always)]
fn established(ctx: &SockOpsContext) {
    let sk = stream::sk(ctx);
    // A socket that has been connected before.
    if let Some(earlier) = tap_of(sk) {
        events::ended(earlier);
    }
    let Some(dest) = socket::stored(sk.cast()) else { return };
    if dest.reason != Reason::Tapped as u8 {
        if !sk.is_null() {
            // SAFETY: helper call on a non-null socket.
            unsafe { bpf_sk_storage_delete((&raw const TAPS).cast_mut().cast(), sk.cast()) };
        }
        return;
    }
    // SAFETY: the map's values are of this type.
    let tap = unsafe {
        socket::storage::<TapSocket>(
            (&raw const TAPS).cast(),
            sk.cast(),
            BPF_SK_STORAGE_GET_F_CREATE,
        )
    };
    if tap.is_none_or(|tap| !begin(ctx, dest, tap)) {
        count_of(dest.workload, Direction::Outbound, Reason::TapLost);
    }
}

/// False where userspace could not be told.
#[inline(always)]
fn begin(ctx: &SockOpsContext, dest: &OriginalDestination, tap: &mut TapSocket) -> bool {
    let ops = ctx.ops;
    // SAFETY: the context is valid for the length of the program.
    let (next, unacked, acked, received) = unsafe {
        (
            read!((*ops).snd_nxt),
            read!((*ops).snd_una),
            read!((*ops).bytes_acked),
            read!((*ops).rcv_nxt),
        )
    };
    let tcp = Tcp::of(stream::sk(ctx));
    // SAFETY: the type is the field's own.
    let is_mptcp =
        tcp.and_then(|tcp| unsafe { tcp.read::<u8>(&IS_MPTCP) }).is_some_and(|it| it != 0);
    let lost = if is_mptcp {
        tap_lost::MPTCP
    } else if next != unacked || acked > 1 {
        // The SYN counts as one byte that is acknowledged (`tcp_snd_una_update`).
        tap_lost::FAST_OPEN
    } else {
        tap_lost::NONE
    };
    let is_opaque = dest.state == PortState::Opaque as u8;
    reset(&mut tap.sides[SENT], next);
    reset(&mut tap.sides[RECEIVED], received);
    (tap.lost, tap.told, tap.shows_all) = (lost, 0, 0);
    tap.first_received = received;
    tap.protocol = if is_opaque { tap_protocol::OPAQUE } else { tap_protocol::UNKNOWN };
    // SAFETY: plain helper call on a valid context.
    tap.id = unsafe { bpf_get_socket_cookie(ctx.ops.cast()) };
    if !events::opened(ctx, tap, dest) {
        // As if it were not tapped.
        tap.id = 0;
        return false;
    }
    true
}

#[inline(always)]
fn reset(side: &mut TapSide, next: u32) {
    (side.content, side.skipped, side.shown, side.next) = (0, 0, 0, next);
    (side.left, side.have) = (0, 0);
}

#[inline(always)]
fn closed(ctx: &SockOpsContext) {
    if let Some(tap) = tap_of(stream::sk(ctx)) {
        events::closed(tap, &Figures::of(ctx, true), ctx);
    }
}

/// What is kept with a socket that is tapped.
#[inline(always)]
fn tap_of(sk: *mut bpf_sock) -> Option<&'static mut TapSocket> {
    // SAFETY: the map's values are of this type.
    let tap = unsafe { socket::storage::<TapSocket>((&raw const TAPS).cast(), sk.cast(), 0) }?;
    (tap.id != 0).then_some(tap)
}

/// A segment of a socket, from its IP header on; it may be many that the device cuts (GSO).
#[inline(always)]
fn sent(skb: *mut __sk_buff) {
    // SAFETY: the context is valid for the length of the program.
    let sk = unsafe { read!((*skb).__bindgen_anon_2.sk) };
    if sk.is_null() {
        return;
    }
    // SAFETY: helper call on a non-null socket.
    let Some(tap) = tap_of(unsafe { bpf_sk_fullsock(sk) }) else { return };
    if tap.lost != tap_lost::NONE {
        return events::tell_loss(tap);
    }
    let packet = Packet(skb);
    // SAFETY: as above.
    let total = unsafe { read!((*skb).len) };
    let Some(header) = packet.transport() else { return events::lost(tap, tap_lost::HOLE) };
    let (Some(sequence), Some(length), Some(flags)) = (
        packet.load::<u32>(header + 4).map(u32::from_be),
        packet.load::<u8>(header + 12),
        packet.load::<u8>(header + 13),
    ) else {
        return events::lost(tap, tap_lost::UNREADABLE);
    };
    let mut offset = header + (u32::from(length) >> 4) * 4;
    if flags & SYN != 0 || offset > total {
        return;
    }
    let mut count = total - offset;
    let fin = flags & FIN != 0;
    let ahead = sequence.wrapping_sub(tap.sides[SENT].next).cast_signed();
    if ahead > 0 {
        return events::lost(tap, tap_lost::HOLE);
    }
    // Sent again, all or in part. The FIN takes a sequence number of its own.
    let again = ahead.wrapping_neg().cast_unsigned();
    if again > count || again == count && !fin {
        return;
    }
    offset += again;
    count -= again;
    if count > 0 && !content::piece::<Packet, SENT>(packet, tap, offset, count) {
        return;
    }
    if fin {
        events::fin::<SENT>(tap);
    }
}

/// `length` bytes of a buffer are about to be copied to a reader, of its socket.
#[inline(always)]
fn received(skb: *const u8, length: i32) {
    // SAFETY: the verifier checks the offsets against the kernel's own types.
    let sk = unsafe { skb.add(SKB_SK.load() as usize).cast::<*mut bpf_sock>().read_volatile() };
    if sk.is_null() || length <= 0 {
        return;
    }
    let Some(tap) = tap_of(sk) else { return };
    if tap.lost != tap_lost::NONE {
        return events::tell_loss(tap);
    }
    // A buffer's socket is not one that the verifier lets `bpf_skc_to_tcp_sock` have.
    // SAFETY: the kernel checks the address; the type is the field's own.
    let position = unsafe {
        let field = sk.cast::<u8>().add(COPIED_SEQ.load() as usize);
        bpf_probe_read_kernel::<u32>(field.cast())
    };
    let Ok(mut position) = position else {
        return events::lost(tap, tap_lost::UNREADABLE);
    };
    // SAFETY: as above; the buffer's sequence number is the first word of `tcp_skb_cb`.
    let (begin, held) = unsafe {
        (
            skb.add(SKB_CB.load() as usize).cast::<u32>().read_volatile(),
            skb.add(SKB_LEN.load() as usize).cast::<u32>().read_volatile(),
        )
    };
    let mut offset = position.wrapping_sub(begin);
    let mut count = length.cast_unsigned();
    if offset.cast_signed() < 0 {
        // A look (MSG_PEEK) beyond what has been read.
        return;
    }
    let behind = tap.sides[RECEIVED].next.wrapping_sub(position);
    if behind.cast_signed() > 0 {
        // Looked at before.
        if behind >= count {
            return;
        }
        position = position.wrapping_add(behind);
        offset += behind;
        count -= behind;
    }
    if position != tap.sides[RECEIVED].next || offset > held || count > held - offset {
        return events::lost(tap, tap_lost::HOLE);
    }
    let mut received = Received::new();
    if !received.open(skb) {
        return events::lost(tap, tap_lost::UNREADABLE);
    }
    let followed = content::piece::<&Received, RECEIVED>(&received, tap, offset, count);
    // Without a use of it the compiler leaves a pointer in its register, which the verifier refuses.
    events::opaque(u32::from(followed));
}
