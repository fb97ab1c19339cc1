//! Ends that are no success: peers that refuse, die in the middle, or are weir itself.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};

use anyhow::{Context, Result, bail, ensure};
use weir_tests::engine::Engine;
use weir_tests::pods::POD;
use weir_tests::process::wait_until;
use weir_tests::site::{PATIENCE, Site, read_all};
use weir_tests::way::Way;
use weir_tests::wire::{Wire, reset};

use super::Behaviour;

pub(crate) const TABLE: &[Behaviour] = &[
    ("an upstream that refuses and then accepts", refusing_then_accepting),
    ("an upstream that resets in the middle of a body", reset_in_a_body),
    ("an upstream that ends in the middle of a body", end_in_a_body),
    ("an upstream that ends in the middle of a chunk", end_in_a_chunk),
    ("an upstream that ends in the middle of a head", end_in_a_head),
    ("a client that resets in the middle of its body", client_resets),
    ("a client that ends in the middle of its body", client_ends),
    ("a reset on raw TCP", raw_reset),
    ("a connection to weir's own port goes nowhere", own_port),
];

const REQUEST: &str = "GET / HTTP/1.1\r\nHost: host.test\r\n\r\n";
const ANSWER: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

// === Refusing ===

fn refusing_then_accepting(way: &Way) -> Result<()> {
    let address = way.free_address();
    // The first connect may have succeeded towards weir; then it is a reset.
    let first = match way.client().connect(address) {
        Ok(stream) => read_all(&stream).expect_err("no process is left to end it well"),
        Err(error) => error,
    };
    let early = [ErrorKind::ConnectionReset, ErrorKind::ConnectionRefused];
    ensure!(early.contains(&first.kind()), "first: {first}");
    let second = way.client().connect(address).expect_err("no socket listens");
    ensure!(second.kind() == ErrorKind::ConnectionRefused, "second: {second}");
    let server = way.listen_at(address)?;
    let visit = || {
        let wire = server.wire()?;
        wire.up(REQUEST)?;
        wire.down(ANSWER)?;
        wire.finish()
    };
    visit().context("the first after it listens")?;
    // Not captured for some seconds, but for good after that.
    wait_until("weir to capture it again", PATIENCE, || {
        visit()?;
        let records = way.records()?;
        let requests = records.requests_to(address.port());
        let seen = |direction| requests.iter().any(|record| record.text("direction") == direction);
        Ok(way.captures().iter().all(|(_, direction)| seen(*direction)))
    })
}

// === Dying ===

/// The server dies after it has said this much; `die` does it and looks at the client.
fn dying(way: &Way, said: &str, status: u64, die: fn(Wire) -> Result<()>) -> Result<()> {
    let server = way.listen()?;
    let wire = server.wire()?;
    wire.up(REQUEST)?;
    wire.down(said)?;
    die(wire)?;
    server.recorded(1, "http1", &[status])
}

fn ends(wire: Wire) -> Result<()> {
    wire.server_ends()?;
    wire.client_ends()
}

fn reset_in_a_body(way: &Way) -> Result<()> {
    let said = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nten bytes.";
    dying(way, said, 200, Wire::server_resets)
}

fn end_in_a_body(way: &Way) -> Result<()> {
    dying(way, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nten bytes.", 200, ends)
}

fn end_in_a_chunk(way: &Way) -> Result<()> {
    dying(way, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n64\r\nten bytes.", 200, ends)
}

/// What has arrived of a head is no answer yet: the terminating engine says so in its own words, and must
/// not pretend that it was one.
fn end_in_a_head(way: &Way) -> Result<()> {
    let server = way.listen()?;
    let wire = server.wire()?;
    wire.up(REQUEST)?;
    let Wire { client, server: mut upstream } = wire;
    upstream.write_all(b"HTTP/1.1 200 OK\r\nContent-Le")?;
    drop(upstream);
    unanswered(way, &read_all(&client)?, "HTTP/1.1 200 OK\r\nContent-Le")
}

/// The client has got what the server said, or the words of an engine that has some.
fn unanswered(way: &Way, got: &[u8], said: &str) -> Result<()> {
    let text = String::from_utf8_lossy(got);
    let own_words = text.starts_with("HTTP/1.1 502 ") && text.contains("x-weir-error: ");
    ensure!(text == said || (own_words && way.engine() == Engine::Terminate), "it got {text:?}");
    Ok(())
}

const UPLOAD: &str = "PUT / HTTP/1.1\r\nHost: host.test\r\nContent-Length: 100\r\n\r\nten bytes.";

fn client_resets(way: &Way) -> Result<()> {
    let server = way.listen()?;
    let Wire { client, server: upstream } = {
        let wire = server.wire()?;
        wire.up(UPLOAD)?;
        wire
    };
    reset(client)?;
    let end = read_all(&upstream);
    let end = end.expect_err("the server sees that the body is not complete");
    ensure!(end.kind() == ErrorKind::ConnectionReset, "{end}");
    Ok(())
}

/// The server hears that the body is cut off; what it does then is its own business.
fn client_ends(way: &Way) -> Result<()> {
    let server = way.listen()?;
    let wire = server.wire()?;
    wire.up(UPLOAD)?;
    wire.client_ends()?;
    let Wire { client, server: upstream } = wire;
    drop(upstream);
    unanswered(way, &read_all(&client)?, "")
}

fn raw_reset(way: &Way) -> Result<()> {
    let server = way.listen()?;
    let wire = server.wire()?;
    wire.up("\0raw")?;
    wire.down("raw\0")?;
    wire.server_resets()?;
    server.recorded(1, "tcp", &[])
}

// === weir itself ===

/// A client that connects to one of weir's own ports gets nothing, soon, and starts no loop.
fn own_port(way: &Way) -> Result<()> {
    let Some(daemon) = way.daemon() else { return Ok(()) };
    let mut tried = 0;
    for pod in way.captured_pods() {
        let outside = POD.map(|ip| (way.neighbour(pod), ip));
        let inside = ["127.0.0.1", "::1", POD[0], POD[1]].map(|ip| (pod, ip));
        for port in way.own_ports(pod)? {
            for (from, ip) in inside.into_iter().chain(outside) {
                let to = SocketAddr::new(ip.parse()?, port);
                goes_nowhere(from, to).with_context(|| format!("weir's own port at {to}"))?;
                tried += 1;
            }
        }
    }
    ensure!(tried > 0, "weir has no port of its own");
    wait_until("the last connection to end", PATIENCE, || {
        Ok(daemon.json(&["status"])?["status"]["open_connections"] == 0)
    })
}

fn goes_nowhere(from: &Site, to: SocketAddr) -> Result<()> {
    let Ok(mut stream) = from.connect(to) else { return Ok(()) };
    // It may be reset before or while we speak.
    let _reset_already = stream.write_all(REQUEST.as_bytes());
    let mut byte = [0];
    match TcpStream::read(&mut stream, &mut byte) {
        Ok(0) => Ok(()),
        Ok(_) => bail!("there was an answer"),
        Err(error) => {
            ensure!(error.kind() != ErrorKind::WouldBlock, "it hangs");
            Ok(())
        }
    }
}
