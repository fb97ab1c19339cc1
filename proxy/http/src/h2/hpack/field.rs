//! What a header block says about an exchange.

use std::sync::Arc;

use crate::trace::Trace;
use crate::{LONGEST_TEXT, RequestInfo, is_grpc};

/// The fields that matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::h2) enum Kind {
    Other,
    Method,
    Path,
    Authority,
    Host,
    Status,
    ContentType,
    GrpcStatus,
    TraceParent,
}

/// What a field says, if it matters. An entry of the dynamic table and every head that names it have
/// the same text: naming it is one byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::h2) enum Said {
    Nothing,
    Method(Arc<str>),
    /// Without its query.
    Path(Arc<str>),
    Authority(Arc<str>),
    Host(Arc<str>),
    /// `None` if it is no status.
    Status(Option<u16>),
    /// Whether the content is gRPC's.
    ContentType(bool),
    /// `None` if it is not a number.
    GrpcStatus(Option<u32>),
    Trace(Trace),
}

/// What a header block has said. The first of several fields of one name counts, but for `traceparent`,
/// which says nothing then.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// `:method`.
    pub method: Option<Arc<str>>,
    /// `:path` without its query.
    pub path: Option<Arc<str>>,
    /// `:authority`.
    pub authority: Option<Arc<str>>,
    /// `host`.
    pub host: Option<Arc<str>>,
    /// `:status`.
    pub status: Option<u16>,
    /// Of the content type.
    pub grpc: Option<bool>,
    /// `Some(None)` if it is not a number.
    pub grpc_status: Option<Option<u32>>,
    /// `traceparent`.
    pub(crate) trace: Trace,
}

// === impl Kind ===

impl Kind {
    /// Bytes of the longest name that matters.
    pub(in crate::h2) const LONGEST: usize = "content-type".len();

    #[inline]
    pub(in crate::h2) const fn of(name: &[u8]) -> Self {
        match name {
            b":method" => Self::Method,
            b":path" => Self::Path,
            b":authority" => Self::Authority,
            b"host" => Self::Host,
            b":status" => Self::Status,
            b"content-type" => Self::ContentType,
            b"grpc-status" => Self::GrpcStatus,
            b"traceparent" => Self::TraceParent,
            _ => Self::Other,
        }
    }
}

// === impl Head ===

impl Head {
    // Inlined by hand, as is `Said::of`: a call for each field costs a tenth of a whole exchange.
    #[inline(always)]
    pub(in crate::h2) fn see(&mut self, said: Said) {
        match said {
            Said::Nothing => {}
            Said::Method(method) => keep(&mut self.method, method),
            Said::Path(path) => keep(&mut self.path, path),
            Said::Authority(authority) => keep(&mut self.authority, authority),
            Said::Host(host) => keep(&mut self.host, host),
            Said::Status(status) => self.status = self.status.or(status),
            Said::ContentType(grpc) => keep(&mut self.grpc, grpc),
            Said::GrpcStatus(status) => keep(&mut self.grpc_status, status),
            Said::Trace(trace) => self.trace.add(trace),
        }
    }

    /// What it says of a request, if it is the head of one.
    #[inline]
    pub(crate) fn into_request(self) -> RequestInfo {
        RequestInfo {
            version: 20,
            method: self.method.unwrap_or_default(),
            authority: self.authority.or(self.host),
            path: self.path.unwrap_or_default(),
            grpc: self.grpc.unwrap_or_default(),
            trace: self.trace.parent(),
        }
    }

    /// Bytes of its texts.
    #[inline]
    pub fn text_bytes(&self) -> usize {
        let texts = [&self.method, &self.path, &self.authority, &self.host];
        texts.into_iter().flatten().map(|text| text.len()).sum()
    }
}

// === impl Said ===

impl Said {
    #[inline(always)]
    pub(in crate::h2) fn of(kind: Kind, value: &[u8]) -> Self {
        match kind {
            Kind::Other => Self::Nothing,
            Kind::Method => Self::Method(text(value)),
            Kind::Path => Self::Path(path(value)),
            Kind::Authority => Self::Authority(text(value)),
            Kind::Host => Self::Host(text(value)),
            Kind::Status => Self::Status(status(value)),
            Kind::ContentType => Self::ContentType(is_grpc(value)),
            Kind::GrpcStatus => Self::GrpcStatus(grpc_status(value)),
            Kind::TraceParent => Self::Trace(Trace::of(value)),
        }
    }

    /// Bytes of the heap that it takes.
    #[inline]
    pub(in crate::h2) fn memory(&self) -> usize {
        /// Two counters stand before the text.
        const COUNTERS: usize = 2 * size_of::<usize>();
        match self {
            Self::Method(text) | Self::Path(text) | Self::Authority(text) | Self::Host(text) => {
                COUNTERS + text.len()
            }
            Self::Trace(trace) => trace.memory(),
            _ => 0,
        }
    }
}

// === helpers ===

#[inline]
fn keep<T>(place: &mut Option<T>, value: T) {
    if place.is_none() {
        *place = Some(value);
    }
}

/// Of a long one, the beginning, in whole characters.
#[inline]
fn text(value: &[u8]) -> Arc<str> {
    let Some(begin) = value.get(..LONGEST_TEXT).filter(|begin| begin.len() < value.len()) else {
        return String::from_utf8_lossy(value).into();
    };
    let whole = match str::from_utf8(begin) {
        Err(error) if error.error_len().is_none() => &begin[..error.valid_up_to()],
        _ => begin,
    };
    String::from_utf8_lossy(whole).into()
}

/// As `http::Uri::path` has it.
#[inline]
fn path(value: &[u8]) -> Arc<str> {
    match value.iter().position(|byte| matches!(byte, b'?' | b'#')).unwrap_or(value.len()) {
        0 => "/".into(),
        end => text(&value[..end]),
    }
}

#[inline]
fn status(value: &[u8]) -> Option<u16> {
    let [a @ b'1'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9'] = *value else { return None };
    Some(u16::from(a - b'0') * 100 + u16::from(b - b'0') * 10 + u16::from(c - b'0'))
}

/// The number in a `grpc-status` field.
fn grpc_status(value: &[u8]) -> Option<u32> {
    std::str::from_utf8(value).ok()?.trim().parse().ok()
}
