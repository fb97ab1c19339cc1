//! The HTTP/1 request line (RFC 9112 §3), and nothing after it:
//! `token SP request-target SP HTTP/1.x CRLF`.
//!
//! Decisions:
//! - The method is any token (extension methods), up to [`MAX_METHOD`] bytes.
//! - The target must have one of the four forms of RFC 9112 §3.2, which is what rules out
//!   `AUTH TOKEN x` at its second space. Within a form any visible byte goes, and any byte from
//!   0x80 on, because servers take raw UTF-8 in paths.
//! - Only the versions 1.0 and 1.1 exist; RTSP and SIP differ in the first letter after the space.
//!   HTTP/0.9 has no version and is raw TCP.
//! - Empty lines before the request line are skipped and a line may end in a bare LF: RFC 9112
//!   §2.2 lets a recipient do both, and the common servers do. A CR without LF is never HTTP.

use super::Step;

/// The longest method: nearly twice the longest one registered with IANA (`UPDATEREDIRECTREF`,
/// 17). Bounds how long a binary or line protocol made of token characters stays undecided.
pub(super) const MAX_METHOD: usize = 32;

const VERSION: &[u8; 7] = b"HTTP/1.";

/// Where in the request line the scan is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// At the start of a line, none but empty ones before it.
    #[default]
    Start,
    /// After the CR of an empty line.
    EmptyLineCr,
    Method {
        start: usize,
    },
    TargetStart {
        connect: bool,
    },
    /// `*`, complete.
    Asterisk,
    /// The scheme of an absolute-form target, its colon not seen yet.
    Scheme,
    /// The host and port of `CONNECT`.
    Authority,
    /// Origin-form, or absolute-form after its colon.
    Target,
    Version {
        matched: usize,
    },
    LineEnd,
    LineEndCr,
}

/// A scan and the number of bytes it has looked at.
#[derive(Clone, Debug, Default)]
pub(super) struct Scan {
    state: State,
    position: usize,
    ruled_out: Option<&'static str>,
}

// === impl Scan ===

impl Scan {
    /// Idempotent after [`Step::No`].
    pub(super) fn update(&mut self, seen: &[u8]) -> Step<()> {
        if let Some(why) = self.ruled_out {
            return Step::No(why);
        }
        while let Some(&byte) = seen.get(self.position) {
            let before = &seen[..self.position];
            self.position += 1;
            match self.state.next(byte, before) {
                Step::Match(state) => self.state = state,
                Step::More => return Step::Match(()),
                Step::No(why) => {
                    self.ruled_out = Some(why);
                    return Step::No(why);
                }
            }
        }
        Step::More
    }

    /// Bytes looked at so far, the deciding one included.
    pub(super) fn position(&self) -> usize {
        self.position
    }
}

// === impl State ===

impl State {
    /// The state after `byte`; `More` when `byte` ended the request line.
    fn next(self, byte: u8, before: &[u8]) -> Step<Self> {
        let next = match (self, byte) {
            (Self::Start, b'\r') => Self::EmptyLineCr,
            (Self::Start | Self::EmptyLineCr, b'\n') => Self::Start,
            (Self::EmptyLineCr, _) => return Step::No("carriage return without line feed"),
            (Self::Start, _) if is_tchar(byte) => Self::Method { start: before.len() },
            (Self::Start, _) => return Step::No("not a prefix of any known protocol"),

            (Self::Method { start }, b' ') => {
                Self::TargetStart { connect: &before[start..] == b"CONNECT" }
            }
            (Self::Method { start }, _)
                if !is_tchar(byte) || before.len() - start >= MAX_METHOD =>
            {
                return Step::No("no HTTP method (not a token, or too long)");
            }

            (Self::TargetStart { connect: true }, _) if is_authority(byte) => Self::Authority,
            (Self::TargetStart { connect: false }, b'/') => Self::Target,
            (Self::TargetStart { connect: false }, b'*') => Self::Asterisk,
            (Self::TargetStart { connect: false }, _) if byte.is_ascii_alphabetic() => Self::Scheme,

            (Self::Scheme, b':') => Self::Target,
            (Self::Scheme, _) if is_scheme(byte) => self,
            (Self::Authority, _) if is_authority(byte) => self,
            (Self::Target, _) if is_visible(byte) => self,
            (Self::Asterisk | Self::Authority | Self::Target, b' ') => Self::Version { matched: 0 },

            (Self::TargetStart { .. } | Self::Asterisk | Self::Scheme | Self::Authority, _) => {
                return Step::No("no HTTP request target after the first word");
            }
            (Self::Target, _) => return Step::No("request line without an HTTP version"),

            (Self::Version { matched: 7 }, b'0' | b'1') => Self::LineEnd,
            (Self::Version { matched }, _) if VERSION.get(matched) == Some(&byte) => {
                Self::Version { matched: matched + 1 }
            }
            (Self::Version { .. }, _) => return Step::No("not HTTP version 1.0 or 1.1"),

            (Self::LineEnd, b'\r') => Self::LineEndCr,
            (Self::LineEnd | Self::LineEndCr, b'\n') => return Step::More,
            (Self::LineEnd | Self::LineEndCr, _) => {
                return Step::No("bytes after the HTTP version");
            }
            (Self::Method { .. }, _) => self,
        };
        Step::Match(next)
    }
}

/// RFC 9110 §5.6.2.
fn is_tchar(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// RFC 3986 §3.1, after the first letter.
fn is_scheme(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"+-.".contains(&byte)
}

/// RFC 3986 §3.2 without userinfo, as RFC 9112 §3.2.3 has it.
fn is_authority(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=:[]".contains(&byte)
}

fn is_visible(byte: u8) -> bool {
    byte > b' ' && byte != 0x7f
}
