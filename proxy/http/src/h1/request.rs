//! Request heads (RFC 9112 §3), in any segmentation and, without limits, of any size.

use std::sync::Arc;

use super::HeadLimits;
use super::fields::{RequestHead, RequestLine};
use super::line::{LineParts, LineReader};
use super::section::SectionReader;
use super::token::{MOST, PartialToken};
use crate::ParseError;

/// Reads one request head after the other.
#[derive(Debug)]
pub struct RequestReader {
    limits: HeadLimits,
    line: LineReader,
    parts: Parts,
    /// The request line has been read.
    in_fields: bool,
    section: SectionReader,
    /// Bytes of the head that have been read.
    length: usize,
}

/// The request line as it comes.
#[derive(Debug, Default)]
struct Parts {
    token: PartialToken,
    method: Arc<str>,
    line: Option<RequestLine>,
}

// === impl RequestReader ===

impl RequestReader {
    /// At the start of a head.
    #[must_use]
    pub fn new(limits: HeadLimits) -> Self {
        Self {
            limits,
            line: LineReader::default(),
            parts: Parts::default(),
            in_fields: false,
            section: SectionReader::new(false, limits.fields),
            length: 0,
        }
    }

    /// No part of a head has been read, but perhaps empty lines before it.
    #[must_use]
    pub fn is_between(&self) -> bool {
        !self.in_fields && self.line.is_at_start()
    }

    /// Bytes of an incomplete head that have been read.
    #[must_use]
    pub fn length(&self) -> usize {
        self.length
    }

    /// Bytes of the heap that it holds.
    #[must_use]
    pub fn memory(&self) -> usize {
        let line = self.parts.line.as_ref().map_or(0, RequestLine::text_bytes);
        self.parts.token.capacity() + self.section.memory() + self.parts.method.len() + line
    }

    /// Reads on. `Some` at the end of the head, with the number of these bytes that belong to it.
    ///
    /// # Errors
    /// At the first byte that no head can have there, or beyond the limits.
    #[inline]
    pub fn read(&mut self, input: &[u8]) -> Result<Option<(RequestHead, usize)>, ParseError> {
        let end = self.read_on(input)?;
        self.length += end.unwrap_or(input.len());
        if self.length > self.limits.bytes {
            return Err(ParseError::LargeHead);
        }
        if let Some(end) = end {
            return Ok(Some((self.take()?, end)));
        }
        if self.is_between() {
            self.length = 0;
        }
        Ok(None)
    }

    #[inline]
    fn read_on(&mut self, input: &[u8]) -> Result<Option<usize>, ParseError> {
        let mut at = 0;
        if !self.in_fields {
            let Some(end) = self.line.read(input, &mut self.parts)? else { return Ok(None) };
            self.in_fields = true;
            at = end;
        }
        Ok(self.section.read(&input[at..])?.map(|length| at + length))
    }

    #[inline]
    fn take(&mut self) -> Result<RequestHead, ParseError> {
        self.in_fields = false;
        self.length = 0;
        let http11 = self.line.take_is_11();
        let fields = self.section.take().fields;
        let line = self.parts.line.take().ok_or(ParseError::Target)?;
        RequestHead::new(line, http11, fields)
    }
}

// === impl Parts ===

impl LineParts for Parts {
    #[inline]
    fn method(&mut self, part: &[u8], end: Option<u8>) -> Result<(), ParseError> {
        match end {
            None => self.token.push(part, MOST),
            Some(b' ') => {
                // Tokens are ASCII.
                let method = str::from_utf8(self.token.whole(part, MOST)).unwrap_or_default();
                self.method = method.into();
                self.token.clear();
            }
            Some(_) => return Err(ParseError::Method),
        }
        Ok(())
    }

    #[inline]
    fn target(&mut self, part: &[u8], end: Option<u8>) -> Result<(), ParseError> {
        match end {
            None => self.token.push(part, MOST),
            Some(b' ') => {
                let target = text(self.token.whole(part, MOST))?;
                self.line = Some(RequestLine::new(std::mem::take(&mut self.method), target));
                self.token.clear();
            }
            Some(_) => return Err(ParseError::Target),
        }
        Ok(())
    }
}

// === helpers ===

/// The target, not empty, up to where it was cut.
fn text(target: &[u8]) -> Result<&str, ParseError> {
    match str::from_utf8(target) {
        Ok("") => Err(ParseError::Target),
        Ok(target) => Ok(target),
        Err(error) if target.len() == MOST && error.error_len().is_none() => {
            str::from_utf8(&target[..error.valid_up_to()]).map_err(|_| ParseError::Target)
        }
        Err(_) => Err(ParseError::Target),
    }
}
