//! What hostile peers make the relay do and hold.

use super::wire::{data, request_fields, reset, window_update};
use super::*;

const CALM: u32 = 11;

/// What a client does until it is given up, which must be before so many times.
fn assert_given_up(most: usize, mut act: impl FnMut(&mut World, PeerId, PeerId, u32)) -> World {
    let mut world = World::new(1);
    let (client, endpoint) = world.pair(&[], &[]);
    for number in (3..).step_by(2).take(most) {
        act(&mut world, client, endpoint, number);
        if world.relay.is_closing(client) {
            let PeerId::Client(id) = client else { unreachable!() };
            assert_eq!(world.relay.violation(id).expect("a reason").code.0, CALM);
            assert_eq!(world.counts.in_flight.get(), 0);
            return world;
        }
    }
    panic!("not given up");
}

#[test]
fn rapid_resets() {
    let mut world = assert_given_up(300, |world, client, endpoint, number| {
        world.send(client, &[request(number, "/", true), reset(number, 8)].concat());
        world.see(endpoint);
    });
    let last = world.frames(PeerId::Client(0)).pop();
    assert!(matches!(last, Some(Seen::GoAway { code: CALM, .. })), "{last:?}");
}

/// The client makes the relay reset its streams (CVE-2025-8671).
#[test]
fn rapid_resets_that_are_provoked() {
    let provocations = [
        |number| window_update(number, 0),
        |number| data(number, b"more than was announced", true),
    ];
    for provoke in provocations {
        assert_given_up(300, |world, client, endpoint, number| {
            let fields = [&request_fields("/")[..], &[("content-length", "1")]].concat();
            let head = wire::headers(number, &fields, false);
            world.send(client, &[head, provoke(number)].concat());
            world.see(endpoint);
            world.see(client);
        });
    }
}

#[test]
fn continuations() {
    assert_given_up(2, |world, client, _, number| {
        world.send(client, &frame(1, 0, number, &wire::block(&request_fields("/"))));
        for _ in 0..100 {
            world.send(client, &frame(9, 0, number, b""));
        }
    });
}

#[test]
fn an_endless_header_block() {
    let world = assert_given_up(2, |world, client, _, number| {
        world.send(client, &frame(1, 0, number, b""));
        for _ in 0..64 {
            world.send(client, &frame(9, 0, number, &[0; 16_384]));
        }
    });
    assert!(world.relay.memory() < 256 << 10, "{}", world.relay.memory());
}

#[test]
fn answers_that_are_not_read() {
    for flood in [frame(6, 0, 0, &[0; 8]), settings(&[])] {
        let flood = flood.repeat(1000);
        let world = assert_given_up(1000, |world, client, _, _| world.send(client, &flood));
        assert!(world.relay.memory() < 1 << 20, "nothing of it is kept: {}", world.relay.memory());
    }
}

#[test]
fn answers_that_an_endpoint_does_not_read() {
    let mut world = World::new(1);
    let (_, endpoint) = world.pair(&[], &[]);
    let flood = frame(6, 0, 0, &[0; 8]).repeat(1000);
    let mut count = 0;
    while !world.relay.is_closing(endpoint) {
        world.send(endpoint, &flood);
        count += 1;
        assert!(count < 1000, "not given up");
    }
    assert!(world.relay.memory() < 1 << 20, "nothing of it is kept: {}", world.relay.memory());
}

#[test]
fn windows_that_change_all_the_time_for_many_streams() {
    let mut world = World::new(1);
    let (client, _) = world.pair(&[], &[(3, 1000)]);
    for number in (3..).step_by(2).take(900) {
        world.send(client, &request(number, "/", false));
    }
    let mut count = 0;
    while !world.relay.is_closing(client) {
        world.relay.read(client, &settings(&[(4, 65_536 + count % 2)]));
        count += 1;
        world.relay.written(client, world.relay.output(client).len());
        assert!(count < 10_000, "not given up");
    }
    // Few streams may: grpc-core does that to find its bandwidth.
    assert!(count > 20, "{count}");
}

#[test]
fn frames_without_content() {
    assert_given_up(2, |world, client, _, number| {
        world.send(client, &request(number, "/", false));
        world.relay.read(client, &data(number, b"", false).repeat(2000));
    });
}

/// A byte in the block is 4 KiB in the list: the list ends at its limit.
#[test]
fn compressed_lists() {
    let mut world = World::new(1);
    let (client, endpoint) = world.pair(&[], &[(1, 0), (3, 1000)]);
    let value = "v".repeat(3900);
    let mut block = wire::block(&request_fields("/"));
    let large = [&[0x40, 1, b'a', 127][..], &[0xbd, 0x1d][..], value.as_bytes()].concat();
    world.send(client, &frame(1, 5, 3, &[&block[..], &large].concat()));
    assert_eq!(world.frames(endpoint).len(), 1);
    block.extend([0xbe; 16]);
    world.send(client, &frame(1, 5, 5, &block));
    assert_eq!(world.frames(endpoint).len(), 1);
    block.extend([0xbe; 2000]);
    world.send(client, &frame(1, 5, 7, &block));
    assert_eq!(world.frames(client), [Seen::Reset { stream: 7, code: CALM }]);
    assert_eq!(world.frames(endpoint), []);
}

/// The endpoint reads nothing, its table has no bytes, and heads of 64 KiB take some bytes of a client.
#[test]
fn heads_for_an_endpoint_that_does_not_read() {
    let mut world = World::new(1);
    let (client, endpoint) = world.pair(&[], &[(1, 0), (3, 1000)]);
    let value = "v".repeat(3900);
    let mut block = wire::block(&request_fields("/"));
    let large = [&[0x40, 1, b'a', 127][..], &[0xbd, 0x1d][..], value.as_bytes()].concat();
    world.send(client, &frame(1, 5, 3, &[&block[..], &large].concat()));
    world.see(endpoint);
    block.extend([0xbe; 15]);
    for number in (5..).step_by(2).take(900) {
        world.relay.read(client, &frame(1, 5, number, &block));
    }
    world.check();
    let output = world.relay.output(endpoint).len();
    assert!(output < 1 << 20, "{output} bytes are to be written");
    assert_eq!(world.frames(endpoint).len(), 900);
}

/// The same the other way: the client does not read.
#[test]
fn heads_for_a_client_that_does_not_read() {
    let mut world = World::new(1);
    let (client, endpoint) = world.pair(&[(1, 0)], &[(3, 1000)]);
    for number in (3..).step_by(2).take(900) {
        world.send(client, &request(number, "/", true));
    }
    let value = "v".repeat(3900);
    let head = |number, rest: &[u8]| {
        let block = [&wire::block(&[(":status", "200")]), rest].concat();
        frame(1, 4, number, &block)
    };
    let large = [&[0x40, 1, b'a', 127][..], &[0xbd, 0x1d][..], value.as_bytes()].concat();
    world.send(endpoint, &head(3, &large));
    for number in (5..).step_by(2).take(899) {
        world.relay.read(endpoint, &head(number, &[0xbe; 15]));
    }
    world.check();
    assert!(world.relay.is_closing(client));
    assert!(world.relay.memory() < 2 << 20, "{}", world.relay.memory());
    assert!(!world.relay.is_closing(endpoint));
}

/// No stream of a thousand has a window, and the endpoint answers all of them.
#[test]
fn zero_windows() {
    let mut world = World::new(1);
    let (client, endpoint) = world.pair(&[(4, 0)], &[(3, 1000)]);
    for number in (3..).step_by(2).take(999) {
        world.relay.read(client, &request(number, "/", true));
        world.relay.read(endpoint, &response(number, "200", false));
        world.relay.read(endpoint, &data(number, &[7; 4096], false));
        world.see(client);
        world.see(endpoint);
    }
    let memory = world.relay.memory();
    assert!(memory < 8 << 20, "{memory}");
    world.end(client, End::Failed);
    world.remove(client);
    world.see(endpoint);
    let memory = world.relay.memory();
    assert!(memory < 1 << 20, "{memory} with no stream");
}

/// Streams that are reset while content is held for them leave nothing behind.
#[test]
fn streams_that_are_reset_before_their_content_is_read() {
    let mut world = World::new(1);
    let (client, endpoint) = world.pair(&[], &[]);
    // Uses up the connection's window.
    world.send(client, &request(3, "/", true));
    world.send(endpoint, &response(3, "200", false));
    for _ in 0..16 {
        world.send(endpoint, &data(3, &[7; 4096], false));
        world.see(client);
        world.see(endpoint);
    }
    for number in (5..).step_by(2).take(2000) {
        world.send(client, &request(number, "/", true));
        let bytes = [response(number, "200", false), data(number, &[7; 100], false)];
        world.send(endpoint, &bytes.concat());
        world.send(client, &reset(number, 8));
        world.see(client);
        world.see(endpoint);
    }
}

#[test]
fn the_client_that_most_is_held_for_is_shed() {
    let mut world = World::new(1);
    let (large, endpoint) = world.pair(&[], &[(4, 0)]);
    let small = world.client(&[]);
    world.send(small, &request(1, "/", true));
    world.send(large, &request(3, "/", true));
    world.frames(endpoint);
    world.send(endpoint, &response(5, "200", false));
    world.send(endpoint, &data(5, &[7; 4096], false));
    let more = 65_535 - 4096;
    world.send(endpoint, &data(5, &vec![7; more], false));
    world.relay.shed();
    assert!(world.relay.is_closing(large));
    assert_eq!(world.relay.output(large).len(), 0);
    assert!(!world.relay.is_closing(small));
    world.relay.shed();
    assert!(world.relay.is_closing(small), "the next one, and not the same again");
}
