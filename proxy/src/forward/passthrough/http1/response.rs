//! Response heads (RFC 9112 §4), in any segmentation and of any size.

use super::section::Section;
use super::token;
use super::version::Version;
use crate::forward::http1::body::Framing;
use crate::forward::http1::fields::Kind;

#[derive(Debug)]
pub(super) struct ResponseReader {
    at: At,
    version: Version,
    status: u16,
    section: Section,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ResponseHead {
    pub(super) status: u16,
    pub(super) framing: Framing,
    pub(super) grpc: bool,
    /// `Upgrade` names h2c.
    pub(super) h2c: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Start,
    StartLf,
    Version,
    BeforeStatus,
    /// How many of its digits have been read.
    Status(u8),
    Reason,
    LineLf,
    Fields,
}

const INVALID: &str = "invalid status";

// === impl ResponseReader ===

impl ResponseReader {
    pub(super) fn new() -> Self {
        Self { at: At::Start, version: Version::default(), status: 0, section: Section::new(true) }
    }

    /// No part of a head has been read.
    pub(super) fn is_between(&self) -> bool {
        self.at == At::Start
    }

    /// Bytes of the heap that it holds.
    pub(super) fn held(&self) -> usize {
        self.section.held()
    }

    /// Reads on. `Some` at the end of the head, which answers a request of `kind`, with the number
    /// of these bytes that belong to it.
    #[inline]
    pub(super) fn read(
        &mut self,
        input: &[u8],
        kind: Kind,
    ) -> Result<Option<(ResponseHead, usize)>, &'static str> {
        let mut at = 0;
        while let Some(&first) = input.get(at) {
            let rest = &input[at..];
            at += match self.at {
                At::Start => self.start(first),
                At::StartLf => self.line_end(first, At::Start, "invalid line end")?,
                At::Version => self.version(rest)?,
                At::BeforeStatus if first == b' ' => {
                    self.status = 0;
                    self.at = At::Status(0);
                    1
                }
                At::BeforeStatus => return Err("unknown HTTP version"),
                At::Status(digits) => self.status(digits, first)?,
                At::Reason => self.reason(rest)?,
                At::LineLf => self.line_end(first, At::Fields, INVALID)?,
                At::Fields => {
                    let Some(length) = self.section.read(rest)? else { return Ok(None) };
                    return Ok(Some((self.take(kind)?, at + length)));
                }
            };
        }
        Ok(None)
    }

    fn start(&mut self, first: u8) -> usize {
        self.at = match first {
            b'\r' => At::StartLf,
            b'\n' => At::Start,
            _ => At::Version,
        };
        usize::from(self.at != At::Version)
    }

    fn line_end(
        &mut self,
        byte: u8,
        then: At,
        reason: &'static str,
    ) -> Result<usize, &'static str> {
        self.at = then;
        token::line_feed(byte, reason)
    }

    #[inline]
    fn version(&mut self, rest: &[u8]) -> Result<usize, &'static str> {
        let taken = self.version.read(rest)?;
        if self.version.is_complete() {
            self.at = At::BeforeStatus;
        }
        Ok(taken)
    }

    /// A digit, or what comes behind the third: the reason, or the end of the line without one.
    fn status(&mut self, digits: u8, byte: u8) -> Result<usize, &'static str> {
        self.at = match (digits, byte) {
            (0..3, b'0'..=b'9') => {
                self.status = self.status * 10 + u16::from(byte - b'0');
                At::Status(digits + 1)
            }
            (3, b' ') => At::Reason,
            (3, b'\r') => At::LineLf,
            (3, b'\n') => At::Fields,
            _ => return Err(INVALID),
        };
        Ok(1)
    }

    #[inline]
    fn reason(&mut self, rest: &[u8]) -> Result<usize, &'static str> {
        let length = token::text(rest);
        let Some(end) = rest.get(length) else { return Ok(length) };
        self.at = match end {
            b'\r' => At::LineLf,
            b'\n' => At::Fields,
            _ => return Err(INVALID),
        };
        Ok(length + 1)
    }

    #[inline]
    fn take(&mut self, kind: Kind) -> Result<ResponseHead, &'static str> {
        self.at = At::Start;
        let http11 = self.version.take_is_11();
        let fields = self.section.take();
        Ok(ResponseHead {
            status: self.status,
            framing: fields.response_framing(http11, self.status, kind)?,
            grpc: fields.is_grpc(),
            h2c: fields.is_h2c(),
        })
    }
}
