//! The field lines of a head (RFC 9112 §5), in any segmentation and of any size.

use super::fields::{Field, Fields};
use super::token::{self, MOST, PartialToken};
use crate::ParseError;

/// Reads field lines, and keeps what [`Fields`] wants to know.
#[derive(Debug)]
pub(super) struct SectionReader {
    at: At,
    /// Responses may fold lines, and have spaces before the colon: servers do, and clients follow.
    lenient: bool,
    /// There was a field line, which a fold can continue.
    started: bool,
    /// The name or value being read.
    token: PartialToken,
    /// Whose value is being read, or may go on with a fold.
    field: Option<Field>,
    pub(super) fields: Fields,
    /// Fields so far, and the most there may be.
    count: usize,
    most: usize,
    /// Bytes of the section that were read before the present input.
    before: usize,
    /// Where in the section the value that is being read begins; `None` once it is folded.
    value_at: Option<usize>,
    crlf: bool,
    /// A line is folded or ends in a bare LF, or there is a space before a colon.
    loose: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// The first byte of a line.
    Line,
    /// After CR, where a line would start.
    EndLf,
    Name,
    /// Spaces after the name.
    BeforeColon,
    /// Spaces after the colon.
    AfterColon,
    Value,
    /// After the CR that ends a value.
    ValueLf,
    End,
}

// === impl SectionReader ===

impl SectionReader {
    /// At the start of a section of at most `most` fields.
    #[inline]
    pub(super) fn new(lenient: bool, most: usize) -> Self {
        Self {
            at: At::Line,
            lenient,
            started: false,
            token: PartialToken::default(),
            field: None,
            fields: Fields::default(),
            count: 0,
            most,
            before: 0,
            value_at: None,
            crlf: false,
            loose: false,
        }
    }

    /// Bytes of the heap that it holds, [`Fields`] aside.
    #[inline]
    pub(super) fn memory(&self) -> usize {
        self.token.capacity()
    }

    /// At the start of the next section.
    #[inline]
    pub(super) fn restart(&mut self) {
        self.at = At::Line;
        self.started = false;
        self.count = 0;
        self.before = 0;
        self.crlf = false;
        self.loose = false;
        self.fields = Fields::default();
    }

    /// Bytes of a section that has been read.
    pub(super) fn length(&self) -> usize {
        self.before
    }

    /// The empty line at its end is CR LF, not a bare LF.
    pub(super) fn ends_in_crlf(&self) -> bool {
        self.crlf
    }

    /// Strict recipients refuse the form of what has been read.
    #[inline]
    pub(super) fn is_loose(&self) -> bool {
        self.loose
    }

    /// Reads on. `Some` at the end of the section: how many of these bytes belong to it.
    #[inline]
    pub(super) fn read(&mut self, input: &[u8]) -> Result<Option<usize>, ParseError> {
        let mut at = 0;
        while let Some(&first) = input.get(at) {
            let rest = &input[at..];
            at += match self.at {
                At::Line => self.line(first)?,
                At::Name => self.name(rest)?,
                At::BeforeColon => self.before_colon(first)?,
                At::AfterColon => {
                    let spaces = rest.iter().position(|byte| !matches!(byte, b' ' | b'\t'));
                    if let Some(spaces) = spaces {
                        self.at = At::Value;
                        self.value_at = Some(self.before + at + spaces);
                    }
                    spaces.unwrap_or(rest.len())
                }
                At::Value => self.value(rest)?,
                At::ValueLf => {
                    let taken = token::line_feed(first, ParseError::FieldValue)?;
                    self.at = At::Line;
                    if !self.lenient {
                        self.finish_open()?;
                    }
                    taken
                }
                At::EndLf => {
                    self.at = At::End;
                    self.crlf = true;
                    token::line_feed(first, ParseError::LineEnd)?
                }
                At::End => break,
            };
        }
        self.before += at;
        Ok((self.at == At::End).then_some(at))
    }

    #[inline]
    fn line(&mut self, first: u8) -> Result<usize, ParseError> {
        if matches!(first, b' ' | b'\t') && self.lenient && self.started {
            if self.field.is_some() {
                self.token.push(b"\r\n", MOST);
            }
            self.value_at = None;
            self.loose = true;
            self.at = At::Value;
            return Ok(0);
        }
        self.finish_open()?;
        self.at = match first {
            b'\r' => At::EndLf,
            b'\n' => {
                self.loose = true;
                At::End
            }
            _ => {
                self.started = true;
                self.count += 1;
                if self.count > self.most {
                    return Err(ParseError::TooManyFields);
                }
                At::Name
            }
        };
        Ok(usize::from(self.at != At::Name))
    }

    #[inline]
    fn name(&mut self, rest: &[u8]) -> Result<usize, ParseError> {
        const LONGEST: usize = Field::LONGEST + 1;
        let length = token::token(rest);
        let part = &rest[..length];
        let Some(next) = rest.get(length) else {
            self.token.push(part, LONGEST);
            return Ok(length);
        };
        let name = self.token.whole(part, LONGEST);
        if name.is_empty() {
            return Err(ParseError::FieldName);
        }
        self.field = Field::of(name);
        self.token.clear();
        self.at = match next {
            b':' => At::AfterColon,
            b' ' | b'\t' if self.lenient => {
                self.loose = true;
                At::BeforeColon
            }
            _ => return Err(ParseError::FieldName),
        };
        Ok(length + 1)
    }

    #[inline]
    fn before_colon(&mut self, first: u8) -> Result<usize, ParseError> {
        match first {
            b':' => self.at = At::AfterColon,
            b' ' | b'\t' => {}
            _ => return Err(ParseError::FieldName),
        }
        Ok(1)
    }

    #[inline]
    fn value(&mut self, rest: &[u8]) -> Result<usize, ParseError> {
        let length = token::text(rest);
        let part = &rest[..length];
        let (taken, next_line) = match &rest[length..] {
            [b'\r', b'\n', next_line @ ..] => (2, next_line),
            [b'\n', next_line @ ..] => {
                self.loose = true;
                (1, next_line)
            }
            [b'\r'] => (1, &[][..]),
            [] => (0, &[][..]),
            _ => return Err(ParseError::FieldValue),
        };
        self.at = match (taken, &rest[length..]) {
            (0, _) => At::Value,
            (_, [b'\r']) => At::ValueLf,
            _ => At::Line,
        };
        if let Some(field) = self.field {
            let ended = match next_line.first() {
                Some(next) => !self.lenient || !matches!(next, b' ' | b'\t'),
                None => self.at == At::Line && !self.lenient,
            };
            if ended {
                self.field = None;
                self.finish(field, part)?;
            } else {
                self.token.push(part, MOST);
            }
        }
        Ok(length + taken)
    }

    /// The field whose value has been kept, if any, does not go on.
    #[inline]
    fn finish_open(&mut self) -> Result<(), ParseError> {
        match self.field.take() {
            Some(field) => self.finish(field, b""),
            None => Ok(()),
        }
    }

    #[inline]
    fn finish(&mut self, field: Field, last: &[u8]) -> Result<(), ParseError> {
        let value = self.token.whole(last, MOST);
        let added = self.fields.add(field, value, self.value_at);
        let cut = self.token.is_cut();
        self.token.clear();
        if cut {
            self.fields.was_cut(field);
        }
        if cut && field.is_framing() {
            return Err(ParseError::LongFramingField);
        }
        added
    }
}
