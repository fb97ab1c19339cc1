//! The pieces of a head: classes of bytes, and pieces that come split over segments.

/// Largest part of a method, target or value that is kept, in bytes.
pub(super) const KEPT: usize = super::super::LONGEST_WORD;

/// `tchar` of RFC 9110 §5.6.2.
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

/// How many bytes at the front of `bytes` can be part of a token. (Eight at a time is no faster:
/// names are short.)
#[inline]
pub(super) fn token(bytes: &[u8]) -> usize {
    bytes.iter().position(|byte| !TCHAR[usize::from(*byte)]).unwrap_or(bytes.len())
}

/// How many bytes at the front of `bytes` can be part of a target. As lenient as most servers:
/// anything but space and control characters.
#[inline]
pub(super) fn target(bytes: &[u8]) -> usize {
    bytes.iter().position(|&byte| byte <= b' ' || byte == 0x7f).unwrap_or(bytes.len())
}

/// How many bytes at the front of `bytes` can be part of a field value or a reason phrase
/// (RFC 9110 §5.5): anything but control characters, tab excepted.
#[inline]
pub(super) fn text(bytes: &[u8]) -> usize {
    let mut at = 0;
    loop {
        at += printable(&bytes[at..]);
        if bytes.get(at) != Some(&b'\t') {
            return at;
        }
        at += 1;
    }
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
pub(super) fn line_feed(byte: u8, otherwise: &'static str) -> Result<usize, &'static str> {
    if byte == b'\n' { Ok(1) } else { Err(otherwise) }
}

/// A piece that may be split over segments. Without a split nothing is copied.
#[derive(Debug, Default)]
pub(super) struct Kept {
    bytes: Vec<u8>,
    /// How long the piece is, whatever of it is kept.
    length: usize,
}

// === impl Kept ===

impl Kept {
    pub(super) fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// More of the piece was there than is kept.
    pub(super) fn is_cut(&self) -> bool {
        self.length > KEPT
    }

    pub(super) fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// Keeps a part; the piece goes on.
    pub(super) fn push(&mut self, part: &[u8], most: usize) {
        self.length = self.length.saturating_add(part.len());
        let room = most.saturating_sub(self.bytes.len());
        self.bytes.extend_from_slice(&part[..part.len().min(room)]);
    }

    /// The piece, of which `last` is the last part: at most `most` bytes of it.
    #[inline]
    pub(super) fn whole<'a>(&'a mut self, last: &'a [u8], most: usize) -> &'a [u8] {
        if self.is_empty() {
            self.length = last.len();
            return &last[..last.len().min(most)];
        }
        self.push(last, most);
        &self.bytes
    }

    /// The piece, of which `length` bytes at the front of `input` are the next part, if a space ends
    /// it there; `None` if it goes on. Any other end is an error.
    #[inline]
    pub(super) fn until_space<'a>(
        &'a mut self,
        input: &'a [u8],
        length: usize,
        otherwise: &'static str,
    ) -> Result<Option<&'a [u8]>, &'static str> {
        let part = &input[..length];
        match input.get(length) {
            None => {
                self.push(part, KEPT);
                Ok(None)
            }
            Some(b' ') => Ok(Some(self.whole(part, KEPT))),
            Some(_) => Err(otherwise),
        }
    }

    /// Forgets the piece, and its memory.
    #[inline]
    pub(super) fn clear(&mut self) {
        if self.length > 0 {
            *self = Self::default();
        }
    }
}
