//! Which bytes are shown: heads and small messages are, and content that is long and whose length is
//! known is not. What is not sure is shown: userspace decides what bytes mean, and says so where content
//! that it has not seen is none.

mod http1;
mod http2;

use core::ffi::c_void;

use aya_ebpf::helpers::bpf_loop;
use weir_common::{TAP_SHOWN, TapSocket, tap_lost, tap_protocol};

use super::{RECEIVED, SENT, events, source::Source};

/// At most so many bytes in one event.
const LARGEST: u32 = 65_536;
/// At most so many events for one buffer, which can be larger than 64 KiB.
const EVENTS: u32 = 16;
/// Content of fewer bytes at a time is shown: to skip it costs as much.
const SMALL: u32 = 2048;

/// Bytes of a buffer that are to be shown.
#[repr(C)]
struct Shown<S> {
    source: S,
    tap: *mut TapSocket,
    offset: u32,
    count: u32,
}

/// The next `count` bytes of a side, at an offset of a buffer; false where its tap has ended.
#[inline(never)]
pub fn piece<S: Source, const SIDE: usize>(
    source: S,
    tap: &mut TapSocket,
    offset: u32,
    count: u32,
) -> bool {
    if tap.protocol == tap_protocol::UNKNOWN && SIDE == SENT {
        // What the server may have said before belongs to no known place of a protocol.
        let first = tap.sides[RECEIVED].next == tap.first_received;
        tap.protocol = protocol(source, offset, count, first);
        if tap.protocol == tap_protocol::HTTP2 {
            http2::begin(tap, SENT);
        }
    }
    match tap.protocol {
        tap_protocol::OPAQUE => {
            skip::<SIDE>(tap, count);
            true
        }
        tap_protocol::HTTP1 => http1::piece::<S, SIDE>(source, tap, offset, count),
        tap_protocol::HTTP2 => http2::piece::<S, SIDE>(source, tap, offset, count),
        _ => {
            if tap.sides[SIDE].shown >= TAP_SHOWN {
                skip::<SIDE>(tap, count);
                return true;
            }
            tap.sides[SIDE].shown += if count > TAP_SHOWN { TAP_SHOWN } else { count };
            show::<S, SIDE>(source, tap, offset, count)
        }
    }
}

/// What the first bytes of a client say. More is found out by userspace. `first`: they are the first on
/// the connection.
#[inline(always)]
fn protocol<S: Source>(source: S, offset: u32, count: u32, first: bool) -> u32 {
    let mut bytes = [0u8; 4];
    // SAFETY: there is room for a byte, or four.
    let known = unsafe {
        if count >= http2::PREFACE {
            source.read(offset, bytes.as_mut_ptr().cast(), 4)
        } else {
            source.read(offset, bytes.as_mut_ptr().cast(), 1)
        }
    };
    if !known || !bytes[0].is_ascii_uppercase() {
        return tap_protocol::OTHER;
    }
    // `PRI `, of a preface that has come whole: otherwise all is shown, as of HTTP/1.
    if first && u32::from_be_bytes(bytes) == 0x5052_4920 {
        return tap_protocol::HTTP2;
    }
    tap_protocol::HTTP1
}

#[inline(always)]
fn skip<const SIDE: usize>(tap: &mut TapSocket, count: u32) {
    let side = &mut tap.sides[SIDE];
    side.next = side.next.wrapping_add(count);
    side.skipped += u64::from(count);
}

/// Shows all of them, in as many events as needed.
#[inline(always)]
fn show<S: Source, const SIDE: usize>(
    source: S,
    tap: &mut TapSocket,
    offset: u32,
    count: u32,
) -> bool {
    let mut shown = Shown { source, tap: core::ptr::from_mut(tap), offset, count };
    // SAFETY: helper call; the function takes what is shown.
    unsafe {
        bpf_loop(EVENTS, show_some::<S, SIDE> as *mut c_void, (&raw mut shown).cast(), 0);
    }
    if tap.lost == tap_lost::NONE && shown.count > 0 {
        events::lost(tap, tap_lost::TOO_LONG);
    }
    tap.lost == tap_lost::NONE
}

/// Shows as many as fit into an event. Not 0 ends the loop.
extern "C" fn show_some<S: Source, const SIDE: usize>(_: u32, shown: *mut Shown<S>) -> i64 {
    // SAFETY: it is the one that the loop was called with.
    let shown = unsafe { &mut *shown };
    // SAFETY: as there.
    let tap = unsafe { &mut *shown.tap };
    let (source, offset, count) = (shown.source, shown.offset, shown.count);
    if count == 0 {
        return 1;
    }
    let now = if count > LARGEST { LARGEST } else { count };
    let is_shown = if now <= 256 {
        events::bytes::<S, SIDE, 256>(source, tap, offset, now)
    } else if now <= 1280 {
        events::bytes::<S, SIDE, 1280>(source, tap, offset, now)
    } else if now <= 4096 {
        events::bytes::<S, SIDE, 4096>(source, tap, offset, now)
    } else if now <= 16_384 {
        events::bytes::<S, SIDE, 16_384>(source, tap, offset, now)
    } else {
        events::bytes::<S, SIDE, { LARGEST as usize }>(source, tap, offset, now)
    };
    if !is_shown {
        return 1;
    }
    shown.offset = offset + now;
    shown.count = count - now;
    0
}
