//! Ends of streams and of clients' connections.

use super::wire::{data, go_away, request_fields, reset, window_update};
use super::*;

const CLOSED: End = End::Closed { acknowledged: None };
const CANCEL: u32 = 8;

/// A client with these settings, whose stream 3 has come to the endpoint.
fn asked(client: &[(u16, u32)], end: bool) -> (World, PeerId, PeerId) {
    let mut world = World::new(1);
    let (client, endpoint) = world.pair(client, &[]);
    world.send(client, &request(3, "/", end));
    assert_eq!(world.frames(endpoint), [Seen::headers(3, &request_fields("/"), end)]);
    world.exchanges();
    (world, client, endpoint)
}

#[test]
fn resets_pass_with_their_codes() {
    for code in [0, 2, 8, 11, 13, 0x1234_5678] {
        let (mut world, client, endpoint) = asked(&[], false);
        world.send(client, &reset(3, code));
        assert_eq!(world.frames(endpoint), [Seen::Reset { stream: 3, code }]);
        assert_eq!(world.counts.in_flight.get(), 0);
        assert_eq!(world.ends(), [ExchangeEnd::ClientReset(Some(code))]);
        // What was on its way.
        world.send(endpoint, &[response(3, "200", false), data(3, b"late", true)].concat());
        assert_eq!(world.frames(client), []);

        let (mut world, client, endpoint) = asked(&[], false);
        world.send(endpoint, &[response(3, "200", false), data(3, b"a", false)].concat());
        world.frames(client);
        world.send(endpoint, &reset(3, code));
        assert_eq!(world.frames(client), [Seen::Reset { stream: 3, code }]);
        assert_eq!(world.ends(), [ExchangeEnd::UpstreamReset(Some(code))]);
        world.send(client, &data(3, b"late", true));
        assert_eq!(world.frames(endpoint), []);
    }
}

/// RFC 9113 §8.1: the endpoint wants nothing more of the request, which does not cost the response.
#[test]
fn a_whole_response_reaches_a_slow_client_before_the_reset_behind_it() {
    let (mut world, client, endpoint) = asked(&[(4, 10)], false);
    let trailers = [("grpc-status", "0")];
    let bytes = [
        response(3, "200", false),
        data(3, &[7; 100], false),
        wire::headers(3, &trailers, true),
        reset(3, 0),
    ];
    world.send(endpoint, &bytes.concat());
    let begin = [Seen::headers(3, &[(":status", "200")], false), Seen::data(3, &[7; 10], false)];
    assert_eq!(world.frames(client), begin);
    // What the client sends meanwhile goes nowhere.
    world.send(client, &data(3, &[1; 1000], false));
    world.send(client, &window_update(3, 90));
    let end = [
        Seen::data(3, &[7; 90], false),
        Seen::headers(3, &trailers, true),
        Seen::Reset { stream: 3, code: 0 },
    ];
    assert_eq!(world.frames(client), end);
    assert_eq!(world.frames(endpoint), []);
    assert_eq!(world.ends(), [ExchangeEnd::Complete]);
}

#[test]
fn a_whole_response_reaches_a_slow_client_when_the_endpoint_has_closed() {
    for ended in [true, false] {
        for end in [CLOSED, End::Failed] {
            let (mut world, client, endpoint) = asked(&[(4, 10)], ended);
            let bytes = [response(3, "200", false), data(3, &[7; 100], true), go_away(3, 0)];
            world.send(endpoint, &bytes.concat());
            world.end(endpoint, end);
            assert!(world.relay.is_closing(endpoint));
            world.remove(endpoint);
            world.frames(client);
            if !ended {
                world.send(client, &data(3, b"the rest", true));
            }
            world.send(client, &window_update(3, 90));
            assert_eq!(world.frames(client), [Seen::data(3, &[7; 90], true)]);
            assert_eq!(world.ends(), [ExchangeEnd::Complete]);
        }
    }
}

#[test]
fn a_client_that_has_said_all_gets_its_responses_before_its_connection_closes() {
    let (mut world, client, endpoint) = asked(&[], true);
    world.send(client, &go_away(0, 0));
    world.end(client, CLOSED);
    assert!(!world.relay.is_closing(client));
    world.send(endpoint, &[response(3, "200", false), data(3, b"a", true)].concat());
    assert!(world.relay.is_closing(client));
    assert_eq!(world.frames(client).len(), 2);
    assert_eq!(world.ends(), [ExchangeEnd::Complete]);
}

#[test]
fn a_request_whose_client_has_closed_before_its_end_is_taken_back() {
    let (mut world, client, endpoint) = asked(&[], false);
    world.send(client, &request(5, "/", true));
    world.frames(endpoint);
    world.end(client, CLOSED);
    assert_eq!(world.frames(endpoint), [Seen::Reset { stream: 3, code: CANCEL }]);
    assert_eq!(world.ends(), [ExchangeEnd::ClientReset(None)]);
    world.send(endpoint, &response(5, "200", true));
    assert!(world.relay.is_closing(client));
}

#[test]
fn the_streams_of_a_client_that_is_gone_are_taken_back() {
    let (mut world, client, endpoint) = asked(&[], false);
    world.send(client, &request(5, "/", true));
    world.frames(endpoint);
    world.end(client, End::Failed);
    let reset = |stream| Seen::Reset { stream, code: CANCEL };
    assert_eq!(world.frames(endpoint), [reset(3), reset(5)]);
    assert!(world.relay.is_closing(client));
    assert_eq!(world.counts.in_flight.get(), 0);
    world.remove(client);
    assert_eq!(world.relay.clients(), 0);
    assert!(world.relay.is_idle(endpoint));
}

#[test]
fn a_client_is_asked_to_leave_and_finishes_its_streams() {
    let (mut world, client, endpoint) = asked(&[], false);
    let PeerId::Client(id) = client else { unreachable!() };
    world.relay.announce_shutdown(id);
    assert_eq!(world.frames(client), [Seen::GoAway { last: (1 << 31) - 1, code: 0 }]);
    world.send(client, &request(5, "/", true));
    assert_eq!(world.frames(endpoint).len(), 1);
    world.relay.leave(id);
    world.relay.leave(id);
    assert_eq!(world.frames(client), [Seen::GoAway { last: 5, code: 0 }]);
    // One that it has opened meanwhile is not taken.
    let late = [request(7, "/", false), data(7, b"late", false), window_update(7, 9), reset(7, 8)];
    world.send(client, &late.concat());
    world.send(client, &data(3, b"content", true));
    assert_eq!(world.frames(endpoint), [Seen::data(3, b"content", true)]);
    for number in [3, 5] {
        assert!(!world.relay.is_closing(client));
        world.send(endpoint, &response(number, "200", true));
    }
    assert_eq!(world.frames(client).len(), 2);
    assert!(world.relay.is_closing(client));
    assert!(world.relay.violation(id).is_none());
}

#[test]
fn a_client_without_streams_leaves_at_once() {
    let mut world = World::new(1);
    let (client, endpoint) = world.pair(&[], &[]);
    world.relay.leave_all();
    assert!(world.relay.is_closing(client));
    world.relay.retire_all();
    assert!(world.relay.is_closing(endpoint));
}

#[test]
fn a_connection_that_is_retired_finishes_its_streams() {
    let (mut world, client, endpoint) = asked(&[], true);
    world.relay.retire(0);
    assert!(!world.relay.is_closing(endpoint));
    world.send(client, &request(5, "/", true));
    let second = world.connect(&[]);
    assert_eq!(world.frames(second).len(), 1);
    world.send(endpoint, &response(3, "200", true));
    assert!(world.relay.is_closing(endpoint));
    assert_eq!(world.frames(client), [Seen::headers(3, &[(":status", "200")], true)]);
}
