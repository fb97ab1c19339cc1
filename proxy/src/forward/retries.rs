//! Requests that are sent once more: why that is safe, and what comes of it.

pub use weir_http::Repeat;

/// A request that was to be sent once more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Retry {
    /// Why it could be.
    pub why: Repeat,
    /// What has come of it.
    pub outcome: RetryOutcome,
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
