//! The observer's reading of a head agrees with httparse's, and does not depend on how the bytes
//! arrive: the first byte says whose head it is and where to cut the rest.

#![no_main]

use std::sync::{Arc, Mutex};

use httparse::{EMPTY_HEADER, ParserConfig, Request, Response, Status};
use libfuzzer_sys::fuzz_target;
use weir::forward::http::{Exchange, ExchangeSink, HttpVersion, Untracked};
use weir::forward::{Probe, Side};

const GET: &[u8] = b"GET / HTTP/1.1\r\n\r\n";

/// Reasons that come from what fields mean, of which httparse knows nothing.
const MEANING: &[&str] = &[
    "invalid content-length",
    "contradictory content-length",
    "transfer-encoding with content-length",
    "transfer-encoding in HTTP/1.0",
    "request body without an end",
];

#[derive(Default)]
struct Seen(Mutex<(usize, Vec<Exchange>)>);

impl ExchangeSink for Seen {
    fn request_started(&self) {
        self.0.lock().expect("no panics").0 += 1;
    }
    fn exchange(&self, exchange: Exchange) {
        self.0.lock().expect("no panics").1.push(exchange);
    }
    fn downgraded(&self, _: Untracked) {}
}

/// What becomes of `head`.
#[derive(Debug, PartialEq)]
struct Outcome {
    /// Requests started, the client's own `GET` included.
    started: usize,
    method: Option<String>,
    status: Option<u16>,
    untracked: Option<Untracked>,
}

fn observe(from: Side, head: &[u8], step: usize) -> Outcome {
    let seen = Arc::new(Seen::default());
    let mut observer = Probe::new(HttpVersion::Http1, Arc::clone(&seen) as Arc<_>);
    if from == Side::Upstream {
        observer.bytes(Side::Client, GET);
    }
    for segment in head.chunks(step) {
        observer.bytes(from, segment);
    }
    let untracked = observer.untracked();
    observer.finish();
    let mut seen = seen.0.lock().expect("no panics");
    assert_eq!(seen.0, seen.1.len(), "every request is reported");
    let first = if seen.1.is_empty() { None } else { Some(seen.1.remove(0)) };
    Outcome {
        started: seen.0,
        status: first.as_ref().and_then(|exchange| exchange.status),
        method: first.map(|exchange| exchange.method.to_string()),
        untracked,
    }
}

fn parse_request(bytes: &[u8]) -> (httparse::Result<usize>, Option<String>) {
    let mut table = vec![EMPTY_HEADER; bytes.len()];
    let mut request = Request::new(&mut table);
    let parsed = request.parse(bytes);
    (parsed, request.method.map(str::to_owned))
}

fn parse_response(bytes: &[u8]) -> (httparse::Result<usize>, Option<u16>) {
    let mut config = ParserConfig::default();
    config.allow_obsolete_multiline_headers_in_responses(true);
    config.allow_spaces_after_header_name_in_responses(true);
    let mut table = vec![EMPTY_HEADER; bytes.len()];
    let mut response = Response::new(&mut table);
    let parsed = config.parse_response(&mut response, bytes);
    (parsed, response.code)
}

fuzz_target!(|data: &[u8]| {
    let Some((how, bytes)) = data.split_first() else { return };
    // Below the length from which a piece is cut.
    let bytes = &bytes[..bytes.len().min(4096)];
    let from = if how & 1 == 0 { Side::Client } else { Side::Upstream };
    let (parsed, method, code) = match from {
        Side::Client => {
            let (parsed, method) = parse_request(bytes);
            (parsed, method, None)
        }
        Side::Upstream => {
            let (parsed, code) = parse_response(bytes);
            (parsed, Some("GET".to_owned()), code)
        }
    };
    let head = match parsed {
        Ok(Status::Complete(length)) => &bytes[..length],
        _ => bytes,
    };
    let outcome = observe(from, head, usize::MAX);
    assert_eq!(outcome, observe(from, head, 1), "byte by byte");
    assert_eq!(outcome, observe(from, head, usize::from(how >> 1).max(1)), "in steps");
    let means_something = !outcome.untracked.is_some_and(|it| MEANING.contains(&it.reason));
    match parsed {
        Ok(Status::Complete(_)) if means_something => {
            assert_eq!(outcome.untracked, None);
            assert_eq!((outcome.started, outcome.method), (1, method));
            let interim = code.is_some_and(|code| (100..=199).contains(&code) && code != 101);
            assert_eq!(outcome.status, code.filter(|_| !interim));
        }
        Ok(Status::Partial) if means_something => {
            assert_eq!((outcome.untracked, outcome.status), (None, None));
        }
        Err(_) => assert!(outcome.untracked.is_some()),
        Ok(_) => {}
    }
});
