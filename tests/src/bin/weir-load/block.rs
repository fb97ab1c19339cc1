//! The bytes that are sent: any part of any stream can be named by a seed and a position, so that
//! both ends know all of them, and a byte that is missing, doubled or out of place is seen.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// Longer than any stream: no part of one comes twice.
const LENGTH: usize = 2 << 20;
/// As much as is handed out at once.
const PART: usize = 64 << 10;

static BLOCK: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut random = fastrand::Rng::with_seed(0x7765_6972);
    (0..LENGTH).map(|_| random.u8(..)).collect()
});

/// The bytes of a stream from a position on: as many as there are in one piece, up to the limit.
pub(crate) fn part(seed: u32, position: usize, limit: usize) -> &'static [u8] {
    let begin = (seed as usize + position) % LENGTH;
    let end = LENGTH.min(begin + limit.min(PART));
    &BLOCK[begin..end]
}

/// Whether these are the bytes of a stream from a position on.
pub(crate) fn is_part(seed: u32, mut position: usize, mut bytes: &[u8]) -> bool {
    while !bytes.is_empty() {
        let expected = part(seed, position, bytes.len());
        let (head, rest) = bytes.split_at(expected.len());
        if head != expected {
            return false;
        }
        position += head.len();
        bytes = rest;
    }
    true
}

/// No size is larger than two to the power of this.
pub(crate) static BITS: AtomicU32 = AtomicU32::new(20);

/// A random size, small ones as likely as large ones: 1 B to 1 MiB, or what [`BITS`] allows.
pub(crate) fn size() -> usize {
    fastrand::usize(1..=1 << fastrand::u32(0..=BITS.load(Ordering::Relaxed)))
}
