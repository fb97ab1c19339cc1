//! A dynamic table (RFC 7541 §2.3.2 and §4) of fields.

use std::collections::VecDeque;
use std::sync::Arc;

use super::super::hpack::INITIAL;
use super::field::Field;

/// The entries of a dynamic table.
pub(super) struct Entries {
    /// Newest first.
    fields: VecDeque<Arc<Field>>,
    size: usize,
    max: usize,
    /// Memory of fields that are not in [`Shared`](super::Shared).
    own: usize,
}

// === impl Entries ===

impl Default for Entries {
    fn default() -> Self {
        Self { fields: VecDeque::new(), size: 0, max: INITIAL, own: 0 }
    }
}

impl Entries {
    #[inline]
    pub(super) fn max(&self) -> usize {
        self.max
    }

    #[cfg(test)]
    pub(super) fn size(&self) -> usize {
        self.size
    }

    /// By age, which counts from zero.
    #[inline]
    pub(super) fn get(&self, age: usize) -> Option<&Arc<Field>> {
        self.fields.get(age)
    }

    /// Bytes of the heap that it holds, without those of shared fields.
    #[inline]
    pub(super) fn memory(&self) -> usize {
        self.fields.capacity() * size_of::<Arc<Field>>() + self.own
    }

    /// Changes the table's size. Entries that have no room any more go to `evicted`.
    pub(super) fn resize(&mut self, max: usize, evicted: impl FnMut(&Arc<Field>)) {
        self.max = max;
        self.evict(max, evicted);
    }

    /// Adds an entry that is not larger than the table.
    #[inline]
    pub(super) fn insert(&mut self, field: Arc<Field>, evicted: impl FnMut(&Arc<Field>)) {
        let size = field.size();
        debug_assert!(size <= self.max, "an entry larger than the table");
        self.evict(self.max.saturating_sub(size), evicted);
        self.size += size;
        if !field.is_shared {
            self.own += field.memory();
        }
        self.fields.push_front(field);
    }

    /// Removes all: an entry larger than the table has come (RFC 7541 §4.4).
    pub(super) fn clear(&mut self) {
        self.evict(0, |_| {});
    }

    #[inline]
    fn evict(&mut self, size: usize, mut evicted: impl FnMut(&Arc<Field>)) {
        while self.size > size
            && let Some(oldest) = self.fields.pop_back()
        {
            self.size -= oldest.size();
            if !oldest.is_shared {
                self.own -= oldest.memory();
            }
            evicted(&oldest);
        }
    }
}
