//! What holds for one request on its route besides where it goes, and how far it is.

use std::time::{Duration, Instant};

use super::limits::{Deadlines, TimeLimits};
use super::retry::{Came, Retries, Verdict};

/// The reason of an answer for which an endpoint was too late.
pub const TIMEOUT: &str = "timeout";

/// A request whose rule has limits or retries.
#[derive(Debug)]
pub struct Plan {
    limits: TimeLimits,
    /// Once it has begun.
    pub deadlines: Option<Deadlines>,
    /// If the rule has any.
    pub retries: Option<Retries>,
    /// When it was sent to the endpoint where it is.
    sent: Option<Instant>,
    /// When it is to be sent, if it has to wait: for the first time, or once more.
    pub resumes: Option<Instant>,
    /// How long it waits before it is sent for the first time.
    delay: Option<Duration>,
    /// When its owner is to look at it, if that is arranged.
    pub(crate) armed: Option<Instant>,
}

// === impl Plan ===

impl Plan {
    /// For a request that has not begun.
    #[must_use]
    pub const fn new(limits: TimeLimits, retries: Option<Retries>) -> Self {
        Self {
            limits,
            deadlines: None,
            retries,
            sent: None,
            resumes: None,
            delay: None,
            armed: None,
        }
    }

    /// The same where it is to wait before it is sent.
    #[must_use]
    pub fn with_delay(self, delay: Option<Duration>) -> Self {
        Self { delay, ..self }
    }

    /// How long it has to wait before it is sent, which is told once.
    pub const fn take_delay(&mut self) -> Option<Duration> {
        self.delay.take()
    }

    /// Its head has come; `moved` as in [`Deadlines::new`].
    pub fn begin(&mut self, now: Instant, moved: u64) {
        self.deadlines = Some(Deadlines::new(self.limits, now, moved));
        if let Some(retries) = &mut self.retries {
            retries.begin(now);
        }
    }

    /// It is sent to an endpoint.
    pub fn attempt(&mut self, now: Instant) {
        self.sent = Some(now);
        if let Some(deadlines) = &mut self.deadlines {
            deadlines.attempt(now);
        }
    }

    /// It is not at that endpoint any more.
    pub fn attempt_over(&mut self) {
        if let Some(deadlines) = &mut self.deadlines {
            deadlines.attempt_over();
        }
    }

    /// How long it has been there.
    #[must_use]
    pub fn took(&self, now: Instant) -> Duration {
        self.sent.map(|sent| now.saturating_duration_since(sent)).unwrap_or_default()
    }

    /// When something is to be done next.
    #[must_use]
    pub fn next(&self) -> Option<Instant> {
        let passes = self.deadlines.as_ref().and_then(Deadlines::next);
        passes.into_iter().chain(self.resumes).min()
    }

    /// What comes decides whether it is sent once more, or whether that has helped.
    #[must_use]
    pub fn watches(&self) -> bool {
        self.retries.as_ref().is_some_and(Retries::watches)
    }

    /// It may be sent once more, if what comes asks for that.
    #[must_use]
    pub fn may_repeat(&self) -> bool {
        self.retries.as_ref().is_some_and(Retries::may_repeat)
    }

    /// It was sent once more, and that has not helped.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.retries.as_ref().is_some_and(Retries::has_failed)
    }

    /// Whether it is sent once more. `estimate`: what an endpoint takes; `is_kept`: it is all there.
    pub fn decide(
        &mut self,
        came: Came,
        now: Instant,
        (estimate, is_kept): (Duration, bool),
    ) -> Verdict {
        let until = self.deadlines.as_ref().and_then(Deadlines::request);
        match &mut self.retries {
            Some(retries) => retries.decide(came, (now, until), (estimate, is_kept)),
            None => Verdict::No,
        }
    }
}
