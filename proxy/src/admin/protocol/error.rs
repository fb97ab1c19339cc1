//! Why a call has no reply.

use serde::{Deserialize, Serialize};

/// Why a command was refused or failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct ControlError {
    /// For programs.
    pub code: ErrorCode,
    /// For people.
    pub message: String,
}

/// Kinds of [`ControlError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// Not understood.
    BadRequest,
    /// The other end speaks another version.
    Version,
    /// Understood and refused.
    Refused,
    /// Understood, and not permitted to the caller.
    Denied,
    /// Tried and failed.
    Failed,
    /// A code of a later version.
    #[serde(other)]
    Unknown,
}

// === impl ControlError ===

impl ControlError {
    /// The request is not understood.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self { code: ErrorCode::BadRequest, message: message.into() }
    }

    /// The request is understood and refused.
    pub fn refused(message: impl Into<String>) -> Self {
        Self { code: ErrorCode::Refused, message: message.into() }
    }

    /// The caller may not ask for this.
    pub fn denied(message: impl Into<String>) -> Self {
        Self { code: ErrorCode::Denied, message: message.into() }
    }

    /// Carrying it out failed; nothing was changed.
    pub fn failed(message: impl Into<String>) -> Self {
        Self { code: ErrorCode::Failed, message: message.into() }
    }
}
