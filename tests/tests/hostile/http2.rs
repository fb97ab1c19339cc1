//! Floods and bombs of HTTP/2 (RFC 9113 §10.5). The passthrough engine passes every byte on and follows as
//! far as it can; the terminating one speaks for itself, and may refuse.

use std::thread;

use anyhow::{Context, Result, ensure};
use weir_tests::engine::Engine;
use weir_tests::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, GET, HEADERS, OK, PING, PREFACE, RST_STREAM,
    SETTINGS, field, frame, head, indexed_field, setting,
};
use weir_tests::wire::{Wire, noise, reset};

use super::place::{Attack, Place, pour, sink, withstands};

const ATTACKS: &[Attack] = &[
    ("rapid reset", rapid_reset),
    ("streams that are all left open", open_streams),
    ("CONTINUATION without end", continuation),
    ("CONTINUATION without content", empty_continuation),
    ("a bomb of references to a large field", references),
    ("a bomb of requests that name a large path", paths),
    ("table sizes that go up and down", table_sizes),
    ("SETTINGS", |place| control_frames(place, &frame(SETTINGS, 0, 0, &setting(4, 65_535)))),
    ("PING", |place| control_frames(place, &frame(PING, 0, 0, b"12345678"))),
    ("empty DATA", empty_data),
    ("windows that stay shut", shut_windows),
    ("frames of unknown kinds", |place| control_frames(place, &frame(0xfa, 0xff, 0, &[7; 300]))),
    ("noise behind the preface", noise_behind),
];

#[test]
fn floods_of_http2_are_withstood() -> Result<()> {
    withstands(ATTACKS)
}

/// The client's first words, and the server's with these settings.
fn greeted(place: &Place, settings: &[u8]) -> Result<Wire> {
    let wire = place.way.listen()?.wire()?;
    let [hello, answer] =
        [[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat(), frame(SETTINGS, 0, 0, settings)];
    if place.engine() == Engine::Passthrough {
        wire.up(hello)?;
        wire.down(answer)?;
    } else {
        ensure!(pour(&wire.client, &hello)? == hello.len(), "the greeting is not taken");
        ensure!(pour(&wire.server, &answer)? == answer.len(), "the server's is not taken");
    }
    Ok(wire)
}

/// The client says it all; others are served meanwhile, and then the connection is reset. The observing
/// engine must have passed on every byte.
fn flood(place: &Place, wire: Wire, bytes: &[u8]) -> Result<()> {
    if place.engine() == Engine::Passthrough {
        wire.up(bytes)?;
        place.serves()?;
        place.is_bounded()?;
        return Ok(reset(wire.client)?);
    }
    let sinks = [sink(&wire.client)?, sink(&wire.server)?];
    pour(&wire.client, bytes)?;
    place.serves()?;
    place.is_bounded()?;
    reset(wire.client.try_clone()?)?;
    wire.client.shutdown(std::net::Shutdown::Both).or_else(gone)?;
    wire.server.shutdown(std::net::Shutdown::Both).or_else(gone)?;
    sinks.into_iter().for_each(|sink| drop(sink.join()));
    Ok(())
}

fn gone(error: std::io::Error) -> std::io::Result<()> {
    if error.kind() == std::io::ErrorKind::NotConnected { Ok(()) } else { Err(error) }
}

fn ids(count: u32) -> impl Iterator<Item = u32> {
    (0..count).map(|number| 2 * number + 1)
}

// === Streams ===

/// CVE-2023-44487.
fn rapid_reset(place: &Place) -> Result<()> {
    let cancel = [0, 0, 0, 8];
    let bytes: Vec<u8> = ids(20_000)
        .flat_map(|id| [head(END_STREAM, id, GET), frame(RST_STREAM, 0, id, &cancel)].concat())
        .collect();
    let before = place.metric("request_total")?;
    flood(place, greeted(place, &[])?, &bytes)?;
    if place.engine() == Engine::Passthrough {
        let seen = place.metric("request_total")? - before;
        ensure!(seen >= 20_000.0, "{seen} requests were recorded");
    }
    Ok(())
}

fn open_streams(place: &Place) -> Result<()> {
    let bytes: Vec<u8> = ids(20_000).flat_map(|id| head(END_STREAM, id, GET)).collect();
    flood(place, greeted(place, &[])?, &bytes)
}

// === Header blocks ===

/// CVE-2024-27316 and its kin.
fn continuation(place: &Place) -> Result<()> {
    let mut bytes = frame(HEADERS, END_STREAM, 1, GET);
    let part = frame(CONTINUATION, 0, 1, &field("x", &"v".repeat(1000)));
    bytes.extend(part.repeat(20_000));
    flood(place, greeted(place, &[])?, &bytes)
}

fn empty_continuation(place: &Place) -> Result<()> {
    let mut bytes = frame(HEADERS, END_STREAM, 1, GET);
    bytes.extend(frame(CONTINUATION, 0, 1, &[]).repeat(200_000));
    flood(place, greeted(place, &[])?, &bytes)
}

/// A field of 4,000 bytes in the table, and then a byte for each time that it is meant: 16 MB in 16 KiB.
fn references(place: &Place) -> Result<()> {
    let first = [GET, &indexed_field("x-bomb", &"v".repeat(4000))].concat();
    let bomb = [GET, &[0xbe; 4000 * 4][..]].concat();
    let mut bytes = head(END_STREAM, 1, &first);
    bytes.extend(ids(200).skip(1).flat_map(|id| head(END_STREAM, id, &bomb)));
    flood(place, greeted(place, &[])?, &bytes)
}

/// The server allows a table of 64 KiB, and each request is a path of 60,000 bytes in one byte. Without
/// a bound weir would keep 1.2 GB for the records.
fn paths(place: &Place) -> Result<()> {
    let path = [&[0x44][..], &field("", &"p".repeat(60_000))[2..]].concat();
    let larger = [0x3f, 0xe1, 0xff, 0x03];
    let mut bytes = head(END_STREAM, 1, &[&larger[..], &[0x82, 0x86], &path].concat());
    bytes.extend(ids(20_000).skip(1).flat_map(|id| head(END_STREAM, id, &[0x82, 0x86, 0xbe])));
    let before = place.metric("weir_http_downgrade_total")?;
    flood(place, greeted(place, &setting(1, 65_536))?, &bytes)?;
    if place.engine() == Engine::Passthrough {
        let lost = place.metric("weir_http_downgrade_total")? - before;
        ensure!(lost >= 1.0, "what is not followed any more is not counted");
    }
    Ok(())
}

fn table_sizes(place: &Place) -> Result<()> {
    let sizes = [&[0x20][..], &[0x3f, 0xe1, 0x1f]].concat();
    let block = [&sizes.repeat(4000), GET].concat();
    let bytes: Vec<u8> = ids(100).flat_map(|id| head(END_STREAM, id, &block)).collect();
    flood(place, greeted(place, &[])?, &bytes)
}

// === Other frames ===

/// What has to be answered, where the answers are not read.
fn control_frames(place: &Place, one: &[u8]) -> Result<()> {
    let bytes = one.repeat(50_000);
    if place.engine() == Engine::Passthrough {
        return flood(place, greeted(place, &[])?, &bytes);
    }
    let wire = greeted(place, &[])?;
    let far = sink(&wire.server)?;
    pour(&wire.client, &bytes)?;
    place.serves()?;
    place.is_bounded()?;
    reset(wire.client)?;
    drop(far.join());
    Ok(())
}

fn empty_data(place: &Place) -> Result<()> {
    let mut bytes = frame(HEADERS, END_HEADERS, 1, &[0x83, 0x86, 0x84]);
    bytes.extend(frame(DATA, 0, 1, &[]).repeat(200_000));
    flood(place, greeted(place, &[])?, &bytes)
}

/// The client lets nothing through, and the server sends all the same.
fn shut_windows(place: &Place) -> Result<()> {
    let wire = place.way.listen()?.wire()?;
    let hello = [PREFACE, &frame(SETTINGS, 0, 0, &setting(4, 0))].concat();
    ensure!(pour(&wire.client, &hello)? == hello.len(), "the greeting is not taken");
    let requests: Vec<u8> = ids(50).flat_map(|id| head(END_STREAM, id, GET)).collect();
    let data = noise(16_000);
    let answers: Vec<u8> = (0..40)
        .flat_map(|_| ids(50).flat_map(|id| frame(DATA, 0, id, &data)).collect::<Vec<u8>>())
        .collect();
    let heads: Vec<u8> = ids(50).flat_map(|id| head(0, id, OK)).collect();
    let far = sink(&wire.server)?;
    thread::scope(|scope| -> Result<()> {
        let client = scope.spawn(|| pour(&wire.client, &requests));
        pour(&wire.server, &[frame(SETTINGS, 0, 0, &[]), heads, answers].concat())?;
        client.join().expect("no panic").map(drop)
    })?;
    place.serves()?;
    place.is_bounded().context("with shut windows")?;
    reset(wire.client)?;
    wire.server.shutdown(std::net::Shutdown::Both).or_else(gone)?;
    drop(far.join());
    Ok(())
}

fn noise_behind(place: &Place) -> Result<()> {
    for length in [1, 9, 100, 1_000_000] {
        flood(place, greeted(place, &[])?, &noise(length))?;
    }
    Ok(())
}
