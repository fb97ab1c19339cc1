//! Reads HTTP/1 heads: what the exchange is about, and how its messages are delimited. Never
//! changes a head, and is lenient where leniency cannot change the framing.

use std::ops::Range;

use httparse::{EMPTY_HEADER, Header, ParserConfig, Request, Response, Status};

use super::body::Framing;
use super::fields::{Field, Fields, Kind, RequestHead, RequestLine};
use crate::forward::http::HttpLimits;

/// Heads with more fields than this take a second, larger table.
const USUAL_HEADERS: usize = 64;

pub(super) const TOO_LARGE: &str = "head larger than the limit";

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

/// Reads a request head off the front of `input`.
pub(super) fn request(input: &[u8], limits: &HttpLimits) -> Parsed<RequestHead> {
    with_table(limits.max_headers, |table| {
        let mut request = Request::new(table);
        match request.parse(input) {
            Ok(Status::Partial) => Ok(Parsed::Partial),
            Ok(Status::Complete(length)) => Ok(match request_head(&request) {
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

fn request_head(request: &Request<'_, '_>) -> Result<RequestHead, &'static str> {
    let method = request.method.unwrap_or_default();
    let line = RequestLine::new(method.into(), request.path.unwrap_or_default());
    RequestHead::new(line, request.version == Some(1), fields(request.headers)?)
}

fn response_head(
    response: &Response<'_, '_>,
    kind: Kind,
    input: &[u8],
) -> Result<ResponseHead, &'static str> {
    let status = response.code.unwrap_or_default();
    let http11 = response.version == Some(1);
    let fields = fields(response.headers)?;
    Ok(ResponseHead {
        status,
        framing: fields.response_framing(http11, status, kind)?,
        grpc: fields.is_grpc(),
        persistence: Persistence::of(response.headers, http11, input),
    })
}

fn fields(headers: &[Header<'_>]) -> Result<Fields, &'static str> {
    let mut fields = Fields::default();
    for header in headers {
        if let Some(field) = Field::of(header.name.as_bytes()) {
            fields.add(field, header.value)?;
        }
    }
    Ok(fields)
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

// === impl Persistence ===

impl Persistence {
    fn of(headers: &[Header<'_>], http11: bool, input: &[u8]) -> Self {
        let mut fields = headers
            .iter()
            .filter(|header| Field::of(header.name.as_bytes()) == Some(Field::Connection));
        match (fields.next(), fields.next()) {
            (None, _) if http11 => Self::Unsaid,
            (Some(only), None) => {
                let value = only.value.trim_ascii();
                if !value.eq_ignore_ascii_case(b"keep-alive") {
                    return Self::Said;
                }
                let start = value.as_ptr().addr() - input.as_ptr().addr();
                Self::KeepAlive(start..start + value.len())
            }
            _ => Self::Said,
        }
    }
}
