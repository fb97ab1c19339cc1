//! What protocol detection costs per connection.

use std::hint::black_box;

use weir::detect::detect;

const CURL: &[u8] =
    b"GET /api/v1/items?page=2 HTTP/1.1\r\nHost: shop.example\r\nUser-Agent: curl/8.5.0\r\nAccept: */*\r\n\r\n";

/// The first bytes of a ClientHello without extensions.
const HELLO: &[u8] = b"\x16\x03\x01\x00\x2d\x01\x00\x00\x29\x03\x03\
    0123456789abcdef0123456789abcdef\x00\x00\x02\x13\x01\x01\x00";

fn main() {
    divan::main();
}

#[divan::bench(args = ["http1", "tls"], sample_size = 1000)]
fn detection(name: &str) -> impl Sized {
    detect(black_box(if name == "tls" { HELLO } else { CURL }))
}
