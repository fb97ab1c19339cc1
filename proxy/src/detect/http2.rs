//! The HTTP/2 connection preface (RFC 9113 §3.4), all 24 bytes of it. Frames are not looked at.

use super::Step;

/// What a client sends first.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How much of the preface has been seen.
#[derive(Clone, Debug, Default)]
pub(super) struct Scan {
    matched: usize,
}

// === impl Scan ===

impl Scan {
    /// Idempotent after [`Step::No`].
    pub(super) fn update(&mut self, seen: &[u8]) -> Step<()> {
        let pairs = seen.iter().zip(PREFACE).skip(self.matched);
        self.matched += pairs.take_while(|(byte, expected)| byte == expected).count();
        if self.matched == PREFACE.len() {
            Step::Match(())
        } else if self.matched < seen.len() {
            Step::No("HTTP/2 preface broken off")
        } else {
            Step::More
        }
    }

    /// Bytes in common with the preface.
    pub(super) fn matched(&self) -> usize {
        self.matched
    }
}
