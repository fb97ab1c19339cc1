//! HTTP/1 messages with a body: each kind of framing, trailers, and sizes.

use anyhow::Result;
use weir_tests::way::Way;
use weir_tests::wire::noise;

use super::Behaviour;
use super::http1::{http1, http1_until_close};

pub(crate) const TABLE: &[Behaviour] = &[
    ("bodies with content-length are preserved", by_length),
    ("chunks keep their sizes, extensions and case", by_chunks),
    ("a body that ends with the connection stays one", until_the_end),
    ("an HTTP/1.1 body that ends with the connection stays one", until_the_end_1_1),
    ("trailers pass both ways, announced or not", trailers),
    ("an answer may come before the request's end", answer_before_the_end),
    ("8 MiB pass both ways by length", large_by_length),
    ("8 MiB pass both ways in chunks", large_by_chunks),
];

const LARGE: usize = 8 << 20;

fn by_length(way: &Way) -> Result<()> {
    http1(way, &[200, 200], |wire| {
        for body in ["hello", "{\"GET / HTTP/1.1\\r\\n\": 1}"] {
            let length = body.len();
            wire.up(format!(
                "POST / HTTP/1.1\r\nHost: host.test\r\nContent-Length: {length}\r\n\r\n{body}"
            ))?;
            wire.down(format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}"))?;
        }
        Ok(())
    })
}

fn by_chunks(way: &Way) -> Result<()> {
    let body = "5\r\nhello\r\n00A;name=\"v;w\"\r\n0123456789\r\n1\r\n!\r\n0\r\n\r\n";
    http1(way, &[200, 200], |wire| {
        for _ in 0..2 {
            wire.up(format!(
                "POST / HTTP/1.1\r\nHost: host.test\r\ntransfer-encoding: Chunked\r\n\r\n{body}"
            ))?;
            wire.down(format!("HTTP/1.1 200 OK\r\nTRANSFER-ENCODING: chunked\r\n\r\n{body}"))?;
        }
        Ok(())
    })
}

fn until_the_end(way: &Way) -> Result<()> {
    http1_until_close(way, &[200], |wire| {
        wire.up("GET / HTTP/1.0\r\nHost: host.test\r\n\r\n")?;
        wire.down("HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\n")?;
        wire.down(noise(1_000_000))
    })
}

fn until_the_end_1_1(way: &Way) -> Result<()> {
    http1_until_close(way, &[200], |wire| {
        wire.up("GET / HTTP/1.1\r\nHost: host.test\r\n\r\n")?;
        wire.down("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n")?;
        wire.down(noise(1_000_000))
    })
}

fn trailers(way: &Way) -> Result<()> {
    http1(way, &[200, 200], |wire| {
        for announced in ["", "Trailer: X-Sum\r\n"] {
            let rest = format!(
                "{announced}Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 1\r\n\
                 x-Other:2\r\n\r\n"
            );
            wire.up(format!("POST / HTTP/1.1\r\nHost: host.test\r\n{rest}"))?;
            wire.down(format!("HTTP/1.1 200 OK\r\n{rest}"))?;
        }
        Ok(())
    })
}

/// As servers do that refuse an upload, or stream both ways.
fn answer_before_the_end(way: &Way) -> Result<()> {
    http1(way, &[200], |wire| {
        wire.up("POST / HTTP/1.1\r\nHost: host.test\r\nTransfer-Encoding: chunked\r\n\r\n")?;
        wire.up("3\r\none\r\n")?;
        wire.down("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nONE\r\n")?;
        wire.up("3\r\ntwo\r\n")?;
        wire.down("3\r\nTWO\r\n")?;
        wire.up("0\r\n\r\n")?;
        wire.down("0\r\n\r\n")
    })
}

fn large_by_length(way: &Way) -> Result<()> {
    let body = noise(LARGE);
    http1(way, &[200], |wire| {
        let head = format!("PUT / HTTP/1.1\r\nHost: host.test\r\nContent-Length: {LARGE}\r\n\r\n");
        wire.up([head.as_bytes(), &body].concat())?;
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {LARGE}\r\n\r\n");
        wire.down([head.as_bytes(), &body].concat())
    })
}

fn large_by_chunks(way: &Way) -> Result<()> {
    // A length that divides no buffer.
    let mut body = Vec::new();
    for part in noise(LARGE).chunks(10_007) {
        body.extend_from_slice(format!("{:x}\r\n", part.len()).as_bytes());
        body.extend_from_slice(part);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(b"0\r\n\r\n");
    http1(way, &[200], |wire| {
        let head = "PUT / HTTP/1.1\r\nHost: host.test\r\nTransfer-Encoding: chunked\r\n\r\n";
        wire.up([head.as_bytes(), &body].concat())?;
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        wire.down([head.as_bytes(), &body].concat())
    })
}
