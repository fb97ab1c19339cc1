//! What becomes of a request by its head: the seam between an engine that balances requests and what
//! knows the routes. An engine shows the head ([`RequestView`]), and is told where the request goes
//! and what is changed of it ([`Routed`]).

mod budget;
mod edit;
mod limits;
mod plan;
mod retry;
mod view;

use std::fmt;
use std::sync::Arc;

pub use self::budget::RetryBudget;
pub(crate) use self::edit::edit_list;
pub use self::edit::{FieldEdit, RequestEdits, edit_request, edit_response, head_length};
pub use self::limits::{Deadlines, Limit, TimeLimits};
pub use self::plan::{Plan, TIMEOUT};
pub use self::retry::{Came, Retries, RetryOn, RetryPolicy, Verdict, Withheld};
pub use self::view::RequestView;
use crate::Endpoints;

/// gRPC `DEADLINE_EXCEEDED`.
const GRPC_DEADLINE_EXCEEDED: u32 = 4;
/// gRPC `PERMISSION_DENIED`.
const GRPC_PERMISSION_DENIED: u32 = 7;
/// gRPC `INTERNAL`.
const GRPC_INTERNAL: u32 = 13;
/// gRPC `UNAUTHENTICATED`.
const GRPC_UNAUTHENTICATED: u32 = 16;
/// gRPC `RESOURCE_EXHAUSTED`.
const GRPC_RESOURCE_EXHAUSTED: u32 = 8;
/// gRPC `UNIMPLEMENTED`.
const GRPC_UNIMPLEMENTED: u32 = 12;

/// The route that a request has taken, as records have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteName {
    /// The route.
    pub route: Arc<str>,
    /// Its rule: the name, or the place among the rules, which counts from zero.
    pub rule: Arc<str>,
    /// The service that the request went to; `None` where weir has answered itself.
    pub backend: Option<Arc<str>>,
}

/// What becomes of a request.
pub enum Routed<L> {
    /// It goes to an endpoint.
    To(Box<RouteTo<L>>),
    /// weir answers itself.
    Answer(OwnAnswer),
}

/// Where a request goes, and what is changed of it.
pub struct RouteTo<L> {
    /// For records.
    pub name: Arc<RouteName>,
    /// Chooses among the endpoints of the backend.
    pub endpoints: Arc<dyn Endpoints<Lease = L> + Send + Sync>,
    /// What is changed of the request.
    pub request: RequestEdits,
    /// What is changed of the head of the response.
    pub response: Arc<[FieldEdit]>,
    /// Its limits and retries, if the rule has any.
    pub plan: Option<Box<Plan>>,
}

/// An answer of weir's own, in the place of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnAnswer {
    /// For records; `None` where no rule has matched.
    pub name: Option<Arc<RouteName>>,
    /// The status of HTTP.
    pub status: u16,
    /// The reason as records and, for errors, the header [`crate::ERROR_HEADER`] name it.
    pub reason: &'static str,
    /// Where the client is sent (`Location`).
    pub location: Option<String>,
    /// What a filter changes of the head.
    pub fields: Arc<[FieldEdit]>,
}

// === impl OwnAnswer ===

impl OwnAnswer {
    /// An error with nothing else in it.
    #[must_use]
    pub fn error(status: u16, reason: &'static str, name: Option<Arc<RouteName>>) -> Self {
        Self { name, status, reason, location: None, fields: Arc::default() }
    }

    /// The status of gRPC that says the same (gRPC over HTTP/2, "HTTP to gRPC status code mapping").
    #[must_use]
    pub const fn grpc_status(&self) -> u32 {
        match self.status {
            400 => GRPC_INTERNAL,
            401 => GRPC_UNAUTHENTICATED,
            403 => GRPC_PERMISSION_DENIED,
            404 => GRPC_UNIMPLEMENTED,
            429 => GRPC_RESOURCE_EXHAUSTED,
            504 => GRPC_DEADLINE_EXCEEDED,
            _ => crate::GRPC_UNAVAILABLE,
        }
    }

    /// The head in HTTP/1, which has no content. `closes`: the connection ends behind it.
    #[must_use]
    pub fn head(&self, closes: bool) -> Vec<u8> {
        let mut head = format!("HTTP/1.1 {} {}\r\n", self.status, phrase(self.status));
        if self.status >= 400 {
            head += &format!("{}: {}\r\n", crate::ERROR_HEADER, self.reason);
        }
        if let Some(location) = &self.location {
            head += &format!("location: {location}\r\n");
        }
        head += "content-length: 0\r\n";
        if closes {
            head += "connection: close\r\n";
        }
        head += "\r\n";
        edit_response(head.as_bytes(), &self.fields)
    }
}

// === impl RouteTo ===

impl<L> fmt::Debug for RouteTo<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RouteTo").field("name", &self.name).finish_non_exhaustive()
    }
}

impl<L> fmt::Debug for Routed<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::To(to) => to.fmt(f),
            Self::Answer(answer) => answer.fmt(f),
        }
    }
}

// === helpers ===

/// RFC 9110 §15.
const fn phrase(status: u16) -> &'static str {
    match status {
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        404 => "Not Found",
        429 => "Too Many Requests",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        408 => "Request Timeout",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ => "Unknown",
    }
}
