//! How many requests a rule lets through. Pure: the time is given.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

/// So many requests in so much time, and so many at once (the generic cell rate algorithm: each request
/// takes its part of the time, and may be early by what those at once take).
#[derive(Debug)]
pub struct Rate {
    limit: RateLimit,
    start: Instant,
    /// When the next request is due, in nanoseconds since the start.
    due: AtomicU64,
}

/// What a rule says of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// So many requests
    pub requests: u32,
    /// in so much time,
    pub per: Duration,
    /// and so many at once.
    pub burst: u32,
}

// === impl Rate ===

impl Rate {
    /// No request has come. No time that is given later is before this one.
    #[must_use]
    pub const fn new(limit: RateLimit, start: Instant) -> Self {
        Self { limit, start, due: AtomicU64::new(0) }
    }

    /// As it is written.
    #[must_use]
    pub const fn limit(&self) -> RateLimit {
        self.limit
    }

    /// Whether a request may pass, which counts then.
    pub fn take(&self, now: Instant) -> bool {
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let each = nanos(self.limit.per) / u64::from(self.limit.requests).max(1);
        let early = each.saturating_mul(u64::from(self.limit.burst.max(1)) - 1);
        let now = nanos(now.saturating_duration_since(self.start));
        let next = |due: u64| {
            let due = due.max(now);
            (due - now <= early).then(|| due.saturating_add(each))
        };
        self.due.fetch_update(Relaxed, Relaxed, next).is_ok()
    }
}

/// What is written, not what has come.
impl PartialEq for Rate {
    fn eq(&self, other: &Self) -> bool {
        self.limit == other.limit
    }
}

impl Eq for Rate {}

// === impl RateLimit ===

impl RateLimit {
    /// Whether it can be in force.
    ///
    /// # Errors
    /// What is out of its range.
    pub fn check(&self) -> Result<(), String> {
        const LONGEST: Duration = Duration::from_secs(3600);
        if self.requests == 0 || self.burst == 0 {
            return Err(
                "rate_limit: requests and burst are 1 at least; to refuse all requests, leave the \
                        backends' weights at 0"
                    .to_owned(),
            );
        }
        match self.per.is_zero() || self.per > LONGEST {
            true => Err("rate_limit.per is a time of up to an hour, such as 1s".to_owned()),
            false => Ok(()),
        }
    }
}

impl fmt::Display for RateLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { requests, per, burst } = self;
        write!(f, "{requests} in {per:?}, {burst} at once")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(requests: u32, seconds: u64, burst: u32) -> (Rate, Instant) {
        let start = Instant::now();
        let per = Duration::from_secs(seconds);
        (Rate::new(RateLimit { requests, per, burst }, start), start)
    }

    #[test]
    fn so_many_pass_at_once_and_so_many_in_the_time() {
        for (requests, seconds, burst) in [(10, 1, 10), (10, 1, 1), (5, 60, 3), (1000, 1, 50)] {
            let (rate, start) = rate(requests, seconds, burst);
            let at_once = (0..5000).filter(|_| rate.take(start)).count();
            assert_eq!(at_once, burst as usize);
            // In ten times the time: ten times as many, whenever they come.
            let step = Duration::from_secs(seconds * 10) / 20_000;
            let later = (1..=20_000).filter(|step_of| rate.take(start + step * *step_of)).count();
            let expected = requests as usize * 10;
            assert!(later.abs_diff(expected) <= 1 + expected / 100, "{later} of {expected}");
        }
    }

    #[test]
    fn what_was_not_used_is_saved_up_to_the_burst() {
        let (rate, start) = rate(10, 1, 4);
        let later = start + Duration::from_secs(3600);
        assert_eq!((0..100).filter(|_| rate.take(later)).count(), 4);
        assert!(!rate.take(later + Duration::from_millis(99)));
        assert!(rate.take(later + Duration::from_millis(100)));
    }

    #[test]
    fn a_rate_is_the_same_whatever_has_passed() {
        let ((one, start), (other, _)) = (rate(10, 1, 4), rate(10, 1, 4));
        assert!(one.take(start) && one == other);
        assert_ne!(one, rate(10, 1, 5).0);
    }
}
