//! HTTP/1: a long body whose length its head says is skipped. Heads are looked at where a message can
//! begin: at the beginning of a buffer. Userspace knows where messages really begin: what looks like a head
//! inside of a body at most ends the tap of its connection.

use core::ffi::c_void;

use aya_ebpf::helpers::bpf_loop;
use weir_common::{TapScan, TapSocket};

use super::{RECEIVED, SENT, SMALL, events, show, skip};
use crate::tap::{events::opaque, source::Source};

/// A head is looked for in so many bytes.
const HEAD: u32 = 2048;
/// So many at a time, which have to be on the stack: a packet can be sent in the middle of another's.
const CHUNK: u32 = 64;
/// The shortest head with a length.
const SHORTEST: u32 = 32;
/// What ends a head.
const BLANK_LINE: u32 = u32::from_be_bytes(*b"\r\n\r\n");
/// `content-length:`, eight bytes and seven.
const NAME: [u64; 2] = [u64::from_le_bytes(*b"content-"), u64::from_le_bytes(*b"length:\0")];
const NAME_BYTES: u32 = 15;
/// [`TapScan::matched`] in a line that has begun otherwise.
const OTHER: u32 = u32::MAX;

/// Bytes on the stack, and what they are read into. That is with the socket: what is on the stack the
/// verifier follows value by value.
#[repr(C)]
struct Scan {
    bytes: [u8; CHUNK as usize],
    scan: *mut TapScan,
}

/// Where its bytes come from.
#[repr(C)]
struct Chunks<S> {
    source: S,
    scan: *mut Scan,
    offset: u32,
    most: u32,
}

#[inline(always)]
pub(super) fn piece<S: Source, const SIDE: usize>(
    source: S,
    tap: &mut TapSocket,
    mut offset: u32,
    mut count: u32,
) -> bool {
    let content = tap.sides[SIDE].content;
    if content > 0 {
        let now = if content > u64::from(count) { count } else { content as u32 };
        skip::<SIDE>(tap, now);
        tap.sides[SIDE].content = content - u64::from(now);
        if now == count {
            // Userspace waits for the end of the message.
            return content > u64::from(now) || events::passed::<SIDE>(tap);
        }
        offset += now;
        count -= now;
    }
    let Some((end, length)) = long_body::<S, SIDE>(source, tap, offset, count) else {
        return show::<S, SIDE>(source, tap, offset, count);
    };
    if !show::<S, SIDE>(source, tap, offset, end) {
        return false;
    }
    let rest = count - end;
    if length >= u64::from(rest) {
        skip::<SIDE>(tap, rest);
        tap.sides[SIDE].content = length - u64::from(rest);
        return tap.sides[SIDE].content > 0 || events::passed::<SIDE>(tap);
    }
    let length = length as u32;
    skip::<SIDE>(tap, length);
    show::<S, SIDE>(source, tap, offset + end + length, rest - length)
}

/// Where the head ends that the buffer begins with, and the length of the body behind it, if that is long.
#[inline(always)]
fn long_body<S: Source, const SIDE: usize>(
    source: S,
    tap: &mut TapSocket,
    offset: u32,
    count: u32,
) -> Option<(u32, u64)> {
    let first = byte(source, offset)?;
    if SIDE == SENT && (first == b'H' || first == b'C') {
        // HEAD and CONNECT: what a response to them says of its length is not so.
        tap.shows_all = 1;
    }
    let begins = if SIDE == SENT { first == b'P' } else { first == b'H' };
    if !begins || tap.shows_all != 0 || count < SHORTEST {
        return None;
    }
    if count <= SMALL && word(source, offset + count - 4)? != BLANK_LINE {
        return None;
    }
    if SIDE == RECEIVED && is_bodiless(word(source, offset + 9)?) {
        return None;
    }
    scan::<S, SIDE>(source, tap, offset, count)
}

/// 1xx, 204 and 304, with what follows the status.
#[inline(always)]
const fn is_bodiless(status: u32) -> bool {
    let status = status >> 8;
    status >> 16 == b'1' as u32 || status == 0x32_30_34 || status == 0x33_30_34
}

#[inline(always)]
fn scan<S: Source, const SIDE: usize>(
    source: S,
    tap: &mut TapSocket,
    offset: u32,
    count: u32,
) -> Option<(u32, u64)> {
    let most = if count > HEAD { HEAD } else { count };
    let found = &mut tap.sides[SIDE].scan;
    (found.value, found.read, found.end, found.last) = (0, 0, 0, 0);
    (found.matched, found.digits, found.lengths, found.odd) = (OTHER, 0, 0, 0);
    let found = core::ptr::from_mut(found);
    let mut scan = Scan { bytes: [0; CHUNK as usize], scan: found };
    let mut chunks = Chunks { source, scan: &raw mut scan, offset, most };
    // SAFETY: helper call; the function takes these chunks.
    unsafe {
        bpf_loop(HEAD / CHUNK, chunk::<S> as *mut c_void, (&raw mut chunks).cast(), 0);
    }
    let found = &tap.sides[SIDE].scan;
    let known = found.lengths == 1 && found.odd == 0 && found.value > u64::from(SMALL);
    let end = opaque(found.end);
    (known && end > 0 && end <= count).then_some((end, found.value))
}

/// Reads as many bytes as fit onto the stack. Not 0 ends the loop.
extern "C" fn chunk<S: Source>(_: u32, chunks: *mut Chunks<S>) -> i64 {
    // SAFETY: they are those that the loop was called with.
    let chunks = unsafe { &mut *chunks };
    // SAFETY: as there.
    let scan = unsafe { &mut *chunks.scan };
    // SAFETY: as there.
    let found = unsafe { &mut *scan.scan };
    let read = found.read;
    if found.end != 0 || found.odd != 0 || read >= chunks.most {
        return 1;
    }
    let rest = chunks.most - read;
    let now = opaque(if rest > CHUNK { CHUNK } else { rest });
    if now == 0 || now > CHUNK {
        return 1;
    }
    // SAFETY: there is room for as many.
    if !unsafe { chunks.source.read(chunks.offset + read, scan.bytes.as_mut_ptr().cast(), now) } {
        found.odd = 1;
        return 1;
    }
    // SAFETY: helper call; the function takes a scan.
    unsafe {
        bpf_loop(now, step as *mut c_void, core::ptr::from_mut(scan).cast(), 0);
    }
    0
}

/// Reads one byte. Not 0 ends the loop.
extern "C" fn step(index: u32, scan: *mut Scan) -> i64 {
    // SAFETY: it is the one that the loop was called with.
    let scan = unsafe { &mut *scan };
    // SAFETY: as there.
    let found = unsafe { &mut *scan.scan };
    let index = opaque(index);
    if index >= CHUNK {
        return 1;
    }
    let byte = scan.bytes[index as usize];
    found.read += 1;
    found.last = found.last << 8 | u32::from(byte);
    if byte == b'\n' {
        if found.matched == NAME_BYTES {
            found.lengths += 1;
            found.odd |= u32::from(found.digits == 0);
        }
        found.matched = 0;
        if found.last == BLANK_LINE {
            found.end = found.read;
            return 1;
        }
        return 0;
    }
    if found.matched == OTHER {
        return 0;
    }
    if found.matched < NAME_BYTES {
        let (part, at) =
            if found.matched < 8 { (NAME[0], found.matched) } else { (NAME[1], found.matched - 8) };
        let expected = (part >> (8 * at)) as u8;
        // `-` and `:` have that bit too.
        let is_next = byte | 0x20 == expected;
        found.matched = if is_next { found.matched + 1 } else { OTHER };
        return 0;
    }
    if byte.is_ascii_digit() {
        found.value = found.value * 10 + u64::from(byte - b'0');
        found.digits += 1;
        found.odd |= u32::from(found.digits > 15);
    } else if byte != b'\r' && (byte != b' ' || found.digits != 0) {
        found.odd = 1;
    }
    0
}

#[inline(always)]
fn byte<S: Source>(source: S, offset: u32) -> Option<u8> {
    let mut value = [0u8; 1];
    // SAFETY: there is room for it.
    unsafe { source.read(offset, value.as_mut_ptr().cast(), 1) }.then_some(value[0])
}

#[inline(always)]
fn word<S: Source>(source: S, offset: u32) -> Option<u32> {
    let mut value = [0u8; 4];
    // SAFETY: there is room for them.
    unsafe { source.read(offset, value.as_mut_ptr().cast(), 4) }
        .then_some(u32::from_be_bytes(value))
}
