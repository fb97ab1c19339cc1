//! The grammar of conditions, strict and with the place of each mistake:
//!
//! ```text
//! condition  = [ "host(" NAME ")" ] quantity comparison value
//! quantity   = "requests" | "connections" | "failures" | "p50" | "p90" | "p95" | "p99" | "max"
//! comparison = ">" | ">=" | "<" | "<=" | "=" | "!="
//! value      = NUMBER, or a duration where a latency is compared
//! ```
//!
//! Spaces may stand between the parts.

use std::str::FromStr;

use super::{Comparison, Condition, Quantity};
use crate::{telemetry::tap::TapFilter, units};

/// What can be compared.
const QUANTITIES: [(&str, Quantity); 8] = [
    ("requests", Quantity::Requests),
    ("connections", Quantity::Connections),
    ("failures", Quantity::Failures),
    ("p50", Quantity::Quantile(500)),
    ("p90", Quantity::Quantile(900)),
    ("p95", Quantity::Quantile(950)),
    ("p99", Quantity::Quantile(990)),
    ("max", Quantity::Quantile(1000)),
];

/// Those of two characters first.
const COMPARISONS: [(&str, Comparison); 6] = [
    (">=", Comparison::AtLeast),
    ("<=", Comparison::AtMost),
    ("!=", Comparison::Unequal),
    (">", Comparison::Above),
    ("<", Comparison::Below),
    ("=", Comparison::Equal),
];

/// Before the name of a host.
const HOST: &str = "host(";

/// Why a condition was refused, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("bad condition {condition:?}: column {column}: {problem}")]
pub struct ConditionError {
    /// As given.
    pub condition: String,
    /// Where the problem is, counted in characters from 1.
    pub column: usize,
    /// What is wrong and what would be right.
    pub problem: ConditionProblem,
}

/// What is wrong with a condition.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConditionProblem {
    /// `host(` without its end.
    #[error("')' is missing behind the name of the host; write host(api.example)failures>0")]
    OpenHost,
    /// `host()`.
    #[error("the name of the host is empty; write host(api.example) or host(*.example)")]
    NoHost,
    /// Something else where a quantity must be.
    #[error(
        "{0:?} cannot be compared; write requests, connections, failures, p50, p90, p95, p99 or max, \
         such as failures>0"
    )]
    Quantity(String),
    /// Something else where a comparison must be.
    #[error("expected a comparison: >, >=, <, <=, = or !=")]
    Comparison,
    /// Not a count.
    #[error("{0:?} is not a number; write one such as 0 or 100")]
    Number(String),
    /// Not a duration.
    #[error("{0:?} is not a duration; write a number and a unit (ms, s, m), such as 200ms")]
    Duration(String),
}

/// What is left to be read.
struct Rest<'a> {
    whole: &'a str,
    at: usize,
}

// === impl Condition ===

impl FromStr for Condition {
    type Err = ConditionError;

    fn from_str(text: &str) -> Result<Self, ConditionError> {
        let mut rest = Rest { whole: text, at: 0 };
        let scope = rest.scope()?;
        let quantity = rest.quantity()?;
        let comparison = rest.comparison()?;
        let limit = rest.value(quantity)?;
        Ok(Self { text: text.trim().to_owned(), scope, quantity, comparison, limit })
    }
}

// === impl Rest ===

impl<'a> Rest<'a> {
    /// Without the spaces before it.
    fn text(&mut self) -> &'a str {
        let text = &self.whole[self.at..];
        self.at += text.len() - text.trim_start().len();
        &self.whole[self.at..]
    }

    fn fail<T>(&self, problem: ConditionProblem) -> Result<T, ConditionError> {
        let column = self.whole[..self.at].chars().count() + 1;
        Err(ConditionError { condition: self.whole.to_owned(), column, problem })
    }

    fn scope(&mut self) -> Result<TapFilter, ConditionError> {
        let Some(text) = self.text().strip_prefix(HOST) else { return Ok(TapFilter::default()) };
        let Some((name, _)) = text.split_once(')') else {
            self.at = self.whole.len();
            return self.fail(ConditionProblem::OpenHost);
        };
        self.at += HOST.len();
        let Ok(pattern) = name.trim().parse();
        if name.trim().is_empty() {
            return self.fail(ConditionProblem::NoHost);
        }
        self.at += name.len() + 1;
        Ok(TapFilter { authority: Some(pattern), ..TapFilter::default() })
    }

    fn quantity(&mut self) -> Result<Quantity, ConditionError> {
        let text = self.text();
        let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
        let word = &text[..end];
        match QUANTITIES.iter().find(|(name, _)| *name == word) {
            Some((_, quantity)) => {
                self.at += end;
                Ok(*quantity)
            }
            None => {
                let shown = if word.is_empty() { text } else { word };
                self.fail(ConditionProblem::Quantity(shown.to_owned()))
            }
        }
    }

    fn comparison(&mut self) -> Result<Comparison, ConditionError> {
        let text = self.text();
        match COMPARISONS.iter().find(|(sign, _)| text.starts_with(sign)) {
            Some((sign, comparison)) => {
                self.at += sign.len();
                Ok(*comparison)
            }
            None => self.fail(ConditionProblem::Comparison),
        }
    }

    fn value(&mut self, quantity: Quantity) -> Result<u64, ConditionError> {
        let text = self.text().trim_end();
        if let Quantity::Quantile(_) = quantity {
            return match units::parse_duration(text) {
                Ok(limit) => Ok(u64::try_from(limit.as_micros()).unwrap_or(u64::MAX)),
                Err(_) => self.fail(ConditionProblem::Duration(text.to_owned())),
            };
        }
        match text.parse() {
            Ok(number) => Ok(number),
            Err(_) => self.fail(ConditionProblem::Number(text.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistakes_are_named_with_their_place() {
        for (text, column, words) in [
            ("", 1, "cannot be compared"),
            ("failure>0", 1, "\"failure\" cannot be compared"),
            ("  errors > 0", 3, "write requests"),
            ("failures", 9, "expected a comparison"),
            ("failures ~ 0", 10, "expected a comparison"),
            ("failures>", 10, "\"\" is not a number"),
            ("failures>0ms", 10, "\"0ms\" is not a number"),
            ("failures=>1", 10, "\">1\" is not a number"),
            ("p99>200", 5, "\"200\" is not a duration"),
            ("p99 > fast", 7, "200ms"),
            ("host(api.example failures>0", 28, "')' is missing"),
            ("host() failures>0", 6, "is empty"),
            ("host(é)p98>1ms", 8, "\"p98\""),
            ("failures>0 requests<1", 10, "is not a number"),
        ] {
            let error = text.parse::<Condition>().unwrap_err();
            assert_eq!(error.column, column, "{error}");
            assert!(error.to_string().contains(words), "{error}");
        }
    }

    #[test]
    fn spaces_do_not_matter() {
        let (one, other): (Condition, Condition) =
            ("host(a)p95>=1s".parse().unwrap(), " host( a ) p95 >= 1000ms ".parse().unwrap());
        assert_eq!(Condition { text: one.text.clone(), ..other }, one);
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_a_condition_or_refused_with_a_place(text: String) {
            if let Err(error) = text.parse::<Condition>() {
                proptest::prop_assert!(error.column <= text.chars().count() + 1);
            }
        }
    }
}
