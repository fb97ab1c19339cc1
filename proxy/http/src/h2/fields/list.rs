//! A header list as a peer has sent it.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use super::super::hpack::Head;
use super::super::hpack::OVERHEAD;
use super::super::hpack::field::Said;
use super::super::hpack::static_table::STATIC;
use super::field::Field;
use super::literal::{Reader, put_plain};
use super::meaning::{Malformed, Meaning, marks};
use super::shape::Shape;

/// Beyond this the buffers of a large list are given back.
const BUFFER: usize = 4 << 10;

/// A header list as a peer has sent it: the head of a request, the head of a response, or trailers.
/// Can be used again, without allocation.
#[derive(Clone, Debug, Default)]
pub struct FieldList {
    items: Vec<Item>,
    /// Strings of literals.
    strings: Vec<u8>,
    size: usize,
    head: Head,
    shape: Shape,
}

/// A field of a list.
#[derive(Clone, Debug)]
pub(super) enum Item {
    /// Of the static table, by its place there, which counts from zero.
    Static(u8),
    /// Of a dynamic table.
    Entry(Arc<Field>),
    Literal(Literal),
}

/// A field that is in no table.
#[derive(Clone, Debug)]
pub(super) struct Literal {
    /// No hop may index it (RFC 7541 §6.2.3).
    pub(super) never_indexed: bool,
    pub(super) name: LiteralName,
    /// Where its strings are: the name, if it is a string, and the value.
    start: u32,
    end: u32,
}

/// The name of a literal.
#[derive(Clone, Debug)]
pub(super) enum LiteralName {
    String,
    /// By its place, which counts from zero.
    Static(u8),
    Entry(Arc<Field>),
}

/// What takes the place of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replacement<'a> {
    /// The same name with this value.
    Value(&'a [u8]),
    /// The field is left out.
    Nothing,
}

// === impl FieldList ===

impl FieldList {
    /// A list that no peer has sent. Its fields are valid, and not to be indexed.
    #[must_use]
    pub fn of(fields: &[(&str, &str)]) -> Self {
        let mut list = Self::default();
        for (name, value) in fields {
            list.append(name, value);
        }
        list
    }

    /// Forgets all fields.
    #[inline]
    pub fn clear(&mut self) {
        self.items.clear();
        self.strings.clear();
        if self.items.capacity() * size_of::<Item>() + self.strings.capacity() > 2 * BUFFER {
            (self.items, self.strings) = (Vec::new(), Vec::new());
        }
        self.size = 0;
        self.head = Head::default();
        self.shape = Shape::default();
    }

    /// What it says about its exchange.
    #[inline]
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// Bytes of the names and the values, and 32 for each field (RFC 9113 §6.5.2).
    #[inline]
    pub fn size(&self) -> usize {
        self.size
    }

    /// Bytes of the heap that it holds, without those of fields that it shares with tables.
    #[inline]
    pub fn memory(&self) -> usize {
        self.items.capacity() * size_of::<Item>() + self.strings.capacity() + self.head.text_bytes()
    }

    /// How many fields it has.
    #[inline]
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// It has no fields.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The fields in order: name, value, and whether the sender has said that no hop may index it.
    /// Decodes Huffman's code as it goes.
    pub fn iter(&self) -> impl Iterator<Item = (Cow<'_, [u8]>, Cow<'_, [u8]>, bool)> {
        self.items.iter().map(|item| match item {
            Item::Static(place) => {
                let field = &STATIC[usize::from(*place)];
                (Cow::Borrowed(field.name), Cow::Borrowed(field.value), false)
            }
            Item::Entry(field) => (field.name().into(), field.value().into(), false),
            Item::Literal(literal) => {
                let mut strings = Reader::new(self.strings(literal));
                let name = match &literal.name {
                    LiteralName::String => strings.copied(),
                    LiteralName::Static(place) => STATIC[usize::from(*place)].name.into(),
                    LiteralName::Entry(field) => field.name().into(),
                };
                (name, strings.copied(), literal.never_indexed)
            }
        })
    }

    /// The list with other fields in the place of some. Those for whose name `replace` has nothing stay as
    /// they are, for tables too. What it says about its exchange stays what the peer has said, and it is
    /// not checked again.
    #[must_use]
    pub fn edited<'a>(&self, mut replace: impl FnMut(&[u8]) -> Option<Replacement<'a>>) -> Self {
        let mut edited = Self { head: self.head.clone(), shape: self.shape, ..Self::default() };
        for (item, (name, value, never_indexed)) in self.items.iter().zip(self.iter()) {
            match replace(&name) {
                Some(Replacement::Nothing) => {}
                Some(Replacement::Value(value)) => edited.add(&name, value, never_indexed),
                None => {
                    edited.size += name.len() + value.len() + OVERHEAD;
                    let item = match item {
                        Item::Literal(literal) => {
                            let strings = self.strings(literal);
                            let at = edited.add_strings(|to| to.extend_from_slice(strings));
                            let name = literal.name.clone();
                            Item::Literal(Literal::new(literal.never_indexed, name, at))
                        }
                        item => item.clone(),
                    };
                    edited.items.push(item);
                }
            }
        }
        edited
    }

    /// Adds a valid field at the end, as by [`Self::edited`]. The name is in lower case.
    pub fn append(&mut self, name: &str, value: &str) {
        self.add(name.as_bytes(), value.as_bytes(), false);
    }

    fn add(&mut self, name: &[u8], value: &[u8], never_indexed: bool) {
        let strings = self.add_strings(|to| {
            put_plain(to, name);
            put_plain(to, value);
        });
        self.size += name.len() + value.len() + OVERHEAD;
        self.items.push(Item::Literal(Literal::new(never_indexed, LiteralName::String, strings)));
    }

    /// Checks it as the head of a request (RFC 9113 §8.1.1, §8.2, §8.3.1 and §8.5, RFC 8441 §4).
    ///
    /// # Errors
    /// The first rule that it breaks.
    #[inline]
    pub fn check_request(&self) -> Result<(), Malformed> {
        self.shape.check_request()
    }

    /// Checks it as the head of a response (RFC 9113 §8.1.1, §8.2 and §8.3.2).
    ///
    /// # Errors
    /// The first rule that it breaks.
    #[inline]
    pub fn check_response(&self) -> Result<(), Malformed> {
        self.shape.check_response()
    }

    /// Checks it as trailers (RFC 9113 §8.1).
    ///
    /// # Errors
    /// The first rule that it breaks.
    #[inline]
    pub fn check_trailers(&self) -> Result<(), Malformed> {
        self.shape.check_trailers()
    }

    /// The length of the content, if it says one. Several equal ones are one, as in HTTP/1.
    ///
    /// # Errors
    /// Where it is no number, or there are several.
    #[inline]
    pub fn content_length(&self) -> Result<Option<u64>, Malformed> {
        self.shape.length()
    }

    /// The method is CONNECT (RFC 9113 §8.5).
    #[inline]
    pub fn is_connect(&self) -> bool {
        self.shape.has(marks::CONNECT)
    }

    /// It has `:protocol` (RFC 8441).
    #[inline]
    pub fn protocol(&self) -> bool {
        self.shape.has(marks::PROTOCOL)
    }

    #[inline]
    pub(super) fn items(&self) -> &[Item] {
        &self.items
    }

    /// The strings of a literal, as a block has them.
    #[inline]
    pub(super) fn strings(&self, literal: &Literal) -> &[u8] {
        &self.strings[literal.start as usize..literal.end as usize]
    }

    /// Adds a field of this size, and what it says and means.
    #[inline]
    pub(super) fn push(&mut self, item: Item, size: usize, said: Said, meaning: Meaning) {
        self.items.push(item);
        self.size += size;
        self.head.see(said);
        self.shape.see(meaning);
    }

    /// Adds strings for [`Literal::new`].
    #[inline]
    pub(super) fn add_strings(&mut self, add: impl FnOnce(&mut Vec<u8>)) -> Range<u32> {
        let start = self.strings.len() as u32;
        add(&mut self.strings);
        start..self.strings.len() as u32
    }
}

// === impl Literal ===

impl Literal {
    #[inline]
    pub(super) fn new(never_indexed: bool, name: LiteralName, strings: Range<u32>) -> Self {
        Self { never_indexed, name, start: strings.start, end: strings.end }
    }
}
