//! Time limits of a request on its route. Pure: the time is given.

use std::time::{Duration, Instant};

/// How often it is looked whether anything has moved, within the limit of idleness.
const LOOKS: u32 = 4;

/// How long a request may take; `None`: as long as it does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TimeLimits {
    /// From its head to the end of its response, however often it is sent.
    pub request: Option<Duration>,
    /// From when it is sent to an endpoint to the end of that one's response.
    pub backend: Option<Duration>,
    /// Without a byte of content or a head in either direction. Noticed within a quarter of it.
    pub idle: Option<Duration>,
}

/// One of the limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Limit {
    /// [`TimeLimits::request`].
    Request,
    /// [`TimeLimits::backend`].
    Backend,
    /// [`TimeLimits::idle`].
    Idle,
}

/// When the limits of a request pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadlines {
    limits: TimeLimits,
    request: Option<Instant>,
    backend: Option<Instant>,
    idle: Option<Quiet>,
}

/// How long nothing has moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Quiet {
    /// When it is looked next.
    at: Instant,
    /// What had moved by the last look.
    moved: u64,
    /// Looks since then that found the same.
    looks: u32,
}

// === impl TimeLimits ===

impl TimeLimits {
    /// There is none.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

// === impl Limit ===

impl Limit {
    /// The value of the label `limit`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Backend => "backend",
            Self::Idle => "idle",
        }
    }
}

// === impl Deadlines ===

impl Deadlines {
    /// The head of a request has come; `moved`: bytes so far, by any count that only grows.
    #[must_use]
    pub fn new(limits: TimeLimits, now: Instant, moved: u64) -> Self {
        let idle = limits.idle.and_then(|limit| {
            let at = now.checked_add(limit / LOOKS)?;
            Some(Quiet { at, moved, looks: 0 })
        });
        let request = limits.request.and_then(|limit| now.checked_add(limit));
        Self { limits, request, backend: None, idle }
    }

    /// It is sent to an endpoint.
    pub fn attempt(&mut self, now: Instant) {
        self.backend = self.limits.backend.and_then(|limit| now.checked_add(limit));
    }

    /// The endpoint is done with the request, or the request with the endpoint.
    pub const fn attempt_over(&mut self) {
        self.backend = None;
    }

    /// When something is to be looked at next.
    #[must_use]
    pub fn next(&self) -> Option<Instant> {
        let idle = self.idle.map(|quiet| quiet.at);
        self.request.into_iter().chain(self.backend).chain(idle).min()
    }

    /// When all of the request has to be over.
    #[must_use]
    pub const fn request(&self) -> Option<Instant> {
        self.request
    }

    /// The limit that has passed, if any has.
    pub fn pass(&mut self, now: Instant, moved: u64) -> Option<Limit> {
        let has_passed = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if has_passed(self.request) {
            return Some(Limit::Request);
        }
        if has_passed(self.backend) {
            self.backend = None;
            return Some(Limit::Backend);
        }
        let (Some(limit), Some(quiet)) = (self.limits.idle, &mut self.idle) else { return None };
        if quiet.at > now {
            return None;
        }
        quiet.looks = if quiet.moved == moved { quiet.looks + 1 } else { 0 };
        quiet.moved = moved;
        quiet.at = now + limit / LOOKS;
        (quiet.looks >= LOOKS).then_some(Limit::Idle)
    }

    /// Whether an endpoint that has had the whole request is to blame for it.
    #[must_use]
    pub fn blames_endpoint(&self, limit: Limit) -> bool {
        // A request that may be at several endpoints in turn says nothing of the last one.
        limit != Limit::Request || self.limits.backend.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn seconds(count: u64) -> Option<Duration> {
        Some(Duration::from_secs(count))
    }

    #[test]
    fn limits_pass_in_their_order_and_that_of_a_backend_for_each_attempt() {
        let now = Instant::now();
        let at = |second| now + Duration::from_secs(second);
        let limits = TimeLimits { request: seconds(10), backend: seconds(4), idle: None };
        let mut deadlines = Deadlines::new(limits, now, 0);
        assert_eq!(deadlines.next(), Some(at(10)));
        deadlines.attempt(at(1));
        assert_eq!((deadlines.next(), deadlines.pass(at(4), 0)), (Some(at(5)), None));
        assert_eq!(deadlines.pass(at(5), 0), Some(Limit::Backend));
        assert_eq!((deadlines.next(), deadlines.pass(at(6), 0)), (Some(at(10)), None));
        deadlines.attempt(at(6));
        // Both at once: nothing is sent any more.
        assert_eq!(deadlines.pass(at(10), 0), Some(Limit::Request));
        deadlines.attempt(at(7));
        deadlines.attempt_over();
        assert_eq!(deadlines.next(), Some(at(10)));
    }

    #[test]
    fn what_moves_is_not_idle() {
        let now = Instant::now();
        let limits = TimeLimits { idle: seconds(4), ..TimeLimits::default() };
        let mut deadlines = Deadlines::new(limits, now, 7);
        let mut passed = Vec::new();
        for second in 1..20 {
            let at = now + Duration::from_secs(second);
            assert_eq!(deadlines.next(), Some(at));
            // Until then a byte each second.
            passed.push(deadlines.pass(at, 7 + second.min(10)));
        }
        assert_eq!(passed.iter().position(Option::is_some), Some(13));
        assert_eq!(passed[13], Some(Limit::Idle));
    }

    #[test]
    fn a_limit_beyond_what_a_clock_can_say_is_none() {
        let limits = TimeLimits { request: Some(Duration::MAX), ..TimeLimits::default() };
        assert_eq!(Deadlines::new(limits, Instant::now(), 0).next(), None);
        let mut deadlines = Deadlines::new(TimeLimits::default(), Instant::now(), 0);
        deadlines.attempt(Instant::now());
        assert_eq!((deadlines.next(), deadlines.pass(Instant::now(), 0)), (None, None));
    }

    #[test]
    fn an_endpoint_is_not_to_blame_for_the_time_of_others() {
        for (backend, blames) in [(None, true), (seconds(1), false)] {
            let limits = TimeLimits { request: seconds(10), backend, idle: None };
            let deadlines = Deadlines::new(limits, Instant::now(), 0);
            assert_eq!(deadlines.blames_endpoint(Limit::Request), blames);
            assert!(deadlines.blames_endpoint(Limit::Backend));
        }
    }
}
