//! What the fuzz target `http2_passthrough` sees of the header decoder.

use super::hpack::{Decoder, Head};

/// Decodes one peer's header blocks.
#[derive(Default)]
pub struct Hpack(Decoder);

/// What a block says.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Fields {
    /// `:method`.
    pub method: Option<String>,
    /// `:path` without its query.
    pub path: Option<String>,
    /// `:authority`.
    pub authority: Option<String>,
    /// `host`.
    pub host: Option<String>,
    /// `:status`.
    pub status: Option<u16>,
}

// === impl Hpack ===

impl Hpack {
    /// Reads a block in pieces of `step` bytes. `None`: it cannot be followed.
    pub fn decode(&mut self, block: &[u8], step: usize) -> Option<Fields> {
        let mut head = Head::default();
        for piece in block.chunks(step) {
            self.0.decode(piece, false, &mut head).ok()?;
        }
        self.0.decode(&[], true, &mut head).ok()?;
        let Head { method, path, authority, host, status, .. } = head;
        let [method, path, authority, host] =
            [method, path, authority, host].map(|word| word.map(|word| word.to_string()));
        Some(Fields { method, path, authority, host, status })
    }
}
