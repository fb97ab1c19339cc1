//! The request line (RFC 9112 §3), in any segmentation:
//! `token SP request-target SP HTTP/1.x CRLF`. Empty lines before it are skipped, and a line may end
//! in a bare LF: RFC 9112 §2.2 lets a recipient do both, and the common servers do. A CR without LF
//! is an error.

use super::token;
use super::version::Version;
use crate::ParseError;

/// Reads request lines, and shows their parts to a [`LineParts`].
#[derive(Debug, Default)]
pub(super) struct LineReader {
    at: At,
    version: Version,
    /// A line has ended in a bare LF.
    loose: bool,
}

/// Takes the parts of a request line. `end` is the byte behind a part that it does not continue
/// with: a space, or the part cannot be valid.
pub(super) trait LineParts {
    /// A part of the method; never the first byte of anything else.
    fn method(&mut self, part: &[u8], end: Option<u8>) -> Result<(), ParseError>;
    /// A part of the target: visible bytes.
    fn target(&mut self, part: &[u8], end: Option<u8>) -> Result<(), ParseError>;
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum At {
    /// Between messages.
    #[default]
    Start,
    StartLf,
    Method,
    Target,
    Version,
    End,
    EndLf,
}

// === impl LineReader ===

impl LineReader {
    /// No byte of a line has been read, but perhaps empty lines.
    #[inline]
    pub(super) fn is_at_start(&self) -> bool {
        self.at == At::Start
    }

    /// Of the last line; starts over.
    #[inline]
    pub(super) fn take_is_11(&mut self) -> bool {
        self.version.take_is_11()
    }

    /// Whether it, or an empty line before it, has ended in a bare LF; starts over.
    #[inline]
    pub(super) fn take_is_loose(&mut self) -> bool {
        std::mem::take(&mut self.loose)
    }

    /// Reads on. `Some` at the end of the line: how many of these bytes belong to it.
    #[inline]
    pub(super) fn read(
        &mut self,
        input: &[u8],
        parts: &mut impl LineParts,
    ) -> Result<Option<usize>, ParseError> {
        let mut at = 0;
        while let Some(&first) = input.get(at) {
            let rest = &input[at..];
            at += match self.at {
                At::Start => self.start(first)?,
                At::StartLf => {
                    self.at = At::Start;
                    token::line_feed(first, ParseError::LineEnd)?
                }
                At::Method => {
                    let length = token::token(rest);
                    let end = rest.get(length).copied();
                    parts.method(&rest[..length], end)?;
                    self.next(end, At::Target, length)
                }
                At::Target => {
                    let length = token::target(rest);
                    let end = rest.get(length).copied();
                    parts.target(&rest[..length], end)?;
                    self.next(end, At::Version, length)
                }
                At::Version => {
                    let taken = self.version.read(rest)?;
                    if self.version.is_complete() {
                        self.at = At::End;
                    }
                    taken
                }
                At::End if first == b'\r' => {
                    self.at = At::EndLf;
                    1
                }
                At::End | At::EndLf => {
                    self.loose |= self.at == At::End;
                    self.at = At::Start;
                    at += token::line_feed(first, ParseError::RequestLineEnd)?;
                    return Ok(Some(at));
                }
            };
        }
        Ok(None)
    }

    #[inline]
    fn start(&mut self, first: u8) -> Result<usize, ParseError> {
        self.at = match first {
            b'\r' => At::StartLf,
            b'\n' => {
                self.loose = true;
                At::Start
            }
            first if token::is_token(first) => At::Method,
            _ => return Err(ParseError::Start),
        };
        Ok(usize::from(self.at != At::Method))
    }

    /// Behind `length` bytes of a part, and its end if that has come.
    #[inline]
    fn next(&mut self, end: Option<u8>, then: At, length: usize) -> usize {
        if end.is_some() {
            self.at = then;
        }
        length + usize::from(end.is_some())
    }
}
