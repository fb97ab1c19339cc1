//! Buffers for copying, lent for as long as there is something in them. An idle connection has
//! none; a busy one usually gets the one that the connection before it on the same thread gave
//! back, still warm in the cache.

use std::cell::RefCell;

/// Bytes of free buffers of one size that a thread keeps.
const KEPT: usize = 1 << 20;

/// How large a buffer is. Most reads of request-and-response protocols fit the small one; bulk
/// transfers get to the large one after two full reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Size {
    #[default]
    Small,
    Medium,
    Large,
}

/// A buffer on loan, and which part of it holds data.
pub(super) struct Lease {
    size: Size,
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
}

thread_local! {
    static FREE: RefCell<[Vec<Box<[u8]>>; 3]> = RefCell::default();
}

// === impl Size ===

impl Size {
    pub(super) const fn bytes(self) -> usize {
        match self {
            Self::Small => 8 << 10,
            Self::Medium => 64 << 10,
            Self::Large => 256 << 10,
        }
    }

    pub(super) const fn larger(self) -> Self {
        match self {
            Self::Small => Self::Medium,
            Self::Medium | Self::Large => Self::Large,
        }
    }

    pub(super) const fn smaller(self) -> Self {
        match self {
            Self::Small | Self::Medium => Self::Small,
            Self::Large => Self::Medium,
        }
    }
}

// === impl Lease ===

impl Lease {
    /// An empty buffer.
    pub(super) fn take(size: Size) -> Self {
        let kept = FREE.with_borrow_mut(|free| free[size as usize].pop());
        let bytes = kept.unwrap_or_else(|| vec![0; size.bytes()].into_boxed_slice());
        Self { size, bytes, start: 0, end: 0 }
    }

    pub(super) fn size(&self) -> Size {
        self.size
    }

    /// The data.
    pub(super) fn filled(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    /// All of the buffer, to be read into; for buffers without data.
    pub(super) fn room(&mut self) -> &mut [u8] {
        debug_assert!(self.filled().is_empty(), "would overwrite data");
        &mut self.bytes
    }

    /// Says that the first `n` bytes now hold data.
    pub(super) fn fill(&mut self, n: usize) {
        (self.start, self.end) = (0, n);
    }

    /// Drops the first `n` bytes of the data.
    pub(super) fn consume(&mut self, n: usize) {
        self.start += n;
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        // The thread may be ending; then the buffer is simply freed.
        let _ = FREE.try_with(|free| {
            let free = &mut free.borrow_mut()[self.size as usize];
            if (free.len() + 1) * self.size.bytes() <= KEPT {
                free.push(bytes);
            }
        });
    }
}

/// Free buffers of a size on this thread.
#[cfg(test)]
pub(super) fn free(size: Size) -> usize {
    FREE.with_borrow(|free| free[size as usize].len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_reused_and_few_are_kept() {
        for size in [Size::Small, Size::Medium, Size::Large] {
            let many: Vec<_> = (0..200).map(|_| Lease::take(size)).collect();
            drop(many);
            assert_eq!(free(size) * size.bytes(), KEPT);
            let lease = Lease::take(size);
            assert_eq!((free(size) + 1) * size.bytes(), KEPT);
            drop(lease);
        }
    }

    #[test]
    fn data_is_what_was_filled_and_not_consumed() {
        let mut lease = Lease::take(Size::Small);
        lease.room()[..3].copy_from_slice(b"abc");
        lease.fill(3);
        lease.consume(1);
        assert_eq!(lease.filled(), b"bc");
        lease.consume(2);
        assert!(lease.filled().is_empty());
    }
}
