//! What is to be written to one peer: frames (RFC 9113 §4 and §6), one behind the other.

use super::super::fields::{FieldList, ListEncoder};
use super::super::frames::{
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, FRAME_HEAD, GOAWAY, HEADERS, PING,
    RST_STREAM, SETTING, SETTINGS, WINDOW_UPDATE,
};
use super::violation::Code;

/// A buffer that is empty and larger than this is given back.
const BUFFER: usize = 2 << 10;
/// So much that is written is kept at most in front of as much that is not.
const WRITTEN: usize = 16 << 10;

/// Bytes for one peer.
#[derive(Debug, Default)]
pub(super) struct Output {
    bytes: Vec<u8>,
    /// How many of them are written.
    written: usize,
    /// Bytes before `bytes`.
    before: u64,
}

// === impl Output ===

impl Output {
    /// What is to be written.
    #[inline]
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[self.written..]
    }

    #[inline]
    pub(super) const fn len(&self) -> usize {
        self.bytes.len() - self.written
    }

    /// Bytes of the heap that it holds.
    pub(super) const fn memory(&self) -> usize {
        self.bytes.capacity()
    }

    /// The position of the next byte in the stream.
    pub(super) const fn position(&self) -> u64 {
        self.before + self.bytes.len() as u64
    }

    /// So many bytes are written.
    pub(super) fn advance(&mut self, count: usize) {
        self.written += count;
        if self.written == self.bytes.len() {
            self.before += self.written as u64;
            self.written = 0;
            self.bytes.clear();
            if self.bytes.capacity() > BUFFER {
                self.bytes = Vec::new();
            }
        } else if self.written >= WRITTEN && self.written >= self.bytes.len() / 2 {
            self.bytes.drain(..self.written);
            self.before += std::mem::take(&mut self.written) as u64;
        }
    }

    /// Nothing more is to be written: what is left is given up, in the middle of a frame perhaps.
    pub(super) fn discard(&mut self) {
        self.bytes.truncate(self.written);
        self.advance(0);
    }

    #[inline]
    fn head(&mut self, length: usize, kind: u8, flags: u8, stream: u32) {
        let length = (length as u32).to_be_bytes();
        let stream = stream.to_be_bytes();
        self.bytes.extend_from_slice(&[
            length[1], length[2], length[3], kind, flags, stream[0], stream[1], stream[2],
            stream[3],
        ]);
    }

    pub(super) fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    pub(super) fn settings(&mut self, settings: &[(u16, u32)]) {
        self.head(settings.len() * SETTING, SETTINGS, 0, 0);
        for (id, value) in settings {
            self.bytes.extend_from_slice(&id.to_be_bytes());
            self.bytes.extend_from_slice(&value.to_be_bytes());
        }
    }

    pub(super) fn settings_ack(&mut self) {
        self.head(0, SETTINGS, ACK, 0);
    }

    pub(super) fn ping(&mut self, opaque: [u8; 8]) {
        self.head(8, PING, 0, 0);
        self.bytes.extend_from_slice(&opaque);
    }

    pub(super) fn ping_ack(&mut self, opaque: [u8; 8]) {
        self.head(8, PING, ACK, 0);
        self.bytes.extend_from_slice(&opaque);
    }

    pub(super) fn window_update(&mut self, stream: u32, by: u32) {
        self.head(4, WINDOW_UPDATE, 0, stream);
        self.bytes.extend_from_slice(&by.to_be_bytes());
    }

    pub(super) fn reset(&mut self, stream: u32, code: Code) {
        self.head(4, RST_STREAM, 0, stream);
        self.bytes.extend_from_slice(&code.0.to_be_bytes());
    }

    pub(super) fn go_away(&mut self, last: u32, code: Code, reason: &str) {
        self.head(8 + reason.len(), GOAWAY, 0, 0);
        self.bytes.extend_from_slice(&last.to_be_bytes());
        self.bytes.extend_from_slice(&code.0.to_be_bytes());
        self.bytes.extend_from_slice(reason.as_bytes());
    }

    /// `bytes` fit in a frame.
    #[inline]
    pub(super) fn data(&mut self, stream: u32, bytes: &[u8], end: bool) {
        self.head(bytes.len(), DATA, if end { END_STREAM } else { 0 }, stream);
        self.bytes.extend_from_slice(bytes);
    }

    /// A header block, in frames of at most `max` bytes.
    #[inline]
    pub(super) fn headers(
        &mut self,
        stream: u32,
        list: &FieldList,
        end: bool,
        (encoder, max): (&mut ListEncoder, usize),
    ) {
        let end_stream = if end { END_STREAM } else { 0 };
        self.head(0, HEADERS, END_HEADERS | end_stream, stream);
        let start = self.bytes.len();
        encoder.encode(list, &mut self.bytes);
        let length = self.bytes.len() - start;
        if length > max {
            return self.continued(start, max, end_stream, stream);
        }
        let length = (length as u32).to_be_bytes();
        self.bytes[start - FRAME_HEAD..start - FRAME_HEAD + 3].copy_from_slice(&length[1..]);
    }

    /// Cuts a block that is too large for one frame.
    #[cold]
    fn continued(&mut self, start: usize, max: usize, end_stream: u8, stream: u32) {
        let block = self.bytes.split_off(start);
        self.bytes.truncate(start - FRAME_HEAD);
        let mut parts = block.chunks(max).peekable();
        let mut kind = HEADERS;
        while let Some(part) = parts.next() {
            let end_headers = if parts.peek().is_none() { END_HEADERS } else { 0 };
            let end_stream = if kind == HEADERS { end_stream } else { 0 };
            self.head(part.len(), kind, end_headers | end_stream, stream);
            self.bytes.extend_from_slice(part);
            kind = CONTINUATION;
        }
    }
}
