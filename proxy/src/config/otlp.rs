//! Which requests are exported as spans, and where to.

use std::{fmt, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{ConfigError, check};
use crate::units;

/// Export of spans over OTLP/HTTP.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Otlp {
    /// Base URL of the collector, such as `http://127.0.0.1:4318`; absent for that of the environment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Export failed requests that are not sampled.
    pub failures: bool,
    /// Export requests that are not sampled and take at least this long; zero for none.
    #[serde(with = "units::duration")]
    pub slow: Duration,
    /// The part of requests without a `traceparent` that is exported.
    pub ratio: Ratio,
}

/// A number from 0 to 1, to a millionth.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ratio {
    millionths: u32,
}

// === impl Otlp ===

impl Otlp {
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        let Some(endpoint) = &self.endpoint else { return Ok(()) };
        check(cfg!(feature = "otlp"), "otlp.endpoint", || {
            "this weir was built without the feature otlp".to_owned()
        })?;
        let problem = url_problem(endpoint);
        check(problem.is_none(), "otlp.endpoint", || problem.unwrap_or_default())
    }
}

/// Why spans cannot be sent to a URL.
pub(crate) fn url_problem(url: &str) -> Option<String> {
    let advice = "write a URL such as http://127.0.0.1:4318";
    match url.parse::<http::Uri>() {
        Err(error) => Some(format!("{url:?} is no URL: {error}; {advice}")),
        Ok(uri) => match uri.scheme_str() {
            Some("http") if uri.host().is_some_and(|host| !host.is_empty()) => None,
            Some("https") => Some(format!(
                "{url:?}: https is not supported; send to a collector on this machine, which can \
                 encrypt"
            )),
            _ => Some(format!("{url:?} is no http URL; {advice}")),
        },
    }
}

// === impl Ratio ===

impl Ratio {
    /// Every one.
    pub const ALL: Self = Self { millionths: Self::WHOLE };

    const WHOLE: u32 = 1_000_000;

    /// `None` if it is not from 0 to 1.
    #[must_use]
    pub fn new(ratio: f64) -> Option<Self> {
        let millionths = (ratio * f64::from(Self::WHOLE)).round();
        (0.0..=1.0).contains(&ratio).then_some(Self { millionths: millionths as u32 })
    }

    /// Whether it takes the one with this number, of numbers that are equally likely.
    #[must_use]
    pub fn takes(self, number: u32) -> bool {
        let part = (u64::from(number) * u64::from(Self::WHOLE)) >> u32::BITS;
        part < u64::from(self.millionths)
    }
}

impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (f64::from(self.millionths) / f64::from(Self::WHOLE)).fmt(f)
    }
}

impl Serialize for Ratio {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_f64(f64::from(self.millionths) / f64::from(Self::WHOLE))
    }
}

impl<'de> Deserialize<'de> for Ratio {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Ratio;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number from 0 to 1, such as 0.01")
            }

            fn visit_f64<E: de::Error>(self, ratio: f64) -> Result<Ratio, E> {
                Ratio::new(ratio)
                    .ok_or_else(|| E::invalid_value(de::Unexpected::Float(ratio), &self))
            }

            fn visit_i64<E: de::Error>(self, ratio: i64) -> Result<Ratio, E> {
                self.visit_f64(ratio as f64)
            }
        }
        d.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn an_endpoint_is_a_url_that_can_be_sent_to() {
        for good in ["http://127.0.0.1:4318", "http://[::1]:4318/", "http://collector/otlp"] {
            assert_eq!(url_problem(good), None);
        }
        for (bad, why) in [
            ("127.0.0.1:4318", "no http URL"),
            ("collector", "no http URL"),
            ("/v1/traces", "no http URL"),
            ("grpc://collector:4317", "no http URL"),
            ("https://collector", "https is not supported"),
            ("http://", "is no"),
            ("http://a b", "is no URL"),
            ("", "is no URL"),
        ] {
            let problem = url_problem(bad).unwrap();
            assert!(problem.contains(why), "{problem}");
            let otlp = Otlp { endpoint: Some(bad.to_owned()), ..Otlp::default() };
            assert!(otlp.validate().unwrap_err().to_string().starts_with("otlp.endpoint: "));
        }
    }

    #[test]
    fn a_ratio_is_a_number_from_0_to_1() {
        let read = |text: &str| toml::from_str::<Config>(&format!("[otlp]\nratio = {text}"));
        for good in ["0", "1", "0.0", "1.0", "0.000001", "0.1"] {
            read(good).unwrap_or_else(|error| panic!("{good}: {error}"));
        }
        for bad in ["-0.1", "1.1", "2", "nan", "\"0.1\""] {
            let error = read(bad).unwrap_err();
            assert!(error.message().contains("a number from 0 to 1"), "{error}");
        }
    }
}
