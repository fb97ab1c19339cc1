//! Requests that are sent once more: why that is safe, and what comes of it.

/// A request that was to be sent once more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Retry {
    /// Why it could be.
    pub level: RetryLevel,
    /// What has come of it.
    pub outcome: RetryOutcome,
}

/// Why a request may be sent once more, the safest reason first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RetryLevel {
    /// No connection could be made.
    Connect,
    /// The endpoint has refused the stream, or had gone away before it (RFC 9113 §8.7).
    Refused,
    /// A connection that had been used before ended, and had taken none of it.
    Untaken,
}

/// What has come of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RetryOutcome {
    /// The request was sent again, and answered.
    Success,
    /// It was, and was not answered.
    Failure,
    /// It was not: the first connection may have taken it.
    Unproven,
    /// It was not: more of it had been sent than is kept.
    TooLarge,
}

// === impl RetryLevel ===

impl RetryLevel {
    /// The value of the label `level`: the numbers are those of docs/SERVICES.md.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connect => "0",
            Self::Refused => "1",
            Self::Untaken => "2",
        }
    }
}

// === impl RetryOutcome ===

impl RetryOutcome {
    /// The value of the label `outcome`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failure => "failure",
            Self::Unproven => "unproven",
            Self::TooLarge => "too_large",
        }
    }
}
