//! Whether bytes are the beginning of an HTTP/1 request, and nothing behind its first line: the
//! request line of [`RequestReader`](super::RequestReader), and these rules, which tell HTTP from
//! other protocols made of lines and words:
//!
//! - The method is any token (extension methods), up to [`MAX_METHOD`] bytes.
//! - The target must have one of the four forms of RFC 9112 §3.2, which is what rules out
//!   `AUTH TOKEN x` at its second space. Within a form any visible byte goes, and any byte from
//!   0x80 on, because servers take raw UTF-8 in paths.
//! - Only the versions 1.0 and 1.1 exist; RTSP and SIP differ in the first letter after the space.
//!   HTTP/0.9 has no version.

use super::line::{LineParts, LineReader};
use crate::ParseError;

/// The longest method: nearly twice the longest one registered with IANA (`UPDATEREDIRECTREF`,
/// 17). Bounds how long a binary or line protocol made of token characters stays undecided.
pub const MAX_METHOD: usize = 32;

const CONNECT: &[u8] = b"CONNECT";

/// Reads the first request line of a connection.
#[derive(Debug, Default)]
pub struct RequestPrefix {
    line: LineReader,
    rules: Rules,
}

#[derive(Debug, Default)]
struct Rules {
    /// Bytes of the method so far.
    method: usize,
    /// It has not differed from `CONNECT` so far.
    connect: bool,
    form: Form,
}

/// How far the target has shown its form.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Form {
    #[default]
    Start,
    /// `*`, complete.
    Asterisk,
    /// The scheme of an absolute-form target, its colon not seen yet.
    Scheme,
    /// The host and port of `CONNECT`.
    Authority,
    /// Origin-form, or absolute-form after its colon.
    Any,
}

// === impl RequestPrefix ===

impl RequestPrefix {
    /// Reads on; true once the line is complete.
    ///
    /// # Errors
    /// At the first byte with which no request line can begin.
    #[inline]
    pub fn read(&mut self, input: &[u8]) -> Result<bool, ParseError> {
        Ok(self.line.read(input, &mut self.rules)?.is_some())
    }
}

// === impl Rules ===

impl LineParts for Rules {
    #[inline]
    fn method(&mut self, part: &[u8], end: Option<u8>) -> Result<(), ParseError> {
        let before = self.method;
        self.method += part.len();
        let same = CONNECT.get(before..self.method) == Some(part);
        self.connect = same && (before == 0 || self.connect);
        match end {
            _ if self.method > MAX_METHOD => Err(ParseError::Method),
            None => Ok(()),
            Some(b' ') => {
                self.connect &= self.method == CONNECT.len();
                Ok(())
            }
            Some(_) => Err(ParseError::Method),
        }
    }

    #[inline]
    fn target(&mut self, part: &[u8], end: Option<u8>) -> Result<(), ParseError> {
        let mut rest = part.iter();
        while self.form != Form::Any
            && let Some(&byte) = rest.next()
        {
            self.form = self.form.next(byte, self.connect).ok_or(ParseError::Target)?;
        }
        match (self.form, end) {
            (_, None) | (Form::Asterisk | Form::Authority | Form::Any, Some(b' ')) => Ok(()),
            (Form::Any, Some(_)) => Err(ParseError::NoVersion),
            _ => Err(ParseError::Target),
        }
    }
}

// === impl Form ===

impl Form {
    fn next(self, byte: u8, connect: bool) -> Option<Self> {
        match (self, byte) {
            (Self::Start, _) if connect => is_authority(byte).then_some(Self::Authority),
            (Self::Start, b'/') | (Self::Scheme, b':') | (Self::Any, _) => Some(Self::Any),
            (Self::Start, b'*') => Some(Self::Asterisk),
            (Self::Start, _) => byte.is_ascii_alphabetic().then_some(Self::Scheme),
            (Self::Scheme, _) => is_scheme(byte).then_some(self),
            (Self::Authority, _) => is_authority(byte).then_some(self),
            (Self::Asterisk, _) => None,
        }
    }
}

// === helpers ===

/// RFC 3986 §3.1, after the first letter.
fn is_scheme(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"+-.".contains(&byte)
}

/// RFC 3986 §3.2 without userinfo, as RFC 9112 §3.2.3 has it.
fn is_authority(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=:[]".contains(&byte)
}
