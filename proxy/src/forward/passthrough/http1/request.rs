//! Request heads (RFC 9112 §3), in any segmentation and of any size.

use std::sync::Arc;

use super::section::Section;
use super::token::{self, KEPT, Kept};
use super::version::Version;
use crate::forward::http1::fields::{RequestHead, RequestLine};

#[derive(Debug)]
pub(super) struct RequestReader {
    at: At,
    kept: Kept,
    method: Arc<str>,
    line: Option<RequestLine>,
    version: Version,
    section: Section,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// Between messages: empty lines are skipped (RFC 9112 §2.2).
    Start,
    StartLf,
    Method,
    Target,
    Version,
    LineEnd,
    LineLf,
    Fields,
}

// === impl RequestReader ===

impl RequestReader {
    pub(super) fn new() -> Self {
        Self {
            at: At::Start,
            kept: Kept::default(),
            method: Arc::default(),
            line: None,
            version: Version::default(),
            section: Section::new(false),
        }
    }

    /// No part of a head has been read.
    pub(super) fn is_between(&self) -> bool {
        self.at == At::Start
    }

    /// Bytes of the heap that it holds.
    pub(super) fn held(&self) -> usize {
        let line = self.line.as_ref().map_or(0, RequestLine::words);
        self.kept.capacity() + self.section.held() + self.method.len() + line
    }

    /// Reads on. `Some` at the end of the head, with the number of these bytes that belong to it.
    #[inline]
    pub(super) fn read(
        &mut self,
        input: &[u8],
    ) -> Result<Option<(RequestHead, usize)>, &'static str> {
        let mut at = 0;
        while let Some(&first) = input.get(at) {
            let rest = &input[at..];
            at += match self.at {
                At::Start => self.start(first),
                At::StartLf => self.line_end(first, At::Start)?,
                At::Method => self.method(rest)?,
                At::Target => self.target(rest)?,
                At::Version => self.version(rest)?,
                At::LineEnd if first == b'\r' => {
                    self.at = At::LineLf;
                    1
                }
                At::LineEnd | At::LineLf => self.line_end(first, At::Fields)?,
                At::Fields => {
                    let Some(length) = self.section.read(rest)? else { return Ok(None) };
                    return Ok(Some((self.take()?, at + length)));
                }
            };
        }
        Ok(None)
    }

    fn start(&mut self, first: u8) -> usize {
        self.at = match first {
            b'\r' => At::StartLf,
            b'\n' => At::Start,
            _ => At::Method,
        };
        usize::from(self.at != At::Method)
    }

    fn line_end(&mut self, byte: u8, then: At) -> Result<usize, &'static str> {
        self.at = then;
        token::line_feed(byte, "invalid line end")
    }

    #[inline]
    fn method(&mut self, rest: &[u8]) -> Result<usize, &'static str> {
        let length = token::token(rest);
        let Some(method) = self.kept.until_space(rest, length, INVALID)? else { return Ok(length) };
        if method.is_empty() {
            return Err(INVALID);
        }
        // Tokens are ASCII.
        self.method = str::from_utf8(method).unwrap_or_default().into();
        self.kept.clear();
        self.at = At::Target;
        Ok(length + 1)
    }

    #[inline]
    fn target(&mut self, rest: &[u8]) -> Result<usize, &'static str> {
        let length = token::target(rest);
        let Some(target) = self.kept.until_space(rest, length, INVALID)? else { return Ok(length) };
        self.line = Some(RequestLine::new(std::mem::take(&mut self.method), text(target)?));
        self.kept.clear();
        self.at = At::Version;
        Ok(length + 1)
    }

    #[inline]
    fn version(&mut self, rest: &[u8]) -> Result<usize, &'static str> {
        let taken = self.version.read(rest)?;
        if self.version.is_complete() {
            self.at = At::LineEnd;
        }
        Ok(taken)
    }

    #[inline]
    fn take(&mut self) -> Result<RequestHead, &'static str> {
        self.at = At::Start;
        let http11 = self.version.take_is_11();
        let fields = self.section.take();
        let line = self.line.take().ok_or(INVALID)?;
        RequestHead::new(line, http11, fields)
    }
}

const INVALID: &str = "invalid method or target";

/// The target, not empty, up to where it was cut.
fn text(target: &[u8]) -> Result<&str, &'static str> {
    match str::from_utf8(target) {
        Ok("") => Err(INVALID),
        Ok(target) => Ok(target),
        Err(error) if target.len() == KEPT && error.error_len().is_none() => {
            str::from_utf8(&target[..error.valid_up_to()]).map_err(|_| INVALID)
        }
        Err(_) => Err(INVALID),
    }
}
