//! The TLS `ClientHello`, TLS 1.0 to 1.3: framing first (RFC 8446 §5.1 and §4), so that it is
//! known for certain after eleven bytes, then server name and ALPN as labels. The hello may be
//! spread over several records. Nothing is decrypted, and a hello that cannot be parsed is TLS
//! all the same.

use tls_parser::{
    TlsExtension, TlsExtensionType, parse_tls_extension_alpn_content,
    parse_tls_extension_sni_content, parse_tls_extension_unknown, parse_tls_handshake_client_hello,
};

use super::Step;

const RECORD_HEADER: usize = 5;
/// The content type that a hello begins with.
pub(super) const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
/// The largest plaintext record (RFC 8446 §5.1).
const MAX_RECORD: usize = 1 << 14;
/// Type, 24-bit length and the two bytes of `legacy_version`: enough to be certain.
const HEAD: usize = 6;
/// Type and length alone, before the body.
const HANDSHAKE_HEADER: usize = 4;
/// The smallest body: version, random, empty session id, one cipher suite, one compression method.
const MIN_BODY: usize = 2 + 32 + 1 + (2 + 2) + (1 + 1);
/// The largest body: every vector as long as its length field lets it be.
const MAX_BODY: usize = 2 + 32 + (1 + 32) + (2 + 0xfffe) + (1 + 0xff) + (2 + 0xffff);
/// The longest DNS name in text form (RFC 1035 §2.3.4).
const MAX_NAME: usize = 253;
/// ALPN entries kept as labels; real clients offer two or three.
const MAX_ALPN: usize = 16;

const NOT_A_RECORD: &str = "not a TLS handshake record";
const NOT_A_HELLO: &str = "TLS record without a ClientHello";

/// What a `ClientHello` says in the clear. Client-controlled: bounded, and free of control
/// characters, but not to be used as a metrics label.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsInfo {
    /// The server name (RFC 6066 §3), in lower case.
    pub sni: Option<String>,
    /// The protocols offered (RFC 7301), GREASE left out, bytes outside printable ASCII escaped.
    pub alpn: Vec<String>,
}

/// A scan over the records that carry the hello.
#[derive(Clone, Debug)]
pub(super) struct Scan {
    limit: usize,
    /// Where the current record begins.
    record: usize,
    /// Handshake bytes in the records before the current one.
    gathered: usize,
    /// The first handshake bytes, of which `head_len` are there.
    head: [u8; HEAD],
    head_len: usize,
}

/// True as long as these can be the first bytes of a server of TLS: a handshake record, or the alert
/// that answers what is none (RFC 8446 §5.1).
pub(super) fn may_be_server(seen: &[u8]) -> bool {
    const ALERT: u8 = 21;
    const MAJOR_VERSION: u8 = 3;
    match seen {
        [] => true,
        [first, rest @ ..] => {
            matches!(*first, ALERT | HANDSHAKE)
                && rest.first().is_none_or(|major| *major == MAJOR_VERSION)
        }
    }
}

// === impl Scan ===

impl Scan {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, record: 0, gathered: 0, head: [0; HEAD], head_len: 0 }
    }

    pub(super) fn update(&mut self, seen: &[u8]) -> Step<TlsInfo> {
        loop {
            let record = &seen[self.record..];
            let length = match record_length(record) {
                Step::Done(length) => length,
                Step::Continue => return Step::Continue,
                // The hello broke off; its beginning was certain, so it is TLS that will fail.
                Step::Reject(_) if self.is_client_hello() => return Step::Done(TlsInfo::default()),
                Step::Reject(why) => return Step::Reject(why),
            };
            let payload = &record[RECORD_HEADER..];
            let payload = &payload[..payload.len().min(length)];

            if let Err(why) = self.take_head(payload) {
                return Step::Reject(why);
            }
            if let Some(total) = self.message_length() {
                if self.gathered + payload.len() >= total {
                    return Step::Done(labels(&gather(seen, total)));
                }
                if total + RECORD_HEADER > self.limit {
                    return Step::Done(TlsInfo::default());
                }
            }
            if payload.len() < length {
                return Step::Continue;
            }
            self.gathered += length;
            self.record += RECORD_HEADER + length;
        }
    }

    /// True once the bytes cannot be anything but a `ClientHello`.
    pub(super) fn is_client_hello(&self) -> bool {
        self.head_len == HEAD
    }

    /// Adds what the current record has of the head, and tests it byte by byte.
    fn take_head(&mut self, payload: &[u8]) -> Result<(), &'static str> {
        for &byte in payload.iter().skip(self.head_len.saturating_sub(self.gathered)) {
            if self.head_len == HEAD {
                break;
            }
            self.head[self.head_len] = byte;
            self.head_len += 1;
            if !head_is_possible(&self.head[..self.head_len]) {
                return Err(NOT_A_HELLO);
            }
        }
        Ok(())
    }

    /// The length of the whole handshake message, once the head is complete.
    fn message_length(&self) -> Option<usize> {
        self.is_client_hello().then(|| HANDSHAKE_HEADER + body_length(&self.head))
    }
}

/// The payload length of the record that begins here, as far as its header is there.
fn record_length(record: &[u8]) -> Step<usize> {
    // RFC 8446 §5.1: the version must be ignored, but every version so far begins with 3.
    let possible = match *record {
        [] => true,
        [kind] => kind == HANDSHAKE,
        [kind, major] | [kind, major, _] => kind == HANDSHAKE && major == 3,
        [kind, major, _, high] => {
            kind == HANDSHAKE && major == 3 && usize::from(high) <= MAX_RECORD >> 8
        }
        [kind, major, _, high, low, ..] => {
            let length = usize::from(u16::from_be_bytes([high, low]));
            if kind == HANDSHAKE && major == 3 && (1..=MAX_RECORD).contains(&length) {
                return Step::Done(length);
            }
            false
        }
    };
    if possible { Step::Continue } else { Step::Reject(NOT_A_RECORD) }
}

fn body_length(head: &[u8; HEAD]) -> usize {
    usize::from(head[1]) << 16 | usize::from(head[2]) << 8 | usize::from(head[3])
}

/// True if a `ClientHello` can begin like this; the last byte is the one not tested before.
fn head_is_possible(head: &[u8]) -> bool {
    match *head {
        [kind] => kind == CLIENT_HELLO,
        [_, high] => usize::from(high) <= MAX_BODY >> 16,
        [_, high, middle, low] => {
            let length = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
            (MIN_BODY..=MAX_BODY).contains(&length)
        }
        [_, _, _, _, major] => major == 3,
        _ => true,
    }
}

/// The first `total` handshake bytes, record headers removed. The records were tested before.
fn gather(seen: &[u8], total: usize) -> Vec<u8> {
    let mut message = Vec::with_capacity(total);
    let mut rest = seen;
    while let [_, _, _, high, low, after @ ..] = rest {
        let length = usize::from(u16::from_be_bytes([*high, *low])).min(after.len());
        message.extend_from_slice(&after[..length.min(total - message.len())]);
        if message.len() == total {
            break;
        }
        rest = &after[length..];
    }
    message
}

/// The labels of a complete handshake message; what cannot be parsed is left out.
fn labels(message: &[u8]) -> TlsInfo {
    let mut info = TlsInfo::default();
    let Some(body) = message.get(HANDSHAKE_HEADER..) else { return info };
    let Ok((_, hello)) = parse_tls_handshake_client_hello(body) else { return info };
    let mut rest = hello.ext.unwrap_or_default();
    // One by one, as opaque: an extension that the crate's typed parsers reject must not hide the others.
    while let Ok((after, TlsExtension::Unknown(kind, content))) = parse_tls_extension_unknown(rest)
    {
        match kind {
            TlsExtensionType::ServerName => info.sni = server_name(content),
            TlsExtensionType::ApplicationLayerProtocolNegotiation => info.alpn = protocols(content),
            _ => {}
        }
        rest = after;
    }
    info
}

fn server_name(content: &[u8]) -> Option<String> {
    let Ok((_, TlsExtension::SNI(names))) = parse_tls_extension_sni_content(content) else {
        return None;
    };
    let (_, name) = names.into_iter().find(|(kind, _)| kind.0 == 0)?;
    let is_name = !name.is_empty()
        && name.len() <= MAX_NAME
        && name.iter().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(b));
    is_name.then(|| name.escape_ascii().to_string().to_ascii_lowercase())
}

fn protocols(content: &[u8]) -> Vec<String> {
    let Ok((_, TlsExtension::ALPN(names))) = parse_tls_extension_alpn_content(content) else {
        return Vec::new();
    };
    names
        .into_iter()
        .filter(|name| !is_grease(name))
        .take(MAX_ALPN)
        .map(|name| name.escape_ascii().to_string())
        .collect()
}

/// RFC 8701 §2: two equal bytes that end in `A`.
fn is_grease(name: &[u8]) -> bool {
    matches!(name, [a, b] if a == b && a & 0x0f == 0x0a)
}
