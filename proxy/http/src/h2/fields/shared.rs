//! Fields that several tables have.

use std::borrow::Borrow;
use std::collections::HashSet;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use super::super::hpack::field::{Kind, Said};
use super::super::hpack::static_table::STATIC;
use super::field::Field;
use super::meaning::{Meaning, Name};

/// Bytes of fields that only this holds, which are not worth a search.
const SLACK: usize = 16 << 10;

/// Fields that entries of dynamic tables have in common, each kept once: so that fifty clients which
/// send the same field share one entry of an endpoint's table. One for each relay.
pub struct Shared {
    /// By bytes that peers choose: the hash is seeded.
    fields: HashSet<Interned>,
    /// Of `fields`.
    bytes: usize,
    /// With more bytes, the fields that only this holds are given up.
    most: usize,
    /// What the fields of the static table say.
    statics: Box<[(Said, Meaning)]>,
}

struct Interned(Arc<Field>);

// === impl Shared ===

impl Default for Shared {
    fn default() -> Self {
        let meaning = |(place, value)| Meaning::of(Name::of_static(place), value);
        let values = STATIC.iter().map(|field| field.value).enumerate();
        let said = STATIC.iter().map(|field| Said::of(field.kind, field.value));
        Self {
            fields: HashSet::new(),
            bytes: 0,
            most: SLACK,
            statics: said.zip(values.map(meaning)).collect(),
        }
    }
}

impl Shared {
    /// Bytes of the heap that it holds, those of all fields included.
    #[inline]
    pub fn memory(&self) -> usize {
        self.bytes
            + self.fields.capacity() * 8 / 7 * (size_of::<Interned>() + 1)
            + self.statics.len() * size_of::<(Said, Meaning)>()
    }

    /// Gives up the fields that no table and no list holds any more. Happens by itself before they
    /// come to twice the bytes of the others; a call is of use when many connections have ended.
    pub fn trim(&mut self) {
        self.fields.retain(|Interned(field)| {
            let is_held = Arc::strong_count(field) > 1;
            if !is_held {
                self.bytes -= field.memory();
            }
            is_held
        });
        self.fields.shrink_to(2 * self.fields.len());
        self.most = SLACK + 2 * self.bytes;
    }

    /// The field with this [key](Field::key), and whether it has been there before.
    #[inline]
    pub(super) fn intern(&mut self, key: &[u8], kind: Kind, name: Name) -> (Arc<Field>, bool) {
        match self.fields.get(key) {
            Some(Interned(field)) => (Arc::clone(field), true),
            None => (self.add(Field::new(key, kind, name, true)), false),
        }
    }

    fn add(&mut self, field: Field) -> Arc<Field> {
        if self.bytes + field.memory() > self.most {
            self.trim();
        }
        self.bytes += field.memory();
        let field = Arc::new(field);
        self.fields.insert(Interned(Arc::clone(&field)));
        field
    }

    /// What the field of the static table with this place, which counts from zero, says and means.
    #[inline]
    pub(super) fn of_static(&self, place: usize) -> &(Said, Meaning) {
        &self.statics[place]
    }
}

// === impl Interned ===

impl Borrow<[u8]> for Interned {
    fn borrow(&self) -> &[u8] {
        self.0.key()
    }
}

impl Hash for Interned {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.key().hash(state);
    }
}

impl PartialEq for Interned {
    fn eq(&self, other: &Self) -> bool {
        self.0.key() == other.0.key()
    }
}

impl Eq for Interned {}
