//! Frames as a peer writes them, and as it reads what the relay writes.

use crate::h2::fields::{FieldList, ListDecoder, Shared};
use crate::h2::frames::{
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, PREFACE, RST_STREAM,
    SETTINGS, WINDOW_UPDATE,
};

pub(super) type Fields = Vec<(String, String)>;

/// What the relay has written to a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    Data { stream: u32, bytes: Vec<u8>, end: bool },
    Headers { stream: u32, fields: Fields, end: bool },
    Reset { stream: u32, code: u32 },
    Settings(Vec<(u16, u32)>),
    SettingsAck,
    Ping([u8; 8]),
    PingAck([u8; 8]),
    GoAway { last: u32, code: u32 },
    WindowUpdate { stream: u32, by: u32 },
}

/// Reads what the relay writes to one peer, and takes nothing that breaks the protocol.
pub(super) struct Reader {
    preface: &'static [u8],
    bytes: Vec<u8>,
    decoder: ListDecoder,
    block: Option<(u32, bool, Vec<u8>)>,
    /// The largest payload that the peer takes.
    pub(super) max_frame: usize,
}

// === impl Seen ===

impl Seen {
    pub(super) fn data(stream: u32, bytes: &[u8], end: bool) -> Self {
        Self::Data { stream, bytes: bytes.to_vec(), end }
    }

    pub(super) fn headers(stream: u32, fields: &[(&str, &str)], end: bool) -> Self {
        let fields = fields.iter().map(|(name, value)| ((*name).into(), (*value).into()));
        Self::Headers { stream, fields: fields.collect(), end }
    }

    /// Not of a stream, or a WINDOW_UPDATE: what most tests do not look at.
    pub(super) const fn is_aside(&self) -> bool {
        matches!(self, Self::Settings(_) | Self::SettingsAck | Self::WindowUpdate { .. })
    }
}

// === impl Reader ===

impl Reader {
    pub(super) fn of_client() -> Self {
        Self::new(b"")
    }

    pub(super) fn of_endpoint() -> Self {
        Self::new(PREFACE)
    }

    fn new(preface: &'static [u8]) -> Self {
        let decoder = ListDecoder::new(0);
        Self { preface, bytes: Vec::new(), decoder, block: None, max_frame: 16_384 }
    }

    /// What is complete of what was written so far.
    pub(super) fn read(&mut self, bytes: &[u8]) -> Vec<Seen> {
        self.bytes.extend_from_slice(bytes);
        let common = self.preface.len().min(self.bytes.len());
        assert_eq!(self.bytes[..common], self.preface[..common], "the preface");
        self.preface = &self.preface[common..];
        let mut at = common;
        let mut seen = Vec::new();
        while let Some(head) = self.bytes.get(at..at + 9) {
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            let (kind, flags) = (head[3], head[4]);
            let stream = number(&head[5..9]);
            assert!(length <= self.max_frame, "a frame of {length} bytes");
            let Some(payload) = self.bytes.get(at + 9..at + 9 + length) else { break };
            let payload = payload.to_vec();
            at += 9 + length;
            seen.extend(self.frame(kind, flags, stream, &payload));
        }
        self.bytes.drain(..at);
        seen
    }

    fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Option<Seen> {
        assert!(self.block.is_none() || kind == CONTINUATION, "an interrupted block");
        let end = flags & END_STREAM != 0;
        Some(match kind {
            DATA => Seen::data(stream, payload, end),
            HEADERS => {
                self.block = Some((stream, end, payload.to_vec()));
                return self.block(flags);
            }
            CONTINUATION => {
                let (of, _, block) = self.block.as_mut().expect("a header block");
                assert_eq!(*of, stream);
                block.extend_from_slice(payload);
                return self.block(flags);
            }
            RST_STREAM => Seen::Reset { stream, code: number(payload) },
            SETTINGS if flags & ACK != 0 => Seen::SettingsAck,
            SETTINGS => {
                let pair = |it: &[u8]| (u16::from_be_bytes([it[0], it[1]]), number(&it[2..6]));
                Seen::Settings(payload.chunks(6).map(pair).collect())
            }
            PING => {
                let opaque = payload.try_into().expect("eight bytes");
                if flags & ACK != 0 { Seen::PingAck(opaque) } else { Seen::Ping(opaque) }
            }
            GOAWAY => Seen::GoAway { last: number(&payload[..4]), code: number(&payload[4..8]) },
            WINDOW_UPDATE => Seen::WindowUpdate { stream, by: number(payload) },
            _ => panic!("a frame of kind {kind}"),
        })
    }

    fn block(&mut self, flags: u8) -> Option<Seen> {
        if flags & END_HEADERS == 0 {
            return None;
        }
        let (stream, end, block) = self.block.take().expect("a header block");
        let mut list = FieldList::default();
        self.decoder.decode(&block, 1 << 20, &mut Shared::default(), &mut list).expect("a block");
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
        let fields = list.iter().map(|(name, value, _)| (text(&name), text(&value))).collect();
        Some(Seen::Headers { stream, fields, end })
    }
}

// === helpers ===

fn number(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(bytes[..4].try_into().expect("four bytes"))
}

/// A frame (RFC 9113 §4.1).
pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a frame").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A header block of literals: all without indexing (RFC 7541 §6.2.2).
pub(super) fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            integer(&mut block, text.len());
            block.extend_from_slice(text.as_bytes());
        }
    }
    block
}

/// RFC 7541 §5.1, in seven bits.
fn integer(block: &mut Vec<u8>, value: usize) {
    if value < 127 {
        return block.push(value as u8);
    }
    block.push(127);
    let mut rest = value - 127;
    while rest >= 128 {
        block.push((rest % 128) as u8 | 128);
        rest /= 128;
    }
    block.push(rest as u8);
}

pub(super) fn headers(stream: u32, fields: &[(&str, &str)], end: bool) -> Vec<u8> {
    let flags = END_HEADERS | if end { END_STREAM } else { 0 };
    frame(HEADERS, flags, stream, &block(fields))
}

/// The head of a request for a path.
pub(super) fn request(stream: u32, path: &str, end: bool) -> Vec<u8> {
    headers(stream, &request_fields(path), end)
}

pub(super) fn request_fields(path: &str) -> [(&str, &str); 4] {
    [(":method", "POST"), (":scheme", "http"), (":authority", "shop"), (":path", path)]
}

/// The head of a call of gRPC.
pub(super) fn call(stream: u32, end: bool) -> Vec<u8> {
    let fields = request_fields("/shop.Cart/Add");
    headers(stream, &[&fields[..], &[("content-type", "application/grpc")]].concat(), end)
}

pub(super) fn response(stream: u32, status: &str, end: bool) -> Vec<u8> {
    headers(stream, &[(":status", status)], end)
}

pub(super) fn data(stream: u32, bytes: &[u8], end: bool) -> Vec<u8> {
    let mut frames = Vec::new();
    let mut pieces = bytes.chunks(16_384).peekable();
    while let Some(piece) = pieces.next() {
        let is_last = pieces.peek().is_none();
        frames.extend(frame(DATA, u8::from(end && is_last), stream, piece));
    }
    match bytes.is_empty() {
        true => frame(DATA, u8::from(end), stream, b""),
        false => frames,
    }
}

/// DATA with padding behind its content.
pub(super) fn padded(stream: u32, bytes: &[u8], padding: u8, end: bool) -> Vec<u8> {
    let payload = [&[padding], bytes, &vec![0; usize::from(padding)]].concat();
    frame(DATA, 8 | u8::from(end), stream, &payload)
}

pub(super) fn settings(settings: &[(u16, u32)]) -> Vec<u8> {
    let pair = |(id, value): &(u16, u32)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat();
    frame(SETTINGS, 0, 0, &settings.iter().flat_map(pair).collect::<Vec<_>>())
}

pub(super) fn window_update(stream: u32, by: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &by.to_be_bytes())
}

pub(super) fn reset(stream: u32, code: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &code.to_be_bytes())
}

pub(super) fn go_away(last: u32, code: u32) -> Vec<u8> {
    frame(GOAWAY, 0, 0, &[last.to_be_bytes(), code.to_be_bytes()].concat())
}
