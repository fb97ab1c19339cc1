//! `HTTP/1.0` or `HTTP/1.1` (RFC 9112 §2.3), in any segmentation.

use crate::ParseError;

const PREFIX: &[u8] = b"HTTP/1.";

#[derive(Debug, Default)]
pub(super) struct Version {
    /// Bytes read so far.
    read: usize,
    minor: u8,
}

// === impl Version ===

impl Version {
    /// Returns how many of the bytes it took.
    #[inline]
    pub(super) fn read(&mut self, input: &[u8]) -> Result<usize, ParseError> {
        let mut taken = 0;
        if self.read < PREFIX.len() {
            let expected = &PREFIX[self.read..];
            taken = expected.len().min(input.len());
            if input[..taken] != expected[..taken] {
                return Err(ParseError::Version);
            }
            self.read += taken;
        }
        match input.get(taken) {
            None => Ok(taken),
            Some(digit @ (b'0' | b'1')) => {
                self.minor = digit - b'0';
                self.read += 1;
                Ok(taken + 1)
            }
            Some(_) => Err(ParseError::Version),
        }
    }

    #[inline]
    pub(super) fn is_complete(&self) -> bool {
        self.read > PREFIX.len()
    }

    /// Starts over; whether it was HTTP/1.1.
    #[inline]
    pub(super) fn take_is_11(&mut self) -> bool {
        std::mem::take(self).minor == 1
    }
}
