//! The rules that a header list keeps as a whole (RFC 9113 §8.1.1 and §8.3): followed while it is
//! read, so that asking costs nothing.

use super::meaning::{Malformed, Meaning, marks};

/// What the fields of a list have come to.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Shape {
    /// See [`marks`].
    marks: u16,
    /// A field that is no pseudo-header field has been seen.
    regular: bool,
    /// The first rule that a field breaks in any message.
    fault: Option<Malformed>,
    length: Option<u64>,
    length_fault: Option<Malformed>,
}

// === impl Shape ===

impl Shape {
    /// Adds a field.
    #[inline]
    pub(super) fn see(&mut self, meaning: Meaning) {
        match meaning {
            Meaning::Plain => self.regular = true,
            Meaning::Pseudo(marks) => self.pseudo(marks),
            Meaning::ContentLength(length) => self.content_length(length),
            Meaning::Malformed(malformed) => self.fail(malformed),
        }
    }

    #[inline]
    fn pseudo(&mut self, new: u16) {
        if self.regular {
            self.fail(Malformed("pseudo-header field behind other fields"));
        }
        if self.marks & new & marks::FIELDS != 0 {
            self.fail(Malformed("repeated pseudo-header field"));
        }
        self.marks |= new;
    }

    fn content_length(&mut self, length: Option<u64>) {
        self.regular = true;
        match (self.length, length) {
            (_, None) => self.length_fault = Some(Malformed("invalid content-length")),
            (Some(old), Some(new)) if old != new => {
                self.length_fault = Some(Malformed("contradictory content-length"));
            }
            _ => self.length = length,
        }
    }

    fn fail(&mut self, malformed: Malformed) {
        self.fault.get_or_insert(malformed);
    }

    #[inline]
    pub(super) fn has(&self, marks: u16) -> bool {
        self.marks & marks == marks
    }

    /// RFC 9113 §8.3.1 and §8.5, RFC 8441 §4.
    #[inline]
    pub(super) fn check_request(&self) -> Result<(), Malformed> {
        self.check_fields()?;
        let fields = self.marks & marks::FIELDS;
        if fields & marks::STATUS != 0 {
            return Err(Malformed(":status in a request"));
        }
        if fields & marks::METHOD == 0 {
            return Err(Malformed("no :method"));
        }
        if self.has(marks::CONNECT) && fields & marks::PROTOCOL == 0 {
            return match fields {
                CONNECT => Ok(()),
                _ if fields & marks::AUTHORITY == 0 => Err(Malformed("CONNECT without :authority")),
                _ => Err(Malformed("CONNECT with :scheme or :path")),
            };
        }
        if fields & marks::PROTOCOL != 0 && !self.has(marks::CONNECT) {
            return Err(Malformed(":protocol without CONNECT"));
        }
        if fields & marks::SCHEME == 0 {
            return Err(Malformed("no :scheme"));
        }
        if fields & marks::PATH == 0 {
            return Err(Malformed("no :path"));
        }
        let is_path = self.has(marks::SLASH) || self.has(marks::ASTERISK | marks::OPTIONS);
        if self.has(marks::WEB) && !is_path {
            return Err(Malformed("relative :path"));
        }
        Ok(())
    }

    /// RFC 9113 §8.3.2.
    #[inline]
    pub(super) fn check_response(&self) -> Result<(), Malformed> {
        self.check_fields()?;
        match self.marks & marks::FIELDS {
            marks::STATUS => Ok(()),
            fields if fields & marks::STATUS == 0 => Err(Malformed("no :status")),
            _ => Err(Malformed("pseudo-header field of a request in a response")),
        }
    }

    /// RFC 9113 §8.1.
    #[inline]
    pub(super) fn check_trailers(&self) -> Result<(), Malformed> {
        self.check_fields()?;
        if self.marks != 0 {
            return Err(Malformed("pseudo-header field in trailers"));
        }
        Ok(())
    }

    #[inline]
    fn check_fields(&self) -> Result<(), Malformed> {
        self.fault.map_or(Ok(()), Err)
    }

    /// RFC 9110 §8.6.
    #[inline]
    pub(super) fn length(&self) -> Result<Option<u64>, Malformed> {
        self.length_fault.map_or(Ok(self.length), Err)
    }
}

/// All that CONNECT has (RFC 9113 §8.5).
const CONNECT: u16 = marks::METHOD | marks::AUTHORITY;
