//! Reads and writes the parts of a block.

use std::borrow::Cow;

use super::super::hpack::integer::{integer, put};
use super::super::hpack::text::Text;
use crate::ParseError;

/// Fields of a block, or of what a list has copied from one.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

// === impl Reader ===

impl<'a> Reader<'a> {
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// The first byte of the next field; `None` at the end.
    #[inline]
    pub(super) fn peek(&self) -> Option<u8> {
        self.rest.first().copied()
    }

    #[inline]
    pub(super) fn integer(&mut self, prefix: u8) -> Result<usize, ParseError> {
        let (value, used) = integer(self.rest, prefix)?.ok_or(ParseError::ShortBlock)?;
        self.rest = &self.rest[used..];
        Ok(value)
    }

    #[inline]
    pub(super) fn text(&mut self) -> Result<Text<'a>, ParseError> {
        let huffman = self.peek().is_some_and(|first| first & HUFFMAN != 0);
        let length = self.integer(7)?;
        let (bytes, rest) = self.rest.split_at_checked(length).ok_or(ParseError::ShortBlock)?;
        self.rest = rest;
        Ok(Text { huffman, bytes })
    }

    /// The next string of what a list has copied, which was valid then.
    pub(super) fn copied(&mut self) -> Cow<'a, [u8]> {
        let text = self.text().expect("a string that a list has copied");
        if !text.huffman {
            return Cow::Borrowed(text.bytes);
        }
        let mut plain = Vec::new();
        text.append(&mut plain).expect("a string that a list has copied");
        Cow::Owned(plain)
    }
}

// === helpers ===

/// Before the length of a string: it is in Huffman's code (RFC 7541 §5.2).
const HUFFMAN: u8 = 0x80;

/// Adds a string as its sender wrote it, unless `plain`, which is the same, is shorter.
#[inline]
pub(super) fn put_copy(to: &mut Vec<u8>, text: Text<'_>, plain: &[u8]) {
    if text.huffman && text.bytes.len() < plain.len() {
        put(to, HUFFMAN, 7, text.bytes.len());
        to.extend_from_slice(text.bytes);
    } else {
        put_plain(to, plain);
    }
}

/// Adds a string without Huffman's code.
#[inline]
pub(super) fn put_plain(to: &mut Vec<u8>, plain: &[u8]) {
    put(to, 0, 7, plain.len());
    to.extend_from_slice(plain);
}
