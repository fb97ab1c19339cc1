//! Durations, byte counts and times as people write and read them. One notation for the config
//! file, the flags, the tables and the records.

use std::time::{Duration, SystemTime};

use jiff::Timestamp;

/// Why a duration or size was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum UnitError {
    /// Not a duration.
    #[error("{0:?} is not a duration; write a number and a unit (ms, s, m, h), such as 500ms")]
    Duration(String),
    /// Not a size.
    #[error("{0:?} is not a size; write bytes or a number with KiB, MiB or GiB, such as 8KiB")]
    Size(String),
}

/// Parses `500ms`, `1s`, `5m`, `1h`; a bare `0` is zero.
///
/// # Errors
/// [`UnitError::Duration`] for anything else.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    let fail = || UnitError::Duration(text.to_owned());
    let (number, unit) = split_unit(text);
    let number: u64 = number.parse().map_err(|_| fail())?;
    let seconds = |each: u64| number.checked_mul(each).map(Duration::from_secs).ok_or_else(fail);
    match unit {
        "us" | "µs" => Ok(Duration::from_micros(number)),
        "ms" => Ok(Duration::from_millis(number)),
        "s" => seconds(1),
        "m" => seconds(60),
        "h" => seconds(3600),
        "" if number == 0 => Ok(Duration::ZERO),
        _ => Err(fail()),
    }
}

/// Parses `8192`, `8KiB`, `1MiB`, `2GiB`.
///
/// # Errors
/// [`UnitError::Size`] for anything else.
pub(crate) fn parse_size(text: &str) -> Result<usize, UnitError> {
    let fail = || UnitError::Size(text.to_owned());
    let (number, unit) = split_unit(text);
    let shift = match unit {
        "" | "B" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        _ => return Err(fail()),
    };
    let number: usize = number.parse().map_err(|_| fail())?;
    number.checked_mul(1 << shift).ok_or_else(fail)
}

fn split_unit(text: &str) -> (&str, &str) {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    (&text[..end], text[end..].trim_start())
}

/// The shortest exact notation that [`parse_duration`] reads back, down to microseconds.
#[must_use]
pub(crate) fn exact_duration(duration: Duration) -> String {
    let micros = duration.as_micros();
    for (each, unit) in [(3_600_000_000, "h"), (60_000_000, "m"), (1_000_000, "s"), (1_000, "ms")] {
        if micros > 0 && micros.is_multiple_of(each) {
            return format!("{}{unit}", micros / each);
        }
    }
    if micros == 0 { "0s".to_owned() } else { format!("{micros}us") }
}

/// Three significant digits for a table: `850µs`, `1.25ms`, `12.5s`, `3m20s`.
#[must_use]
pub(crate) fn human_duration(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    match duration.as_micros() {
        0..1_000 => format!("{}µs", duration.as_micros()),
        1_000..1_000_000 => format!("{}ms", three_digits(seconds * 1e3)),
        1_000_000..60_000_000 => format!("{}s", three_digits(seconds)),
        60_000_000..3_600_000_000 => {
            format!("{}m{:02}s", duration.as_secs() / 60, duration.as_secs() % 60)
        }
        _ => format!("{}h{:02}m", duration.as_secs() / 3600, duration.as_secs() / 60 % 60),
    }
}

/// Three significant digits for a table: `512 B`, `1.25 KiB`, `3.00 GiB`.
#[must_use]
pub(crate) fn human_bytes(bytes: u64) -> String {
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let units = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1023.5 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{} {}", three_digits(value), units[unit])
}

fn three_digits(value: f64) -> String {
    let decimals = match value {
        v if v >= 99.95 => 0,
        v if v >= 9.995 => 1,
        _ => 2,
    };
    format!("{value:.decimals$}")
}

/// `2026-11-21T04:17:23.123Z` (RFC 3339, UTC, milliseconds). Times before 1970 are shown as 1970, times after
/// 9999 as 9999.
#[must_use]
pub(crate) fn rfc3339(time: SystemTime) -> String {
    let time = Timestamp::try_from(time.max(SystemTime::UNIX_EPOCH)).unwrap_or(Timestamp::MAX);
    format!("{time:.3}")
}

/// Reads what [`rfc3339`] writes; `None` for any other notation.
#[must_use]
pub(crate) fn parse_rfc3339(text: &str) -> Option<SystemTime> {
    let time = SystemTime::from(text.parse::<Timestamp>().ok()?);
    (rfc3339(time) == text).then_some(time)
}

/// Serde of a [`Duration`] as `500ms`.
pub(crate) mod duration {
    use std::time::Duration;

    use serde::{Deserializer, Serializer, de};

    pub(crate) fn serialize<S: Serializer>(value: &Duration, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&super::exact_duration(*value))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Duration, D::Error> {
        struct Text;

        impl de::Visitor<'_> for Text {
            type Value = Duration;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a duration with its unit as text, such as \"500ms\"")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Duration, E> {
                super::parse_duration(text).map_err(E::custom)
            }
        }

        d.deserialize_str(Text)
    }
}

/// Serde of a size: a number of bytes, or text such as `8KiB`.
pub(crate) mod size {
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(crate) fn serialize<S: Serializer>(value: &usize, s: S) -> Result<S::Ok, S::Error> {
        // A number of TOML has 63 bits.
        match i64::try_from(*value) {
            Ok(bytes) => s.serialize_i64(bytes),
            Err(_) => s.serialize_str(&value.to_string()),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<usize, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Size {
            Bytes(usize),
            Text(String),
        }
        match Size::deserialize(d) {
            Ok(Size::Bytes(bytes)) => Ok(bytes),
            Ok(Size::Text(text)) => super::parse_size(&text).map_err(de::Error::custom),
            Err(_) => Err(de::Error::custom("not a size; write bytes or text such as \"8KiB\"")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_written() {
        for (text, micros) in [
            ("500ms", 500_000),
            ("1s", 1_000_000),
            ("90s", 90_000_000),
            ("2m", 120_000_000),
            ("1h", 3_600_000_000),
            ("7us", 7),
            ("0", 0),
            ("0s", 0),
            (" 5 s ", 5_000_000),
        ] {
            let duration = Duration::from_micros(micros);
            assert_eq!(parse_duration(text), Ok(duration), "{text}");
            assert_eq!(parse_duration(&exact_duration(duration)), Ok(duration), "{text}");
        }
        for text in
            ["", "5", "s", "-1s", "1.5s", "1d", "99999999999999999999s", "9999999999999999999h"]
        {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_read() {
        assert_eq!(parse_size("8192"), Ok(8192));
        assert_eq!(parse_size("8KiB"), Ok(8192));
        assert_eq!(parse_size("1 MiB"), Ok(1 << 20));
        for text in ["", "KiB", "8kb", "-1", "99999999999999GiB"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn tables_show_three_digits() {
        let duration = |micros| human_duration(Duration::from_micros(micros));
        assert_eq!(duration(850), "850µs");
        assert_eq!(duration(1_250), "1.25ms");
        assert_eq!(duration(12_500_000), "12.5s");
        assert_eq!(duration(200_000_000), "3m20s");
        assert_eq!(duration(7_260_000_000), "2h01m");
        assert_eq!(human_bytes(512), "512 B");
        assert_eq!(human_bytes(1280), "1.25 KiB");
        assert_eq!(human_bytes(1023 * 1024 + 1000), "1.00 MiB");
        assert_eq!(human_bytes(3 << 30), "3.00 GiB");
        assert_eq!(human_bytes(u64::MAX), "16.0 EiB");
    }

    #[test]
    fn times_follow_the_calendar() {
        let at = |seconds| rfc3339(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(at(951_782_400), "2000-02-29T00:00:00.000Z");
        assert_eq!(at(1_709_164_800), "2024-02-29T00:00:00.000Z");
        assert_eq!(at(1_767_225_599), "2025-12-31T23:59:59.000Z");
        assert_eq!(at(4_107_542_400), "2100-03-01T00:00:00.000Z");
        for seconds in [0, 951_782_400, 1_709_164_800, 1_767_225_599, 4_107_542_400] {
            let time = SystemTime::UNIX_EPOCH + Duration::from_millis(seconds * 1000 + 7);
            assert_eq!(parse_rfc3339(&rfc3339(time)), Some(time));
        }
        for text in ["", "2024-02-30T00:00:00.000Z", "2024-02-29 00:00:00.000Z", "é024-02-29T00"] {
            assert_eq!(parse_rfc3339(text), None, "{text}");
        }
    }
}
