//! An entry of a dynamic table.

use super::super::hpack::OVERHEAD;
use super::super::hpack::field::{Kind, Said};
use super::super::hpack::static_table;
use super::meaning::{Meaning, Name};

/// Bytes of the length of the name at the front of a [key](Field::key).
pub(super) const PREFIX: usize = size_of::<u32>();

/// A field, which any number of tables and lists share. The same allocation is the same field.
#[derive(Debug)]
pub(super) struct Field {
    key: Box<[u8]>,
    name_length: u32,
    /// In the static table, or 0.
    pub(super) static_name: u8,
    /// It is in [`Shared`](super::Shared), which counts its memory.
    pub(super) is_shared: bool,
    pub(super) kind: Kind,
    pub(super) name_says: Name,
    pub(super) said: Said,
    pub(super) meaning: Meaning,
}

// === impl Field ===

impl Field {
    /// Of a [key](Field::key).
    pub(super) fn new(key: &[u8], kind: Kind, name_says: Name, is_shared: bool) -> Self {
        let (name, value) = split(key);
        Self {
            name_length: name.len() as u32,
            static_name: static_table::index_of(name),
            is_shared,
            kind,
            name_says,
            said: Said::of(kind, value),
            meaning: Meaning::of(name_says, value),
            key: key.into(),
        }
    }

    /// What is the same only for the same name and value: the length of the name in [`PREFIX`] bytes,
    /// the name, the value.
    #[inline]
    pub(super) fn key(&self) -> &[u8] {
        &self.key
    }

    #[inline]
    pub(super) fn name(&self) -> &[u8] {
        &self.key[PREFIX..PREFIX + self.name_length as usize]
    }

    #[inline]
    pub(super) fn value(&self) -> &[u8] {
        &self.key[PREFIX + self.name_length as usize..]
    }

    /// As RFC 7541 §4.1 counts it.
    #[inline]
    pub(super) fn size(&self) -> usize {
        self.key.len() - PREFIX + OVERHEAD
    }

    /// Bytes of the heap that it takes.
    #[inline]
    pub(super) fn memory(&self) -> usize {
        /// Two counters stand before what is counted.
        const COUNTERS: usize = 2 * size_of::<usize>();
        COUNTERS + size_of::<Self>() + self.key.len() + self.said.memory()
    }
}

// === helpers ===

/// The name and the value of a [key](Field::key).
#[inline]
pub(super) fn split(key: &[u8]) -> (&[u8], &[u8]) {
    let (length, text) = key.split_first_chunk::<PREFIX>().expect("a key begins with a length");
    text.split_at(u32::from_ne_bytes(*length) as usize)
}
