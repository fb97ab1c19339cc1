//! The HTTP/1 request line, and nothing after it: the grammar is [`RequestPrefix`]'s.

use weir_http::{ParseError, h1::RequestPrefix};

use super::Step;

/// A scan and the number of bytes it has looked at.
#[derive(Debug, Default)]
pub(super) struct Scan {
    prefix: RequestPrefix,
    position: usize,
    ruled_out: Option<&'static str>,
}

// === impl Scan ===

impl Scan {
    /// Idempotent after [`Step::Reject`].
    pub(super) fn update(&mut self, seen: &[u8]) -> Step<()> {
        if let Some(why) = self.ruled_out {
            return Step::Reject(why);
        }
        let new = &seen[self.position..];
        self.position = seen.len();
        match self.prefix.read(new) {
            Ok(false) => Step::Continue,
            Ok(true) => Step::Done(()),
            Err(error) => {
                let why = why(error);
                self.ruled_out = Some(why);
                Step::Reject(why)
            }
        }
    }
}

// === helpers ===

/// What the bytes are instead of a request line, for records.
fn why(error: ParseError) -> &'static str {
    match error {
        ParseError::Start => "not a prefix of any known protocol",
        ParseError::Method => "no HTTP method (not a token, or too long)",
        ParseError::Target => "no HTTP request target after the first word",
        ParseError::NoVersion => "request line without an HTTP version",
        ParseError::Version => "not HTTP version 1.0 or 1.1",
        ParseError::RequestLineEnd => "bytes after the HTTP version",
        ParseError::LineEnd => "carriage return without line feed",
        other => other.reason(),
    }
}
