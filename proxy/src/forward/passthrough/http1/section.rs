//! The field lines of a head (RFC 9112 §5), in any segmentation and of any size.

use super::token::{self, KEPT, Kept};
use crate::forward::http1::fields::{Field, Fields};

/// Reads field lines, and keeps what [`Fields`] wants to know.
#[derive(Debug)]
pub(super) struct Section {
    at: At,
    /// Responses may fold lines, and have spaces before the colon: servers do, and clients follow.
    lenient: bool,
    /// There was a field line, which a fold can continue.
    started: bool,
    /// The name or value being read.
    kept: Kept,
    /// Whose value is being read, or may go on with a fold.
    field: Option<Field>,
    fields: Fields,
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

// === impl Section ===

impl Section {
    pub(super) fn new(lenient: bool) -> Self {
        Self {
            at: At::Line,
            lenient,
            started: false,
            kept: Kept::default(),
            field: None,
            fields: Fields::default(),
        }
    }

    /// Bytes of the heap that it holds, [`Fields`] aside.
    pub(super) fn held(&self) -> usize {
        self.kept.capacity()
    }

    /// Takes what was read, for the next head.
    #[inline]
    pub(super) fn take(&mut self) -> Fields {
        self.at = At::Line;
        self.started = false;
        std::mem::take(&mut self.fields)
    }

    /// Reads on. `Some` at the end of the section: how many of these bytes belong to it.
    #[inline]
    pub(super) fn read(&mut self, input: &[u8]) -> Result<Option<usize>, &'static str> {
        let mut at = 0;
        while let Some(&first) = input.get(at) {
            let rest = &input[at..];
            at += match self.at {
                At::Line => self.line(first)?,
                At::Name => self.name(rest)?,
                At::BeforeColon => self.before_colon(first)?,
                At::AfterColon => {
                    let spaces = rest.iter().position(|byte| !matches!(byte, b' ' | b'\t'));
                    if spaces.is_some() {
                        self.at = At::Value;
                    }
                    spaces.unwrap_or(rest.len())
                }
                At::Value => self.value(rest)?,
                At::ValueLf => {
                    let taken = token::line_feed(first, "invalid header value")?;
                    self.at = At::Line;
                    if !self.lenient {
                        self.finish_open()?;
                    }
                    taken
                }
                At::EndLf => {
                    self.at = At::End;
                    token::line_feed(first, "invalid line end")?
                }
                At::End => return Ok(Some(at)),
            };
        }
        Ok((self.at == At::End).then_some(at))
    }

    #[inline]
    fn line(&mut self, first: u8) -> Result<usize, &'static str> {
        if matches!(first, b' ' | b'\t') && self.lenient && self.started {
            if self.field.is_some() {
                self.kept.push(b"\r\n", KEPT);
            }
            self.at = At::Value;
            return Ok(0);
        }
        self.finish_open()?;
        self.at = match first {
            b'\r' => At::EndLf,
            b'\n' => At::End,
            _ => {
                self.started = true;
                At::Name
            }
        };
        Ok(usize::from(self.at != At::Name))
    }

    #[inline]
    fn name(&mut self, rest: &[u8]) -> Result<usize, &'static str> {
        const LONGEST: usize = Field::LONGEST + 1;
        let length = token::token(rest);
        let part = &rest[..length];
        let Some(next) = rest.get(length) else {
            self.kept.push(part, LONGEST);
            return Ok(length);
        };
        let name = self.kept.whole(part, LONGEST);
        if name.is_empty() {
            return Err("invalid header name");
        }
        self.field = Field::of(name);
        self.kept.clear();
        self.at = match next {
            b':' => At::AfterColon,
            b' ' | b'\t' if self.lenient => At::BeforeColon,
            _ => return Err("invalid header name"),
        };
        Ok(length + 1)
    }

    fn before_colon(&mut self, first: u8) -> Result<usize, &'static str> {
        match first {
            b':' => self.at = At::AfterColon,
            b' ' | b'\t' => {}
            _ => return Err("invalid header name"),
        }
        Ok(1)
    }

    #[inline]
    fn value(&mut self, rest: &[u8]) -> Result<usize, &'static str> {
        let length = token::text(rest);
        let part = &rest[..length];
        let (taken, next_line) = match &rest[length..] {
            [b'\r', b'\n', next_line @ ..] => (2, next_line),
            [b'\n', next_line @ ..] => (1, next_line),
            [b'\r'] => (1, &[][..]),
            [] => (0, &[][..]),
            _ => return Err("invalid header value"),
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
                self.kept.push(part, KEPT);
            }
        }
        Ok(length + taken)
    }

    /// The field whose value has been kept, if any, does not go on.
    #[inline]
    fn finish_open(&mut self) -> Result<(), &'static str> {
        match self.field.take() {
            Some(field) => self.finish(field, b""),
            None => Ok(()),
        }
    }

    #[inline]
    fn finish(&mut self, field: Field, last: &[u8]) -> Result<(), &'static str> {
        let value = self.kept.whole(last, KEPT);
        let added = self.fields.add(field, value);
        let cut = self.kept.is_cut();
        self.kept.clear();
        if cut && field.is_framing() {
            return Err("framing field too long");
        }
        added
    }
}
