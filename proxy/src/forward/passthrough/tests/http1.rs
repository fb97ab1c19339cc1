//! Sessions written by hand, and what is reported of them.

mod anything;
mod bounds;
mod drains;
mod endings;
mod sessions;
mod terminate;
mod unseen;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::budget::Share;
use crate::forward::Side::{self, Client, Upstream};
use crate::forward::http::{Exchange, ExchangeEnd, HttpVersion, Untracked};
use crate::forward::http_testing::Recorder;
use crate::forward::passthrough::{HttpObserver, Observer};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

/// An observer and what it reports.
struct Watch {
    observer: HttpObserver,
    sink: Arc<Recorder>,
}

impl Watch {
    fn new() -> Self {
        Self::of(None)
    }

    fn of(share: Option<Share>) -> Self {
        let sink = Recorder::charging(share);
        Self { observer: HttpObserver::new(HttpVersion::Http1, Arc::clone(&sink) as Arc<_>), sink }
    }

    /// Plays what is said, in this order and in segments of `step` bytes.
    fn play<'a>(words: impl IntoIterator<Item = (Side, &'a [u8])>, step: usize) -> Self {
        let mut watch = Self::new();
        for (side, words) in words {
            watch.say(side, words, step);
        }
        watch
    }

    fn say(&mut self, side: Side, words: impl AsRef<[u8]>, step: usize) {
        for segment in words.as_ref().chunks(step) {
            self.observer.bytes(side, segment);
        }
    }

    fn downgrade(&self) -> Option<Untracked> {
        let downgrades = self.sink.downgrades();
        assert!(downgrades.len() <= 1, "{downgrades:?}");
        assert_eq!(downgrades.first().copied(), self.observer.untracked());
        downgrades.first().copied()
    }

    fn ended(mut self, side: Side) -> Self {
        self.observer.ended(side);
        self
    }

    /// What was reported, without times.
    fn seen(&self) -> Vec<Exchange> {
        timeless(self.sink.so_far())
    }
}

fn timeless(mut exchanges: Vec<Exchange>) -> Vec<Exchange> {
    for exchange in &mut exchanges {
        exchange.started = SystemTime::UNIX_EPOCH;
        exchange.duration = Duration::ZERO;
        exchange.time_to_head = exchange.time_to_head.map(|_| Duration::ZERO);
    }
    exchanges
}

#[test]
fn requests_are_described_in_any_segmentation() {
    let cases = [
        ("GET / HTTP/1.0\r\n\r\n", (10, "GET", None, "/", 0)),
        (
            "GET http://o.example:81/x?y HTTP/1.1\r\n\r\n",
            (11, "GET", Some("o.example:81"), "/x", 0),
        ),
        ("GET http://o/x HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", (11, "GET", Some("o"), "/x", 0)),
        ("OPTIONS * HTTP/1.1\r\nHost:\ta \r\n\r\n", (11, "OPTIONS", Some("a"), "*", 0)),
        ("\r\n\nGET /leading HTTP/1.1\r\nHost:\r\n\r\n", (11, "GET", Some(""), "/leading", 0)),
        ("GET /bare-lf HTTP/1.1\nHost: a\n\n", (11, "GET", Some("a"), "/bare-lf", 0)),
        (
            "POST / HTTP/1.1\r\nContent-Length: 5, 5\r\ncontent-length:5\r\n\r\nhello",
            (11, "POST", None, "/", 5),
        ),
        (
            "POST / HTTP/1.1\r\ntransfer-encoding: gzip , Chunked \r\n\r\n5;e=\"\"\r\nhello\r\n00\r\nX: y\r\n\r\n",
            (11, "POST", None, "/", 5),
        ),
        (
            "POST / HTTP/1.1\r\nTransfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n1\n.\n0\n\n",
            (11, "POST", None, "/", 1),
        ),
        (
            "M-SEARCH /\u{fc}ml HTTP/1.1\r\nX-Latin: \u{e9}\r\nE:\r\n\r\n",
            (11, "M-SEARCH", None, "/\u{fc}ml", 0),
        ),
    ];
    for (request, (version, method, authority, path, bytes)) in cases {
        for step in 1..=request.len() {
            let watch =
                Watch::play([(Client, request.as_bytes()), (Upstream, OK.as_bytes())], step);
            let seen = watch.seen();
            assert_eq!(seen.len(), 1, "{request:?} {step} {:?}", watch.downgrade());
            let it = &seen[0];
            assert_eq!((it.version, &*it.method, &*it.path), (version, method, path));
            assert_eq!(
                (it.authority.as_deref(), it.request_bytes),
                (authority, bytes),
                "{request:?}"
            );
            assert_eq!((it.status, &it.end), (Some(200), &ExchangeEnd::Complete));
            assert!(watch.observer.is_idle());
        }
    }
}

#[test]
fn responses_are_described_in_any_segmentation() {
    let cases = [
        ("GET", "HTTP/1.1 200 \r\ncontent-length: 2\r\n\r\nhi", (200, 2)),
        ("GET", "HTTP/1.1 200\r\ncontent-length: 2\r\n\r\nhi", (200, 2)),
        ("GET", "HTTP/1.0 299 Odd\tReason!\nContent-Length : 2\n\nhi", (299, 2)),
        (
            "GET",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nSum: x\r\n\r\n",
            (200, 2),
        ),
        ("GET", "HTTP/1.1 204 No Content\r\nContent-Length: 9\r\n\r\n", (204, 0)),
        ("GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 99\r\n\r\n", (304, 0)),
        ("HEAD", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", (200, 0)),
        (
            "GET",
            "HTTP/1.1 200 OK\r\nX-Folded: a\r\n  b\r\nContent-Length:\r\n\t3,\r\n 3\r\n\r\nabc",
            (200, 3),
        ),
        (
            "GET",
            "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 102 P\r\n\r\nHTTP/1.1 204 No\r\n\r\n",
            (204, 0),
        ),
        ("CONNECT", "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno", (403, 2)),
    ];
    for (method, response, (status, bytes)) in cases {
        let request = format!("{method} /x HTTP/1.1\r\n\r\n");
        for step in 1..=response.len() {
            let words = [(Client, request.as_bytes()), (Upstream, response.as_bytes())];
            let watch = Watch::play(words, step);
            let seen = watch.seen();
            assert_eq!(seen.len(), 1, "{response:?} {step} {:?}", watch.downgrade());
            assert_eq!((seen[0].status, seen[0].response_bytes), (Some(status), bytes));
            assert_eq!(seen[0].end, ExchangeEnd::Complete);
            assert!(watch.observer.is_idle());
        }
    }
}

#[test]
fn what_can_be_read_two_ways_is_not_read() {
    let cases: &[(&[u8], &[u8], Side, &str)] = &[
        (b"GET /a b HTTP/1.1\r\n\r\n", b"", Client, "unknown HTTP version"),
        (b"GET  HTTP/1.1\r\n", b"", Client, "invalid method or target"),
        (b"GE(T / HTTP/1.1\r\n", b"", Client, "invalid method or target"),
        (b" / HTTP/1.1\r\n", b"", Client, "invalid method or target"),
        (b"GET /\xff HTTP/1.1\r\n", b"", Client, "invalid method or target"),
        (b"GET / HTTP/1.2\r\n", b"", Client, "unknown HTTP version"),
        (b"GET / HTTP/1.1 \r\n", b"", Client, "invalid line end"),
        (b"GET / HTTP/1.1\rX", b"", Client, "invalid line end"),
        (b"GET / HTTP/1.1\r\nA: b\rc\r\n", b"", Client, "invalid header value"),
        (b"GET / HTTP/1.1\r\nA: b\0c\r\n", b"", Client, "invalid header value"),
        (b"GET / HTTP/1.1\r\nA: \x7f\r\n", b"", Client, "invalid header value"),
        (b"GET / HTTP/1.1\r\nA : b\r\n", b"", Client, "invalid header name"),
        (b"GET / HTTP/1.1\r\n: b\r\n", b"", Client, "invalid header name"),
        (b"GET / HTTP/1.1\r\nA: b\r\n c\r\n", b"", Client, "invalid header name"),
        (b"GET / HTTP/1.1\r\nA\r\n", b"", Client, "invalid header name"),
        (b"GET / HTTP/1.1\r\n\rX", b"", Client, "invalid line end"),
        (
            b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            b"",
            Client,
            "contradictory content-length",
        ),
        (b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", b"", Client, "invalid content-length"),
        (b"POST / HTTP/1.1\r\nContent-Length:\r\n\r\n", b"", Client, "invalid content-length"),
        (
            b"POST / HTTP/1.1\r\nContent-Length: 18446744073709551616\r\n\r\n",
            b"",
            Client,
            "invalid content-length",
        ),
        (
            b"POST / HTTP/1.1\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"",
            Client,
            "transfer-encoding with content-length",
        ),
        (
            b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"",
            Client,
            "transfer-encoding in HTTP/1.0",
        ),
        (
            b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked, gzip\r\n\r\n",
            b"",
            Client,
            "request body without an end",
        ),
        (
            b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nnothing chunked",
            b"",
            Client,
            "invalid chunk",
        ),
        (b"", b"HTTP/1.1 408 Request Time-out\r\n\r\n", Upstream, "response without a request"),
        (b"GET / HTTP/1.1\r\n\r\n", b"SSH-2.0-odd", Upstream, "unknown HTTP version"),
        (b"GET / HTTP/1.1\r\n\r\n", b"HTTP/1.1  200 OK\r\n", Upstream, "invalid status"),
        (b"GET / HTTP/1.1\r\n\r\n", b"HTTP/1.1 20 OK\r\n", Upstream, "invalid status"),
        (b"GET / HTTP/1.1\r\n\r\n", b"HTTP/1.1 2000\r\n", Upstream, "invalid status"),
        (b"GET / HTTP/1.1\r\n\r\n", b"HTTP/1.1 200 a\x01\r\n", Upstream, "invalid status"),
        (
            b"GET / HTTP/1.1\r\n\r\n",
            b"HTTP/1.1 200 OK\r\n fold: x\r\n",
            Upstream,
            "invalid header name",
        ),
        (
            b"GET / HTTP/1.1\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n 2\r\n\r\n",
            Upstream,
            "invalid content-length",
        ),
        (
            b"GET / HTTP/1.1\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab",
            Upstream,
            "invalid chunk",
        ),
        (
            b"GET / HTTP/1.1\r\n\r\n",
            b"HTTP/1.1 204 No\r\n\r\nbody",
            Upstream,
            "response without a request",
        ),
        (b"POST / HTTP/1.1\r\nContent-Length: x\r\n", b"", Client, "invalid content-length"),
    ];
    for (client, upstream, side, reason) in cases {
        for step in [1, 2, 3, 1000] {
            let mut watch = Watch::play([(Client, *client), (Upstream, *upstream)], step);
            let name = client.escape_ascii();
            let expected = Untracked { side: *side, reason };
            assert_eq!(watch.downgrade(), Some(expected), "{name} {step}");
            watch.say(Client, GET, step);
            watch.say(Upstream, OK, step);
            assert!(!watch.observer.is_idle());
            watch = watch.ended(Client).ended(Upstream);
            watch.observer.finish(ExchangeEnd::Complete);
            assert_eq!(watch.downgrade(), Some(expected), "{name} {step}");
            assert!(watch.sink.is_settled());
            let kept = watch.observer.connection.memory();
            assert_eq!(kept, 0, "{name} {step}");
            let ends: Vec<_> = watch.seen().into_iter().map(|exchange| exchange.end).collect();
            let answered = upstream.starts_with(b"HTTP/1.1 204");
            let in_flight = if answered { ExchangeEnd::Complete } else { ExchangeEnd::Untracked };
            assert!(ends.iter().all(|end| *end == in_flight), "{name} {ends:?}");
        }
    }
}
