//! What the parts of an HTTP/1 head mean, however they were found: what the exchange is about, and
//! how its messages are delimited (RFC 9112 §6).

use std::ops::Range;
use std::sync::Arc;

use super::body::Framing;
use super::token;
use super::unpoolable::Unpoolable;
use crate::trace::Trace;
use crate::{ParseError, RequestInfo, is_grpc};

/// The start of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestHead {
    /// What is reported of it.
    pub info: RequestInfo,
    /// How its body is delimited.
    pub framing: Framing,
    /// What its response depends on.
    pub kind: Kind,
    /// The response decides whether the bytes after this request are HTTP.
    pub may_tunnel: bool,
    /// The response may switch to HTTP/2 (RFC 7540 §3.2).
    pub h2c: bool,
    /// Why its connection is not to be shared.
    pub unpoolable: Option<Unpoolable>,
}

/// A request line, except its version: whom it asks for what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RequestTarget {
    method: Arc<str>,
    kind: Kind,
    authority: Option<Arc<str>>,
    path: Arc<str>,
}

/// What a response's framing depends on (RFC 9112 §6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// HEAD.
    Head,
    /// CONNECT.
    Connect,
    /// Any other method.
    Other,
}

/// A field that says something about the framing or the exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Field {
    Host,
    Upgrade,
    /// Whom a client says it is.
    Credentials,
    /// How a server asks for that.
    Challenge,
    Connection,
    TraceParent,
    ContentType,
    ContentLength,
    Http2Settings,
    TransferEncoding,
}

/// What the fields of a head add up to.
#[derive(Debug, Default)]
pub(super) struct Fields {
    length: Option<u64>,
    chunked: bool,
    other_coding: bool,
    upgrade: bool,
    upgrade_h2c: bool,
    http2_settings: bool,
    grpc: bool,
    host: Option<Arc<str>>,
    /// Fields and items of this kind.
    hosts: usize,
    lengths: usize,
    codings: usize,
    /// Authenticates the connection, not the request.
    authenticates: bool,
    close: bool,
    /// `Connection` names a field that recipients need to find the end of the message.
    hides_framing: bool,
    connection: Persistence,
    trace: Trace,
}

/// What a head says will become of its connection (RFC 9112 §9.3).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Persistence {
    /// Nothing.
    #[default]
    Unsaid,
    /// `keep-alive`, and where in the section that stands.
    KeepAlive(Range<usize>),
    /// Anything else.
    Said,
}

/// Authority and path of a target in any of its four forms (RFC 9112 §3.2).
#[inline]
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

// === impl RequestTarget ===

impl RequestTarget {
    #[inline]
    pub(super) fn new(method: Arc<str>, target: &str) -> Self {
        let kind = match &*method {
            "HEAD" => Kind::Head,
            "CONNECT" => Kind::Connect,
            _ => Kind::Other,
        };
        let (authority, path) = split_target(target, kind);
        Self { method, kind, authority: authority.map(Arc::from), path: path.into() }
    }

    /// Bytes of its texts.
    #[inline]
    pub(super) fn text_bytes(&self) -> usize {
        let authority = self.authority.as_ref().map_or(0, |text| text.len());
        self.method.len() + authority + self.path.len()
    }
}

// === impl RequestHead ===

impl RequestHead {
    #[inline]
    pub(super) fn new(
        line: RequestTarget,
        http11: bool,
        fields: &mut Fields,
        loose: bool,
    ) -> Result<Self, ParseError> {
        let framing = match fields.coding(http11)? {
            Some(Framing::UntilEof) => return Err(ParseError::EndlessRequest),
            Some(framing) => framing,
            None => Framing::None,
        };
        let unpoolable = fields.request_unpoolable(&line, http11, framing, loose);
        Ok(Self {
            framing,
            unpoolable,
            kind: line.kind,
            may_tunnel: line.kind == Kind::Connect || fields.upgrade,
            h2c: fields.upgrade_h2c && fields.http2_settings,
            info: RequestInfo {
                version: if http11 { 11 } else { 10 },
                method: line.method,
                // RFC 9112 §3.2.2: Host does not count beside it.
                authority: line.authority.or_else(|| fields.host.take()),
                path: line.path,
                grpc: fields.grpc,
                trace: std::mem::take(&mut fields.trace).parent(),
            },
        })
    }
}

// === impl Field ===

impl Field {
    /// Length of the longest name that [`Field::of`] knows.
    pub(super) const LONGEST: usize = 19;

    #[inline]
    pub(super) fn of(name: &[u8]) -> Option<Self> {
        let (candidate, field): (&[u8], _) = match name.len() {
            4 => (b"host", Self::Host),
            7 => (b"upgrade", Self::Upgrade),
            10 => (b"connection", Self::Connection),
            11 => (b"traceparent", Self::TraceParent),
            12 => (b"content-type", Self::ContentType),
            13 => (b"authorization", Self::Credentials),
            14 if matches!(name[0], b'h' | b'H') => (b"http2-settings", Self::Http2Settings),
            14 => (b"content-length", Self::ContentLength),
            16 => (b"www-authenticate", Self::Challenge),
            17 => (b"transfer-encoding", Self::TransferEncoding),
            18 => (b"proxy-authenticate", Self::Challenge),
            19 => (b"proxy-authorization", Self::Credentials),
            _ => return None,
        };
        name.eq_ignore_ascii_case(candidate).then_some(field)
    }

    /// The end of the message depends on every byte of it.
    #[inline]
    pub(super) fn is_framing(self) -> bool {
        matches!(self, Self::ContentLength | Self::TransferEncoding)
    }
}

// === impl Fields ===

impl Fields {
    /// Takes the next field, in the order of the head; its value begins `at` so many bytes of the
    /// section if it is in one piece.
    #[inline]
    pub(super) fn add(
        &mut self,
        field: Field,
        value: &[u8],
        at: Option<usize>,
    ) -> Result<(), ParseError> {
        let value = value.trim_ascii();
        match field {
            Field::Host => {
                self.hosts += 1;
                self.host.get_or_insert_with(|| String::from_utf8_lossy(value).into());
            }
            Field::Upgrade => {
                self.upgrade = true;
                self.upgrade_h2c |= value
                    .split(|byte| *byte == b',')
                    .any(|protocol| protocol.trim_ascii().eq_ignore_ascii_case(b"h2c"));
            }
            Field::Credentials => self.authenticates |= is_of_connection(value),
            // Parameters of one challenge are items as well; none is a scheme's name alone.
            Field::Challenge => {
                self.authenticates |= value.split(|byte| *byte == b',').any(is_of_connection);
            }
            Field::Connection => {
                for option in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
                    self.close |= option.eq_ignore_ascii_case(b"close");
                    self.hides_framing |=
                        Self::of_framing().iter().any(|it| option.eq_ignore_ascii_case(it));
                }
                let keep_alive = value.eq_ignore_ascii_case(b"keep-alive");
                self.connection = match (&self.connection, at) {
                    (Persistence::Unsaid, Some(at)) if keep_alive => {
                        Persistence::KeepAlive(at..at + value.len())
                    }
                    _ => Persistence::Said,
                };
            }
            Field::TraceParent => self.trace.add(Trace::of(value)),
            Field::ContentType => self.grpc = is_grpc(value),
            Field::ContentLength => self.length(value)?,
            Field::Http2Settings => self.http2_settings = true,
            Field::TransferEncoding => self.codings(value),
        }
        Ok(())
    }

    /// The last value of this field was longer than what is kept.
    #[cold]
    pub(super) fn was_cut(&mut self, field: Field) {
        match field {
            Field::Challenge => self.authenticates = true,
            Field::Connection => self.close = true,
            // Longer than any name.
            Field::Host => self.hosts += 1,
            _ => {}
        }
    }

    /// Why the connection of a request is not to be shared.
    #[inline]
    fn request_unpoolable(
        &self,
        line: &RequestTarget,
        http11: bool,
        framing: Framing,
        loose: bool,
    ) -> Option<Unpoolable> {
        let other = |authority: &str| {
            self.host.as_deref().is_some_and(|host| !host.eq_ignore_ascii_case(authority))
        };
        if line.kind == Kind::Connect || self.upgrade {
            Some(Unpoolable::Upgrade)
        } else if !http11 {
            Some(Unpoolable::Http10)
        } else if self.hosts != 1 || self.host.as_deref().is_none_or(str::is_empty) {
            Some(Unpoolable::Host)
        } else if line.authority.as_deref().is_some_and(other) {
            Some(Unpoolable::Target)
        } else {
            self.unpoolable(framing, loose)
        }
    }

    /// Why the connection of a response is not to be shared.
    #[inline]
    pub(super) fn response_unpoolable(
        &self,
        http11: bool,
        status: u16,
        framing: Framing,
        loose: bool,
    ) -> Option<Unpoolable> {
        let promises_content = self.codings > 0 || self.length.is_some_and(|it| it > 0);
        match status {
            101 => Some(Unpoolable::Upgrade),
            _ if !http11 => Some(Unpoolable::Http10),
            _ if framing == Framing::UntilEof => Some(Unpoolable::UntilClose),
            // They have none (RFC 9112 §6.3), and some recipients read it all the same.
            100..=199 | 204 if promises_content => Some(Unpoolable::Framing),
            _ => self.unpoolable(framing, loose),
        }
    }

    #[inline]
    fn unpoolable(&self, framing: Framing, loose: bool) -> Option<Unpoolable> {
        let usual = match framing {
            Framing::Chunked => self.codings == 1,
            // The answer to HEAD has the fields of the one to GET.
            _ => self.codings <= 1 && self.lengths <= 1,
        };
        if self.authenticates {
            Some(Unpoolable::Authentication)
        } else if loose {
            Some(Unpoolable::Lines)
        } else if !usual || self.hides_framing {
            Some(Unpoolable::Framing)
        } else {
            self.close.then_some(Unpoolable::Close)
        }
    }

    /// Fields that say where a message ends, and whom it is for.
    const fn of_framing() -> [&'static [u8]; 3] {
        [b"content-length", b"transfer-encoding", b"host"]
    }

    #[inline]
    pub(super) fn connection(&self) -> &Persistence {
        &self.connection
    }

    #[inline]
    pub(super) fn is_grpc(&self) -> bool {
        self.grpc
    }

    /// `Upgrade` names HTTP/2 over cleartext TCP.
    #[inline]
    pub(super) fn is_h2c(&self) -> bool {
        self.upgrade_h2c
    }

    /// How the body of a response is delimited, with these fields in its head.
    #[inline]
    pub(super) fn response_framing(
        &self,
        http11: bool,
        status: u16,
        kind: Kind,
    ) -> Result<Framing, ParseError> {
        match (status, kind) {
            (100..=199 | 204 | 304, _) | (_, Kind::Head) | (200..=299, Kind::Connect) => {
                Ok(Framing::None)
            }
            _ => Ok(self.coding(http11)?.unwrap_or(Framing::UntilEof)),
        }
    }

    #[inline]
    fn length(&mut self, value: &[u8]) -> Result<(), ParseError> {
        for item in value.split(|byte| *byte == b',') {
            self.lengths += 1;
            match (token::number(item.trim_ascii()), self.length) {
                (None, _) => return Err(ParseError::ContentLength),
                (Some(new), Some(old)) if new != old => return Err(ParseError::ContentLengths),
                (length, _) => self.length = length,
            }
        }
        Ok(())
    }

    /// Only the last coding of the last field counts (RFC 9112 §6.3).
    #[inline]
    fn codings(&mut self, value: &[u8]) {
        self.codings += value.split(|byte| *byte == b',').count();
        let last = value.rsplit(|byte| *byte == b',').next().unwrap_or_default().trim_ascii();
        self.chunked = last.eq_ignore_ascii_case(b"chunked");
        self.other_coding = !self.chunked;
    }

    #[inline]
    fn coding(&self, http11: bool) -> Result<Option<Framing>, ParseError> {
        match (self.chunked, self.other_coding, self.length) {
            // Recipients disagree about these two, so following them is a guess.
            (true, ..) | (_, true, _) if !http11 => Err(ParseError::CodingInHttp10),
            (true, _, Some(_)) => Err(ParseError::CodingAndLength),
            (true, ..) => Ok(Some(Framing::Chunked)),
            (_, true, _) => Ok(Some(Framing::UntilEof)),
            (.., Some(length)) => Ok(Some(Framing::Length(length))),
            _ => Ok(None),
        }
    }
}

/// Whether credentials or a challenge are of a scheme that authenticates a connection: Microsoft's NTLM
/// and Negotiate (RFC 4559), and Kerberos.
#[inline]
fn is_of_connection(value: &[u8]) -> bool {
    let value = value.trim_ascii_start();
    let end = value.iter().position(|byte| matches!(byte, b' ' | b'\t' | b'\r'));
    let scheme = &value[..end.unwrap_or(value.len())];
    [&b"ntlm"[..], b"negotiate", b"kerberos"].iter().any(|it| scheme.eq_ignore_ascii_case(it))
}
