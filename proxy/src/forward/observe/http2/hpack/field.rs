//! What a header block says about an exchange.

use crate::forward::http::is_grpc;

/// The fields that matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Other,
    Method,
    Path,
    Authority,
    Host,
    Status,
    ContentType,
    GrpcStatus,
}

/// What a header block has said. The first of several fields of one name counts.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in super::super) struct Head {
    pub(in super::super) method: Option<String>,
    /// Without its query.
    pub(in super::super) path: Option<String>,
    pub(in super::super) authority: Option<String>,
    pub(in super::super) host: Option<String>,
    pub(in super::super) status: Option<u16>,
    /// Of the content type.
    pub(in super::super) grpc: Option<bool>,
    /// `Some(None)` if it is not a number.
    pub(in super::super) grpc_status: Option<Option<u32>>,
}

// === impl Kind ===

impl Kind {
    /// Bytes of the longest name that matters.
    pub(super) const LONGEST: usize = "content-type".len();

    pub(super) fn of(name: &[u8]) -> Self {
        match name {
            b":method" => Self::Method,
            b":path" => Self::Path,
            b":authority" => Self::Authority,
            b"host" => Self::Host,
            b":status" => Self::Status,
            b"content-type" => Self::ContentType,
            b"grpc-status" => Self::GrpcStatus,
            _ => Self::Other,
        }
    }
}

// === impl Head ===

impl Head {
    #[inline]
    pub(super) fn see(&mut self, kind: Kind, value: &[u8]) {
        match kind {
            Kind::Other => {}
            Kind::Method => keep(&mut self.method, || text(value)),
            Kind::Path => keep(&mut self.path, || path(value)),
            Kind::Authority => keep(&mut self.authority, || text(value)),
            Kind::Host => keep(&mut self.host, || text(value)),
            Kind::Status => self.status = self.status.or_else(|| status(value)),
            Kind::ContentType => keep(&mut self.grpc, || is_grpc(value)),
            Kind::GrpcStatus => keep(&mut self.grpc_status, || grpc_status(value)),
        }
    }
}

// === helpers ===

fn keep<T>(place: &mut Option<T>, value: impl FnOnce() -> T) {
    if place.is_none() {
        *place = Some(value());
    }
}

fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value).into_owned()
}

/// As [`http::Uri::path`] has it.
fn path(value: &[u8]) -> String {
    match value.iter().position(|byte| matches!(byte, b'?' | b'#')).unwrap_or(value.len()) {
        0 => "/".to_owned(),
        end => text(&value[..end]),
    }
}

fn status(value: &[u8]) -> Option<u16> {
    let [a @ b'1'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9'] = *value else { return None };
    Some(u16::from(a - b'0') * 100 + u16::from(b - b'0') * 10 + u16::from(c - b'0'))
}

/// As [`crate::forward::http::grpc_status`] has it.
fn grpc_status(value: &[u8]) -> Option<u32> {
    std::str::from_utf8(value).ok()?.trim().parse().ok()
}
