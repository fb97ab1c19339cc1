//! HTTP/2 frames written by hand (RFC 9113 §4, RFC 7541 without Huffman), also such as no library
//! sends.

/// The client's connection preface (RFC 9113 §3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// GOAWAY that refuses no stream yet, without an error (RFC 9113 §6.8).
pub const SHUTDOWN_NOTICE: &[u8] = &[0, 0, 8, 7, 0, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0];

/// DATA.
pub const DATA: u8 = 0;
/// HEADERS.
pub const HEADERS: u8 = 1;
/// PRIORITY.
pub const PRIORITY: u8 = 2;
/// RST_STREAM.
pub const RST_STREAM: u8 = 3;
/// SETTINGS.
pub const SETTINGS: u8 = 4;
/// PING.
pub const PING: u8 = 6;
/// GOAWAY.
pub const GOAWAY: u8 = 7;
/// WINDOW_UPDATE.
pub const WINDOW_UPDATE: u8 = 8;
/// CONTINUATION.
pub const CONTINUATION: u8 = 9;

/// The flag on SETTINGS and PING.
pub const ACK: u8 = 1;
/// The flag on DATA and HEADERS.
pub const END_STREAM: u8 = 1;
/// The flag on HEADERS and CONTINUATION.
pub const END_HEADERS: u8 = 4;
/// The flag on DATA and HEADERS.
pub const PADDED: u8 = 8;
/// The flag PRIORITY on HEADERS.
pub const WITH_PRIORITY: u8 = 0x20;

/// SETTINGS_MAX_FRAME_SIZE of who has not said otherwise.
const MAX_FRAME: usize = 16_384;

/// `GET` of `/` over http, in indexed fields.
pub const GET: &[u8] = &[0x82, 0x86, 0x84];
/// `:status` 200.
pub const OK: &[u8] = &[0x88];

/// One frame.
///
/// # Panics
///
/// Panics when the payload has 4 GiB.
#[must_use]
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a frame's length").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A setting.
#[must_use]
pub fn setting(id: u16, value: u32) -> Vec<u8> {
    [&id.to_be_bytes()[..], &value.to_be_bytes()].concat()
}

/// A header block in as many frames as it needs.
#[must_use]
pub fn head(flags: u8, stream: u32, block: &[u8]) -> Vec<u8> {
    let mut parts = block.chunks(MAX_FRAME).peekable();
    let mut frames = Vec::new();
    let (mut kind, mut flags) = (HEADERS, flags);
    while let Some(part) = parts.next() {
        let last = if parts.peek().is_none() { END_HEADERS } else { 0 };
        frames.extend(frame(kind, flags | last, stream, part));
        (kind, flags) = (CONTINUATION, 0);
    }
    frames
}

/// A literal field that the peer does not index.
#[must_use]
pub fn field(name: &str, value: &str) -> Vec<u8> {
    [vec![0], text(name), text(value)].concat()
}

/// A literal field that the peer puts into its table.
#[must_use]
pub fn indexed_field(name: &str, value: &str) -> Vec<u8> {
    [vec![0x40], text(name), text(value)].concat()
}

/// A string literal (RFC 7541 §5.1, §5.2).
fn text(value: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut length = value.len();
    if length < 127 {
        bytes.push(u8::try_from(length).expect("small"));
    } else {
        bytes.push(127);
        length -= 127;
        while length >= 128 {
            bytes.push(u8::try_from(length % 128).expect("small") | 0x80);
            length /= 128;
        }
        bytes.push(u8::try_from(length).expect("small"));
    }
    bytes.extend_from_slice(value.as_bytes());
    bytes
}
