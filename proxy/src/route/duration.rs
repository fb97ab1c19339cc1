//! Durations as the Gateway API writes them (GEP-2257).

use std::time::Duration;

/// The digits of a number, and the parts of a duration.
const DIGITS: usize = 5;
const PARTS: usize = 4;

/// Up to four numbers, of up to five digits each, with `h`, `m`, `s` or `ms`: `1h30m`, `500ms`, `0s`.
///
/// # Errors
/// What is written in another way.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let fail = || {
        format!(
            "{text:?} is no duration; write up to four numbers with h, m, s or ms, such as 1m30s"
        )
    };
    let (mut rest, mut total, mut parts) = (text, Duration::ZERO, 0);
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let letters = rest[digits..].bytes().take_while(u8::is_ascii_lowercase).count();
        let (number, unit) = (&rest[..digits], &rest[digits..digits + letters]);
        rest = &rest[digits + letters..];
        let milliseconds = match unit {
            "h" => 3_600_000,
            "m" => 60_000,
            "s" => 1_000,
            "ms" => 1,
            _ => return Err(fail()),
        };
        parts += 1;
        let number: u64 = match number.parse() {
            Ok(number) if digits <= DIGITS && parts <= PARTS => number,
            _ => return Err(fail()),
        };
        total += Duration::from_millis(number * milliseconds);
    }
    if parts == 0 { Err(fail()) } else { Ok(total) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_the_gateway_api_has_them() {
        for (text, milliseconds) in [
            ("0s", 0),
            ("0h", 0),
            ("500ms", 500),
            ("10s", 10_000),
            ("1m30s", 90_000),
            ("1h1m1s1ms", 3_661_001),
            ("10s30m1h", 5_410_000),
            ("99999h", 359_996_400_000),
        ] {
            let expected = Duration::from_millis(milliseconds);
            assert_eq!(parse_duration(text), Ok(expected), "{text}");
        }
        for text in [
            "",
            "1",
            "s",
            "-1s",
            "1.5s",
            "1d",
            "1us",
            "100000s",
            "1s1s1s1s1s",
            "1 s",
            "1S",
            "ä",
            "1ä",
            "s1",
        ] {
            let error = parse_duration(text).unwrap_err();
            assert!(error.starts_with(&format!("{text:?} is no duration")), "{error}");
        }
    }
}
