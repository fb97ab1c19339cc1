//! The dynamic table (RFC 7541 §2.3.2 and §4). Of fields that matter it is kept what they say; of the
//! others, their size.

use std::collections::VecDeque;

use super::INITIAL;
use super::field::{Kind, Said};
use super::static_table::STATIC;
use crate::ParseError;

/// The most that entries may come to, whatever the peers agree on. Chrome, which allows the most of
/// the well-known ones, allows 64 KiB.
const MOST: usize = 1 << 20;

/// Both tables in their common index space.
pub(super) struct Table {
    /// Newest first.
    entries: VecDeque<Entry>,
    size: usize,
    /// Bytes of what entries say.
    said: usize,
    max: usize,
    allowed: usize,
}

#[derive(Debug)]
pub(super) struct Entry {
    kind: Kind,
    name: u32,
    size: u32,
    said: Said,
}

// === impl Table ===

impl Default for Table {
    fn default() -> Self {
        Self { entries: VecDeque::new(), size: 0, said: 0, max: INITIAL, allowed: INITIAL }
    }
}

impl Table {
    pub(super) fn allow(&mut self, size: usize) {
        self.allowed = self.allowed.max(size);
    }

    /// What a field says.
    #[inline]
    pub(super) fn get(&self, index: usize) -> Result<Said, ParseError> {
        let index = index.checked_sub(1).ok_or(NO_ENTRY)?;
        if let Some(field) = STATIC.get(index) {
            return Ok(Said::of(field.kind, field.value));
        }
        Ok(self.entry(index)?.said.clone())
    }

    /// What the name of a field means, and its length.
    #[inline]
    pub(super) fn name(&self, index: usize) -> Result<(Kind, usize), ParseError> {
        let index = index.checked_sub(1).ok_or(NO_ENTRY)?;
        if let Some(field) = STATIC.get(index) {
            return Ok((field.kind, field.name.len()));
        }
        let entry = self.entry(index)?;
        Ok((entry.kind, entry.name as usize))
    }

    /// By an index that counts from zero.
    #[inline]
    fn entry(&self, index: usize) -> Result<&Entry, ParseError> {
        self.entries.get(index - STATIC.len()).ok_or(NO_ENTRY)
    }

    /// Bytes of the heap that it takes.
    #[inline]
    pub(super) fn memory(&self) -> usize {
        self.entries.capacity() * size_of::<Entry>() + self.said
    }

    #[cfg(test)]
    pub(super) fn size(&self) -> usize {
        self.size
    }

    /// No entry is larger.
    #[inline]
    pub(super) fn bound(&self) -> usize {
        self.max.min(MOST)
    }

    /// A dynamic table size update (RFC 7541 §6.3).
    pub(super) fn resize(&mut self, max: usize) -> Result<(), ParseError> {
        if max > self.allowed {
            return Err(ParseError::TableSize);
        }
        self.max = max;
        self.evict(max);
        Ok(())
    }

    #[inline]
    pub(super) fn insert(&mut self, entry: Entry) -> Result<(), ParseError> {
        let size = entry.size as usize;
        if size > self.max {
            self.evict(0);
            return Ok(());
        }
        self.evict(self.max - size);
        if self.size + size > MOST {
            return Err(TOO_LARGE);
        }
        self.size += size;
        self.said += entry.said.memory();
        self.entries.push_front(entry);
        Ok(())
    }

    /// An entry larger than [`Table::bound`]: it only leaves the table empty (RFC 7541 §4.4).
    pub(super) fn insert_larger(&mut self) -> Result<(), ParseError> {
        if self.max > MOST {
            return Err(TOO_LARGE);
        }
        self.evict(0);
        Ok(())
    }

    /// Removes the oldest until the table is not larger than this.
    #[inline]
    fn evict(&mut self, size: usize) {
        while self.size > size
            && let Some(oldest) = self.entries.pop_back()
        {
            self.size -= oldest.size as usize;
            self.said -= oldest.said.memory();
        }
        if self.entries.is_empty() {
            self.entries.shrink_to(64);
        }
    }
}

const NO_ENTRY: ParseError = ParseError::NoEntry;
const TOO_LARGE: ParseError = ParseError::LargeTable;

// === impl Entry ===

impl Entry {
    /// `size` as RFC 7541 §4.1 counts it.
    pub(super) fn new(kind: Kind, name: usize, size: usize, said: Said) -> Self {
        let saturated = |size| u32::try_from(size).unwrap_or(u32::MAX);
        Self { kind, name: saturated(name), size: saturated(size), said }
    }
}
