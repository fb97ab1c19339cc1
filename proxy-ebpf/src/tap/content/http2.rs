//! HTTP/2: frames (RFC 9113 §4.1) are cut by their lengths, and long pieces of DATA are skipped.

use core::ffi::c_void;

use aya_ebpf::helpers::bpf_loop;
use weir_common::{TapSocket, tap_lost};

use super::{SMALL, events, show, skip};
use crate::tap::{events::opaque, source::Source};

/// Bytes of the client's preface (RFC 9113 §3.4).
pub(super) const PREFACE: u32 = 24;
/// Bytes of a frame's head, and where its type is.
const HEAD: u32 = 9;
const TYPE: usize = 3;
/// The type whose payload is content.
const DATA: u8 = 0;
/// [`Walk`] takes two steps for a frame, and as many as its head has bytes for one that is cut.
const STEPS: u32 = 32_768;

/// How far a buffer has been read.
#[repr(C)]
struct Walk<S> {
    source: S,
    tap: *mut TapSocket,
    offset: u32,
    count: u32,
    /// Bytes that have been read.
    at: u32,
    /// From here on they have not been shown.
    from: u32,
    failed: u32,
    _pad: u32,
}

/// What comes first is no frame.
#[inline(always)]
pub(super) fn begin(tap: &mut TapSocket, side: usize) {
    tap.sides[side].left = PREFACE;
    tap.sides[side].head[TYPE] = u8::MAX;
}

#[inline(always)]
pub(super) fn piece<S: Source, const SIDE: usize>(
    source: S,
    tap: &mut TapSocket,
    offset: u32,
    count: u32,
) -> bool {
    let mut walk = Walk {
        source,
        tap: core::ptr::from_mut(tap),
        offset,
        count,
        at: 0,
        from: 0,
        failed: 0,
        _pad: 0,
    };
    // SAFETY: helper call; the function takes a walk.
    unsafe {
        bpf_loop(STEPS, step::<S, SIDE> as *mut c_void, (&raw mut walk).cast(), 0);
    }
    if walk.failed != 0 {
        if tap.lost == tap_lost::NONE {
            events::lost(tap, tap_lost::UNREADABLE);
        }
        return false;
    }
    if walk.at != count {
        events::lost(tap, tap_lost::TOO_LONG);
        return false;
    }
    if walk.from < count {
        return show::<S, SIDE>(source, tap, offset + walk.from, count - walk.from);
    }
    // Userspace waits for the end of a frame.
    tap.sides[SIDE].left > 0 || events::passed::<SIDE>(tap)
}

/// Reads a frame's head, a byte of one, or what there is of a payload. Not 0 ends the loop.
extern "C" fn step<S: Source, const SIDE: usize>(_: u32, walk: *mut Walk<S>) -> i64 {
    // SAFETY: it is the one that the loop was called with.
    let walk = unsafe { &mut *walk };
    // SAFETY: as there.
    let tap = unsafe { &mut *walk.tap };
    if walk.at >= walk.count {
        return 1;
    }
    let rest = walk.count - walk.at;
    let left = tap.sides[SIDE].left;
    if left > 0 {
        let now = if left > rest { rest } else { left };
        if tap.sides[SIDE].head[TYPE] == DATA && now >= SMALL {
            let shown = walk.at - walk.from;
            if shown > 0 && !show::<S, SIDE>(walk.source, tap, walk.offset + walk.from, shown) {
                walk.failed = 1;
                return 1;
            }
            skip::<SIDE>(tap, now);
            walk.from = walk.at + now;
        }
        tap.sides[SIDE].left = left - now;
        walk.at += now;
        return 0;
    }
    let side = &mut tap.sides[SIDE];
    let have = opaque(side.have);
    let offset = walk.offset + walk.at;
    let (taken, read) = if have == 0 && rest >= HEAD {
        // SAFETY: there is room for a head.
        (HEAD, unsafe { walk.source.read(offset, side.head.as_mut_ptr().cast(), HEAD) })
    } else if have < HEAD {
        // SAFETY: there is room for one behind those.
        let to = unsafe { side.head.as_mut_ptr().add(have as usize) };
        // SAFETY: as above.
        (1, unsafe { walk.source.read(offset, to.cast(), 1) })
    } else {
        (0, false)
    };
    if !read {
        walk.failed = 1;
        return 1;
    }
    walk.at += taken;
    side.have = have + taken;
    if side.have == HEAD {
        side.have = 0;
        let [a, b, c, ..] = side.head;
        side.left = u32::from(a) << 16 | u32::from(b) << 8 | u32::from(c);
    }
    0
}
