//! What the tap tells, in the order in which it happens. What finds no room ends the tap of its
//! connection.

use core::{arch::asm, ptr};

use aya_ebpf::{
    bindings::{BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP},
    helpers::{bpf_ktime_get_ns, bpf_ringbuf_discard, bpf_ringbuf_reserve, bpf_ringbuf_submit},
    programs::SockOpsContext,
};
use weir_common::{
    OriginalDestination, TAP_FIN, TapEnded, TapEvent, TapFigures, TapOpened, TapSocket, tap_kind,
    tap_lost,
};

use super::{
    maps::{TAP_ENDS, TAP_EVENTS, TAP_IDLE},
    source::Source,
};
use crate::{report::Figures, socket, stream};

/// An event with what its kind says.
#[repr(C)]
struct With<T> {
    event: TapEvent,
    more: T,
}

/// A connection is established; false where there is no room.
#[inline(always)]
pub fn opened(ctx: &SockOpsContext, tap: &TapSocket, dest: &OriginalDestination) -> bool {
    let Some(room) = reserve::<With<TapOpened>>() else { return false };
    // SAFETY: there is room for one.
    unsafe {
        (&raw mut (*room).event).write(head(tap, tap_kind::OPENED, 0));
        let more = &raw mut (*room).more;
        (&raw mut (*more).destination).write(*dest);
        (&raw mut (*more).addr).write(stream::local_addr(ctx, socket::is_v4(&dest.addr)));
        (&raw mut (*more).first).write([tap.sides[0].next, tap.sides[1].next]);
        (&raw mut (*more).port).write(ctx.local_port());
        (&raw mut (*more).lost).write(u32::from(tap.lost));
    }
    submit(room);
    true
}

/// The kernel has closed the connection.
#[inline(always)]
pub fn closed(tap: &mut TapSocket, figures: &Figures, ctx: &SockOpsContext) {
    let Some(room) = reserve::<With<TapFigures>>() else {
        tap.lost = tap_lost::FULL;
        return;
    };
    // SAFETY: there is room for one.
    unsafe {
        (&raw mut (*room).event).write(head(tap, tap_kind::CLOSED, 0));
        (&raw mut (*room).more).write(TapFigures {
            bytes_sent: figures.sent,
            bytes_received: figures.received,
            state: ctx.arg(0),
            error: figures.error,
            peer_ended: u32::from(figures.peer_ended),
            _pad: 0,
        });
    }
    submit(room);
}

/// The socket is gone, or another connection of it begins.
#[inline(always)]
pub fn ended(tap: &mut TapSocket) {
    let ended = TapEnded {
        next: [tap.sides[0].next, tap.sides[1].next],
        skipped: [tap.sides[0].skipped, tap.sides[1].skipped],
        lost: tap.lost,
        _pad: [0; 7],
    };
    match reserve::<With<TapEnded>>() {
        Some(room) => {
            // SAFETY: there is room for one.
            unsafe {
                (&raw mut (*room).event).write(head(tap, tap_kind::ENDED, 0));
                (&raw mut (*room).more).write(ended);
            }
            submit(room);
        }
        None => {
            let _ = TAP_ENDS.insert(&tap.id, ended, 0);
        }
    }
    tap.id = 0;
}

/// Nothing of the connection is followed any more.
#[inline(always)]
pub fn lost(tap: &mut TapSocket, reason: u8) {
    tap.lost = reason;
    tell_loss(tap);
}

/// Says so, as soon as there is room.
#[inline(always)]
pub fn tell_loss(tap: &mut TapSocket) {
    if tap.told != 0 {
        return;
    }
    let Some(room) = reserve::<TapEvent>() else { return };
    let mut event = head(tap, tap_kind::LOST, 0);
    event.reason = tap.lost;
    // SAFETY: there is room for one.
    unsafe { room.write(event) };
    submit(room);
    tap.told = 1;
}

/// A side has sent its FIN.
#[inline(always)]
pub fn fin<const SIDE: usize>(tap: &mut TapSocket) {
    let Some(room) = reserve::<TapEvent>() else {
        tap.lost = tap_lost::FULL;
        return;
    };
    let mut event = head(tap, tap_kind::BYTES, SIDE as u8);
    (event.sequence, event.skipped, event.flags) =
        (tap.sides[SIDE].next, tap.sides[SIDE].skipped, TAP_FIN);
    // SAFETY: there is room for one.
    unsafe { room.write(event) };
    submit(room);
    let side = &mut tap.sides[SIDE];
    (side.skipped, side.next) = (0, side.next.wrapping_add(1));
}

/// Says that bytes were skipped, at a place where userspace waits for that.
#[inline(always)]
pub fn passed<const SIDE: usize>(tap: &mut TapSocket) -> bool {
    let Some(room) = reserve::<TapEvent>() else {
        tap.lost = tap_lost::FULL;
        return false;
    };
    let mut event = head(tap, tap_kind::BYTES, SIDE as u8);
    (event.sequence, event.skipped) = (tap.sides[SIDE].next, tap.sides[SIDE].skipped);
    // SAFETY: there is room for one.
    unsafe { room.write(event) };
    submit(room);
    tap.sides[SIDE].skipped = 0;
    true
}

/// Shows the next bytes of a side, at most `N`; false where its tap ends.
#[inline(always)]
pub fn bytes<S: Source, const SIDE: usize, const N: usize>(
    source: S,
    tap: &mut TapSocket,
    offset: u32,
    count: u32,
) -> bool {
    let Some(room) = reserve::<With<[u8; N]>>() else {
        tap.lost = tap_lost::FULL;
        return false;
    };
    let count = opaque(count);
    // SAFETY: there is room for `N` bytes.
    let copied = count > 0
        && count <= N as u32
        && unsafe { source.read(offset, (&raw mut (*room).more).cast(), count) };
    if !copied {
        // SAFETY: it was reserved, and is not used after.
        unsafe { bpf_ringbuf_discard(room.cast(), u64::from(BPF_RB_NO_WAKEUP)) };
        lost(tap, tap_lost::UNREADABLE);
        return false;
    }
    let mut event = head(tap, tap_kind::BYTES, SIDE as u8);
    (event.sequence, event.skipped, event.length) =
        (tap.sides[SIDE].next, tap.sides[SIDE].skipped, count);
    // SAFETY: there is room for one.
    unsafe { (&raw mut (*room).event).write(event) };
    submit(room);
    let side = &mut tap.sides[SIDE];
    (side.skipped, side.next) = (0, side.next.wrapping_add(count));
    true
}

// === helpers ===

#[inline(always)]
fn head(tap: &TapSocket, kind: u8, side: u8) -> TapEvent {
    TapEvent {
        id: tap.id,
        // SAFETY: plain helper call.
        time_ns: unsafe { bpf_ktime_get_ns() },
        skipped: 0,
        sequence: 0,
        length: 0,
        kind,
        side,
        flags: 0,
        reason: 0,
        _pad: 0,
    }
}

/// Hides from the compiler what it knows of a number: it would leave out comparisons that the verifier
/// needs.
#[inline(always)]
pub fn opaque(number: u32) -> u32 {
    let hidden: u32;
    // An instruction, and not nothing: the kernel wants one behind each piece of line information.
    // SAFETY: copies a register.
    unsafe {
        asm!("{to} = {from}", from = in(wreg) number, to = lateout(wreg) hidden, options(nomem, nostack));
    }
    hidden
}

/// Null is no room.
#[inline(always)]
fn reserve<T>() -> Option<*mut T> {
    // SAFETY: helper call on a ring buffer; what it gives is submitted or discarded by the callers.
    let room = unsafe {
        bpf_ringbuf_reserve((&raw const TAP_EVENTS).cast_mut().cast(), size_of::<T>() as u64, 0)
    };
    (!room.is_null()).then_some(room.cast())
}

#[inline(always)]
fn submit<T>(room: *mut T) {
    // SAFETY: it was reserved, and is not used after.
    unsafe { bpf_ringbuf_submit(room.cast(), wake_up()) };
}

/// Waking a process for each event would cost the application more than the event: the reader looks
/// every few milliseconds, and is woken by the first one after it has found nothing for a while.
#[inline(always)]
fn wake_up() -> u64 {
    let Some(idle) = TAP_IDLE.get_ptr_mut(0) else { return u64::from(BPF_RB_NO_WAKEUP) };
    // SAFETY: an aligned word; a second wake-up does no harm.
    unsafe {
        if ptr::read_volatile(idle) == 0 {
            return u64::from(BPF_RB_NO_WAKEUP);
        }
        ptr::write_volatile(idle, 0);
    }
    u64::from(BPF_RB_FORCE_WAKEUP)
}
