//! Which requests a rule has sent once more (level 3 of the retries in docs/SERVICES.md). Pure: the time is
//! given.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::budget::RetryBudget;
use super::view::RequestView;
use crate::GRPC_UNAVAILABLE;

/// The time before a further attempt grows to so many times the first at most.
const MOST_GROWTH: u32 = 10;

/// What a rule says of requests that fail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Answers after which a request is sent once more. It is too where there is none: the connection is
    /// lost, or the limit of the backend has passed.
    pub on: RetryOn,
    /// How often, at most.
    pub attempts: u8,
    /// How long is waited before, at least. Doubles with each.
    pub backoff: Duration,
}

/// Answers that are failures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RetryOn {
    /// Statuses of HTTP, from the first of each pair to the second. For idempotent methods.
    Http(Vec<(u16, u16)>),
    /// Statuses of gRPC. For all calls: the rule says that they may be processed twice.
    Grpc(Vec<u32>),
}

/// What has come of a request at an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Came {
    /// A response with this status.
    Status(u16),
    /// A response of gRPC with this status, and nothing else in it.
    Grpc(u32),
    /// The connection or the stream has ended without a response.
    Lost,
    /// The limit of the backend has passed without one.
    Late,
}

/// Whether a request is sent once more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is not to be.
    No,
    /// It would be, and is not.
    Withheld(Withheld),
    /// It is, after this time.
    After(Duration),
}

/// Why a request is not sent once more that its rule would have sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Withheld {
    /// The budget of the service is used up.
    NoBudget,
    /// More of it has been sent than is kept.
    TooLarge,
    /// What is left of its time is less than an endpoint takes.
    NoTime,
}

/// The retries of one request.
#[derive(Debug)]
pub struct Retries {
    policy: Arc<RetryPolicy>,
    budget: Arc<RetryBudget>,
    /// It may be processed twice.
    is_repeatable: bool,
    /// What the client has given it (`grpc-timeout`).
    patience: Option<Duration>,
    /// When it has to be over by that.
    until: Option<Instant>,
    /// How often it was sent once more.
    done: u8,
    /// The last thing that came was a failure.
    has_failed: bool,
}

// === impl RetryPolicy ===

impl RetryPolicy {
    fn is_failure(&self, came: Came) -> bool {
        match (came, &self.on) {
            (Came::Lost | Came::Late, _) => true,
            (Came::Status(status), RetryOn::Http(codes)) => {
                codes.iter().any(|(from, to)| (*from..=*to).contains(&status))
            }
            // "HTTP to gRPC status code mapping" of gRPC.
            (Came::Status(429 | 502 | 503 | 504), RetryOn::Grpc(codes)) => {
                codes.contains(&GRPC_UNAVAILABLE)
            }
            (Came::Grpc(code), RetryOn::Grpc(codes)) => codes.contains(&code),
            _ => false,
        }
    }

    fn is_repeatable(&self, request: &RequestView<'_>) -> bool {
        match self.on {
            // RFC 9110 §9.2.2.
            RetryOn::Http(_) => matches!(
                request.method(),
                b"GET" | b"HEAD" | b"OPTIONS" | b"TRACE" | b"PUT" | b"DELETE"
            ),
            RetryOn::Grpc(_) => request.is_grpc(),
        }
    }

    /// The time before the next attempt, behind so many others; `random` is from 0 to 1.
    fn wait(&self, done: u8, random: f64) -> Duration {
        let growth = 1_u32.checked_shl(u32::from(done)).unwrap_or(MOST_GROWTH).min(MOST_GROWTH);
        self.backoff.saturating_mul(growth).mul_f64(1.0 + random / 2.0)
    }
}

// === impl Retries ===

impl Retries {
    /// Of a request that has not begun.
    #[must_use]
    pub fn new(
        policy: Arc<RetryPolicy>,
        budget: Arc<RetryBudget>,
        request: &RequestView<'_>,
    ) -> Self {
        let is_repeatable = policy.is_repeatable(request);
        let patience = request.field("grpc-timeout").and_then(|text| grpc_timeout(&text));
        Self { policy, budget, is_repeatable, patience, until: None, done: 0, has_failed: false }
    }

    /// The head of the request has come.
    pub(super) fn begin(&mut self, now: Instant) {
        self.budget.request(now);
        self.until = self.patience.and_then(|patience| now.checked_add(patience));
    }

    /// It may be sent once more, if what comes asks for that.
    #[must_use]
    pub fn may_repeat(&self) -> bool {
        self.is_repeatable && self.done < self.policy.attempts
    }

    /// What comes decides whether it is sent once more, or whether that has helped.
    pub(super) fn watches(&self) -> bool {
        self.done > 0 || self.may_repeat()
    }

    /// It has been sent once more, and what came last was a failure too, or nothing.
    #[must_use]
    pub const fn has_failed(&self) -> bool {
        self.has_failed
    }

    /// Whether it is sent once more, which counts then. `until`: when it has to be over; `estimate`: what
    /// an endpoint takes; `is_kept`: it is all there.
    pub(super) fn decide(
        &mut self,
        came: Came,
        (now, until): (Instant, Option<Instant>),
        (estimate, is_kept): (Duration, bool),
    ) -> Verdict {
        self.has_failed = self.policy.is_failure(came);
        if !self.has_failed || !self.may_repeat() {
            return Verdict::No;
        }
        if !is_kept {
            return Verdict::Withheld(Withheld::TooLarge);
        }
        let wait = self.policy.wait(self.done, fastrand::f64());
        let until = until.into_iter().chain(self.until).min();
        let ready = now.checked_add(wait.saturating_add(estimate));
        if until.is_some_and(|until| ready.is_none_or(|ready| ready > until)) {
            return Verdict::Withheld(Withheld::NoTime);
        }
        if !self.budget.take(now) {
            return Verdict::Withheld(Withheld::NoBudget);
        }
        self.done += 1;
        Verdict::After(wait)
    }
}

// === helpers ===

/// "Timeout" of gRPC over HTTP/2: up to eight digits, and a unit.
fn grpc_timeout(text: &[u8]) -> Option<Duration> {
    let (unit, digits) = text.split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number: u64 = str::from_utf8(digits).ok()?.parse().ok()?;
    Some(match unit {
        b'H' => Duration::from_secs(number * 3600),
        b'M' => Duration::from_secs(number * 60),
        b'S' => Duration::from_secs(number),
        b'm' => Duration::from_millis(number),
        b'u' => Duration::from_micros(number),
        b'n' => Duration::from_nanos(number),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEPT: (Duration, bool) = (Duration::ZERO, true);

    fn policy(on: RetryOn) -> Arc<RetryPolicy> {
        Arc::new(RetryPolicy { on, attempts: 2, backoff: Duration::from_millis(100) })
    }

    fn retries(on: RetryOn, method: &str, fields: &[(&str, &str)]) -> Retries {
        let budget = Arc::new(RetryBudget::new(Instant::now()));
        Retries::new(policy(on), budget, &RequestView::new(method, None, "/", fields))
    }

    fn http() -> RetryOn {
        RetryOn::Http(vec![(500, 500), (502, 504)])
    }

    #[test]
    fn what_is_sent_once_more_is_what_the_rule_says() {
        let now = Instant::now();
        let call: &[(&str, &str)] = &[("content-type", "application/grpc")];
        let grpc = || RetryOn::Grpc(vec![14, 1]);
        for (on, method, fields, came, expected) in [
            (http(), "GET", &[][..], Came::Status(500), true),
            (http(), "PUT", &[], Came::Status(504), true),
            (http(), "DELETE", &[], Came::Lost, true),
            (http(), "HEAD", &[], Came::Late, true),
            (http(), "GET", &[], Came::Status(501), false),
            (http(), "GET", &[], Came::Status(200), false),
            (http(), "POST", &[], Came::Status(503), false),
            (http(), "PATCH", &[], Came::Lost, false),
            (http(), "CONNECT", &[], Came::Lost, false),
            (http(), "POST", call, Came::Lost, false),
            (grpc(), "POST", call, Came::Grpc(14), true),
            (grpc(), "POST", call, Came::Grpc(1), true),
            (grpc(), "POST", call, Came::Grpc(0), false),
            (grpc(), "POST", call, Came::Grpc(8), false),
            (grpc(), "POST", call, Came::Status(503), true),
            (grpc(), "POST", call, Came::Status(200), false),
            (grpc(), "POST", call, Came::Late, true),
            (grpc(), "POST", &[], Came::Lost, false),
            (RetryOn::Grpc(vec![1]), "POST", call, Came::Status(503), false),
        ] {
            let mut retries = retries(on.clone(), method, fields);
            let verdict = retries.decide(came, (now, None), KEPT);
            let is_sent = matches!(verdict, Verdict::After(_));
            assert_eq!(is_sent, expected, "{on:?} {method} {came:?}: {verdict:?}");
        }
    }

    #[test]
    fn a_request_is_sent_as_often_as_the_rule_says_and_within_its_time() {
        let now = Instant::now();
        let at = |milliseconds| now + Duration::from_millis(milliseconds);
        let mut twice = retries(http(), "GET", &[]);
        for expected in [true, true, false] {
            let verdict = twice.decide(Came::Status(503), (now, None), KEPT);
            assert_eq!(matches!(verdict, Verdict::After(_)), expected);
            assert!(twice.has_failed());
        }
        assert_eq!(twice.decide(Came::Status(200), (now, None), KEPT), Verdict::No);
        assert!(!twice.has_failed());
        let verdict = |fields, until, estimate, is_kept| {
            let mut retries = retries(RetryOn::Grpc(vec![14]), "POST", fields);
            retries.begin(now);
            let estimate = Duration::from_millis(estimate);
            retries.decide(Came::Grpc(14), (at(1000), until), (estimate, is_kept))
        };
        let call = ("content-type", "application/grpc");
        let (short, long) =
            (&[call, ("grpc-timeout", "1200m")][..], &[call, ("grpc-timeout", "1M")][..]);
        let is_sent = |verdict| matches!(verdict, Verdict::After(_));
        assert!(is_sent(verdict(short, None, 10, true)));
        assert_eq!(verdict(short, None, 200, true), Verdict::Withheld(Withheld::NoTime));
        assert!(is_sent(verdict(long, None, 200, true)));
        assert_eq!(verdict(long, Some(at(1050)), 0, true), Verdict::Withheld(Withheld::NoTime));
        assert_eq!(verdict(long, None, 0, false), Verdict::Withheld(Withheld::TooLarge));
    }

    #[test]
    fn without_a_budget_nothing_is_sent_once_more() {
        let now = Instant::now();
        let budget = Arc::new(RetryBudget::new(now));
        let request = RequestView::new("GET", None, "/", &[]);
        let mut sent = 0;
        for _ in 0..100 {
            let mut retries = Retries::new(policy(http()), Arc::clone(&budget), &request);
            retries.begin(now);
            match retries.decide(Came::Lost, (now, None), KEPT) {
                Verdict::After(_) => sent += 1,
                verdict => assert_eq!(verdict, Verdict::Withheld(Withheld::NoBudget)),
            }
        }
        assert_eq!(sent, 30);
    }

    #[test]
    fn the_time_before_an_attempt_is_never_less_than_the_rule_says_and_grows() {
        let policy = policy(http());
        let ms = Duration::from_millis;
        for (done, random, expected) in [
            (0, 0.0, 100),
            (0, 1.0, 150),
            (1, 0.0, 200),
            (3, 0.5, 1000),
            (4, 0.0, 1000),
            (200, 1.0, 1500),
        ] {
            assert_eq!(policy.wait(done, random), ms(expected), "{done} {random}");
        }
    }

    #[test]
    fn the_time_of_a_call_is_read() {
        for (text, expected) in [
            ("1S", Some(Duration::from_secs(1))),
            ("100m", Some(Duration::from_millis(100))),
            ("99999999H", Some(Duration::from_secs(99_999_999 * 3600))),
            ("5u", Some(Duration::from_micros(5))),
            ("7n", Some(Duration::from_nanos(7))),
            ("2M", Some(Duration::from_secs(120))),
            ("123456789S", None),
            ("S", None),
            ("", None),
            ("1s", None),
            ("-1S", None),
        ] {
            assert_eq!(grpc_timeout(text.as_bytes()), expected, "{text}");
        }
    }
}
