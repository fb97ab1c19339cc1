//! PINGs of clients, and what becomes of them.

use std::time::{Duration, Instant};

use super::wire::data;
use super::*;

const SECOND: Duration = Duration::from_secs(1);
const OPAQUE: [u8; 8] = *b"are you?";

/// A client with a stream at an endpoint.
fn scene() -> (World, PeerId, PeerId) {
    let mut world = World::new(1);
    let (client, endpoint) = world.pair(&[], &[]);
    world.send(client, &request(3, "/", true));
    world.frames(endpoint);
    (world, client, endpoint)
}

/// A PING of the client at this time; what it and the endpoint see.
fn ask(world: &mut World, client: PeerId, endpoint: PeerId, at: Instant) -> (usize, usize) {
    let PeerId::Client(id) = client else { panic!("no client") };
    world.relay.pinged(id, OPAQUE, at);
    let answered = world.frames(client);
    let asked = world.frames(endpoint);
    assert!(answered.iter().all(|it| *it == Seen::PingAck(OPAQUE)), "{answered:?}");
    assert!(asked.iter().all(|it| *it == Seen::Ping(OPAQUE)), "{asked:?}");
    (answered.len(), asked.len())
}

#[test]
fn the_second_ping_in_a_row_goes_on_to_where_the_client_has_streams() {
    let (mut world, client, endpoint) = scene();
    let start = Instant::now();
    assert_eq!(ask(&mut world, client, endpoint, start), (1, 0));
    assert_eq!(ask(&mut world, client, endpoint, start + 10 * SECOND), (1, 1));
    world.send(endpoint, &frame(6, 1, 0, &OPAQUE));
    assert_eq!(world.frames(client), [], "the answer goes no further");
    assert_eq!(ask(&mut world, client, endpoint, start + 20 * SECOND), (1, 1));
    // It is asked already.
    assert_eq!(ask(&mut world, client, endpoint, start + 30 * SECOND), (1, 0));
}

#[test]
fn a_ping_behind_content_measures_and_goes_no_further() {
    let (mut world, client, endpoint) = scene();
    let start = Instant::now();
    for second in 0..5 {
        world.send(client, &request(5 + 2 * second, "/", true));
        world.frames(endpoint);
        let number = 5 + 2 * second;
        world.send(endpoint, &response(number, "200", true));
        world.frames(client);
        let now = start + 10 * SECOND * second;
        assert_eq!(ask(&mut world, client, endpoint, now), (1, 0));
    }
}

#[test]
fn a_client_without_streams_has_nobody_asked() {
    let mut world = World::new(1);
    let (client, endpoint) = world.pair(&[], &[]);
    let start = Instant::now();
    for second in 0..3 {
        assert_eq!(ask(&mut world, client, endpoint, start + 10 * SECOND * second), (1, 0));
    }
}

#[test]
fn an_endpoint_is_asked_no_more_often_than_by_one_of_its_clients() {
    let (mut world, one, endpoint) = scene();
    let other = world.client(&[]);
    world.send(other, &request(1, "/", true));
    world.frames(endpoint);
    world.frames(other);
    let start = Instant::now();
    let minute = 60 * SECOND;
    let mut asked = 0;
    for turn in 0..6 {
        let now = start + 5 * minute * turn;
        for (client, now) in [(one, now), (other, now + 2 * minute)] {
            asked += ask(&mut world, client, endpoint, now).1;
            world.send(endpoint, &frame(6, 1, 0, &OPAQUE));
        }
    }
    // The first of each is not in a row.
    assert_eq!(asked, 5);
}

#[test]
fn an_endpoint_that_does_not_answer_has_failed_and_one_that_says_anything_has_not() {
    let (mut world, client, endpoint) = scene();
    let PeerId::Upstream(id) = endpoint else { panic!("no endpoint") };
    let start = Instant::now();
    world.relay.check_at(id, 20 * SECOND, start + 3600 * SECOND);
    for (at, says) in [(10, true), (60, false)] {
        ask(&mut world, client, endpoint, start + at * SECOND);
        ask(&mut world, client, endpoint, start + (at + 10) * SECOND);
        if says {
            world.send(endpoint, &response(3, "200", false));
            world.send(endpoint, &data(3, b"x", false));
            world.frames(client);
        }
        world.relay.check_at(id, 20 * SECOND, start + (at + 29) * SECOND);
        assert_eq!(world.frames(client), []);
        world.relay.check_at(id, 20 * SECOND, start + (at + 30) * SECOND);
    }
    assert_eq!(world.frames(client), [Seen::Reset { stream: 3, code: 2 }]);
    assert!(world.relay.is_closing(endpoint));
    assert_eq!(world.ends().last(), Some(&ExchangeEnd::UpstreamReset(None)));
}
