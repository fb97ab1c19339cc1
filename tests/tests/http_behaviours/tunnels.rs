//! Connections that are not HTTP, or no longer: raw TCP, upgrades, CONNECT.

use anyhow::Result;
use weir_tests::way::Way;
use weir_tests::wire::{Wire, noise};

use super::Behaviour;
use super::http1::{http1, http1_until_close};

pub(crate) const TABLE: &[Behaviour] = &[
    ("raw TCP is echoed", echo),
    ("a server may speak first on a port that is not declared", server_first),
    ("what only begins like HTTP is raw TCP from its first byte on", almost_http),
    ("a client that says nothing and ends gets the server's words", silent_client),
    ("an end of one half leaves the other open", half_open),
    ("Upgrade to another protocol, then raw bytes", upgrade),
    ("the other protocol's first bytes may come with the 101", upgrade_with_bytes),
    ("a refused Upgrade goes on as HTTP", upgrade_refused),
    ("CONNECT becomes a tunnel", connect),
    ("a refused CONNECT goes on as HTTP", connect_refused),
];

fn raw(way: &Way, talk: impl FnOnce(&Wire) -> Result<()>) -> Result<()> {
    let server = way.listen()?;
    let wire = server.wire()?;
    talk(&wire)?;
    drop(wire);
    server.recorded(1, "tcp", &[])
}

/// Bytes that no protocol knows, both ways, then both ends.
fn talk_raw(wire: &Wire) -> Result<()> {
    wire.up(noise(100_000))?;
    wire.down(noise(1_000_000))?;
    wire.up("GET / HTTP/1.1\r\n\r\n")?;
    wire.down("HTTP/1.1 200 OK\r\n\r\n")
}

fn ends(wire: &Wire) -> Result<()> {
    wire.client_ends()?;
    wire.server_ends()
}

// === Raw TCP ===

fn echo(way: &Way) -> Result<()> {
    raw(way, |wire| {
        for line in ["hello\n", "\0\x01\x02", "\r\n\r\n\0"] {
            wire.up(line)?;
            wire.down(line)?;
        }
        talk_raw(wire)?;
        ends(wire)
    })
}

fn server_first(way: &Way) -> Result<()> {
    raw(way, |wire| {
        wire.down("220 mail.test ESMTP\r\n")?;
        wire.up("EHLO client.test\r\n")?;
        wire.down("250 mail.test\r\n")?;
        ends(wire)
    })
}

fn almost_http(way: &Way) -> Result<()> {
    for begin in
        ["GET / HTTP/9.9\r\n", "EHLO client.test\r\n", "PRI * HTTP/2.0\r\n\r\nSX", "AUTH x\r\n"]
    {
        raw(way, |wire| {
            wire.up(begin)?;
            wire.down("answer")?;
            ends(wire)
        })?;
    }
    Ok(())
}

fn silent_client(way: &Way) -> Result<()> {
    raw(way, |wire| {
        wire.client_ends()?;
        wire.down("late banner")?;
        wire.server_ends()
    })
}

fn half_open(way: &Way) -> Result<()> {
    raw(way, |wire| {
        wire.down("bye")?;
        wire.server_ends()?;
        wire.up(noise(300_000))?;
        wire.client_ends()
    })
}

// === Upgrade and CONNECT ===

const UPGRADE: &str = "GET /chat HTTP/1.1\r\nHost: host.test\r\nConnection: keep-alive, Upgrade\r\n\
    Upgrade: weir-echo/1\r\n\r\n";
const SWITCHING: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\
    Upgrade: weir-echo/1\r\n\r\n";

fn upgrade(way: &Way) -> Result<()> {
    http1(way, &[101], |wire| {
        wire.up(UPGRADE)?;
        wire.down(SWITCHING)?;
        talk_raw(wire)
    })
}

fn upgrade_with_bytes(way: &Way) -> Result<()> {
    http1_until_close(way, &[101], |wire| {
        wire.up(UPGRADE)?;
        wire.down(format!("{SWITCHING}\0first words"))?;
        talk_raw(wire)
    })
}

fn upgrade_refused(way: &Way) -> Result<()> {
    http1(way, &[200, 200], |wire| {
        wire.up(UPGRADE)?;
        wire.down("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno")?;
        wire.up("GET / HTTP/1.1\r\nHost: host.test\r\n\r\n")?;
        wire.down("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    })
}

const CONNECT: &str = "CONNECT db.test:5432 HTTP/1.1\r\nHost: db.test:5432\r\n\r\n";

fn connect(way: &Way) -> Result<()> {
    http1(way, &[200], |wire| {
        wire.up(CONNECT)?;
        // A length means nothing here (RFC 9110 §9.3.6).
        wire.down("HTTP/1.1 200 Connection Established\r\nContent-Length: 0\r\n\r\n")?;
        talk_raw(wire)
    })
}

fn connect_refused(way: &Way) -> Result<()> {
    http1(way, &[407, 200], |wire| {
        wire.up(CONNECT)?;
        wire.down("HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 2\r\n\r\nno")?;
        wire.up(CONNECT)?;
        wire.down("HTTP/1.1 200 OK\r\n\r\n")?;
        talk_raw(wire)
    })
}
