//! What following HTTP/1 costs per request, and what its parts do: heads, beside httparse, and bodies.

mod discard;

use std::hint::black_box;
use std::sync::Arc;

use divan::Bencher;
use divan::counter::BytesCount;
use weir_http::h1::{
    Body, Framing, HeadLimits, Kind, RequestPrefix, RequestReader, ResponseReader,
};
use weir_http::{Connection, Side};

use self::discard::Discard;

const WRK: &[u8] = b"GET / HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n\r\n";
const CURL: &[u8] =
    b"GET /api/v1/items?page=2 HTTP/1.1\r\nHost: shop.example\r\nUser-Agent: curl/8.5.0\r\nAccept: */*\r\n\r\n";
const BROWSER: &[u8] = b"GET /static/app.js?v=3 HTTP/1.1\r\nHost: shop.example\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\nAccept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\nAccept-Language: en-GB,en;q=0.5\r\nAccept-Encoding: gzip, deflate, br, zstd\r\nConnection: keep-alive\r\nCookie: session=0123456789abcdef0123456789abcdef; theme=dark\r\nUpgrade-Insecure-Requests: 1\r\nIf-None-Match: \"66a1f0c2-3d4\"\r\n\r\n";
const SHORT: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Type: text/plain\r\n\r\nhello";
const NGINX: &[u8] = b"HTTP/1.1 200 OK\r\nServer: nginx/1.24.0\r\nDate: Sat, 21 Nov 2026 10:00:00 GMT\r\nContent-Type: text/html\r\nContent-Length: 16\r\nLast-Modified: Sat, 21 Nov 2026 09:00:00 GMT\r\nConnection: keep-alive\r\nETag: \"66a1f0c2-10\"\r\nAccept-Ranges: bytes\r\n\r\n0123456789abcdef";
const CHUNKED: &[u8] = b"HTTP/1.1 200 OK\r\nDate: Sat, 21 Nov 2026 10:00:00 GMT\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n10\r\n0123456789abcdef\r\n0\r\n\r\n";

/// What one read gives at most.
const SEGMENT: usize = 16 << 10;

fn main() {
    divan::main();
}

fn pair(name: &str) -> (&'static [u8], &'static [u8]) {
    match name {
        "wrk" => (WRK, SHORT),
        "curl" => (CURL, NGINX),
        "chunked" => (CURL, CHUNKED),
        _ => (BROWSER, NGINX),
    }
}

#[divan::bench(args = ["wrk", "curl", "chunked", "browser"], sample_size = 1000)]
fn exchange(bencher: Bencher<'_, '_>, name: &str) {
    let (request, response) = pair(name);
    let mut connection = Connection::http1(Arc::new(Discard));
    bencher.bench_local(|| {
        connection.bytes(Side::Client, black_box(request), &mut |_| true);
        connection.bytes(Side::Upstream, black_box(response), &mut |_| true);
    });
}

/// What every exchange costs whatever is read: four looks at the clocks.
#[divan::bench(sample_size = 1000)]
fn clocks() -> impl Sized {
    let start = std::time::Instant::now();
    (std::time::SystemTime::now(), start.elapsed(), start.elapsed())
}

/// The two heads alone, which come whole.
#[divan::bench(args = ["wrk", "curl", "chunked", "browser"], sample_size = 1000)]
fn heads(bencher: Bencher<'_, '_>, name: &str) {
    let (request, response) = pair(name);
    let mut requests = RequestReader::new(HeadLimits::default());
    let mut responses = ResponseReader::new(HeadLimits::default());
    bencher.bench_local(|| {
        let request = requests.read(black_box(request)).expect("a head");
        let response = responses.read(black_box(response), Kind::Other).expect("a head");
        (request, response)
    });
}

/// The same by another parser, which does not say what the fields mean.
#[divan::bench(args = ["wrk", "curl", "chunked", "browser"], sample_size = 1000)]
fn httparse_heads(name: &str) -> bool {
    let (request, response) = pair(name);
    let mut table = [httparse::EMPTY_HEADER; 64];
    let mut head = httparse::Request::new(&mut table);
    let request = head.parse(black_box(request)).is_ok();
    let mut table = [httparse::EMPTY_HEADER; 64];
    let mut head = httparse::Response::new(&mut table);
    request & head.parse(black_box(response)).is_ok()
}

/// What protocol detection reads.
#[divan::bench(args = ["wrk", "curl", "browser"], sample_size = 1000)]
fn request_prefix(name: &str) -> bool {
    RequestPrefix::default().read(black_box(pair(name).0)).expect("a request line")
}

/// Framing: content is skipped, not read.
#[divan::bench(args = [16, 1024], sample_size = 100)]
fn chunked_body(bencher: Bencher<'_, '_>, chunk: usize) {
    let one = [format!("{chunk:x}\r\n").into_bytes(), vec![b'x'; chunk], b"\r\n".to_vec()].concat();
    let chunks = one.repeat(SEGMENT / one.len());
    let mut body = Body::new(Framing::Chunked);
    bencher
        .counter(BytesCount::of_slice(&chunks))
        .bench_local(|| body.advance(black_box(&chunks)).expect("chunks"));
}
