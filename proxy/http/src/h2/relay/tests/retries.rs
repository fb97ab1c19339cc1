//! Requests that are sent once more because their route says so.

use std::sync::Arc;
use std::time::Duration;

use super::wire::{call, data, reset};
use super::world::{ESTIMATE, address, now};
use super::*;
use crate::{Came, Limit, Repeat, RetryBudget, RetryOn, RetryPolicy, TimeLimits, Withheld};

const CANCEL: u32 = 8;
const INTERNAL_ERROR: u32 = 2;
const SECOND: Duration = Duration::from_secs(1);
const BACKOFF: Duration = Duration::from_millis(100);

fn policy(on: RetryOn) -> (RetryPolicy, Arc<RetryBudget>) {
    (RetryPolicy { on, attempts: 2, backoff: BACKOFF }, Arc::new(RetryBudget::new(now())))
}

fn fields(method: &str) -> [(&str, &str); 4] {
    [(":method", method), (":scheme", "http"), (":authority", "shop"), (":path", "/")]
}

fn get(stream: u32) -> Vec<u8> {
    wire::headers(stream, &fields("GET"), true)
}

fn http() -> RetryOn {
    RetryOn::Http(vec![(502, 504)])
}

fn limits(request: u32, backend: u32) -> TimeLimits {
    let of = |count: u32| (count > 0).then(|| SECOND * count);
    TimeLimits { request: of(request), backend: of(backend), idle: None }
}

/// A client whose request has come to the first of three endpoints.
fn asked(on: RetryOn, limits: TimeLimits, request: &[u8]) -> (World, PeerId, PeerId) {
    let mut world = World::repeating(3, limits, policy(on));
    let client = world.client(&[(4, 1 << 20)]);
    world.send(client, request);
    let endpoint = world.connect(&[]);
    world.see(client);
    world.frames(endpoint);
    (world, client, endpoint)
}

/// The next endpoint, once the request has waited.
fn next(world: &mut World, client: PeerId) -> PeerId {
    assert_eq!((world.frames(client), world.dialled()), (vec![], 0), "it waits");
    world.wait(BACKOFF * 3);
    world.connect(&[])
}

#[test]
fn a_failure_is_not_seen_by_the_client_and_the_next_endpoint_gets_the_whole_request() {
    let put = wire::headers(1, &fields("PUT"), false);
    let request = [put, data(1, b"content", true)].concat();
    let (mut world, client, first) = asked(http(), TimeLimits::default(), &request);
    world.send(first, &response(1, "503", true));
    assert_eq!(world.frames(first), [], "it is over");
    let second = next(&mut world, client);
    assert_eq!(world.relay.address(1), Some(address(1)));
    let seen = world.frames(second);
    assert!(
        matches!(&seen[..], [Seen::Headers { stream: 1, end: false, .. }, content]
        if *content == Seen::data(1, b"content", true)),
        "{seen:?}"
    );
    world.send(second, &response(1, "200", true));
    assert_eq!(world.frames(client), [Seen::headers(1, &[(":status", "200")], true)]);
    let exchange = world.exchanges().pop().unwrap();
    assert_eq!((exchange.attempts, exchange.upstream), (2, Some(address(1))));
    assert_eq!(world.repeats(), [(Repeat::Route, true)]);
    assert_eq!(*world.counts.came.borrow(), [(Came::Status(503), Duration::ZERO)]);
    assert_eq!(world.counts.in_flight.get(), 0);
}

#[test]
fn a_response_that_has_more_to_come_is_reset_and_what_comes_of_it_is_dropped() {
    let (mut world, client, first) = asked(http(), TimeLimits::default(), &get(1));
    world.send(first, &[response(1, "502", false), data(1, b"sorry", false)].concat());
    assert_eq!(world.frames(first), [Seen::Reset { stream: 1, code: CANCEL }]);
    world.send(first, &data(1, b"more", true));
    let second = next(&mut world, client);
    world.send(second, &[response(1, "200", false), data(1, b"ok", true)].concat());
    let expected = [Seen::headers(1, &[(":status", "200")], false), Seen::data(1, b"ok", true)];
    assert_eq!(world.frames(client), expected);
}

#[test]
fn the_last_failure_is_the_clients() {
    let (mut world, client, first) = asked(http(), TimeLimits::default(), &get(1));
    world.send(first, &response(1, "503", true));
    let second = next(&mut world, client);
    world.send(second, &response(1, "504", true));
    let third = next(&mut world, client);
    assert_eq!(world.relay.address(2), Some(address(2)));
    world.send(third, &response(1, "503", true));
    assert_eq!(world.frames(client), [Seen::headers(1, &[(":status", "503")], true)]);
    assert_eq!(world.repeats(), [(Repeat::Route, false), (Repeat::Route, false)]);
    assert_eq!(world.exchanges()[0].attempts, 3);
}

#[test]
fn with_one_endpoint_it_is_asked_again() {
    let mut world = World::repeating(1, TimeLimits::default(), policy(http()));
    let client = world.client(&[]);
    world.send(client, &get(1));
    let only = world.connect(&[]);
    world.frames(only);
    world.send(only, &response(1, "503", true));
    world.wait(BACKOFF * 2);
    assert_eq!(world.frames(only), [Seen::headers(3, &fields("GET"), true)]);
    world.send(only, &response(3, "200", true));
    assert_eq!(world.repeats(), [(Repeat::Route, true)]);
}

#[test]
fn a_lost_connection_and_a_reset_are_failures_too() {
    for is_reset in [true, false] {
        let (mut world, client, first) = asked(http(), TimeLimits::default(), &get(1));
        match is_reset {
            true => world.send(first, &reset(1, INTERNAL_ERROR)),
            false => {
                world.end(first, End::Failed);
                world.remove(first);
            }
        }
        let second = next(&mut world, client);
        world.send(second, &response(1, "200", true));
        assert_eq!(world.frames(client), [Seen::headers(1, &[(":status", "200")], true)]);
        assert_eq!(*world.counts.came.borrow(), [(Came::Lost, Duration::ZERO)]);
    }
}

#[test]
fn what_must_not_be_processed_twice_is_not_sent_twice() {
    let post = wire::headers(1, &fields("POST"), true);
    let (mut world, client, first) = asked(http(), TimeLimits::default(), &post);
    world.send(first, &response(1, "503", true));
    assert_eq!(world.frames(client), [Seen::headers(1, &[(":status", "503")], true)]);
    // Nor what is a success, or has begun.
    let (mut world, client, first) = asked(http(), TimeLimits::default(), &get(1));
    world.send(first, &[response(1, "200", false), reset(1, INTERNAL_ERROR)].concat());
    assert_eq!(world.frames(client).len(), 2);
    // Nor where the client has got an interim response.
    let (mut world, client, first) = asked(http(), TimeLimits::default(), &get(1));
    world.send(first, &[response(1, "103", false), response(1, "503", true)].concat());
    assert_eq!(world.frames(client).len(), 2);
    assert_eq!((world.repeats(), world.withheld()), (vec![], vec![]));
}

#[test]
fn content_of_more_than_64_kib_is_not_kept_for_another_attempt() {
    let put = wire::headers(1, &fields("PUT"), false);
    let request = [put, data(1, &[7; (64 << 10) + 1], true)].concat();
    let (mut world, client, first) = asked(http(), TimeLimits::default(), &request);
    for stream in [0, 1] {
        world.send(first, &wire::window_update(stream, 1 << 20));
    }
    world.see(first);
    world.send(first, &response(1, "503", true));
    assert_eq!(world.frames(client), [Seen::headers(1, &[(":status", "503")], true)]);
    assert_eq!(world.withheld(), [Withheld::TooLarge]);
}

#[test]
fn an_endpoint_that_is_late_is_left_for_another_one() {
    let (mut world, client, first) = asked(http(), limits(10, 2), &get(1));
    world.wait(SECOND * 2);
    assert_eq!(world.frames(first), [Seen::Reset { stream: 1, code: CANCEL }]);
    let second = next(&mut world, client);
    world.send(second, &response(1, "200", true));
    assert_eq!(world.frames(client), [Seen::headers(1, &[(":status", "200")], true)]);
    assert_eq!(*world.counts.came.borrow(), [(Came::Late, SECOND * 2)]);
    assert_eq!(
        (world.timeouts(), world.repeats()),
        (vec![Limit::Backend], vec![(Repeat::Route, true)])
    );
}

#[test]
fn the_limit_of_the_request_holds_for_all_attempts_and_while_it_waits() {
    let (mut world, client, _) = asked(http(), limits(6, 2), &get(1));
    world.wait(SECOND * 2);
    let second = next(&mut world, client);
    world.frames(second);
    // There is time for another one, though not for all that it may take.
    world.wait(SECOND * 2);
    let third = next(&mut world, client);
    world.wait(SECOND * 2);
    assert_eq!(world.frames(third).last(), Some(&Seen::Reset { stream: 1, code: CANCEL }));
    assert!(matches!(&world.frames(client)[..], [Seen::Headers { stream: 1, end: true, .. }]));
    assert_eq!(world.timeouts(), [Limit::Backend, Limit::Backend, Limit::Request]);
    let (mut world, client, first) = asked(http(), limits(1, 0), &get(1));
    world.wait(SECOND - ESTIMATE);
    world.send(first, &response(1, "503", true));
    assert_eq!(world.frames(client), [Seen::headers(1, &[(":status", "503")], true)]);
    assert_eq!(world.withheld(), [Withheld::NoTime]);
}

#[test]
fn calls_are_sent_again_by_their_status() {
    let trailers = |code: &str| {
        let fields =
            [(":status", "200"), ("content-type", "application/grpc"), ("grpc-status", code)];
        wire::headers(1, &fields, true)
    };
    let on = || RetryOn::Grpc(vec![14]);
    let (mut world, client, first) = asked(on(), TimeLimits::default(), &call(1, true));
    world.send(first, &trailers("14"));
    let second = next(&mut world, client);
    world.send(second, &trailers("5"));
    assert!(matches!(&world.frames(client)[..], [Seen::Headers { fields, end: true, .. }]
        if fields.contains(&("grpc-status".into(), "5".into()))));
    assert_eq!(world.repeats(), [(Repeat::Route, true)]);
    assert_eq!(*world.counts.came.borrow(), [(Came::Grpc(14), Duration::ZERO)]);
    let (mut world, client, first) = asked(on(), TimeLimits::default(), &call(1, true));
    world.send(first, &trailers("8"));
    assert_eq!((world.frames(client).len(), world.repeats()), (1, vec![]));
}

#[test]
fn a_client_that_goes_while_its_request_waits_leaves_nothing() {
    let (mut world, client, first) = asked(http(), limits(9, 9), &get(1));
    world.send(first, &response(1, "503", true));
    world.send(client, &reset(1, CANCEL));
    assert_eq!((world.relay.next_deadline(), world.counts.in_flight.get()), (None, 0));
    world.wait(SECOND);
    assert_eq!((world.dialled(), world.ends()), (0, vec![ExchangeEnd::ClientReset(Some(CANCEL))]));
}

/// All endpoints fail, with two retries: what the budget leaves of that.
#[test]
fn in_an_outage_requests_are_passed_on_as_they_are_when_the_budget_is_used_up() {
    const REQUESTS: usize = 200;
    let mut world = World::repeating(1, TimeLimits::default(), policy(http()));
    let client = world.client(&[]);
    world.send(client, &get(1));
    let only = world.connect(&[(3, 1000)]);
    for number in 1..REQUESTS as u32 {
        world.send(client, &get(2 * number + 1));
    }
    let (mut sent, mut answered) = (0, 0);
    while answered < REQUESTS {
        for seen in world.frames(only) {
            let Seen::Headers { stream, .. } = seen else { continue };
            sent += 1;
            world.send(only, &response(stream, "503", true));
        }
        answered += world.frames(client).len();
        world.wait(BACKOFF);
    }
    let (repeats, withheld) = (world.repeats().len(), world.withheld());
    assert_eq!(sent, REQUESTS + repeats);
    assert!(withheld.iter().all(|it| *it == Withheld::NoBudget), "{withheld:?}");
    // A fifth, and ten in each of the seconds that it takes, which are two at most.
    assert!((40..=60).contains(&repeats), "{repeats}");
}
