//! What the parts of an HTTP/1 head mean, however they were found: what the exchange is about, and
//! how its messages are delimited (RFC 9112 §6). Shared by both engines.

use std::sync::Arc;

use super::body::Framing;
use crate::forward::http::{RequestInfo, is_grpc};

/// The start of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::forward) struct RequestHead {
    pub(in crate::forward) info: RequestInfo,
    pub(in crate::forward) framing: Framing,
    pub(in crate::forward) kind: Kind,
    /// The response decides whether the bytes after this request are HTTP.
    pub(in crate::forward) may_tunnel: bool,
    /// The response may switch to HTTP/2 (RFC 7540 §3.2).
    pub(in crate::forward) h2c: bool,
}

/// The words of a request line, except its version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::forward) struct RequestLine {
    method: Arc<str>,
    kind: Kind,
    authority: Option<Arc<str>>,
    path: Arc<str>,
}

/// What a response's framing depends on (RFC 9112 §6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::forward) enum Kind {
    Head,
    Connect,
    Other,
}

/// A field that says something about the framing or the exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::forward) enum Field {
    Host,
    Upgrade,
    Connection,
    ContentType,
    ContentLength,
    Http2Settings,
    TransferEncoding,
}

/// What the fields of a head add up to.
#[derive(Debug, Default)]
pub(in crate::forward) struct Fields {
    length: Option<u64>,
    chunked: bool,
    other_coding: bool,
    upgrade: bool,
    upgrade_h2c: bool,
    http2_settings: bool,
    grpc: bool,
    host: Option<Arc<str>>,
}

/// Authority and path of a target in any of its four forms (RFC 9112 §3.2).
fn split_target(target: &str, kind: Kind) -> (Option<&str>, &str) {
    let target = target.split(['?', '#']).next().unwrap_or_default();
    if kind == Kind::Connect {
        return (Some(target), "");
    }
    if target.starts_with('/') {
        return (None, target);
    }
    let Some((_, rest)) = target.split_once("://") else { return (None, target) };
    match rest.find('/') {
        Some(slash) => (Some(&rest[..slash]), &rest[slash..]),
        None => (Some(rest), "/"),
    }
}

// === impl RequestLine ===

impl RequestLine {
    pub(in crate::forward) fn new(method: Arc<str>, target: &str) -> Self {
        let kind = match &*method {
            "HEAD" => Kind::Head,
            "CONNECT" => Kind::Connect,
            _ => Kind::Other,
        };
        let (authority, path) = split_target(target, kind);
        Self { method, kind, authority: authority.map(Arc::from), path: path.into() }
    }

    /// Bytes that its words take.
    pub(in crate::forward) fn words(&self) -> usize {
        let authority = self.authority.as_ref().map_or(0, |text| text.len());
        self.method.len() + authority + self.path.len()
    }
}

// === impl RequestHead ===

impl RequestHead {
    pub(in crate::forward) fn new(
        line: RequestLine,
        http11: bool,
        fields: Fields,
    ) -> Result<Self, &'static str> {
        let framing = match fields.coding(http11)? {
            Some(Framing::UntilEof) => return Err("request body without an end"),
            Some(framing) => framing,
            None => Framing::None,
        };
        Ok(Self {
            framing,
            kind: line.kind,
            may_tunnel: line.kind == Kind::Connect || fields.upgrade,
            h2c: fields.upgrade_h2c && fields.http2_settings,
            info: RequestInfo {
                version: if http11 { 11 } else { 10 },
                method: line.method,
                // RFC 9112 §3.2.2: Host does not count beside it.
                authority: line.authority.or(fields.host),
                path: line.path,
                grpc: fields.grpc,
            },
        })
    }
}

// === impl Field ===

impl Field {
    /// Length of the longest name that [`Field::of`] knows.
    pub(in crate::forward) const LONGEST: usize = 17;

    #[inline]
    pub(in crate::forward) fn of(name: &[u8]) -> Option<Self> {
        let (candidate, field): (&[u8], _) = match name.len() {
            4 => (b"host", Self::Host),
            7 => (b"upgrade", Self::Upgrade),
            10 => (b"connection", Self::Connection),
            12 => (b"content-type", Self::ContentType),
            14 if matches!(name[0], b'h' | b'H') => (b"http2-settings", Self::Http2Settings),
            14 => (b"content-length", Self::ContentLength),
            17 => (b"transfer-encoding", Self::TransferEncoding),
            _ => return None,
        };
        name.eq_ignore_ascii_case(candidate).then_some(field)
    }

    /// The end of the message depends on every byte of it.
    pub(in crate::forward) fn is_framing(self) -> bool {
        matches!(self, Self::ContentLength | Self::TransferEncoding)
    }
}

// === impl Fields ===

impl Fields {
    /// Takes the next field, in the order of the head.
    pub(in crate::forward) fn add(
        &mut self,
        field: Field,
        value: &[u8],
    ) -> Result<(), &'static str> {
        let value = value.trim_ascii();
        match field {
            Field::Host => {
                self.host.get_or_insert_with(|| String::from_utf8_lossy(value).into());
            }
            Field::Upgrade => {
                self.upgrade = true;
                self.upgrade_h2c |= value
                    .split(|byte| *byte == b',')
                    .any(|protocol| protocol.trim_ascii().eq_ignore_ascii_case(b"h2c"));
            }
            Field::Connection => {}
            Field::ContentType => self.grpc = is_grpc(value),
            Field::ContentLength => self.length(value)?,
            Field::Http2Settings => self.http2_settings = true,
            Field::TransferEncoding => self.codings(value),
        }
        Ok(())
    }

    pub(in crate::forward) fn is_grpc(&self) -> bool {
        self.grpc
    }

    /// `Upgrade` names HTTP/2 over cleartext TCP.
    pub(in crate::forward) fn is_h2c(&self) -> bool {
        self.upgrade_h2c
    }

    /// How the body of a response is delimited, with these fields in its head.
    pub(in crate::forward) fn response_framing(
        &self,
        http11: bool,
        status: u16,
        kind: Kind,
    ) -> Result<Framing, &'static str> {
        match (status, kind) {
            (100..=199 | 204 | 304, _) | (_, Kind::Head) | (200..=299, Kind::Connect) => {
                Ok(Framing::None)
            }
            _ => Ok(self.coding(http11)?.unwrap_or(Framing::UntilEof)),
        }
    }

    fn length(&mut self, value: &[u8]) -> Result<(), &'static str> {
        for item in value.split(|byte| *byte == b',') {
            match (number(item.trim_ascii()), self.length) {
                (None, _) => return Err("invalid content-length"),
                (Some(new), Some(old)) if new != old => return Err("contradictory content-length"),
                (length, _) => self.length = length,
            }
        }
        Ok(())
    }

    /// Only the last coding of the last field counts (RFC 9112 §6.3).
    fn codings(&mut self, value: &[u8]) {
        let last = value.rsplit(|byte| *byte == b',').next().unwrap_or_default().trim_ascii();
        self.chunked = last.eq_ignore_ascii_case(b"chunked");
        self.other_coding = !self.chunked;
    }

    fn coding(&self, http11: bool) -> Result<Option<Framing>, &'static str> {
        match (self.chunked, self.other_coding, self.length) {
            // Recipients disagree about these two, so following them is a guess.
            (true, ..) | (_, true, _) if !http11 => Err("transfer-encoding in HTTP/1.0"),
            (true, _, Some(_)) => Err("transfer-encoding with content-length"),
            (true, ..) => Ok(Some(Framing::Chunked)),
            (_, true, _) => Ok(Some(Framing::UntilEof)),
            (.., Some(length)) => Ok(Some(Framing::Length(length))),
            _ => Ok(None),
        }
    }
}

/// One or more digits (RFC 9112 §6.2).
fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |number, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    })
}
