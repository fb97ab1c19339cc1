//! Sets of HTTP status codes: `404,500-599`, `5xx`.

use std::{fmt, ops::RangeInclusive, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// What a status code can be (RFC 9110 §15).
const CODES: RangeInclusive<u16> = 100..=599;

/// Status codes, as ranges in the order given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statuses(Vec<RangeInclusive<u16>>);

/// Why a list of status codes was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StatusError {
    /// Two commas in a row, one at either end, or nothing at all.
    #[error("column {column}: empty item; write a status code such as 404, 5xx or 500-599")]
    Empty {
        /// Counted in characters from 1.
        column: usize,
    },
    /// Not a code, a class or a range of codes.
    #[error("column {column}: {text:?} is not a status code; write 100 to 599, 5xx or 500-599")]
    Code {
        /// Counted in characters from 1.
        column: usize,
        /// The item.
        text: String,
    },
    /// The first code of a range is above its last one.
    #[error("column {column}: {text} is reversed; did you mean {last}-{first}")]
    Backwards {
        /// Counted in characters from 1.
        column: usize,
        /// The item.
        text: String,
        /// The first code.
        first: u16,
        /// The last one.
        last: u16,
    },
}

// === impl Statuses ===

impl Statuses {
    /// Whether a code is in it.
    #[must_use]
    pub fn contains(&self, status: u16) -> bool {
        self.0.iter().any(|range| range.contains(&status))
    }
}

impl FromStr for Statuses {
    type Err = StatusError;

    /// Parses a comma-separated list of at least one item.
    fn from_str(list: &str) -> Result<Self, StatusError> {
        let mut ranges = Vec::new();
        let mut column = 1;
        for item in list.split(',') {
            let lead = item.chars().take_while(|c| c.is_whitespace()).count();
            let text = item.trim();
            if text.is_empty() {
                return Err(StatusError::Empty { column });
            }
            ranges.push(range(text, column + lead)?);
            column += item.chars().count() + 1;
        }
        Ok(Self(ranges))
    }
}

fn range(text: &str, column: usize) -> Result<RangeInclusive<u16>, StatusError> {
    let bad = || StatusError::Code { column, text: text.to_owned() };
    if let Some(class) = text.strip_suffix("xx") {
        let class = class.parse().ok().filter(|class| (1..=5).contains(class) && text.len() == 3);
        let first: u16 = class.map(|class: u16| class * 100).ok_or_else(bad)?;
        return Ok(first..=first + 99);
    }
    let code = |text: &str| {
        let digits = text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse().ok().filter(|code| digits && CODES.contains(code))
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (Some(first), Some(last)) = (code(first.trim_end()), code(last.trim_start())) else {
        return Err(bad());
    };
    if first > last {
        return Err(StatusError::Backwards { column, text: text.to_owned(), first, last });
    }
    Ok(first..=last)
}

impl fmt::Display for Statuses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, range) in self.0.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            write!(f, "{comma}{}", range.start())?;
            if range.start() != range.end() {
                write!(f, "-{}", range.end())?;
            }
        }
        Ok(())
    }
}

impl Serialize for Statuses {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Statuses {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_classes_and_ranges_are_understood() {
        let cases = [
            ("404", "404", vec![404], vec![403, 405, 0]),
            ("5xx", "500-599", vec![500, 599], vec![499, 600]),
            (" 404 , 500 - 503", "404,500-503", vec![404, 500, 503], vec![504]),
            ("100-599", "100-599", vec![100, 599], vec![99]),
        ];
        for (list, printed, inside, outside) in cases {
            let statuses: Statuses = list.parse().unwrap();
            assert_eq!(statuses.to_string(), printed);
            assert!(inside.iter().all(|code| statuses.contains(*code)), "{list}");
            assert!(!outside.iter().any(|code| statuses.contains(*code)), "{list}");
        }
    }

    #[test]
    fn anything_else_is_refused_with_its_place() {
        for (list, says) in [
            ("", "column 1: empty item"),
            ("404,", "column 5: empty item"),
            ("404,,500", "column 5: empty item"),
            ("404, ok", "column 6: \"ok\" is not a status code"),
            ("6xx", "column 1: \"6xx\""),
            ("0xx", "column 1: \"0xx\""),
            ("+5xx", "column 1: \"+5xx\""),
            ("xx", "column 1: \"xx\""),
            ("99", "column 1: \"99\""),
            ("600", "column 1: \"600\""),
            ("+40", "column 1: \"+40\""),
            ("0404", "column 1: \"0404\""),
            ("500-", "column 1: \"500-\""),
            ("500-4xx", "column 1: \"500-4xx\""),
            ("503-500", "column 1: 503-500 is reversed; did you mean 500-503"),
        ] {
            let error = list.parse::<Statuses>().unwrap_err().to_string();
            assert!(error.starts_with(says), "{list:?}: {error}");
        }
    }

    proptest::proptest! {
        #[test]
        fn what_is_printed_is_parsed_again(list in "[0-9x, -]{0,16}") {
            if let Ok(statuses) = list.parse::<Statuses>() {
                proptest::prop_assert_eq!(statuses.to_string().parse::<Statuses>().unwrap(), statuses);
            }
        }
    }
}
