//! Sessions written by hand: what is reported of each, in any segmentation.

mod anything;
mod budget;
mod endings;
mod peers;
mod unseen;

use std::sync::Arc;

use crate::forward::Side;
use crate::forward::http::{Exchange, ExchangeEnd, HttpVersion, Untracked};
use crate::forward::http_testing::Recorder;
use crate::forward::passthrough::{HttpObserver, Observer};
use weir_http::h2::frames::{
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PADDED, PREFACE,
    PRIORITY as WITH_PRIORITY, PUSH_PROMISE, RST_STREAM, SETTINGS,
};

/// Frames that the observer does not look into.
const PRIORITY: u8 = 2;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const BOTH: u8 = END_STREAM | END_HEADERS;

/// GET, http, /, :authority a
const GET: &[u8] = b"\x82\x86\x84\x41\x01a";
/// POST, http, /, :authority a
const POST: &[u8] = b"\x83\x86\x84\x41\x01a";
/// :status 200
const OK: &[u8] = b"\x88";

/// Who says what, in order.
type Script = Vec<(Side, Vec<u8>)>;

/// A frame (RFC 9113 §4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [.., a, b, c] = (payload.len() as u32).to_be_bytes();
    [&[a, b, c, kind, flags], &stream.to_be_bytes()[..], payload].concat()
}

fn client(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> (Side, Vec<u8>) {
    (Side::Client, frame(kind, flags, stream, payload))
}

fn upstream(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> (Side, Vec<u8>) {
    (Side::Upstream, frame(kind, flags, stream, payload))
}

/// A literal without indexing, both in plain and short (RFC 7541 §6.2.2).
fn field(name: &str, value: &str) -> Vec<u8> {
    let [name_length, value_length] = [name.len() as u8, value.len() as u8];
    [&[0, name_length], name.as_bytes(), &[value_length], value.as_bytes()].concat()
}

/// Preface and SETTINGS, each acknowledged, and what follows.
fn script(steps: impl IntoIterator<Item = (Side, Vec<u8>)>) -> Script {
    let mut script = vec![
        (Side::Client, PREFACE.to_vec()),
        client(SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0]),
        upstream(SETTINGS, 0, 0, &[]),
        client(SETTINGS, ACK, 0, &[]),
        upstream(SETTINGS, ACK, 0, &[]),
    ];
    script.extend(steps);
    script
}

/// An exchange without its times.
fn line(seen: &Exchange) -> String {
    let Exchange { method, path, request_bytes, response_bytes, end, .. } = seen;
    let authority = seen.authority.as_deref().unwrap_or("-");
    let status = seen.status.map_or("-".to_owned(), |status| status.to_string());
    let grpc = match (seen.grpc, seen.grpc_status) {
        (false, None) => String::new(),
        (grpc, status) => format!(" grpc {grpc} {status:?}"),
    };
    assert_eq!(seen.version, 20);
    format!("{method} {authority} {path} {status}{grpc} {request_bytes}/{response_bytes} {end:?}")
}

/// An observer and what it has reported.
struct Watched {
    observer: HttpObserver,
    sink: Arc<Recorder>,
}

impl Watched {
    fn new() -> Self {
        Self::of(HttpVersion::Http2)
    }

    fn of(version: HttpVersion) -> Self {
        let sink = Arc::new(Recorder::default());
        Self { observer: HttpObserver::new(version, Arc::clone(&sink) as Arc<_>), sink }
    }

    fn show(&mut self, script: &[(Side, Vec<u8>)], step: usize) {
        for (from, bytes) in script {
            for piece in bytes.chunks(step) {
                self.observer.bytes(*from, piece);
            }
        }
    }

    fn lines(&self) -> Vec<String> {
        self.sink.so_far().iter().map(line).collect()
    }
}

/// What is reported of a connection that ends like this, the same in pieces of any size.
fn reported(script: &[(Side, Vec<u8>)], end: &ExchangeEnd) -> Vec<String> {
    reported_in([1, 2, 3, 5, 9, 16, 1000, usize::MAX], script, end)
}

fn reported_in<const N: usize>(
    sizes: [usize; N],
    script: &[(Side, Vec<u8>)],
    end: &ExchangeEnd,
) -> Vec<String> {
    let mut all = sizes.map(|step| {
        let mut watched = Watched::new();
        watched.show(script, step);
        watched.observer.finish(end.clone());
        (watched.lines(), watched.sink.downgrades())
    });
    let first = std::mem::take(&mut all[0]);
    for other in &all[1..] {
        assert_eq!(*other, first);
    }
    assert_eq!(first.1, []);
    first.0
}

fn complete(script: &[(Side, Vec<u8>)]) -> Vec<String> {
    let seen = reported(script, &ExchangeEnd::Cancelled);
    assert!(!seen.iter().any(|seen| seen.ends_with("Cancelled")), "{seen:?}");
    seen
}

#[test]
fn exchanges_of_every_shape() {
    let grpc = [POST, &field("content-type", "application/grpc+proto")].concat();
    let grpc_ok = [OK, &field("content-type", "application/grpc")].concat();
    let status = field("grpc-status", "5");
    let only = [&grpc_ok[..], &status].concat();
    let hosted = [&[0x82, 0x86][..], &field(":path", "/p?q"), &field("host", "h:1")].concat();
    let cases: Vec<(&str, Script, &str)> = vec![
        (
            "without bodies",
            vec![client(HEADERS, BOTH, 1, GET), upstream(HEADERS, BOTH, 1, b"\x8d")],
            "GET a / 404 0/0 Complete",
        ),
        (
            "with host in place of :authority, and a query",
            vec![client(HEADERS, BOTH, 1, &hosted), upstream(HEADERS, BOTH, 1, OK)],
            "GET h:1 /p 200 0/0 Complete",
        ),
        (
            "with bodies, padding and frames in between",
            vec![
                client(HEADERS, END_HEADERS | PADDED | WITH_PRIORITY, 1, &{
                    let fields = [&[3, 0, 0, 0, 0, 9], POST, &[0, 0, 0]];
                    fields.concat()
                }),
                client(PRIORITY, 0, 1, &[0; 5]),
                client(DATA, PADDED, 1, b"\x02abc\0\0"),
                client(0xb7, 0xff, 0, b"unknown"),
                upstream(PING, 0, 0, &[0; 8]),
                upstream(HEADERS, END_HEADERS | PADDED, 1, b"\x01\x88\0"),
                upstream(DATA, 0, 1, b"12345"),
                client(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 5]),
                client(DATA, END_STREAM, 1, b""),
                upstream(DATA, END_STREAM | PADDED, 1, b"\x00"),
            ],
            "POST a / 200 3/5 Complete",
        ),
        (
            "with interim responses",
            vec![
                client(HEADERS, BOTH, 1, GET),
                upstream(HEADERS, END_HEADERS, 1, &field(":status", "100")),
                upstream(HEADERS, END_HEADERS, 1, &field(":status", "103")),
                upstream(HEADERS, BOTH, 1, b"\x89"),
            ],
            "GET a / 204 0/0 Complete",
        ),
        (
            "gRPC",
            vec![
                client(HEADERS, END_HEADERS, 1, &grpc),
                client(DATA, END_STREAM, 1, b"\0\0\0\0\x01x"),
                upstream(HEADERS, END_HEADERS, 1, &grpc_ok),
                upstream(DATA, 0, 1, b"\0\0\0\0\0"),
                upstream(HEADERS, BOTH, 1, &status),
            ],
            "POST a / 200 grpc true Some(5) 6/5 Complete",
        ),
        (
            "gRPC with trailers only",
            vec![client(HEADERS, BOTH, 1, &grpc), upstream(HEADERS, BOTH, 1, &only)],
            "POST a / 200 grpc true Some(5) 0/0 Complete",
        ),
        (
            "with trailers of the request, behind the response",
            vec![
                client(HEADERS, END_HEADERS, 1, POST),
                upstream(HEADERS, BOTH, 1, OK),
                client(DATA, 0, 1, b"late"),
                client(HEADERS, BOTH, 1, &field("x", "y")),
            ],
            "POST a / 200 4/0 Complete",
        ),
        (
            "with header blocks in pieces",
            vec![
                client(HEADERS, END_STREAM, 1, &GET[..2]),
                client(CONTINUATION, 0, 1, b""),
                client(CONTINUATION, 0, 1, &GET[2..4]),
                client(CONTINUATION, END_HEADERS, 1, &GET[4..]),
                upstream(HEADERS, END_STREAM, 1, b""),
                upstream(CONTINUATION, END_HEADERS, 1, OK),
            ],
            "GET a / 200 0/0 Complete",
        ),
        (
            "CONNECT",
            vec![
                client(HEADERS, END_HEADERS, 1, &{
                    [field(":method", "CONNECT"), field(":authority", "b:1")].concat()
                }),
                upstream(HEADERS, END_HEADERS, 1, OK),
                client(DATA, END_STREAM, 1, b"up"),
                upstream(DATA, END_STREAM, 1, b"down"),
            ],
            "CONNECT b:1  200 2/4 Tunnel",
        ),
        (
            "CONNECT with a protocol (RFC 8441)",
            vec![
                client(HEADERS, END_HEADERS, 1, &{
                    let method = field(":method", "CONNECT");
                    [method, field(":protocol", "websocket"), field(":path", "/chat")].concat()
                }),
                upstream(HEADERS, END_HEADERS, 1, OK),
                client(DATA, END_STREAM, 1, b""),
                upstream(DATA, END_STREAM, 1, b"down"),
            ],
            "CONNECT - /chat 200 0/4 Tunnel",
        ),
        (
            "CONNECT refused",
            vec![
                client(HEADERS, BOTH, 1, &field(":method", "CONNECT")),
                upstream(HEADERS, BOTH, 1, b"\x8c"),
            ],
            "CONNECT -  400 0/0 Complete",
        ),
    ];
    for (what, steps, expected) in cases {
        assert_eq!(complete(&script(steps)), [expected], "{what}");
    }
}

#[test]
fn pushed_streams_are_followed_and_not_reported() {
    let promise = [&2_u32.to_be_bytes()[..], b"\x82\x86\x84\x41\x04push"].concat();
    let steps = script([
        client(HEADERS, BOTH, 1, GET),
        upstream(PUSH_PROMISE, END_HEADERS, 1, &promise),
        upstream(HEADERS, BOTH, 1, OK),
        upstream(HEADERS, END_HEADERS, 2, OK),
        upstream(DATA, END_STREAM, 2, b"pushed"),
    ]);
    assert_eq!(complete(&steps), ["GET a / 200 0/0 Complete"]);
    let mut watched = Watched::new();
    watched.show(&steps[..steps.len() - 1], usize::MAX);
    assert!(!watched.observer.is_idle());
    watched.show(&steps[steps.len() - 1..], usize::MAX);
    assert!(watched.observer.is_idle());
}

#[test]
fn an_upgraded_connection_answers_its_first_request_on_stream_1() {
    for end in [ExchangeEnd::Complete, ExchangeEnd::UpstreamReset(Some(7))] {
        let mut watched = Watched::of(HttpVersion::Http1);
        let request = b"GET / HTTP/1.1\r\nUpgrade: h2c\r\nHTTP2-Settings: \r\n\r\n";
        let switched = b"HTTP/1.1 101 Switching\r\nUpgrade: h2c\r\n\r\n";
        watched.show(&[(Side::Client, request.to_vec()), (Side::Upstream, switched.to_vec())], 1);
        let answer = match end {
            ExchangeEnd::Complete => upstream(DATA, END_STREAM, 1, b"body"),
            _ => upstream(RST_STREAM, 0, 1, &[0, 0, 0, 7]),
        };
        let first = [upstream(SETTINGS, 0, 0, &[]), upstream(HEADERS, END_HEADERS, 1, OK)];
        watched.show(&first, 1);
        watched.show(&script([answer]), 1);
        watched.show(&[client(HEADERS, BOTH, 3, GET), upstream(HEADERS, BOTH, 3, OK)], 1);
        let seen = watched.sink.so_far();
        assert_eq!((seen.len(), seen[0].version, &seen[0].end), (2, 11, &end));
        assert_eq!((seen[0].status, seen[1].version), (Some(200), 20));
        assert!(watched.observer.is_idle());
    }
}
