//! Records in the formats of other servers' access logs: Apache's combined format
//! (`mod_log_config`, `"%h %l %u %t \"%r\" %>s %b \"%{Referer}i\" \"%{User-agent}i\""`) and Envoy's default
//! text format. What weir does not know is `-`, as in both.
//!
//! A request is one line. A connection has one only if no request was seen on it, as Envoy's TCP proxy
//! writes it; otherwise its requests stand for it.

use std::{
    fmt::{self, Write as _},
    time::{Duration, SystemTime},
};

use jiff::Timestamp;

use super::{ConnectionRecord, Record, RequestRecord};
use crate::units::rfc3339;

/// Text of a peer between quotes, in ASCII: quotes and backslashes have a backslash before them; control
/// characters and bytes from 0x80 on are `\xhh`, as Apache writes them. No text can end its field or its
/// line, or reach a terminal as a control sequence.
struct Quoted<'a>(&'a str);

/// What a line says of a field that weir does not know.
const UNKNOWN: &str = "-";

/// Writes the record in Apache's combined format, without a line feed; false if it has no line.
pub(super) fn combined(record: &Record, out: &mut String) -> bool {
    match record {
        Record::Request(it) => {
            let version = if it.version == "2" { "2.0" } else { &it.version };
            let _ = write!(out, "{} - - [{}] ", it.client.ip(), apache_time(it.time));
            let (method, path) = (Quoted(&it.method), Quoted(target(it)));
            let _ = write!(out, "\"{method} {path} HTTP/{version}\" ");
            let _ = write!(out, "{} {}", Or(it.status), Or(some(it.response_bytes)));
        }
        Record::Connection(it) if it.requests == 0 => {
            let client = Or(it.client.map(|client| client.ip()));
            let _ = write!(out, "{client} - - [{}] ", apache_time(it.time));
            let _ = write!(out, "\"-\" - {}", Or(some(it.bytes_received)));
        }
        Record::Connection(_) => return false,
    }
    // Referer and User-Agent.
    out.push_str(" \"-\" \"-\"");
    true
}

/// Writes the record in Envoy's default format, without a line feed; false if it has no line.
pub(super) fn envoy(record: &Record, out: &mut String) -> bool {
    let time = |time| rfc3339(time);
    match record {
        Record::Request(it) => {
            let (method, path) = (Quoted(&it.method), Quoted(target(it)));
            let _ = write!(out, "[{}] \"{method} {path} HTTP/{}\" ", time(it.time), it.version);
            let status = it.status.unwrap_or(0);
            let _ = write!(out, "{status} {} ", request_flags(it));
            let _ = write!(out, "{} {} ", it.request_bytes, it.response_bytes);
            let _ = write!(out, "{} {} ", millis(it.duration), Or(it.latency.map(millis)));
            // X-Forwarded-For, User-Agent and X-Request-Id.
            out.push_str("\"-\" \"-\" \"-\" ");
            let authority = Quoted(it.authority.as_deref().unwrap_or(UNKNOWN));
            let _ = write!(out, "\"{authority}\" \"{}\"", it.endpoint.unwrap_or(it.destination));
        }
        Record::Connection(it) if it.requests == 0 => {
            let _ = write!(out, "[{}] \"- - -\" 0 {} ", time(it.time), connection_flags(it));
            let _ = write!(out, "{} {} ", it.bytes_sent, it.bytes_received);
            let _ = write!(out, "{} - \"-\" \"-\" \"-\" \"-\" ", millis(it.duration));
            let _ = write!(out, "\"{}\"", it.endpoint.unwrap_or(it.destination));
        }
        Record::Connection(_) => return false,
    }
    true
}

// === helpers ===

/// A value, or a dash.
struct Or<T>(Option<T>);

impl<T: fmt::Display> fmt::Display for Or<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(value) => value.fmt(f),
            None => f.write_str(UNKNOWN),
        }
    }
}

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self.0.bytes() {
            match byte {
                b'"' | b'\\' => write!(f, "\\{}", char::from(byte))?,
                b' '..=b'~' => f.write_char(char::from(byte))?,
                _ => write!(f, "\\x{byte:02x}")?,
            }
        }
        Ok(())
    }
}

/// What Apache calls `%b`: no bytes are a dash.
fn some(bytes: u64) -> Option<u64> {
    (bytes > 0).then_some(bytes)
}

/// The path; of CONNECT, which has none, the authority.
fn target(request: &RequestRecord) -> &str {
    match (&*request.path, &request.authority) {
        ("", Some(authority)) => authority,
        ("", None) => UNKNOWN,
        (path, _) => path,
    }
}

/// `21/Nov/2026:04:17:23 +0000`
fn apache_time(time: SystemTime) -> String {
    let time = Timestamp::try_from(time.max(SystemTime::UNIX_EPOCH)).unwrap_or(Timestamp::MAX);
    time.strftime("%d/%b/%Y:%H:%M:%S +0000").to_string()
}

fn millis(duration: Duration) -> u128 {
    duration.as_millis()
}

/// The response flag of Envoy that says the same.
fn request_flags(record: &RequestRecord) -> &'static str {
    match &*record.end {
        "client_reset" => "DC",
        // A stream's reset, or the connection's.
        "upstream_reset" if record.h2_error.is_some() => "UR",
        "upstream_reset" | "upstream_closed" => "UC",
        "answered" => "UF",
        "cancelled" => "LR",
        _ => UNKNOWN,
    }
}

fn connection_flags(record: &ConnectionRecord) -> &'static str {
    match &*record.close {
        "connect_failed" => "UF",
        _ => UNKNOWN,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::telemetry::{
        record::{RequestRecord, tests::request},
        tests::connection_record,
    };

    fn lines(record: &Record) -> [Option<String>; 2] {
        [combined, envoy].map(|format| {
            let mut line = String::new();
            format(record, &mut line).then_some(line)
        })
    }

    fn of(record: RequestRecord) -> [String; 2] {
        lines(&Record::Request(record)).map(Option::unwrap)
    }

    #[test]
    fn a_request_reads_as_in_the_logs_of_apache_and_envoy() {
        let time = SystemTime::UNIX_EPOCH + Duration::from_millis(1_709_164_800_310);
        let [combined, envoy] = of(RequestRecord { time, ..request() });
        assert_eq!(
            combined,
            "10.0.0.1 - - [29/Feb/2024:00:00:00 +0000] \"GET /a HTTP/1.1\" 200 1024 \"-\" \"-\""
        );
        assert_eq!(
            envoy,
            "[2024-02-29T00:00:00.310Z] \"GET /a HTTP/1.1\" 200 - 0 1024 5 3 \"-\" \"-\" \"-\" \
             \"example.com\" \"192.0.2.1:80\""
        );
        let [combined, envoy] = of(RequestRecord {
            time,
            client: "[fd00::1]:40000".parse().unwrap(),
            endpoint: "10.1.0.5:8080".parse().ok(),
            version: "2".into(),
            method: "CONNECT".into(),
            path: String::new(),
            status: None,
            response_bytes: 0,
            latency: None,
            end: "upstream_reset".into(),
            h2_error: Some(7),
            ..request()
        });
        assert_eq!(
            combined,
            "fd00::1 - - [29/Feb/2024:00:00:00 +0000] \"CONNECT example.com HTTP/2.0\" - - \"-\" \
             \"-\""
        );
        assert_eq!(
            envoy,
            "[2024-02-29T00:00:00.310Z] \"CONNECT example.com HTTP/2\" 0 UR 0 0 5 - \"-\" \"-\" \
             \"-\" \"example.com\" \"10.1.0.5:8080\""
        );
    }

    #[test]
    fn a_connection_has_a_line_only_without_requests() {
        let record = connection_record();
        let with_requests = ConnectionRecord { requests: 1, ..record.clone() };
        assert_eq!(lines(&Record::Connection(with_requests)), [None, None]);
        let direct = ConnectionRecord { client: None, ..record.clone() };
        let direct = lines(&Record::Connection(direct)).map(Option::unwrap);
        assert!(direct[0].starts_with("- - - [29/Feb/2024:00:00:00 +0000] \"-\" - 3000000 "));
        let [combined, envoy] = lines(&Record::Connection(record)).map(Option::unwrap);
        assert_eq!(
            combined,
            "10.0.0.1 - - [29/Feb/2024:00:00:00 +0000] \"-\" - 3000000 \"-\" \"-\""
        );
        assert_eq!(
            envoy,
            "[2024-02-29T00:00:00.000Z] \"- - -\" 0 - 1500 3000000 1250 - \"-\" \"-\" \"-\" \"-\" \
             \"192.0.2.1:443\""
        );
    }

    /// Guards against forged lines and fields (CWE-117).
    #[test]
    fn no_text_of_a_peer_ends_its_field_or_its_line() {
        let path = "/\"\r\n10.0.0.1 - - \\\u{1b}[2J\u{7f}\u{e9}\u{fffd}";
        for line in of(RequestRecord { path: path.into(), ..request() }) {
            let expected = "\"GET /\\\"\\x0d\\x0a10.0.0.1 - - \\\\\\x1b[2J\\x7f\\xc3\\xa9\\xef\\xbf\\xbd HTTP/1.1\"";
            assert!(line.contains(expected), "{line}");
        }
    }

    /// The fields between quotes, as a reader of these formats finds them.
    fn quoted(line: &str) -> Vec<String> {
        let (mut fields, mut field, mut chars) = (Vec::new(), None::<String>, line.chars());
        while let Some(c) = chars.next() {
            match (c, &mut field) {
                ('"', None) => field = Some(String::new()),
                ('"', Some(_)) => fields.extend(field.take()),
                ('\\', Some(field)) => field.extend(chars.next()),
                (c, Some(field)) => field.push(c),
                _ => {}
            }
        }
        assert_eq!(field, None, "a field has no end: {line}");
        fields
    }

    proptest! {
        #[test]
        fn every_line_has_the_same_fields(method: String, path: String, authority: Option<String>) {
            let record = RequestRecord { method, path, authority, ..request() };
            for (line, count) in of(record).into_iter().zip([3, 6]) {
                prop_assert!(line.bytes().all(|byte| matches!(byte, b' '..=b'~')), "{line:?}");
                prop_assert_eq!(quoted(&line).len(), count, "{}", line);
            }
        }
    }
}
