//! Requests that are sent once more: why that is safe, and what comes of it.

pub use weir_http::Repeat;
use weir_http::Withheld;

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
    /// The request was sent again, and answered; where its route says so, with what is no failure.
    Success,
    /// It was, and was not.
    Failure,
    /// It was not: the first connection may have taken it.
    Unproven,
    /// It was not: more of it had been sent than is kept.
    TooLarge,
    /// It was not: the service's budget was used up.
    NoBudget,
    /// It was not: there was not enough left of its time.
    NoTime,
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
            Self::NoBudget => "no_budget",
            Self::NoTime => "no_time",
        }
    }
}

impl From<Withheld> for RetryOutcome {
    fn from(why: Withheld) -> Self {
        match why {
            Withheld::NoBudget => Self::NoBudget,
            Withheld::TooLarge => Self::TooLarge,
            Withheld::NoTime => Self::NoTime,
        }
    }
}
