//! HTTP/1 (RFC 9112): heads, bodies and the exchanges of a connection.

mod body;
mod exchanges;
mod fields;
mod head;
mod line;
mod prefix;
mod request;
mod response;
mod section;
mod session;
#[cfg(test)]
mod tests;
pub(crate) mod token;
mod unpoolable;
mod version;

pub use self::body::{Body, Framing, NotChunked, Progress};
pub use self::exchanges::MAX_PIPELINED;
use self::exchanges::{Answer, Exchanges};
pub use self::fields::{Kind, RequestHead};
pub use self::head::HeadReader;
pub use self::prefix::{MAX_METHOD, RequestPrefix};
pub use self::request::{RequestLine, RequestReader};
pub use self::response::{CloseEdit, Edit, ResponseHead, ResponseReader, StatusLine};
pub use self::session::{MAX_HELD, Session, UpstreamEnd};
pub use self::unpoolable::Unpoolable;

/// Bounds of a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadLimits {
    /// Its bytes.
    pub bytes: usize,
    /// Its fields.
    pub fields: usize,
}

// === impl HeadLimits ===

impl HeadLimits {
    /// Heads of any size, for a reader that keeps nothing of them but what it reports.
    pub const NONE: Self = Self { bytes: usize::MAX, fields: usize::MAX };
}

impl Default for HeadLimits {
    /// What common servers accept, and more.
    fn default() -> Self {
        Self { bytes: 1 << 20, fields: 1024 }
    }
}
