//! Floods and stalls over HTTP/1 and raw TCP.

use std::io::Write;
use std::net::TcpStream;

use anyhow::{Result, ensure};
use weir_tests::process::wait_until;
use weir_tests::site::PATIENCE;
use weir_tests::wire::{Wire, noise, reset};

use super::place::{Attack, Place, pour, sink, withstands};

/// Clients at a time.
const MANY: usize = 150;
const REQUEST: &str = "GET / HTTP/1.1\r\nHost: host.test\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

const ATTACKS: &[Attack] = &[
    ("beginnings of requests, byte by byte", slow_beginnings),
    ("heads, byte by byte", slow_heads),
    ("connections without a byte", silent),
    ("a head of 8 MiB in one field", |place| {
        large_head(place, &format!("X: {}", "v".repeat(8 << 20)))
    }),
    ("a head of 100,000 fields", |place| {
        let fields: Vec<String> = (0..100_000).map(|n| format!("X-Field-{n}: {n}")).collect();
        large_head(place, &fields.join("\r\n"))
    }),
    ("a request line of 4 MiB", large_target),
    ("a head that never ends", endless_head),
    ("an answer with a head of 8 MiB", large_answer),
    ("chunks of one byte", small_chunks),
    ("pipelined requests that are not answered", unanswered),
    ("clients that do not read", deaf_clients),
    ("servers that do not read", deaf_servers),
    ("clients that reset in the middle", resets),
];

#[test]
fn floods_of_http1_are_withstood() -> Result<()> {
    withstands(ATTACKS)
}

fn wires(place: &Place, count: usize) -> Result<Vec<Wire>> {
    let server = place.way.listen()?;
    (0..count).map(|_| server.wire()).collect()
}

fn reset_all(wires: Vec<Wire>) -> Result<()> {
    wires.into_iter().try_for_each(|wire| Ok(reset(wire.client)?))
}

// === Slow ===

/// `text` to every server, a byte of each at a time; then all are still there, and others are served.
fn drip(place: &Place, text: &str, gauge: &str) -> Result<()> {
    let wires = wires(place, MANY)?;
    for byte in text.as_bytes() {
        wires.iter().try_for_each(|wire| (&wire.client).write_all(&[*byte]))?;
    }
    wait_until("the connections to be seen", PATIENCE, || Ok(place.metric(gauge)? >= MANY as f64))?;
    place.serves()?;
    place.is_bounded()?;
    reset_all(wires)
}

fn slow_beginnings(place: &Place) -> Result<()> {
    drip(place, "GET /slow HTT", "weir_undecided_connections")
}

fn slow_heads(place: &Place) -> Result<()> {
    drip(place, "GET /slow HTTP/1.1\r\nHost: host.test\r\nX-Slow: slo", "tcp_open_connections")
}

fn silent(place: &Place) -> Result<()> {
    drip(place, "", "weir_undecided_connections")
}

// === Large ===

fn large_head(place: &Place, fields: &str) -> Result<()> {
    let wire = place.way.listen()?.wire()?;
    wire.up(format!("GET / HTTP/1.1\r\nHost: host.test\r\n{fields}\r\n\r\n"))?;
    place.is_bounded()?;
    wire.down(OK)?;
    wire.finish()
}

fn large_target(place: &Place) -> Result<()> {
    let wire = place.way.listen()?.wire()?;
    wire.up(format!("GET /{} HTTP/1.1\r\nHost: host.test\r\n\r\n", "a".repeat(4 << 20)))?;
    place.is_bounded()?;
    wire.down(OK)?;
    wire.finish()
}

fn endless_head(place: &Place) -> Result<()> {
    let wire = place.way.listen()?.wire()?;
    let fields = "X-Field: value\r\n".repeat(1 << 16);
    // The terminating engine keeps a head of up to 1 MiB together.
    wire.up(format!("GET / HTTP/1.1\r\n{fields}"))?;
    for _ in 0..32 {
        wire.up(&fields)?;
        place.is_bounded()?;
    }
    place.serves()?;
    Ok(reset(wire.client)?)
}

fn large_answer(place: &Place) -> Result<()> {
    let wire = place.way.listen()?.wire()?;
    wire.up(REQUEST)?;
    let value = "v".repeat(8 << 20);
    wire.down(format!("HTTP/1.1 200 OK\r\nX: {value}\r\nContent-Length: 0\r\n\r\n"))?;
    place.is_bounded()?;
    wire.finish()
}

fn small_chunks(place: &Place) -> Result<()> {
    let wire = place.way.listen()?.wire()?;
    let chunks = "1;x=y\r\na\r\n".repeat(100_000);
    wire.up(format!("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}"))?;
    wire.up("0\r\n\r\n")?;
    wire.down(OK)?;
    wire.finish()
}

// === Unread ===

/// Sends until no more is taken; what then has gone in, weir or the kernel holds.
fn unread(
    place: &Place,
    wires: &[Wire],
    from: fn(&Wire) -> &TcpStream,
    bytes: &[u8],
) -> Result<()> {
    std::thread::scope(|scope| {
        let pours: Vec<_> =
            wires.iter().map(|wire| scope.spawn(move || pour(from(wire), bytes))).collect();
        pours.into_iter().try_for_each(|pour| pour.join().expect("no panic").map(drop))
    })?;
    place.serves()?;
    place.is_bounded()
}

fn unanswered(place: &Place) -> Result<()> {
    let wires = wires(place, 4)?;
    let sinks: Vec<_> = wires.iter().map(|wire| sink(&wire.server)).collect::<Result<_>>()?;
    let long = format!("GET /{} HTTP/1.1\r\nHost: host.test\r\n\r\n", "p".repeat(2000));
    unread(place, &wires, |wire| &wire.client, long.repeat(10_000).as_bytes())?;
    reset_all(wires)?;
    sinks.into_iter().for_each(|sink| drop(sink.join()));
    Ok(())
}

fn deaf_clients(place: &Place) -> Result<()> {
    let wires = wires(place, 10)?;
    for wire in &wires {
        wire.up(REQUEST)?;
        wire.down("HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")?;
    }
    unread(place, &wires, |wire| &wire.server, &noise(64 << 20))?;
    reset_all(wires)
}

fn deaf_servers(place: &Place) -> Result<()> {
    let wires = wires(place, 10)?;
    for wire in &wires {
        wire.up("PUT / HTTP/1.1\r\nHost: host.test\r\nContent-Length: 1000000000\r\n\r\n")?;
    }
    unread(place, &wires, |wire| &wire.client, &noise(64 << 20))?;
    reset_all(wires)
}

fn resets(place: &Place) -> Result<()> {
    for text in ["", "GE", "GET / HTTP/1.1\r\nHo", REQUEST, "\0\0raw"] {
        let wires = wires(place, 40)?;
        wires.iter().try_for_each(|wire| (&wire.client).write_all(text.as_bytes()))?;
        reset_all(wires)?;
    }
    let opened = place.metric("tcp_open_total")?;
    ensure!(opened >= 200.0, "{opened} connections opened");
    place.serves()
}
