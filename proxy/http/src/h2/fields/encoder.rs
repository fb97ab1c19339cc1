//! Writes header lists.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use super::super::hpack::INITIAL;
use super::super::hpack::integer::put;
use super::super::hpack::static_table::STATIC;
use super::entries::Entries;
use super::field::Field;
use super::list::{FieldList, Item, Literal, LiteralName};
use super::literal::put_plain;

/// First bits of a field (RFC 7541 §6).
const INDEXED: u8 = 0x80;
const WITH_INDEXING: u8 = 0x40;
const SIZE_UPDATE: u8 = 0x20;
const NEVER_INDEXED: u8 = 0x10;
const WITHOUT_INDEXING: u8 = 0;

/// Writes header blocks to one peer. Its table has at most 4096 bytes, whatever the peer allows.
#[derive(Default)]
pub struct ListEncoder {
    entries: Entries,
    /// The number of each entry, by the address of its field, which the entry keeps alive.
    numbers: HashMap<usize, u64, BuildHasherDefault<AddressHasher>>,
    /// How many entries there have been: the number of the newest.
    inserted: u64,
    /// The smallest size since the last block, if the size has changed.
    smallest: Option<usize>,
}

/// For addresses, which peers do not choose.
#[derive(Default)]
struct AddressHasher(u64);

// === impl ListEncoder ===

impl ListEncoder {
    /// The peer allows a dynamic table of this size (`SETTINGS_HEADER_TABLE_SIZE`). The next block
    /// begins with the size updates that follow from it (RFC 7541 §4.2).
    pub fn allow(&mut self, size: u32) {
        let size = INITIAL.min(size as usize);
        if size != self.entries.max() {
            self.smallest = Some(size.min(self.smallest.unwrap_or(size)));
            let numbers = &mut self.numbers;
            self.entries.resize(size, |field| forget(numbers, field));
        }
    }

    /// Bytes of the heap that it holds, without those of fields in [`Shared`](super::Shared).
    #[inline]
    pub fn memory(&self) -> usize {
        // Seven of eight places are used, each with a byte of its own.
        let places = self.numbers.capacity() * 8 / 7;
        self.entries.memory() + places * (size_of::<(usize, u64)>() + 1)
    }

    /// Adds the block of a list to `out`. Blocks have to be sent in the order in which they are
    /// encoded.
    #[inline]
    pub fn encode(&mut self, list: &FieldList, out: &mut Vec<u8>) {
        if let Some(smallest) = self.smallest.take() {
            put(out, SIZE_UPDATE, 5, smallest);
            if smallest != self.entries.max() {
                put(out, SIZE_UPDATE, 5, self.entries.max());
            }
        }
        for item in list.items() {
            match item {
                Item::Static(place) => put(out, INDEXED, 7, usize::from(*place) + 1),
                Item::Entry(field) => match self.index(field) {
                    Some(index) => put(out, INDEXED, 7, index),
                    None => self.insert(field, out),
                },
                Item::Literal(literal) => self.literal(literal, list.strings(literal), out),
            }
        }
    }

    /// The index of a field (RFC 7541 §2.3.3), if it is in the table.
    #[inline]
    fn index(&self, field: &Arc<Field>) -> Option<usize> {
        let number = self.numbers.get(&address(field))?;
        Some(STATIC.len() + 1 + (self.inserted - number) as usize)
    }

    /// Writes a field that is not in the table, and adds it. One that would drive out nearly all
    /// others is not added.
    fn insert(&mut self, field: &Arc<Field>, out: &mut Vec<u8>) {
        let has_room = field.size() <= self.entries.max() / 4 * 3;
        let (form, prefix) = if has_room { (WITH_INDEXING, 6) } else { (WITHOUT_INDEXING, 4) };
        put(out, form, prefix, usize::from(field.static_name));
        if field.static_name == 0 {
            put_plain(out, field.name());
        }
        put_plain(out, field.value());
        if has_room {
            let numbers = &mut self.numbers;
            self.entries.insert(Arc::clone(field), |field| forget(numbers, field));
            self.inserted += 1;
            self.numbers.insert(address(field), self.inserted);
        }
    }

    /// Writes a field that stays out of the table. Its strings are copied as they are.
    #[inline]
    fn literal(&self, literal: &Literal, strings: &[u8], out: &mut Vec<u8>) {
        let form = if literal.never_indexed { NEVER_INDEXED } else { WITHOUT_INDEXING };
        match &literal.name {
            LiteralName::String => out.push(form),
            LiteralName::Static(place) => put(out, form, 4, usize::from(*place) + 1),
            LiteralName::Entry(field) => {
                let static_name = (field.static_name != 0).then_some(field.static_name.into());
                match static_name.or_else(|| self.index(field)) {
                    Some(index) => put(out, form, 4, index),
                    None => {
                        out.push(form);
                        put_plain(out, field.name());
                    }
                }
            }
        }
        out.extend_from_slice(strings);
    }
}

// === impl AddressHasher ===

impl Hasher for AddressHasher {
    #[inline]
    fn finish(&self) -> u64 {
        // A table uses the lowest and the highest bits; those of a product that vary are in between.
        self.0.rotate_left(26)
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_usize(usize::from(*byte));
        }
    }

    #[inline]
    fn write_usize(&mut self, value: usize) {
        self.0 = (self.0 ^ value as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

// === helpers ===

#[inline]
fn address(field: &Arc<Field>) -> usize {
    Arc::as_ptr(field).addr()
}

fn forget<S: std::hash::BuildHasher>(numbers: &mut HashMap<usize, u64, S>, field: &Arc<Field>) {
    numbers.remove(&address(field));
}
