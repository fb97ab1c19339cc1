//! Response heads (RFC 9112 §4), in any segmentation and of any size.

use super::HeadLimits;
use super::body::Framing;
use super::fields::{Kind, Persistence};
use super::head::{FirstLine, HeadReader};
use super::section::SectionReader;
use super::token;
use super::unpoolable::Unpoolable;
use super::version::Version;
use crate::ParseError;

/// Reads one response head after the other.
pub type ResponseReader = HeadReader<StatusLine>;

/// The status line that is being read.
#[derive(Debug, Default)]
pub struct StatusLine {
    at: At,
    version: Version,
    status: u16,
    /// A line has ended in a bare LF.
    loose: bool,
}

/// The start of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResponseHead {
    /// Its status code.
    pub status: u16,
    /// How its body is delimited.
    pub framing: Framing,
    /// The content is gRPC's.
    pub grpc: bool,
    /// `Upgrade` names h2c.
    pub h2c: bool,
    /// Why its connection is not to be shared.
    pub unpoolable: Option<Unpoolable>,
    /// How the head says that the connection ends behind the response; `None` where it says so
    /// already, or something that weir does not know.
    pub close: Option<CloseEdit>,
}

/// How to put `connection: close` into a response head (RFC 9112 §9.6): bytes that take the place of
/// others. The field concerns the connection alone (RFC 9110 §7.6.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CloseEdit {
    /// Where, counted in bytes before the end of the head.
    pub back: usize,
    /// How many bytes are replaced.
    pub replaces: usize,
    /// What is put there.
    pub text: &'static [u8],
}

/// Bytes in place of others of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edit {
    /// Where the replaced bytes begin.
    pub start: usize,
    /// Where they end.
    pub end: usize,
    /// What takes their place.
    pub text: &'static [u8],
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum At {
    #[default]
    Start,
    StartLf,
    Version,
    BeforeStatus,
    /// How many of its digits have been read.
    Status(u8),
    Reason,
    LineLf,
    /// The line has ended.
    End,
}

// === impl ResponseReader ===

impl ResponseReader {
    /// At the start of a head.
    #[must_use]
    pub fn new(limits: HeadLimits) -> Self {
        Self::with_limits(limits)
    }

    /// Reads on. `Some` at the end of the head, which answers a request of `kind`, with the number
    /// of these bytes that belong to it.
    ///
    /// # Errors
    /// At the first byte that no head can have there, or beyond the limits.
    #[inline]
    pub fn read(
        &mut self,
        input: &[u8],
        kind: Kind,
    ) -> Result<Option<(ResponseHead, usize)>, ParseError> {
        let Some(length) = self.read_on(input)? else { return Ok(None) };
        let loose = self.take_is_loose();
        let (status, http11) = (self.line.status, self.line.version.take_is_11());
        let fields = &self.section.fields;
        let framing = fields.response_framing(http11, status, kind)?;
        let head = ResponseHead {
            status,
            framing,
            unpoolable: fields.response_unpoolable(http11, status, framing, loose),
            grpc: fields.is_grpc(),
            h2c: fields.is_h2c(),
            close: CloseEdit::of(&self.section, http11),
        };
        self.section.restart();
        Ok(Some((head, length)))
    }
}

// === impl StatusLine ===

impl FirstLine for StatusLine {
    const LENIENT: bool = true;

    #[inline]
    fn read(&mut self, input: &[u8]) -> Result<Option<usize>, ParseError> {
        let mut at = 0;
        while let Some(&first) = input.get(at) {
            let rest = &input[at..];
            at += match self.at {
                At::Start => self.start(first),
                At::StartLf => self.line_end(first, At::Start, ParseError::LineEnd)?,
                At::Version => self.version(rest)?,
                At::BeforeStatus if first == b' ' => {
                    self.status = 0;
                    self.at = At::Status(0);
                    1
                }
                At::BeforeStatus => return Err(ParseError::Version),
                At::Status(digits) => self.status(digits, first)?,
                At::Reason => self.reason(rest)?,
                At::LineLf => self.line_end(first, At::End, ParseError::Status)?,
                At::End => break,
            };
            if self.at == At::End {
                self.at = At::Start;
                return Ok(Some(at));
            }
        }
        Ok(None)
    }

    #[inline]
    fn is_at_start(&self) -> bool {
        self.at == At::Start
    }

    #[inline]
    fn take_is_loose(&mut self) -> bool {
        std::mem::take(&mut self.loose)
    }

    #[inline]
    fn memory(&self) -> usize {
        0
    }
}

impl StatusLine {
    #[inline]
    fn start(&mut self, first: u8) -> usize {
        self.at = match first {
            b'\r' => At::StartLf,
            b'\n' => {
                self.loose = true;
                At::Start
            }
            _ => At::Version,
        };
        usize::from(self.at != At::Version)
    }

    #[inline]
    fn line_end(&mut self, byte: u8, then: At, otherwise: ParseError) -> Result<usize, ParseError> {
        self.at = then;
        token::line_feed(byte, otherwise)
    }

    #[inline]
    fn version(&mut self, rest: &[u8]) -> Result<usize, ParseError> {
        let taken = self.version.read(rest)?;
        if self.version.is_complete() {
            self.at = At::BeforeStatus;
        }
        Ok(taken)
    }

    /// A digit, or what comes behind the third: the reason, or the end of the line without one.
    #[inline]
    fn status(&mut self, digits: u8, byte: u8) -> Result<usize, ParseError> {
        self.at = match (digits, byte) {
            (0..3, b'0'..=b'9') => {
                self.status = self.status * 10 + u16::from(byte - b'0');
                At::Status(digits + 1)
            }
            (3, b' ') => At::Reason,
            (3, b'\r') => At::LineLf,
            (3, b'\n') => self.bare_end(),
            _ => return Err(ParseError::Status),
        };
        Ok(1)
    }

    /// The line ends in a bare LF.
    #[inline]
    fn bare_end(&mut self) -> At {
        self.loose = true;
        At::End
    }

    #[inline]
    fn reason(&mut self, rest: &[u8]) -> Result<usize, ParseError> {
        let length = token::text(rest);
        let Some(end) = rest.get(length) else { return Ok(length) };
        self.at = match end {
            b'\r' => At::LineLf,
            b'\n' => self.bare_end(),
            _ => return Err(ParseError::Status),
        };
        Ok(length + 1)
    }
}

// === impl CloseEdit ===

impl CloseEdit {
    #[inline]
    fn of(section: &SectionReader, http11: bool) -> Option<Self> {
        match section.fields.connection() {
            // An HTTP/1.0 connection ends without being told.
            Persistence::Unsaid => (http11 && section.ends_in_crlf()).then_some(Self {
                back: b"\r\n".len(),
                replaces: 0,
                text: b"connection: close\r\n",
            }),
            Persistence::KeepAlive(place) => Some(Self {
                back: section.length() - place.start,
                replaces: place.len(),
                text: b"close",
            }),
            Persistence::Said => None,
        }
    }

    /// In a buffer in which the head ends at `end`, if what is replaced is there.
    pub(super) fn within(self, end: usize) -> Option<Edit> {
        let start = end.checked_sub(self.back)?;
        Some(Edit { start, end: start + self.replaces, text: self.text })
    }
}
