//! Hashes numbers of streams.

use std::hash::{BuildHasher, Hasher};

/// Stream numbers are chosen by a peer; a number of ours keeps them from being chosen to collide.
#[derive(Clone, Copy)]
pub(super) struct Seed(u64);

pub(super) struct Mix(u64);

// === impl Seed ===

impl Seed {
    pub(super) fn new() -> Self {
        Self(fastrand::u64(..))
    }
}

impl BuildHasher for Seed {
    type Hasher = Mix;

    #[inline]
    fn build_hasher(&self) -> Mix {
        Mix(self.0)
    }
}

// === impl Mix ===

impl Hasher for Mix {
    #[inline]
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u32(u32::from(*byte)));
    }

    #[inline]
    fn write_u32(&mut self, number: u32) {
        let product = u128::from(self.0 ^ u64::from(number)) * 0x9e37_79b9_7f4a_7c15;
        self.0 = product as u64 ^ (product >> 64) as u64;
    }

    #[inline]
    fn finish(&self) -> u64 {
        self.0
    }
}
