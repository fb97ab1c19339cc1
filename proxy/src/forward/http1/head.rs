//! Reads HTTP/1 heads: what the exchange is about, and how its messages are delimited. Never
//! changes a head, and is lenient where leniency cannot change the framing.

use std::ops::Range;

use httparse::{EMPTY_HEADER, Header, ParserConfig, Request, Response, Status};

use super::body::Framing;
use crate::forward::http::{HttpLimits, RequestInfo, is_grpc};

/// Heads with more fields than this take a second, larger table.
const USUAL_HEADERS: usize = 64;

pub(super) const TOO_LARGE: &str = "head larger than the limit";

/// The start of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RequestHead {
    pub(super) info: RequestInfo,
    pub(super) framing: Framing,
    pub(super) kind: Kind,
    /// The response decides whether the bytes after this request are HTTP.
    pub(super) may_tunnel: bool,
}

/// What a response's framing depends on (RFC 9112 §6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Head,
    Connect,
    Other,
}

/// The start of a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ResponseHead {
    pub(super) status: u16,
    pub(super) framing: Framing,
    pub(super) grpc: bool,
    pub(super) persistence: Persistence,
}

/// What a response says will become of its connection (RFC 9112 §9.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Persistence {
    /// Nothing, and it is HTTP/1.1: it persists.
    Unsaid,
    /// `keep-alive`, and where in the head that stands.
    KeepAlive(Range<usize>),
    /// Anything else.
    Said,
}

/// A parser's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Parsed<T> {
    /// A head, and its length.
    Complete(T, usize),
    Partial,
    /// Not a head that can be followed; why, for people.
    Invalid(&'static str),
}

/// The fields that framing depends on.
#[derive(Default)]
struct Fields {
    length: Option<u64>,
    chunked: bool,
    other_coding: bool,
    /// How many `Connection` fields there are, and where one says `keep-alive` and nothing else.
    connections: usize,
    keep_alive: Option<Range<usize>>,
    upgrade: bool,
    grpc: bool,
    host: Option<String>,
}

/// Reads a request head off the front of `input`.
pub(super) fn request(input: &[u8], limits: &HttpLimits) -> Parsed<RequestHead> {
    with_table(limits.max_headers, |table| {
        let mut request = Request::new(table);
        match request.parse(input) {
            Ok(Status::Partial) => Ok(Parsed::Partial),
            Ok(Status::Complete(length)) => Ok(match request_head(&request, input) {
                Ok(head) => Parsed::Complete(head, length),
                Err(reason) => Parsed::Invalid(reason),
            }),
            Err(error) => Err(error),
        }
    })
}

/// Reads a response head, the answer to a request of `kind`, off the front of `input`.
pub(super) fn response(input: &[u8], kind: Kind, limits: &HttpLimits) -> Parsed<ResponseHead> {
    let mut config = ParserConfig::default();
    config.allow_obsolete_multiline_headers_in_responses(true);
    config.allow_spaces_after_header_name_in_responses(true);
    with_table(limits.max_headers, |table| {
        let mut response = Response::new(table);
        match config.parse_response(&mut response, input) {
            Ok(Status::Partial) => Ok(Parsed::Partial),
            Ok(Status::Complete(length)) => Ok(match response_head(&response, kind, input) {
                Ok(head) => Parsed::Complete(head, length),
                Err(reason) => Parsed::Invalid(reason),
            }),
            Err(error) => Err(error),
        }
    })
}

fn with_table<'b, T>(
    max_headers: usize,
    parse: impl Fn(&mut [Header<'b>]) -> Result<Parsed<T>, httparse::Error>,
) -> Parsed<T> {
    let parsed = match parse(&mut [EMPTY_HEADER; USUAL_HEADERS]) {
        Err(httparse::Error::TooManyHeaders) if max_headers > USUAL_HEADERS => {
            parse(&mut vec![EMPTY_HEADER; max_headers])
        }
        parsed => parsed,
    };
    parsed.unwrap_or_else(|error| {
        Parsed::Invalid(match error {
            httparse::Error::HeaderName => "invalid header name",
            httparse::Error::HeaderValue => "invalid header value",
            httparse::Error::NewLine => "invalid line end",
            httparse::Error::Status => "invalid status",
            httparse::Error::Token => "invalid method or target",
            httparse::Error::TooManyHeaders => "too many headers",
            httparse::Error::Version => "unknown HTTP version",
        })
    })
}

fn request_head(request: &Request<'_, '_>, input: &[u8]) -> Result<RequestHead, &'static str> {
    let method = request.method.unwrap_or_default();
    let target = request.path.unwrap_or_default();
    let http11 = request.version == Some(1);
    let fields = Fields::read(request.headers, input)?;
    let framing = match fields.coding(http11)? {
        Some(Framing::UntilEof) => return Err("request body without an end"),
        Some(framing) => framing,
        None => Framing::None,
    };
    let kind = match method {
        "HEAD" => Kind::Head,
        "CONNECT" => Kind::Connect,
        _ => Kind::Other,
    };
    let (target_authority, path) = split_target(target, kind);
    Ok(RequestHead {
        framing,
        kind,
        may_tunnel: kind == Kind::Connect || fields.upgrade,
        info: RequestInfo {
            version: if http11 { 11 } else { 10 },
            method: method.to_owned(),
            authority: fields.host.or(target_authority.map(str::to_owned)),
            path: path.to_owned(),
            grpc: fields.grpc,
        },
    })
}

fn response_head(
    response: &Response<'_, '_>,
    kind: Kind,
    input: &[u8],
) -> Result<ResponseHead, &'static str> {
    let status = response.code.unwrap_or_default();
    let http11 = response.version == Some(1);
    let fields = Fields::read(response.headers, input)?;
    let framing = match (status, kind) {
        (100..=199 | 204 | 304, _) | (_, Kind::Head) | (200..=299, Kind::Connect) => Framing::None,
        _ => fields.coding(http11)?.unwrap_or(Framing::UntilEof),
    };
    Ok(ResponseHead {
        status,
        framing,
        grpc: fields.grpc,
        persistence: match (fields.connections, fields.keep_alive) {
            (0, _) if http11 => Persistence::Unsaid,
            (1, Some(value)) => Persistence::KeepAlive(value),
            _ => Persistence::Said,
        },
    })
}

/// Authority and path of a target in any of its four forms (RFC 9112 §3.2).
fn split_target(target: &str, kind: Kind) -> (Option<&str>, &str) {
    let target = target.split('?').next().unwrap_or_default();
    if kind == Kind::Connect {
        return (Some(target), "");
    }
    let Some((_, rest)) = target.split_once("://").filter(|_| !target.starts_with('/')) else {
        return (None, target);
    };
    match rest.find('/') {
        Some(slash) => (Some(&rest[..slash]), &rest[slash..]),
        None => (Some(rest), "/"),
    }
}

// === impl Parsed ===

impl<T> Parsed<T> {
    /// Refuses a head that is larger than the limit even if it came in one piece.
    pub(super) fn bounded(self, limits: &HttpLimits) -> Self {
        match self {
            Self::Complete(_, length) if length > limits.max_head_bytes => Self::Invalid(TOO_LARGE),
            parsed => parsed,
        }
    }
}

// === impl Fields ===

impl Fields {
    fn read(headers: &[Header<'_>], input: &[u8]) -> Result<Self, &'static str> {
        let mut fields = Self::default();
        for header in headers {
            let value = header.value.trim_ascii();
            match header.name.len() {
                4 if header.name.eq_ignore_ascii_case("host") && fields.host.is_none() => {
                    fields.host = Some(String::from_utf8_lossy(value).into_owned());
                }
                7 if header.name.eq_ignore_ascii_case("upgrade") => fields.upgrade = true,
                10 if header.name.eq_ignore_ascii_case("connection") => {
                    fields.connections += 1;
                    if value.eq_ignore_ascii_case(b"keep-alive") {
                        let start = value.as_ptr().addr() - input.as_ptr().addr();
                        fields.keep_alive = Some(start..start + value.len());
                    }
                }
                12 if header.name.eq_ignore_ascii_case("content-type") => {
                    fields.grpc = is_grpc(value);
                }
                14 if header.name.eq_ignore_ascii_case("content-length") => fields.length(value)?,
                17 if header.name.eq_ignore_ascii_case("transfer-encoding") => {
                    fields.codings(value);
                }
                _ => {}
            }
        }
        Ok(fields)
    }

    fn length(&mut self, value: &[u8]) -> Result<(), &'static str> {
        for item in value.split(|byte| *byte == b',') {
            let item = item.trim_ascii();
            let digits = !item.is_empty() && item.iter().all(u8::is_ascii_digit);
            let number = std::str::from_utf8(item).ok().filter(|_| digits);
            let length = number.and_then(|number| number.parse::<u64>().ok());
            match (length, self.length) {
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
