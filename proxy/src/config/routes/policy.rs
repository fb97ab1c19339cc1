//! How long requests may take, which are sent once more, how many pass, and which are made to fail: `timeouts`,
//! `retry`, `rate_limit` and `fault` of a rule.

use std::{sync::Arc, time::Instant};

use serde::{Deserialize, Serialize};
use weir_http::{RetryOn, RetryPolicy, TimeLimits};

use crate::{
    route::{Affinity, DEFAULT_BACKOFF, Faults, GRPC_RETRIES, Portion, Rate, RateLimit, RouteKind},
    units::{exact_duration, parse_duration},
};

/// Durations; zero is none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Timeouts {
    #[serde(skip_serializing_if = "Option::is_none")]
    request: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    backend: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    idle: Option<String>,
}

/// Which requests are sent once more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Retry {
    /// Statuses and ranges of them, or names of gRPC's, with commas between.
    codes: String,
    attempts: u8,
    backoff: String,
}

/// How many requests pass.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RateLimited {
    requests: u32,
    #[serde(default = "second")]
    per: String,
    /// As many as `requests` where it is absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    burst: Option<u32>,
}

/// Which requests go to one endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AffinityConfig {
    #[serde(skip_serializing_if = "Option::is_none")]
    header: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cookie: Option<String>,
}

/// Which requests are made to fail or to wait.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FaultConfig {
    #[serde(skip_serializing_if = "Option::is_none")]
    abort: Option<Abort>,
    #[serde(skip_serializing_if = "Option::is_none")]
    delay: Option<Delay>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Abort {
    status: u16,
    percent: Percent,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Delay {
    time: String,
    percent: Percent,
}

/// From 0 to 100; a whole number or not.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum Percent {
    Whole(u32),
    Part(f64),
}

// === impl Percent ===

/// Not a number is refused when it is read.
impl Eq for Percent {}

impl Percent {
    pub(super) fn portion(self) -> Result<Portion, String> {
        Portion::of_percent(match self {
            Self::Whole(percent) => f64::from(percent),
            Self::Part(percent) => percent,
        })
    }
}

// === impl AffinityConfig ===

impl AffinityConfig {
    pub(super) fn affinity(&self) -> Result<Affinity, String> {
        match (&self.header, &self.cookie) {
            (Some(header), None) => Ok(Affinity::Header(header.as_str().into())),
            (None, Some(cookie)) => Ok(Affinity::Cookie(cookie.as_str().into())),
            _ => Err("affinity: write header or cookie".to_owned()),
        }
    }
}

// === impl FaultConfig ===

impl Eq for FaultConfig {}

impl FaultConfig {
    pub(super) fn faults(&self) -> Result<Arc<Faults>, String> {
        let portion = |of: &str, it: Percent| {
            it.portion().map_err(|fault| format!("fault.{of}.percent: {fault}"))
        };
        let abort = self
            .abort
            .as_ref()
            .map(|it| Ok::<_, String>((it.status, portion("abort", it.percent)?)));
        let delay = self.delay.as_ref().map(|it| {
            let time =
                parse_duration(&it.time).map_err(|fault| format!("fault.delay.time: {fault}"))?;
            Ok::<_, String>((time, portion("delay", it.percent)?))
        });
        let (abort, delay) = (abort.transpose()?, delay.transpose()?);
        if abort.is_none() && delay.is_none() {
            return Err("fault: write abort or delay".to_owned());
        }
        Ok(Arc::new(Faults { abort, delay }))
    }
}

// === impl RateLimited ===

impl RateLimited {
    pub(super) fn rate(&self) -> Result<Arc<Rate>, String> {
        let per = parse_duration(&self.per).map_err(|fault| format!("rate_limit.per: {fault}"))?;
        let limit =
            RateLimit { requests: self.requests, per, burst: self.burst.unwrap_or(self.requests) };
        Ok(Arc::new(Rate::new(limit, Instant::now())))
    }
}

// === impl Retry ===

impl Default for Retry {
    fn default() -> Self {
        Self { codes: String::new(), attempts: 1, backoff: exact_duration(DEFAULT_BACKOFF) }
    }
}

impl Retry {
    pub(super) fn policy(&self, kind: RouteKind) -> Result<Arc<RetryPolicy>, String> {
        let all = self.codes.split(',').map(str::trim).filter(|it| !it.is_empty());
        let on = match kind {
            RouteKind::Http => RetryOn::Http(all.map(statuses).collect::<Result<_, _>>()?),
            RouteKind::Grpc => RetryOn::Grpc(all.map(grpc_status).collect::<Result<_, _>>()?),
        };
        let backoff =
            parse_duration(&self.backoff).map_err(|fault| format!("retry.backoff: {fault}"))?;
        Ok(Arc::new(RetryPolicy { on, attempts: self.attempts, backoff }))
    }
}

// === impl Timeouts ===

impl Timeouts {
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    pub(super) fn limits(&self) -> Result<TimeLimits, String> {
        let limit = |name: &str, text: &Option<String>| {
            let Some(text) = text else { return Ok(None) };
            let read = parse_duration(text).map_err(|fault| format!("timeouts.{name}: {fault}"))?;
            Ok::<_, String>(Some(read).filter(|it| !it.is_zero()))
        };
        Ok(TimeLimits {
            request: limit("request", &self.request)?,
            backend: limit("backend", &self.backend)?,
            idle: limit("idle", &self.idle)?,
        })
    }
}

// === helpers ===

fn second() -> String {
    "1s".to_owned()
}

/// `503`, or `502-504`.
fn statuses(text: &str) -> Result<(u16, u16), String> {
    let fail = || format!("retry.codes: {text:?} is no status; write some such as 500, 502-504");
    let number = |text: &str| text.trim().parse().map_err(|_| fail());
    match text.split_once('-') {
        Some((from, to)) => Ok((number(from)?, number(to)?)),
        None => number(text).map(|code| (code, code)),
    }
}

fn grpc_status(text: &str) -> Result<u32, String> {
    let found = GRPC_RETRIES.iter().find(|it| it.0 == text).map(|it| it.1);
    found.ok_or_else(|| {
        let names = GRPC_RETRIES.map(|it| it.0).join(", ");
        format!("retry.codes: {text:?} is no status of gRPC after which a call is sent again; write {names}")
    })
}
