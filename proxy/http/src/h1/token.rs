//! The tokens of a head: classes of bytes, and tokens that are split over segments.

use crate::ParseError;

/// Largest part of a method, target or value that is kept, in bytes.
pub(super) const MOST: usize = crate::LONGEST_TEXT;

/// See [`is_token`].
static TCHAR: [bool; 256] = table(b"!#$%&'*+-.^_`|~", true);

const fn table(others: &[u8], alphanumeric: bool) -> [bool; 256] {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = alphanumeric && (byte as u8).is_ascii_alphanumeric();
        byte += 1;
    }
    let mut at = 0;
    while at < others.len() {
        table[others[at] as usize] = true;
        at += 1;
    }
    table
}

/// `tchar` of RFC 9110 §5.6.2.
#[inline]
pub(crate) const fn is_token(byte: u8) -> bool {
    TCHAR[byte as usize]
}

/// How many bytes at the front of `bytes` can be part of a token. (Eight at a time is no faster:
/// names are short.)
#[inline]
pub(crate) fn token(bytes: &[u8]) -> usize {
    bytes.iter().position(|byte| !is_token(*byte)).unwrap_or(bytes.len())
}

/// How many bytes at the front of `bytes` can be part of a target. As lenient as most servers:
/// anything but space and control characters.
#[inline]
pub(crate) fn target(bytes: &[u8]) -> usize {
    bytes.iter().position(|&byte| byte <= b' ' || byte == 0x7f).unwrap_or(bytes.len())
}

/// How many bytes at the front of `bytes` can be part of a field value or a reason phrase
/// (RFC 9110 §5.5): anything but control characters, tab excepted.
#[inline]
pub(crate) fn text(bytes: &[u8]) -> usize {
    let mut at = 0;
    loop {
        at += printable(&bytes[at..]);
        if bytes.get(at) != Some(&b'\t') {
            return at;
        }
        at += 1;
    }
}

/// A length: one or more digits (RFC 9110 §8.6).
#[inline]
pub(crate) fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |number, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    })
}

/// Eight bytes at a time: most values end within a few steps.
#[inline]
fn printable(bytes: &[u8]) -> usize {
    const ONES: u64 = u64::from_le_bytes([1; 8]);
    const HIGH: u64 = ONES << 7;
    let mut at = 0;
    while let Some(eight) = bytes.get(at..).and_then(<[u8]>::first_chunk::<8>) {
        let word = u64::from_le_bytes(*eight);
        // The lowest marked byte is exact: borrows only run upwards.
        let below_space = word.wrapping_sub(ONES * 0x20) & !word;
        let delete = word ^ (ONES * 0x7f);
        let is_delete = delete.wrapping_sub(ONES) & !delete;
        let marked = (below_space | is_delete) & HIGH;
        if marked != 0 {
            return at + (marked.trailing_zeros() / 8) as usize;
        }
        at += 8;
    }
    let tail = &bytes[at..];
    at + tail.iter().position(|&byte| byte < b' ' || byte == 0x7f).unwrap_or(tail.len())
}

/// A line that has to end here does.
#[inline]
pub(super) fn line_feed(byte: u8, otherwise: ParseError) -> Result<usize, ParseError> {
    if byte == b'\n' { Ok(1) } else { Err(otherwise) }
}

/// A token that may be split over segments. Without a split nothing is copied.
#[derive(Debug, Default)]
pub(super) struct PartialToken {
    bytes: Vec<u8>,
    /// How long the token is, of which `bytes` may be only the beginning.
    length: usize,
}

// === impl PartialToken ===

impl PartialToken {
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The token is longer than what is kept of it.
    #[inline]
    pub(super) fn is_cut(&self) -> bool {
        self.length > MOST
    }

    #[inline]
    pub(super) fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// Keeps a part, up to `most` bytes in all; the token goes on.
    #[inline]
    pub(super) fn push(&mut self, part: &[u8], most: usize) {
        self.length = self.length.saturating_add(part.len());
        let room = most.saturating_sub(self.bytes.len());
        self.bytes.extend_from_slice(&part[..part.len().min(room)]);
    }

    /// The token, of which `last` is the last part: at most `most` bytes of it.
    #[inline]
    pub(super) fn whole<'a>(&'a mut self, last: &'a [u8], most: usize) -> &'a [u8] {
        if self.is_empty() {
            self.length = last.len();
            return &last[..last.len().min(most)];
        }
        self.push(last, most);
        &self.bytes
    }

    /// The token, of which `part` is the next part, if a space `end`s it there; `None` if it goes on.
    /// Any other end is an error.
    #[inline]
    pub(super) fn until_space<'a>(
        &'a mut self,
        part: &'a [u8],
        end: Option<u8>,
        otherwise: ParseError,
    ) -> Result<Option<&'a [u8]>, ParseError> {
        match end {
            None => {
                self.push(part, MOST);
                Ok(None)
            }
            Some(b' ') => Ok(Some(self.whole(part, MOST))),
            Some(_) => Err(otherwise),
        }
    }

    /// Forgets the token, and its memory.
    #[inline]
    pub(super) fn clear(&mut self) {
        if self.length > 0 {
            *self = Self::default();
        }
    }
}
