//! Heads: a first line and fields, in any segmentation and, without limits, of any size.

use super::HeadLimits;
use super::section::SectionReader;
use crate::ParseError;

/// Reads one head after the other; `L` reads first lines.
#[derive(Debug)]
pub struct HeadReader<L> {
    limits: HeadLimits,
    pub(super) line: L,
    /// The first line has been read.
    in_fields: bool,
    pub(super) section: SectionReader,
    /// Bytes of the head that have been read.
    length: usize,
}

/// Reads the first line of a head, and skips empty lines before it (RFC 9112 §2.2).
pub trait FirstLine: Default {
    /// Lines may be folded, and names have spaces behind them: servers send that, and clients follow.
    const LENIENT: bool;

    /// Reads on. `Some` at the end of the line: how many of these bytes belong to it.
    fn read(&mut self, input: &[u8]) -> Result<Option<usize>, ParseError>;

    /// No byte of a line has been read, but perhaps empty lines.
    fn is_at_start(&self) -> bool;

    /// Whether strict recipients refuse the form of the line that has been read; starts over.
    fn take_is_loose(&mut self) -> bool;

    /// Bytes of the heap that it holds.
    fn memory(&self) -> usize;
}

// === impl HeadReader ===

impl<L: FirstLine> HeadReader<L> {
    /// At the start of a head.
    pub(super) fn with_limits(limits: HeadLimits) -> Self {
        let section = SectionReader::new(L::LENIENT, limits.fields);
        Self { limits, line: L::default(), in_fields: false, section, length: 0 }
    }

    /// No part of a head has been read, but perhaps empty lines before it.
    #[inline]
    pub(super) fn is_between(&self) -> bool {
        !self.in_fields && self.line.is_at_start()
    }

    /// Bytes of an incomplete head that have been read.
    #[inline]
    pub(super) fn length(&self) -> usize {
        self.length
    }

    /// Bytes of the heap that it holds.
    #[inline]
    pub(super) fn memory(&self) -> usize {
        self.line.memory() + self.section.memory()
    }

    /// Whether strict recipients refuse the form of the head that has been read.
    #[inline]
    pub(super) fn take_is_loose(&mut self) -> bool {
        self.line.take_is_loose() | self.section.is_loose()
    }

    /// Reads on. `Some` at the end of the head: how many of these bytes belong to it. The caller takes
    /// what has been read, and restarts the section.
    #[inline]
    pub(super) fn read_on(&mut self, input: &[u8]) -> Result<Option<usize>, ParseError> {
        let end = self.end(input)?;
        self.length += end.unwrap_or(input.len());
        if self.length > self.limits.bytes {
            return Err(ParseError::LargeHead);
        }
        if end.is_some() {
            self.in_fields = false;
            self.length = 0;
        } else if self.is_between() {
            self.length = 0;
        }
        Ok(end)
    }

    #[inline]
    fn end(&mut self, input: &[u8]) -> Result<Option<usize>, ParseError> {
        let mut at = 0;
        if !self.in_fields {
            let Some(end) = self.line.read(input)? else { return Ok(None) };
            self.in_fields = true;
            at = end;
        }
        Ok(self.section.read(&input[at..])?.map(|length| at + length))
    }
}
