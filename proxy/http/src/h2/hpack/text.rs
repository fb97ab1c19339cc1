//! String literals (RFC 7541 §5.2).

use super::huffman;
use crate::ParseError;

/// A string literal as it is in a block.
#[derive(Clone, Copy)]
pub(in crate::h2) struct Text<'a> {
    /// In Huffman's code.
    pub(in crate::h2) huffman: bool,
    pub(in crate::h2) bytes: &'a [u8],
}

// === impl Text ===

impl Text<'_> {
    /// The string, with `buffer` as the place for one in Huffman's code.
    #[inline]
    pub(in crate::h2) fn plain<'a>(
        &'a self,
        buffer: &'a mut Vec<u8>,
    ) -> Result<&'a [u8], ParseError> {
        if !self.huffman {
            return Ok(self.bytes);
        }
        buffer.clear();
        self.append(buffer)?;
        Ok(buffer)
    }

    /// Adds the string to `to`.
    #[inline]
    pub(in crate::h2) fn append(&self, to: &mut Vec<u8>) -> Result<(), ParseError> {
        if !self.huffman {
            to.extend_from_slice(self.bytes);
            return Ok(());
        }
        huffman::decode(self.bytes, |byte| to.push(byte))
    }

    /// Bytes of the string.
    #[inline]
    pub(super) fn size(&self) -> Result<usize, ParseError> {
        if !self.huffman {
            return Ok(self.bytes.len());
        }
        let mut size = 0;
        huffman::decode(self.bytes, |_| size += 1)?;
        Ok(size)
    }
}
