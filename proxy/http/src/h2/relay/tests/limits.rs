//! Time limits of routes. The time is the test's own.

use std::time::Duration;

use super::wire::{call, data, request_fields, window_update};
use super::world::address;
use super::*;
use crate::{Limit, TimeLimits};

const CANCEL: u32 = 8;
const INTERNAL_ERROR: u32 = 2;
const SECOND: Duration = Duration::from_secs(1);

fn limits(request: u32, backend: u32, idle: u32) -> TimeLimits {
    let of = |count: u32| (count > 0).then(|| SECOND * count);
    TimeLimits { request: of(request), backend: of(backend), idle: of(idle) }
}

/// A client whose request has come to the first of two endpoints.
fn asked(limits: TimeLimits, request: &[u8]) -> (World, PeerId, PeerId) {
    let mut world = World::limited(2, limits);
    let client = world.client(&[]);
    world.send(client, request);
    let endpoint = world.connect(&[]);
    world.see(client);
    world.frames(endpoint);
    (world, client, endpoint)
}

/// Of the endpoint that was to be blamed, if one was.
fn blamed(world: &World) -> Vec<Option<u16>> {
    world.counts.over.borrow().iter().map(|it| it.status).collect()
}

#[test]
fn an_endpoint_without_an_answer_is_answered_for_when_its_time_is_up() {
    for (limits, limit) in [
        (limits(9, 3, 0), Limit::Backend),
        (limits(3, 0, 0), Limit::Request),
        (limits(9, 0, 3), Limit::Idle),
    ] {
        let (mut world, client, endpoint) = asked(limits, &request(1, "/", true));
        world.wait(SECOND * 2);
        assert_eq!((world.frames(client), world.frames(endpoint)), (vec![], vec![]));
        world.wait(SECOND * 2);
        let fields = [(":status", "504"), ("x-weir-error", "timeout"), ("content-length", "0")];
        assert_eq!(world.frames(client), [Seen::headers(1, &fields, true)]);
        assert_eq!(world.frames(endpoint), [Seen::Reset { stream: 1, code: CANCEL }]);
        assert_eq!((world.timeouts(), world.counts.in_flight.get()), (vec![limit], 0));
        assert_eq!(blamed(&world), [Some(504)]);
        let exchange = world.exchanges().pop().unwrap();
        assert_eq!(exchange.end, ExchangeEnd::Answered("timeout"));
        assert_eq!(exchange.upstream, Some(address(0)));
        // What it says later goes nowhere, and the connection is used on.
        world.send(endpoint, &[response(1, "200", false), data(1, b"late", true)].concat());
        assert_eq!(world.frames(client), []);
        assert!(!world.relay.is_closing(endpoint));
    }
}

#[test]
fn a_request_that_is_to_wait_is_sent_when_its_time_has_come() {
    let mut world = World::delayed(2, limits(9, 0, 0), SECOND * 2);
    let client = world.client(&[]);
    world.send(client, &[request(1, "/", false), data(1, b"content", true)].concat());
    assert_eq!((world.dials.len(), world.counts.chosen.get()), (0, 0));
    world.wait(SECOND);
    assert_eq!(world.dials.len(), 0);
    world.wait(SECOND);
    let endpoint = world.connect(&[]);
    let frames = world.frames(endpoint);
    assert!(matches!(frames.last(), Some(Seen::Data { end: true, .. })), "{frames:?}");
    world.send(endpoint, &response(1, "200", true));
    assert_eq!(world.ends(), [ExchangeEnd::Complete]);
    assert_eq!(world.relay.next_deadline(), None);
}

#[test]
fn a_request_that_waits_for_too_long_is_answered_or_forgotten() {
    let mut world = World::delayed(2, limits(3, 0, 0), SECOND * 9);
    let client = world.client(&[]);
    world.send(client, &[request(1, "/", true), request(3, "/", false)].concat());
    world.send(client, &super::wire::reset(3, CANCEL));
    world.wait(SECOND * 3);
    let fields = [(":status", "504"), ("x-weir-error", "timeout"), ("content-length", "0")];
    assert_eq!(world.frames(client), [Seen::headers(1, &fields, true)]);
    assert_eq!((world.dials.len(), world.counts.chosen.get()), (0, 0));
    assert_eq!((world.relay.next_deadline(), blamed(&world)), (None, vec![]));
}

#[test]
fn a_call_is_told_that_its_deadline_has_passed() {
    let (mut world, client, _) = asked(limits(1, 0, 0), &call(1, true));
    world.wait(SECOND);
    let Some(Seen::Headers { fields, end: true, .. }) = world.frames(client).pop() else {
        panic!("no answer");
    };
    for (name, value) in [("grpc-status", "4"), ("x-weir-error", "timeout"), (":status", "200")] {
        assert!(fields.contains(&(name.into(), value.into())), "{fields:?}");
    }
}

#[test]
fn a_response_that_takes_too_long_is_cut_off_on_both_sides() {
    for limits in [limits(3, 0, 0), limits(9, 3, 0), limits(0, 0, 1)] {
        let (mut world, client, endpoint) = asked(limits, &request(1, "/", true));
        world.send(endpoint, &[response(1, "200", false), data(1, b"part", false)].concat());
        world.frames(client);
        world.wait(SECOND * 3);
        assert_eq!(world.frames(client), [Seen::Reset { stream: 1, code: INTERNAL_ERROR }]);
        assert_eq!(world.frames(endpoint), [Seen::Reset { stream: 1, code: CANCEL }]);
        assert_eq!((world.ends(), blamed(&world)), (vec![ExchangeEnd::TimedOut], vec![Some(200)]));
    }
}

#[test]
fn what_is_over_in_time_leaves_nothing_behind() {
    let (mut world, client, endpoint) = asked(limits(3, 2, 1), &request(1, "/", true));
    assert!(world.relay.take_sooner());
    world.send(endpoint, &response(1, "200", true));
    assert_eq!(world.relay.next_deadline(), None);
    world.wait(SECOND * 10);
    assert_eq!((world.frames(client).len(), world.timeouts()), (1, vec![]));
    assert_eq!(world.ends(), [ExchangeEnd::Complete]);
    // The next one on the same stream's place has its own time.
    world.send(client, &request(3, "/", true));
    world.wait(SECOND / 2);
    assert_eq!(world.timeouts(), []);
    world.wait(SECOND * 3);
    assert_eq!(world.timeouts(), [Limit::Idle]);
}

#[test]
fn content_that_moves_is_not_idle_and_the_limit_of_a_request_is_for_all_of_it() {
    let (mut world, client, endpoint) = asked(limits(10, 0, 2), &request(1, "/", true));
    world.send(endpoint, &response(1, "200", false));
    for _ in 0..9 {
        world.wait(SECOND);
        world.send(endpoint, &data(1, b"x", false));
        assert!(
            world
                .frames(client)
                .iter()
                .all(|it| matches!(it, Seen::Headers { .. } | Seen::Data { .. }))
        );
    }
    assert_eq!(world.timeouts(), []);
    world.wait(SECOND);
    assert_eq!(world.timeouts(), [Limit::Request]);
}

#[test]
fn an_endpoint_is_not_to_blame_for_a_slow_client() {
    // It has not sent all of its request.
    let (mut world, client, endpoint) = asked(limits(0, 1, 0), &request(1, "/", false));
    world.wait(SECOND);
    assert_eq!(world.frames(client).len(), 2, "an answer, and a reset of the rest");
    assert_eq!(world.frames(endpoint), [Seen::Reset { stream: 1, code: CANCEL }]);
    assert_eq!(blamed(&world), []);
    // It does not take the response, which is whole: the limit of the endpoint is kept.
    let mut world = World::limited(1, limits(5, 1, 0));
    let client = world.client(&[(4, 10)]);
    world.send(client, &request(1, "/", true));
    let endpoint = world.connect(&[]);
    world.send(endpoint, &[response(1, "200", false), data(1, &[7; 100], true)].concat());
    world.wait(SECOND * 3);
    assert_eq!((world.timeouts(), world.ends()), (vec![], vec![]));
    world.send(client, &window_update(1, 90));
    assert_eq!(world.ends(), [ExchangeEnd::Complete]);
    // Nor for the time of all attempts.
    let (mut world, _, _) = asked(limits(2, 2, 0), &request(1, "/", true));
    world.wait(SECOND * 2);
    assert_eq!((world.timeouts(), blamed(&world)), (vec![Limit::Request], vec![]));
}

#[test]
fn a_connection_that_does_not_come_into_being_is_waited_for_within_the_requests_limit() {
    let mut world = World::limited(1, limits(2, 1, 0));
    let client = world.client(&[]);
    world.send(client, &request(1, "/", true));
    world.wait(SECOND);
    assert_eq!(world.frames(client), [], "it is at no endpoint");
    world.wait(SECOND);
    assert!(matches!(&world.frames(client)[..], [Seen::Headers { stream: 1, end: true, .. }]));
    assert_eq!(blamed(&world), []);
    // It is of use to others.
    let endpoint = world.connect(&[]);
    assert_eq!(world.frames(endpoint), []);
    world.send(client, &request(3, "/", true));
    assert_eq!(world.frames(endpoint), [Seen::headers(1, &request_fields("/"), true)]);
}

#[test]
fn a_tunnel_and_a_route_without_limits_have_all_the_time() {
    let fields = [(":method", "CONNECT"), (":authority", "shop:1")];
    let (mut world, client, endpoint) = asked(limits(2, 1, 1), &wire::headers(1, &fields, false));
    world.send(endpoint, &response(1, "200", false));
    world.frames(client);
    world.wait(SECOND * 20);
    assert_eq!((world.frames(client), world.timeouts()), (vec![], vec![]));
    let (mut world, client, _) = asked(limits(0, 0, 0), &request(1, "/", true));
    assert_eq!(world.relay.next_deadline(), None);
    world.wait(SECOND * 1000);
    assert_eq!(world.frames(client), []);
}
