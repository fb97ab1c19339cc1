//! Request heads (RFC 9112 §3).

use std::sync::Arc;

use super::HeadLimits;
use super::fields::{RequestHead, RequestTarget};
use super::head::{FirstLine, HeadReader};
use super::line::{LineParts, LineReader};
use super::token::{MOST, PartialToken};
use crate::ParseError;

/// Reads one request head after the other.
pub type RequestReader = HeadReader<RequestLine>;

/// The request line that is being read.
#[derive(Debug, Default)]
pub struct RequestLine {
    line: LineReader,
    parts: Parts,
}

#[derive(Debug, Default)]
struct Parts {
    token: PartialToken,
    method: Arc<str>,
    target: Option<RequestTarget>,
}

// === impl RequestReader ===

impl RequestReader {
    /// At the start of a head.
    #[must_use]
    pub fn new(limits: HeadLimits) -> Self {
        Self::with_limits(limits)
    }

    /// Reads on. `Some` at the end of the head, with the number of these bytes that belong to it.
    ///
    /// # Errors
    /// At the first byte that no head can have there, or beyond the limits.
    #[inline]
    pub fn read(&mut self, input: &[u8]) -> Result<Option<(RequestHead, usize)>, ParseError> {
        let Some(length) = self.read_on(input)? else { return Ok(None) };
        let loose = self.take_is_loose();
        let RequestLine { line, parts } = &mut self.line;
        let target = parts.target.take().ok_or(ParseError::Target)?;
        let head = RequestHead::new(target, line.take_is_11(), &mut self.section.fields, loose)?;
        self.section.restart();
        Ok(Some((head, length)))
    }
}

// === impl RequestLine ===

impl FirstLine for RequestLine {
    const LENIENT: bool = false;

    #[inline]
    fn read(&mut self, input: &[u8]) -> Result<Option<usize>, ParseError> {
        self.line.read(input, &mut self.parts)
    }

    #[inline]
    fn is_at_start(&self) -> bool {
        self.line.is_at_start()
    }

    #[inline]
    fn take_is_loose(&mut self) -> bool {
        self.line.take_is_loose()
    }

    #[inline]
    fn memory(&self) -> usize {
        let target = self.parts.target.as_ref().map_or(0, RequestTarget::text_bytes);
        self.parts.token.capacity() + self.parts.method.len() + target
    }
}

// === impl Parts ===

impl LineParts for Parts {
    #[inline]
    fn method(&mut self, part: &[u8], end: Option<u8>) -> Result<(), ParseError> {
        if let Some(method) = self.token.until_space(part, end, ParseError::Method)? {
            // Tokens are ASCII.
            self.method = str::from_utf8(method).unwrap_or_default().into();
            self.token.clear();
        }
        Ok(())
    }

    #[inline]
    fn target(&mut self, part: &[u8], end: Option<u8>) -> Result<(), ParseError> {
        if let Some(target) = self.token.until_space(part, end, ParseError::Target)? {
            let method = std::mem::take(&mut self.method);
            self.target = Some(RequestTarget::new(method, text(target)?));
            self.token.clear();
        }
        Ok(())
    }
}

// === helpers ===

/// The target, not empty, up to where it was cut.
#[inline]
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
