//! What one field means for the message that it is in (RFC 9113 §8.2 and §8.3), beside its text.

use std::error::Error;
use std::fmt;

use super::super::hpack::static_table::STATIC;
use crate::h1::token;

/// Why a header list is no message (RFC 9113 §8.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed(pub(super) &'static str);

/// What a name says about its field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Name {
    Plain,
    ContentLength,
    Te,
    /// Of a connection of HTTP/1 (RFC 9113 §8.2.2).
    Connection,
    Method,
    Scheme,
    Authority,
    Path,
    Status,
    Protocol,
    UnknownPseudo,
    Uppercase,
    Invalid,
}

/// What a field says about its message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    Plain,
    /// `None`: it is no length.
    ContentLength(Option<u64>),
    /// Bits of [`marks`].
    Pseudo(u16),
    Malformed(Malformed),
}

/// Pseudo-header fields, and what is to be known of their values.
pub(super) mod marks {
    pub(crate) const METHOD: u16 = 1;
    pub(crate) const SCHEME: u16 = 1 << 1;
    pub(crate) const AUTHORITY: u16 = 1 << 2;
    pub(crate) const PATH: u16 = 1 << 3;
    pub(crate) const STATUS: u16 = 1 << 4;
    pub(crate) const PROTOCOL: u16 = 1 << 5;
    /// The bits that stand for a field.
    pub(crate) const FIELDS: u16 = (1 << 6) - 1;
    pub(crate) const CONNECT: u16 = 1 << 6;
    pub(crate) const OPTIONS: u16 = 1 << 7;
    /// The scheme is `http` or `https`.
    pub(crate) const WEB: u16 = 1 << 8;
    /// The path begins with a slash.
    pub(crate) const SLASH: u16 = 1 << 9;
    /// The path is an asterisk.
    pub(crate) const ASTERISK: u16 = 1 << 10;
}

/// 0 for bytes of a valid name (RFC 9113 §8.2.1, RFC 9110 §5.1).
static NAME_BYTES: [u8; 256] = name_bytes();
const UPPERCASE: u8 = 1;
const INVALID: u8 = 2;

/// Of the names of the static table.
static STATIC_NAMES: [Name; STATIC.len()] = static_names();

// === impl Malformed ===

impl Malformed {
    /// The reason, for people and as a label: one of a fixed set.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        self.0
    }
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl Error for Malformed {}

// === impl Name ===

impl Name {
    #[inline]
    pub(super) fn of(name: &[u8]) -> Self {
        match Self::special(name) {
            Some(special) => special,
            None if name.is_empty() => Self::Invalid,
            None => match name.iter().fold(0, |found, byte| found | NAME_BYTES[usize::from(*byte)])
            {
                0 => Self::Plain,
                UPPERCASE => Self::Uppercase,
                _ => Self::Invalid,
            },
        }
    }

    /// Of the field of the static table with this place, which counts from zero.
    #[inline]
    pub(super) fn of_static(place: usize) -> Self {
        STATIC_NAMES[place]
    }

    /// `None`: a name like any other, if it is valid.
    #[inline]
    const fn special(name: &[u8]) -> Option<Self> {
        Some(match name {
            b"content-length" => Self::ContentLength,
            b"te" => Self::Te,
            b"connection" | b"proxy-connection" | b"keep-alive" | b"transfer-encoding"
            | b"upgrade" => Self::Connection,
            b":method" => Self::Method,
            b":scheme" => Self::Scheme,
            b":authority" => Self::Authority,
            b":path" => Self::Path,
            b":status" => Self::Status,
            b":protocol" => Self::Protocol,
            [b':', ..] => Self::UnknownPseudo,
            _ => return None,
        })
    }
}

// === impl Meaning ===

impl Meaning {
    #[inline]
    pub(super) fn of(name: Name, value: &[u8]) -> Self {
        match name {
            Name::Connection => return malformed("connection-specific field"),
            Name::UnknownPseudo => return malformed("unknown pseudo-header field"),
            Name::Uppercase => return malformed("uppercase letter in a field name"),
            Name::Invalid => return malformed("invalid byte in a field name"),
            _ => {}
        }
        if token::text(value) < value.len() {
            return malformed("invalid byte in a field value");
        }
        let is_space = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
        if is_space(value.first()) || is_space(value.last()) {
            return malformed("space around a field value");
        }
        match name {
            Name::ContentLength => Self::ContentLength(content_length(value)),
            Name::Te if !value.eq_ignore_ascii_case(b"trailers") => {
                malformed("te other than trailers")
            }
            Name::Method => method(value),
            Name::Scheme => scheme(value),
            Name::Authority if token::target(value) == value.len() => {
                Self::Pseudo(marks::AUTHORITY)
            }
            Name::Authority => malformed("invalid :authority"),
            Name::Path => path(value),
            Name::Status => status(value),
            Name::Protocol if value.is_empty() || token::target(value) < value.len() => {
                malformed("invalid :protocol")
            }
            Name::Protocol => Self::Pseudo(marks::PROTOCOL),
            _ => Self::Plain,
        }
    }
}

// === helpers ===

const fn malformed(reason: &'static str) -> Meaning {
    Meaning::Malformed(Malformed(reason))
}

fn method(value: &[u8]) -> Meaning {
    match value {
        b"CONNECT" => Meaning::Pseudo(marks::METHOD | marks::CONNECT),
        b"OPTIONS" => Meaning::Pseudo(marks::METHOD | marks::OPTIONS),
        _ if value.is_empty() || token::token(value) < value.len() => malformed("invalid :method"),
        _ => Meaning::Pseudo(marks::METHOD),
    }
}

fn scheme(value: &[u8]) -> Meaning {
    match value {
        b"http" | b"https" => Meaning::Pseudo(marks::SCHEME | marks::WEB),
        _ if value.is_empty() || token::target(value) < value.len() => malformed("invalid :scheme"),
        _ => Meaning::Pseudo(marks::SCHEME),
    }
}

fn path(value: &[u8]) -> Meaning {
    match value {
        b"" => malformed("empty :path"),
        _ if token::target(value) < value.len() => malformed("invalid :path"),
        b"*" => Meaning::Pseudo(marks::PATH | marks::ASTERISK),
        [b'/', ..] => Meaning::Pseudo(marks::PATH | marks::SLASH),
        _ => Meaning::Pseudo(marks::PATH),
    }
}

/// HTTP/2 has no 101 (RFC 9113 §8.6).
fn status(value: &[u8]) -> Meaning {
    match value {
        b"101" => malformed("status 101"),
        [b'1'..=b'9', b'0'..=b'9', b'0'..=b'9'] => Meaning::Pseudo(marks::STATUS),
        _ => malformed("invalid :status"),
    }
}

/// One or more digits, or several times the same with commas between them, as some senders join
/// equal fields (RFC 9110 §8.6).
fn content_length(value: &[u8]) -> Option<u64> {
    let mut numbers =
        value.split(|byte| *byte == b',').map(|item| token::number(item.trim_ascii()));
    let first = numbers.next()??;
    numbers.all(|number| number == Some(first)).then_some(first)
}

const fn name_bytes() -> [u8; 256] {
    let mut bytes = [0; 256];
    let mut byte = 0;
    while byte < bytes.len() {
        if (byte as u8).is_ascii_uppercase() {
            bytes[byte] = UPPERCASE;
        } else if !token::is_token(byte as u8) {
            bytes[byte] = INVALID;
        }
        byte += 1;
    }
    bytes
}

const fn static_names() -> [Name; STATIC.len()] {
    let mut names = [Name::Plain; STATIC.len()];
    let mut place = 0;
    while place < names.len() {
        if let Some(name) = Name::special(STATIC[place].name) {
            names[place] = name;
        }
        place += 1;
    }
    names
}
