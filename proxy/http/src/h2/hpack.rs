//! Decodes header blocks (RFC 7541) as far as telemetry needs them: a field that says nothing about
//! an exchange counts only by its size in the dynamic table. Blocks may come in any number of
//! pieces; what is kept between two is at most one field.
//!
//! Not checked is what has no effect on later fields: the peer refuses it if it has to.

pub(super) mod field;
pub(super) mod huffman;
pub(super) mod integer;
pub(super) mod static_table;
mod table;
#[cfg(test)]
mod tests;
pub(super) mod text;

pub use self::field::Head;
use self::field::{Kind, Said};
use self::integer::integer;
use self::table::{Entry, Table};
use self::text::Text;
use crate::ParseError;

/// A field that comes in pieces is kept up to here. Beyond, it is one that says nothing which weir
/// would report, like the URIs that the terminating engine refuses, and is skipped.
const KEPT: usize = 64 << 10;

/// What an entry counts besides its bytes (RFC 7541 §4.1).
pub(super) const OVERHEAD: usize = 32;

/// The dynamic table's size until it is changed (RFC 9113 §6.5.2).
pub(super) const INITIAL: usize = 4096;

/// Beyond this the buffers of a large field are given back.
const BUFFER: usize = 4 << 10;

/// Decodes what one peer sends.
#[derive(Default)]
pub struct Decoder {
    table: Table,
    /// The start of a field whose rest is in the next fragment.
    carry: Vec<u8>,
    skipped: Option<Skipped>,
    plain: Vec<u8>,
}

/// A literal field that is too large to be kept.
#[derive(Debug)]
struct Skipped {
    /// Bytes that are still to come of its name or its value.
    left: usize,
    /// That is its name, so that a value follows.
    in_name: bool,
    indexed: bool,
}

/// A string literal as far as it has come.
enum Read<'a> {
    /// And where it ends.
    Whole(Text<'a>, usize),
    /// The rest is yet to come.
    Cut,
    /// Too large to be kept, whether it has come or not; where it ends.
    Large(usize),
}

/// A field as far as it has come.
enum Step {
    /// So many bytes of it have been dealt with.
    Done(usize),
    /// The rest is yet to come.
    Cut,
}

// === impl Decoder ===

impl Decoder {
    /// The receiver allows a dynamic table of this size (SETTINGS_HEADER_TABLE_SIZE). Only the
    /// sender's size updates change the table: what is allowed bounds them, and counts from when
    /// it is said, as the sender cannot have heard of it before. One that is taken back is the
    /// receiver's to enforce.
    pub fn allow(&mut self, size: u32) {
        self.table.allow(size as usize);
    }

    /// Bytes of the heap that it holds.
    #[inline]
    pub fn memory(&self) -> usize {
        self.table.memory() + self.carry.capacity() + self.plain.capacity()
    }

    /// Reads the next fragment of a header block into `head`.
    ///
    /// # Errors
    /// Where the block, and with it all later ones, cannot be decoded.
    #[inline]
    pub fn decode(
        &mut self,
        fragment: &[u8],
        last: bool,
        head: &mut Head,
    ) -> Result<(), ParseError> {
        if self.carry.is_empty() && self.skipped.is_none() {
            let used = self.fields(fragment, head)?;
            self.carry.extend_from_slice(&fragment[used..]);
        } else {
            self.resume(fragment, head)?;
        }
        if last {
            if !self.carry.is_empty() || self.skipped.is_some() {
                return Err(ParseError::ShortBlock);
            }
            for buffer in [&mut self.carry, &mut self.plain] {
                if buffer.capacity() > BUFFER {
                    *buffer = Vec::new();
                }
            }
        }
        Ok(())
    }

    /// Goes on inside a field.
    fn resume(&mut self, fragment: &[u8], head: &mut Head) -> Result<(), ParseError> {
        let rest = self.skip(fragment)?;
        if self.skipped.is_some() {
            return Ok(());
        }
        let mut bytes = std::mem::take(&mut self.carry);
        bytes.extend_from_slice(rest);
        let used = self.fields(&bytes, head)?;
        if self.skipped.is_none() {
            bytes.drain(..used);
            self.carry = bytes;
        }
        Ok(())
    }

    /// Skips a large field; returns what is behind it.
    #[inline]
    fn skip<'a>(&mut self, mut rest: &'a [u8]) -> Result<&'a [u8], ParseError> {
        while let Some(skipped) = &mut self.skipped {
            let count = skipped.left.min(rest.len());
            rest = &rest[count..];
            skipped.left -= count;
            if skipped.left > 0 {
                break;
            }
            if !skipped.in_name {
                if skipped.indexed {
                    self.table.insert_larger()?;
                }
                self.skipped = None;
                break;
            }
            let Some((first, behind)) = rest.split_first() else { break };
            rest = behind;
            self.carry.push(*first);
            if let Some((length, _)) = integer(&self.carry, 7)? {
                self.carry.clear();
                skipped.left = length;
                skipped.in_name = false;
            }
        }
        Ok(rest)
    }

    /// Reads whole fields; returns how many bytes they are.
    #[inline]
    fn fields(&mut self, bytes: &[u8], head: &mut Head) -> Result<usize, ParseError> {
        let mut at = 0;
        while at < bytes.len() {
            match self.field(&bytes[at..], head)? {
                Step::Done(used) => at += used,
                Step::Cut => break,
            }
            if self.skipped.is_some() {
                at = bytes.len() - self.skip(&bytes[at..])?.len();
            }
        }
        Ok(at)
    }

    /// RFC 7541 §6. `bytes` is not empty.
    #[inline]
    fn field(&mut self, bytes: &[u8], head: &mut Head) -> Result<Step, ParseError> {
        match bytes[0] {
            0x80.. => {
                let Some((index, used)) = integer(bytes, 7)? else { return Ok(Step::Cut) };
                head.see(self.table.get(index)?);
                Ok(Step::Done(used))
            }
            0x40.. => self.literal(bytes, 6, head),
            0x20.. => {
                let Some((size, used)) = integer(bytes, 5)? else { return Ok(Step::Cut) };
                self.table.resize(size)?;
                Ok(Step::Done(used))
            }
            _ => self.literal(bytes, 4, head),
        }
    }

    /// A field with a value of its own (RFC 7541 §6.2); its index has `prefix` bits.
    #[inline]
    fn literal(&mut self, bytes: &[u8], prefix: u8, head: &mut Head) -> Result<Step, ParseError> {
        let indexed = prefix == 6;
        let Some((index, at)) = integer(bytes, prefix)? else { return Ok(Step::Cut) };
        let (name, at) = match index {
            0 => match self.text(bytes, at)? {
                Read::Whole(name, at) => (Some(name), at),
                Read::Cut => return Ok(Step::Cut),
                Read::Large(end) => return Ok(self.large(bytes, end, true, indexed)),
            },
            _ => (None, at),
        };
        let (value, at) = match self.text(bytes, at)? {
            Read::Whole(value, at) => (value, at),
            Read::Cut => return Ok(Step::Cut),
            Read::Large(end) => return Ok(self.large(bytes, end, false, indexed)),
        };
        let (kind, name_size) = match name {
            Some(name) => self.name(name, indexed)?,
            None => self.table.name(index)?,
        };
        self.value(kind, name_size, value, indexed, head)?;
        Ok(Step::Done(at))
    }

    /// Reads a string's length and finds its end, without decoding it: a long one may be looked at
    /// many times until it is complete.
    ///
    /// No symbol has more than 30 bits (RFC 7541 appendix B), so that a field of more than four
    /// times the dynamic table's size does not fit in.
    #[inline]
    fn text<'a>(&self, bytes: &'a [u8], at: usize) -> Result<Read<'a>, ParseError> {
        let start = bytes.get(at..).unwrap_or_default();
        let Some((length, used)) = integer(start, 7)? else { return Ok(Read::Cut) };
        let end = (at + used).saturating_add(length);
        if end > KEPT.max(4 * self.table.bound()) {
            return Ok(Read::Large(end));
        }
        let huffman = start[0] & 0x80 != 0;
        Ok(match bytes.get(at + used..end) {
            Some(bytes) => Read::Whole(Text { huffman, bytes }, end),
            None => Read::Cut,
        })
    }

    /// Starts to skip a field whose name or value ends at `end`.
    fn large(&mut self, bytes: &[u8], end: usize, in_name: bool, indexed: bool) -> Step {
        let used = end.min(bytes.len());
        self.skipped = Some(Skipped { left: end - used, in_name, indexed });
        Step::Done(used)
    }

    /// What a literal name means, and how long it is if that counts.
    #[inline]
    fn name(&mut self, name: Text<'_>, indexed: bool) -> Result<(Kind, usize), ParseError> {
        // The names that matter are not longer in Huffman's code than in plain.
        if !indexed && name.bytes.len() > Kind::LONGEST {
            return Ok((Kind::Other, 0));
        }
        let plain = name.plain(&mut self.plain)?;
        Ok((Kind::of(plain), plain.len()))
    }

    #[inline]
    fn value(
        &mut self,
        kind: Kind,
        name_size: usize,
        value: Text<'_>,
        indexed: bool,
        head: &mut Head,
    ) -> Result<(), ParseError> {
        if kind == Kind::Other {
            if indexed {
                let size = name_size + value.size()? + OVERHEAD;
                self.table.insert(Entry::new(kind, name_size, size, Said::Nothing))?;
            }
            return Ok(());
        }
        let plain = value.plain(&mut self.plain)?;
        let said = Said::of(kind, plain);
        if indexed {
            let size = name_size + plain.len() + OVERHEAD;
            self.table.insert(Entry::new(kind, name_size, size, said.clone()))?;
        }
        head.see(said);
        Ok(())
    }
}
