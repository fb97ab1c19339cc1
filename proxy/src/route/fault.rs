//! Faults that a rule asks for, to see what clients make of them: requests that are answered with an error, and
//! requests that wait.

use std::{
    fmt,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    time::Duration,
};

use super::weights::STEP;
use crate::units::{human_duration, parse_duration};

/// Parts of a million: the finest that is written.
const MILLION: u32 = 1_000_000;
/// A client that waits for longer has no use for it.
const LONGEST_DELAY: Duration = Duration::from_secs(3600);

/// A part of the requests.
#[derive(Debug)]
pub struct Portion {
    numerator: u32,
    denominator: u32,
    next: AtomicU32,
}

/// The faults of a rule.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Answered with this status.
    pub abort: Option<(u16, Portion)>,
    /// Sent on after this time.
    pub delay: Option<(Duration, Portion)>,
}

// === impl Portion ===

impl Portion {
    /// # Errors
    /// What is more than the whole, or a part of nothing.
    pub fn new(numerator: u32, denominator: u32) -> Result<Self, String> {
        if denominator == 0 || numerator > denominator {
            return Err(format!("{numerator}/{denominator} is no part of a whole"));
        }
        Ok(Self { numerator, denominator, next: AtomicU32::new(0) })
    }

    /// # Errors
    /// What is not from 0 to 100.
    pub fn of_percent(percent: f64) -> Result<Self, String> {
        if !(0.0..=100.0).contains(&percent) {
            return Err(format!("{percent} is no percentage; write a number from 0 to 100"));
        }
        Self::new((percent * f64::from(MILLION) / 100.0).round() as u32, MILLION)
    }

    /// Whether the next request belongs to it: of so many that the part is a whole number, exactly that
    /// number, give or take one.
    pub fn takes(&self) -> bool {
        let drawn = u64::from(self.next.fetch_add(STEP, Relaxed));
        (drawn * u64::from(self.denominator)) >> u32::BITS < u64::from(self.numerator)
    }
}

/// What is written, not what has come.
impl PartialEq for Portion {
    fn eq(&self, other: &Self) -> bool {
        (self.numerator, self.denominator) == (other.numerator, other.denominator)
    }
}

impl Eq for Portion {}

impl fmt::Display for Portion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", f64::from(self.numerator) * 100.0 / f64::from(self.denominator))
    }
}

// === impl Faults ===

impl Faults {
    /// Of an annotation: `5%=503, 2%=delay 100ms`.
    ///
    /// # Errors
    /// What is written in another way.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut faults = Self::default();
        for part in text.split(',').map(str::trim) {
            let usage =
                || format!("{part:?} is no fault; write some such as \"5%=503, 2%=delay 100ms\"");
            let (percent, what) = part.split_once("%=").ok_or_else(usage)?;
            let portion = Portion::of_percent(percent.trim().parse().map_err(|_| usage())?)?;
            let is_double = match what.trim().split_once(' ') {
                Some(("delay", time)) => {
                    let time = parse_duration(time.trim()).map_err(|error| error.to_string())?;
                    faults.delay.replace((time, portion)).is_some()
                }
                Some(_) => return Err(usage()),
                None => {
                    let status = what.trim().parse().map_err(|_| usage())?;
                    faults.abort.replace((status, portion)).is_some()
                }
            };
            if is_double {
                return Err(format!("{part:?}: write one delay and one status"));
            }
        }
        faults.check()?;
        Ok(faults)
    }

    /// Whether they can be in force.
    ///
    /// # Errors
    /// What is out of its range.
    pub fn check(&self) -> Result<(), String> {
        if let Some((status, _)) = &self.abort
            && !(400..=599).contains(status)
        {
            return Err(format!("fault: {status} is no error; write a status from 400 to 599"));
        }
        match &self.delay {
            Some((time, _)) if time.is_zero() || *time > LONGEST_DELAY => {
                Err("fault: a delay is a time of up to an hour, such as 100ms".to_owned())
            }
            _ => Ok(()),
        }
    }

    /// The status with which the next request is to be answered.
    #[must_use]
    pub fn aborts(&self) -> Option<u16> {
        self.abort.as_ref().filter(|it| it.1.takes()).map(|it| it.0)
    }

    /// How long the next request is to wait.
    #[must_use]
    pub fn delays(&self) -> Option<Duration> {
        self.delay.as_ref().filter(|it| it.1.takes()).map(|it| it.0)
    }
}

/// As `weir routes` shows them.
impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let abort =
            self.abort.as_ref().map(|(status, part)| format!("{part} answered with {status}"));
        let delay = self
            .delay
            .as_ref()
            .map(|(time, part)| format!("{part} delayed by {}", human_duration(*time)));
        let all: Vec<_> = abort.into_iter().chain(delay).collect();
        f.write_str(&all.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_portion_is_exact_over_a_hundred_requests() {
        for percent in [0_u32, 1, 5, 33, 50, 99, 100] {
            let portion = Portion::of_percent(f64::from(percent)).unwrap();
            let taken = (0..100).filter(|_| portion.takes()).count();
            assert!(taken.abs_diff(percent as usize) <= 1, "{taken} of {percent}%");
        }
        let whole = Portion::new(1, 1).unwrap();
        assert!((0..1000).all(|_| whole.takes()));
        let none = Portion::new(0, 7).unwrap();
        assert!((0..1000).all(|_| !none.takes()));
    }

    #[test]
    fn an_annotation_is_read() {
        let faults = Faults::parse("5%=503, 0.5%=delay 100ms").unwrap();
        assert_eq!(faults.to_string(), "5% answered with 503, 0.5% delayed by 100ms");
        assert_eq!(Faults::parse("100%=429").unwrap().aborts(), Some(429));
        for (text, expected) in [
            ("", "is no fault"),
            ("503", "is no fault"),
            ("5%=teapot", "is no fault"),
            ("5%=wait 1s", "is no fault"),
            ("x%=503", "is no fault"),
            ("101%=503", "101 is no percentage"),
            ("5%=200", "200 is no error"),
            ("5%=delay 2h", "up to an hour"),
            ("5%=delay 1", "\"1\" is not a duration"),
            ("5%=503, 5%=504", "write one delay and one status"),
        ] {
            let error = Faults::parse(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
