//! Reads header lists.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

use super::super::hpack::field::{Kind, Said};
use super::super::hpack::static_table::STATIC;
use super::super::hpack::text::Text;
use super::super::hpack::{INITIAL, OVERHEAD};
use super::entries::Entries;
use super::field::{Field, PREFIX};
use super::list::{FieldList, Item, Literal, LiteralName};
use super::literal::{Reader, put_copy};
use super::meaning::{Meaning, Name};
use super::shared::Shared;
use crate::ParseError;

/// Beyond this the buffer of a large field is given back.
const BUFFER: usize = 8 << 10;

/// Reads the header blocks of one peer.
pub struct ListDecoder {
    pub(super) entries: Entries,
    /// The largest table that the peer may use.
    allowed: usize,
    /// Of the literal that is being read: a [key](Field::key).
    key: Vec<u8>,
}

/// Why a block gives no list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecodeError {
    /// Neither this block nor any later one can be decoded: an error of the connection
    /// (RFC 9113 §4.3, `COMPRESSION_ERROR`).
    Compression(ParseError),
    /// The list is larger than the limit. Later blocks can be decoded.
    TooLarge,
}

/// The list that is being read.
struct Target<'a> {
    list: &'a mut FieldList,
    shared: &'a mut Shared,
    limit: usize,
    /// A field was too much. Only the table counts from then on.
    is_full: bool,
}

/// A literal whose strings are in [`ListDecoder::key`].
struct Found<'a> {
    never_indexed: bool,
    name: LiteralName,
    /// The name as the block has it, if it has.
    name_text: Option<Text<'a>>,
    value_text: Text<'a>,
    name_says: Name,
    kind: Kind,
    /// Where the value begins.
    value_at: usize,
    /// As RFC 7541 §4.1 counts it.
    size: usize,
}

// === impl ListDecoder ===

impl ListDecoder {
    /// `max_table`: the `SETTINGS_HEADER_TABLE_SIZE` that the peer has been sent, or 4096. It may
    /// use that at once, and 4096 in any case: it does not have to have read it.
    #[must_use]
    pub fn new(max_table: u32) -> Self {
        let allowed = INITIAL.max(max_table as usize);
        Self { entries: Entries::default(), allowed, key: Vec::new() }
    }

    /// Bytes of the heap that it holds, without those of fields in [`Shared`].
    #[inline]
    pub fn memory(&self) -> usize {
        self.entries.memory() + self.key.capacity()
    }

    /// Reads a whole block (RFC 9113 §4.3) into `list`, in place of what it holds. `limit` is the
    /// most bytes of [`FieldList::size`].
    ///
    /// # Errors
    /// Where the block cannot be decoded, or the list is larger than the limit; `list` is of no use
    /// then.
    #[inline]
    pub fn decode(
        &mut self,
        block: &[u8],
        limit: usize,
        shared: &mut Shared,
        list: &mut FieldList,
    ) -> Result<(), DecodeError> {
        list.clear();
        // Offsets of strings have 32 bits, and strings take less than a list counts.
        let limit = limit.min(u32::MAX as usize);
        let mut target = Target { list, shared, limit, is_full: false };
        let done = self.fields(block, &mut target);
        let is_full = target.is_full;
        if self.key.capacity() > BUFFER {
            self.key = Vec::new();
        }
        if done.is_err() || is_full {
            list.clear();
        }
        done?;
        if is_full { Err(DecodeError::TooLarge) } else { Ok(()) }
    }

    /// RFC 7541 §6.
    #[inline]
    fn fields(&mut self, block: &[u8], target: &mut Target<'_>) -> Result<(), ParseError> {
        let mut block = Reader::new(block);
        self.size_updates(&mut block)?;
        while let Some(first) = block.peek() {
            match first {
                0x80.. => self.indexed(&mut block, target)?,
                0x40.. => {
                    let found = self.literal(&mut block, 6)?;
                    self.insert(found, target);
                }
                0x20.. => return Err(ParseError::LateTableSize),
                _ => {
                    let found = self.literal(&mut block, 4)?;
                    target.add_literal(found, &self.key);
                }
            }
        }
        Ok(())
    }

    /// They come before all fields (RFC 7541 §4.2).
    #[inline]
    fn size_updates(&mut self, block: &mut Reader<'_>) -> Result<(), ParseError> {
        while let Some(0x20..0x40) = block.peek() {
            let size = block.integer(5)?;
            if size > self.allowed {
                return Err(ParseError::TableSize);
            }
            self.entries.resize(size, |_| {});
        }
        Ok(())
    }

    #[inline]
    fn indexed(
        &mut self,
        block: &mut Reader<'_>,
        target: &mut Target<'_>,
    ) -> Result<(), ParseError> {
        match place(block.integer(7)?)? {
            Place::Static(place) => target.add_static(place),
            Place::Entry(age) => {
                let field = self.entries.get(age).ok_or(ParseError::NoEntry)?;
                target.add_entry(Arc::clone(field));
            }
        }
        Ok(())
    }

    /// RFC 7541 §6.2. The name of an entry is copied only if the field is to be indexed
    /// (`prefix` is 6): a large one could be named many times.
    #[inline]
    fn literal<'a>(&mut self, block: &mut Reader<'a>, prefix: u8) -> Result<Found<'a>, ParseError> {
        let never_indexed = prefix == 4 && block.peek().is_some_and(|first| first & 0x10 != 0);
        let index = block.integer(prefix)?;
        self.key.clear();
        self.key.extend_from_slice(&[0; PREFIX]);
        let mut name_text = None;
        let (name, name_says, kind, name_size) = if index == 0 {
            let text = block.text()?;
            text.append(&mut self.key)?;
            name_text = Some(text);
            let name = &self.key[PREFIX..];
            (LiteralName::String, Name::of(name), Kind::of(name), name.len())
        } else {
            match place(index)? {
                Place::Static(place) => {
                    let field = &STATIC[usize::from(place)];
                    if prefix == 6 {
                        self.key.extend_from_slice(field.name);
                    }
                    let says = Name::of_static(usize::from(place));
                    (LiteralName::Static(place), says, field.kind, field.name.len())
                }
                Place::Entry(age) => {
                    let field = self.entries.get(age).ok_or(ParseError::NoEntry)?;
                    if prefix == 6 {
                        self.key.extend_from_slice(field.name());
                    }
                    let name = LiteralName::Entry(Arc::clone(field));
                    (name, field.name_says, field.kind, field.name().len())
                }
            }
        };
        let value_at = self.key.len();
        let value_text = block.text()?;
        value_text.append(&mut self.key)?;
        let size = name_size + (self.key.len() - value_at) + OVERHEAD;
        Ok(Found { never_indexed, name, name_text, value_text, name_says, kind, value_at, size })
    }

    /// Adds a literal to the table (RFC 7541 §6.2.1 and §4.4), and to the list.
    ///
    /// A field that is seen for the first time stays a literal in the list: most values that change
    /// with each message, as deadlines and trace contexts do, do not come a second time, and would
    /// only drive others out of the receiver's table.
    #[inline]
    fn insert(&mut self, found: Found<'_>, target: &mut Target<'_>) {
        if found.size > self.entries.max() {
            self.entries.clear();
            return target.add_literal(found, &self.key);
        }
        let name_size = (found.value_at - PREFIX) as u32;
        self.key[..PREFIX].copy_from_slice(&name_size.to_ne_bytes());
        if !target.has_room(found.size) {
            let field = Field::new(&self.key, found.kind, found.name_says, false);
            return self.entries.insert(Arc::new(field), |_| {});
        }
        let (field, is_known) = target.shared.intern(&self.key, found.kind, found.name_says);
        if is_known {
            target.add_entry(Arc::clone(&field));
        } else {
            target.push_literal(found, &self.key, field.said.clone(), field.meaning);
        }
        self.entries.insert(field, |_| {});
    }
}

// === impl Target ===

impl Target<'_> {
    #[inline]
    fn has_room(&mut self, size: usize) -> bool {
        self.is_full |= self.list.size() + size > self.limit;
        !self.is_full
    }

    #[inline]
    fn add_static(&mut self, place: u8) {
        let field = &STATIC[usize::from(place)];
        let size = field.name.len() + field.value.len() + OVERHEAD;
        if self.has_room(size) {
            let (said, meaning) = self.shared.of_static(usize::from(place));
            self.list.push(Item::Static(place), size, said.clone(), *meaning);
        }
    }

    #[inline]
    fn add_entry(&mut self, field: Arc<Field>) {
        let size = field.size();
        if self.has_room(size) {
            let (said, meaning) = (field.said.clone(), field.meaning);
            self.list.push(Item::Entry(field), size, said, meaning);
        }
    }

    #[inline]
    fn add_literal(&mut self, found: Found<'_>, key: &[u8]) {
        if self.has_room(found.size) {
            let value = &key[found.value_at..];
            let said = Said::of(found.kind, value);
            let meaning = Meaning::of(found.name_says, value);
            self.push_literal(found, key, said, meaning);
        }
    }

    #[inline]
    fn push_literal(&mut self, found: Found<'_>, key: &[u8], said: Said, meaning: Meaning) {
        let strings = self.list.add_strings(|strings| {
            if let Some(name) = found.name_text {
                put_copy(strings, name, &key[PREFIX..found.value_at]);
            }
            put_copy(strings, found.value_text, &key[found.value_at..]);
        });
        let literal = Literal::new(found.never_indexed, found.name, strings);
        self.list.push(Item::Literal(literal), found.size, said, meaning);
    }
}

// === impl DecodeError ===

impl From<ParseError> for DecodeError {
    fn from(error: ParseError) -> Self {
        Self::Compression(error)
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Compression(error) => error.fmt(f),
            Self::TooLarge => f.write_str("header list larger than the limit"),
        }
    }
}

impl Error for DecodeError {}

// === helpers ===

/// Where an index leads (RFC 7541 §2.3.3); both count from zero.
enum Place {
    Static(u8),
    Entry(usize),
}

#[inline]
fn place(index: usize) -> Result<Place, ParseError> {
    match index {
        0 => Err(ParseError::NoEntry),
        1..=STATIC_LEN => Ok(Place::Static(index as u8 - 1)),
        _ => Ok(Place::Entry(index - STATIC_LEN - 1)),
    }
}

const STATIC_LEN: usize = STATIC.len();
