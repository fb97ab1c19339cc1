//! HTTP/1: versions, targets, fields, and messages that have no body.

use anyhow::Result;
use weir_tests::engine::Engine;
use weir_tests::way::Way;
use weir_tests::wire::Wire;

use super::Behaviour;

pub(crate) const TABLE: &[Behaviour] = &[
    ("HTTP/1.0 with Host keeps its version", version_1_0_with_host),
    ("HTTP/1.0 without Host stays without", version_1_0_without_host),
    ("an absolute-form target that differs from Host passes untouched", absolute_form),
    ("asterisk-form and odd targets pass untouched", odd_targets),
    ("case, order, spaces and repetition of fields are kept", fields),
    ("a status line keeps its reason, or has none", reasons),
    ("methods without a body gain no field", bodyless),
    ("content-length: 0 is kept", length_zero),
    ("HEAD keeps its content-length", head),
    ("204 and 304 are bare", bare),
    ("100 Continue comes before the body", continue_100),
    ("a refused expectation gets its final answer", expectation_failed),
    ("103 Early Hints are passed on, each", early_hints),
    ("pipelined requests are answered in order", pipelined),
    ("answers in one burst are told apart", burst),
    ("a head that comes byte by byte is the same head", byte_by_byte),
    ("heads of 256 KiB pass both ways", large_heads),
    ("heads of a thousand fields pass both ways", many_fields),
    ("more fields than the terminating engine follows pass all the same", too_many_fields),
    ("heads of 3 MiB in 20000 fields pass both ways", very_large_heads),
];

/// One connection that HTTP/1 is spoken on; the client ends it.
pub(crate) fn http1(
    way: &Way,
    statuses: &[u64],
    talk: impl FnOnce(&Wire) -> Result<()>,
) -> Result<()> {
    let server = way.listen()?;
    let wire = server.wire()?;
    talk(&wire)?;
    wire.finish()?;
    server.recorded(1, "http1", statuses)
}

/// As [`http1`], and the server ends it.
pub(crate) fn http1_until_close(
    way: &Way,
    statuses: &[u64],
    talk: impl FnOnce(&Wire) -> Result<()>,
) -> Result<()> {
    let server = way.listen()?;
    let wire = server.wire()?;
    talk(&wire)?;
    wire.server_ends()?;
    wire.client_ends()?;
    drop(wire);
    server.recorded(1, "http1", statuses)
}

// === Versions and targets ===

fn version_1_0_with_host(way: &Way) -> Result<()> {
    http1_until_close(way, &[200], |wire| {
        wire.up("GET /a HTTP/1.0\r\nHost: one.test\r\n\r\n")?;
        wire.down("HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok")
    })
}

fn version_1_0_without_host(way: &Way) -> Result<()> {
    http1_until_close(way, &[200], |wire| {
        wire.up("GET /a HTTP/1.0\r\n\r\n")?;
        wire.down("HTTP/1.0 200 OK\r\n\r\nuntil the end")
    })
}

fn absolute_form(way: &Way) -> Result<()> {
    http1(way, &[200], |wire| {
        wire.up("GET http://other.test:81/x?y=z HTTP/1.1\r\nHost: host.test\r\n\r\n")?;
        wire.down("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    })
}

fn odd_targets(way: &Way) -> Result<()> {
    let targets = ["*", "/a//b/../c/./d", "/%7e%2F?&&=", "/;a=b,c"];
    http1(way, &[200; 4], |wire| {
        targets.iter().try_for_each(|target| {
            wire.up(format!("OPTIONS {target} HTTP/1.1\r\nHost: host.test\r\n\r\n"))?;
            wire.down("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        })
    })
}

// === Fields ===

fn fields(way: &Way) -> Result<()> {
    http1(way, &[200], |wire| {
        wire.up(
            "GET / HTTP/1.1\r\nx-LOWER: 1\r\nhOST: host.test\r\nX-Upper:2\r\nx-lower:   3  \r\n\
             Accept:\t*/*\r\nCookie: a=b\r\nX-Between: ,, ,\r\nCookie: c=d\r\nX-Empty:\r\n\
             Via: 1.1 other\r\nX-Forwarded-For: 192.0.2.1\r\nTE: trailers\r\n\
             Connection: keep-alive, TE\r\nKeep-Alive: timeout=5\r\nX-Latin: \u{e9}\r\n\r\n",
        )?;
        wire.down(
            "HTTP/1.1 200 OK\r\nset-COOKIE: a=b\r\nX-First: 1\r\nSet-Cookie: c=d; Path=/\r\n\
             server: \r\nconnection: Keep-Alive\r\nKEEP-alive: timeout=5\r\n\
             content-LENGTH: 3\r\nx-last:9\r\n\r\nend",
        )
    })
}

fn reasons(way: &Way) -> Result<()> {
    let lines = ["200 Fine By Me", "200 ", "404 \u{4e0d}", "599 Whatever", "200 OK  "];
    http1(way, &[200, 200, 404, 599, 200], |wire| {
        lines.iter().try_for_each(|line| {
            wire.up("GET / HTTP/1.1\r\nHost: host.test\r\n\r\n")?;
            wire.down(format!("HTTP/1.1 {line}\r\nContent-Length: 1\r\n\r\nx"))
        })
    })
}

fn large_heads(way: &Way) -> Result<()> {
    let big = "v".repeat(256 << 10);
    http1(way, &[200, 200], |wire| {
        wire.up(format!("GET / HTTP/1.1\r\nHost: host.test\r\nX-Big: {big}\r\n\r\n"))?;
        wire.down(format!("HTTP/1.1 200 OK\r\nX-Big: {big}\r\nContent-Length: 2\r\n\r\nok"))?;
        wire.up(format!("GET /{big} HTTP/1.1\r\nHost: host.test\r\n\r\n"))?;
        wire.down("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    })
}

fn many_fields(way: &Way) -> Result<()> {
    http1(way, &[200], |wire| with_fields(wire, 1000))
}

/// Where the engine has bounds the exchange is lost to the records, not to the peers.
fn too_many_fields(way: &Way) -> Result<()> {
    http1(way, beyond_bounds(way), |wire| with_fields(wire, 5000))
}

fn very_large_heads(way: &Way) -> Result<()> {
    let many: String =
        (0..20_000).map(|n| format!("X-Field-{n}: {}\r\n", "v".repeat(n % 300))).collect();
    http1(way, beyond_bounds(way), |wire| {
        wire.up(format!("GET / HTTP/1.1\r\nHost: host.test\r\n{many}\r\n"))?;
        wire.down(format!("HTTP/1.1 200 OK\r\n{many}Content-Length: 2\r\n\r\nok"))
    })
}

/// The answers that are recorded of one exchange beyond the terminating engine's bounds.
fn beyond_bounds(way: &Way) -> &'static [u64] {
    match way.engine() {
        Engine::Passthrough | Engine::Tap => &[200],
        Engine::Terminate => &[],
    }
}

fn with_fields(wire: &Wire, count: usize) -> Result<()> {
    let many: String = (0..count).map(|n| format!("X-Field-{n}: {n}\r\n")).collect();
    wire.up(format!("GET / HTTP/1.1\r\nHost: host.test\r\n{many}\r\n"))?;
    wire.down(format!("HTTP/1.1 200 OK\r\n{many}Content-Length: 2\r\n\r\nok"))
}

fn byte_by_byte(way: &Way) -> Result<()> {
    http1(way, &[200], |wire| {
        wire.up_by(
            1,
            "\r\nPOST /slow HTTP/1.1\r\nHost: host.test\r\nContent-Length: 4\r\n\r\nbody",
        )?;
        wire.down_by(
            1,
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        )
    })
}

// === No body ===

fn bodyless(way: &Way) -> Result<()> {
    let methods = ["GET", "DELETE", "OPTIONS", "PURGE", "M-SEARCH", "POST"];
    http1(way, &[200; 6], |wire| {
        methods.iter().try_for_each(|method| {
            wire.up(format!("{method} / HTTP/1.1\r\nHost: host.test\r\n\r\n"))?;
            wire.down("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        })
    })
}

fn length_zero(way: &Way) -> Result<()> {
    http1(way, &[200, 404], |wire| {
        for status in ["200 OK", "404 Not Found"] {
            wire.up("POST / HTTP/1.1\r\nHost: host.test\r\ncontent-length: 0\r\n\r\n")?;
            wire.down(format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n"))?;
        }
        Ok(())
    })
}

fn head(way: &Way) -> Result<()> {
    http1(way, &[200, 200, 200], |wire| {
        let request = "HEAD /big HTTP/1.1\r\nHost: host.test\r\n\r\n";
        wire.up(request)?;
        wire.down("HTTP/1.1 200 OK\r\nContent-Length: 12345\r\n\r\n")?;
        wire.up(request)?;
        wire.down("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
        // A reader that waits for the 12345 bytes does not get here.
        wire.up("GET /small HTTP/1.1\r\nHost: host.test\r\n\r\n")?;
        wire.down("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    })
}

fn bare(way: &Way) -> Result<()> {
    http1(way, &[204, 304, 304, 200], |wire| {
        for answer in [
            "204 No Content\r\n\r\n",
            "304 Not Modified\r\nETag: \"x\"\r\n\r\n",
            "304 Not Modified\r\nContent-Length: 9\r\n\r\n",
            "200 OK\r\nContent-Length: 2\r\n\r\nok",
        ] {
            wire.up("GET / HTTP/1.1\r\nHost: host.test\r\nIf-None-Match: \"x\"\r\n\r\n")?;
            wire.down(format!("HTTP/1.1 {answer}"))?;
        }
        Ok(())
    })
}

// === More than one answer, more than one request ===

const EXPECT: &str = "PUT /file HTTP/1.1\r\nHost: host.test\r\nContent-Length: 5\r\n\
    Expect: 100-continue\r\n\r\n";

fn continue_100(way: &Way) -> Result<()> {
    http1(way, &[201], |wire| {
        wire.up(EXPECT)?;
        wire.down("HTTP/1.1 100 Continue\r\nX-Kept: yes\r\n\r\n")?;
        wire.up("hello")?;
        wire.down("HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n")
    })
}

fn expectation_failed(way: &Way) -> Result<()> {
    http1_until_close(way, &[417], |wire| {
        wire.up(EXPECT)?;
        wire.down(
            "HTTP/1.1 417 Expectation Failed\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno",
        )
    })
}

fn early_hints(way: &Way) -> Result<()> {
    http1(way, &[200], |wire| {
        wire.up("GET / HTTP/1.1\r\nHost: host.test\r\n\r\n")?;
        wire.down("HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n")?;
        wire.down("HTTP/1.1 103 Early Hints\r\nLink: </b.js>; rel=preload\r\n\r\n")?;
        wire.down("HTTP/1.1 102 Processing\r\n\r\n")?;
        wire.down("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    })
}

fn pipelined(way: &Way) -> Result<()> {
    let request = |n| format!("GET /{n} HTTP/1.1\r\nHost: host.test\r\n\r\n");
    http1(way, &[200, 404, 200], |wire| {
        wire.up((1..=3).map(request).collect::<String>())?;
        wire.down("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n1")?;
        wire.down(
            "HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n2\r\n0\r\n\r\n",
        )?;
        wire.down("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n3")
    })
}

fn burst(way: &Way) -> Result<()> {
    let statuses: Vec<u64> = (0..50).map(|n| 200 + n).collect();
    let requests = (0..50)
        .map(|n| format!("POST /{n} HTTP/1.1\r\nHost: host.test\r\nContent-Length: 3\r\n\r\nGET"));
    let answers = statuses.iter().map(|status| {
        let body = if *status == 204 || *status == 205 { "" } else { "HTTP/1.1" };
        let length = if *status == 204 {
            String::new()
        } else {
            format!("Content-Length: {}\r\n", body.len())
        };
        format!("HTTP/1.1 {status} OK\r\n{length}\r\n{body}")
    });
    let (requests, answers): (String, String) = (requests.collect(), answers.collect());
    http1(way, &statuses, |wire| {
        wire.up(requests)?;
        wire.down(answers)
    })
}
