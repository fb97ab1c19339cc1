//! What following HTTP/1 costs per request, and what detection costs per connection.

mod discard;

use std::hint::black_box;
use std::sync::Arc;

use divan::Bencher;
use weir::detect::detect;
use weir::forward::http::HttpVersion;
use weir::forward::{Probe, Side};

use self::discard::Discard;

const WRK: &[u8] = b"GET / HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n\r\n";
const CURL: &[u8] =
    b"GET /api/v1/items?page=2 HTTP/1.1\r\nHost: shop.example\r\nUser-Agent: curl/8.5.0\r\nAccept: */*\r\n\r\n";
const BROWSER: &[u8] = b"GET /static/app.js?v=3 HTTP/1.1\r\nHost: shop.example\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\nAccept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\nAccept-Language: en-GB,en;q=0.5\r\nAccept-Encoding: gzip, deflate, br, zstd\r\nConnection: keep-alive\r\nCookie: session=0123456789abcdef0123456789abcdef; theme=dark\r\nUpgrade-Insecure-Requests: 1\r\nIf-None-Match: \"66a1f0c2-3d4\"\r\n\r\n";
const SHORT: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Type: text/plain\r\n\r\nhello";
const NGINX: &[u8] = b"HTTP/1.1 200 OK\r\nServer: nginx/1.24.0\r\nDate: Sat, 21 Nov 2026 10:00:00 GMT\r\nContent-Type: text/html\r\nContent-Length: 16\r\nLast-Modified: Sat, 21 Nov 2026 09:00:00 GMT\r\nConnection: keep-alive\r\nETag: \"66a1f0c2-10\"\r\nAccept-Ranges: bytes\r\n\r\n0123456789abcdef";
const CHUNKED: &[u8] = b"HTTP/1.1 200 OK\r\nDate: Sat, 21 Nov 2026 10:00:00 GMT\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n10\r\n0123456789abcdef\r\n0\r\n\r\n";

/// The first bytes of a ClientHello without extensions.
const HELLO: &[u8] = b"\x16\x03\x01\x00\x2d\x01\x00\x00\x29\x03\x03\
    0123456789abcdef0123456789abcdef\x00\x00\x02\x13\x01\x01\x00";

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
    let mut observer = Probe::new(HttpVersion::Http1, Arc::new(Discard));
    bencher.bench_local(|| {
        observer.bytes(Side::Client, black_box(request));
        observer.bytes(Side::Upstream, black_box(response));
    });
}

/// What every exchange costs whatever is read: four looks at the clocks.
#[divan::bench(sample_size = 1000)]
fn clocks() -> impl Sized {
    let start = std::time::Instant::now();
    (std::time::SystemTime::now(), start.elapsed(), start.elapsed())
}

/// A second opinion on the two heads, which come whole.
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

#[divan::bench(args = ["http1", "tls"], sample_size = 1000)]
fn detection(name: &str) -> impl Sized {
    detect(black_box(if name == "tls" { HELLO } else { CURL }))
}
