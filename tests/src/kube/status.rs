//! Refusals as an API server words them: an HTTP status and a `Status` object
//! (apimachinery, `pkg/apis/meta/v1`, type `Status`).

use http::StatusCode;
use serde_json::{Value, json};

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The HTTP status, which the object repeats.
    pub code: StatusCode,
    /// The machine-readable reason, `Expired` for example.
    pub reason: &'static str,
    /// The text for people.
    pub message: String,
}

// === impl Refusal ===

impl Refusal {
    /// A refusal with the reason that belongs to the code.
    #[must_use]
    pub fn new(code: StatusCode, message: impl Into<String>) -> Self {
        let reason = match code {
            StatusCode::BAD_REQUEST => "BadRequest",
            StatusCode::UNAUTHORIZED => "Unauthorized",
            StatusCode::FORBIDDEN => "Forbidden",
            StatusCode::NOT_FOUND => "NotFound",
            StatusCode::CONFLICT => "AlreadyExists",
            StatusCode::GONE => "Expired",
            StatusCode::UNSUPPORTED_MEDIA_TYPE => "UnsupportedMediaType",
            StatusCode::UNPROCESSABLE_ENTITY => "Invalid",
            StatusCode::TOO_MANY_REQUESTS => "TooManyRequests",
            StatusCode::SERVICE_UNAVAILABLE => "ServiceUnavailable",
            StatusCode::GATEWAY_TIMEOUT => "Timeout",
            _ => "InternalError",
        };
        Self { code, reason, message: message.into() }
    }

    /// What a watch from a version gets that the server has forgotten (apiserver,
    /// `storage/cacher`).
    #[must_use]
    pub fn too_old(version: u64, oldest: u64) -> Self {
        Self::new(StatusCode::GONE, format!("too old resource version: {version} ({oldest})"))
    }

    /// The object.
    #[must_use]
    pub fn object(&self) -> Value {
        json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "code": self.code.as_u16(),
        })
    }
}
