//! Requests that are sent once more, and those that are not.

use super::wire::{call, data, go_away, request_fields, reset};
use super::world::address;
use super::*;
use crate::Repeat;

const NO_ERROR: u32 = 0;
const INTERNAL_ERROR: u32 = 2;
const REFUSED_STREAM: u32 = 7;
const CALM: u32 = 11;

/// A client whose request on stream 1 has come to the first of so many endpoints.
fn asked(endpoints: u16, request: &[u8]) -> (World, PeerId, PeerId) {
    let mut world = World::new(endpoints);
    let client = world.client(&[(4, 1 << 20)]);
    world.send(client, request);
    let endpoint = world.connect(&[]);
    world.see(client);
    (world, client, endpoint)
}

fn whole() -> Vec<u8> {
    let trailers = wire::headers(1, &[("a", "b")], true);
    [request(1, "/", false), data(1, b"content", false), trailers].concat()
}

/// What an endpoint sees of [`whole`].
fn assert_whole(seen: &[Seen]) {
    let expected = [
        Seen::headers(1, &request_fields("/"), false),
        Seen::data(1, b"content", false),
        Seen::headers(1, &[("a", "b")], true),
    ];
    assert_eq!(seen, expected);
}

/// The request is at the next endpoint, and gets a response of 200 KiB there.
fn assert_goes_on(world: &mut World, client: PeerId) {
    assert_eq!(world.frames(client), []);
    let next = world.connect(&[]);
    let mut seen = world.see(next);
    let mut allowed = 4096;
    let mut sent = 0;
    world.send(next, &response(1, "200", false));
    while sent < 200 << 10 {
        for it in &seen {
            if let Seen::WindowUpdate { stream: 1, by } = it {
                allowed += *by as usize;
            }
        }
        let count = allowed.min((200 << 10) - sent);
        assert!(count > 0, "the window stays closed after {sent} bytes");
        world.send(next, &data(1, &vec![1; count], false));
        (sent, allowed) = (sent + count, allowed - count);
        world.see(client);
        world.send(client, &wire::window_update(0, count as u32));
        seen = world.see(next);
    }
    world.send(next, &data(1, b"", true));
    let exchange = world.exchanges().pop().expect("a report");
    assert_eq!((exchange.end, exchange.attempts), (ExchangeEnd::Complete, 2));
    assert_eq!(world.counts.over.borrow().len(), 1);
}

#[test]
fn a_refused_request_is_sent_elsewhere_unseen_by_the_client() {
    let (mut world, client, first) = asked(2, &whole());
    assert_whole(&world.frames(first));
    world.send(first, &reset(1, REFUSED_STREAM));
    assert_goes_on(&mut world, client);
    assert_eq!(world.repeats(), [(Repeat::Refused, true)]);
}

#[test]
fn a_refused_request_is_whole_elsewhere() {
    let (mut world, _, first) = asked(2, &whole());
    world.send(first, &reset(1, REFUSED_STREAM));
    let second = world.connect(&[]);
    assert_eq!(world.relay.address(1), Some(address(1)));
    assert_whole(&world.frames(second));
}

#[test]
fn content_of_up_to_64_kib_is_sent_again_and_more_is_not() {
    for (size, is_kept) in [(64 << 10, true), ((64 << 10) + 1, false)] {
        let bytes = [request(1, "/", false), data(1, &vec![7; size], false)].concat();
        let (mut world, client, first) = asked(2, &bytes);
        world.send(first, &wire::window_update(0, 1 << 20));
        world.send(first, &wire::window_update(1, 1 << 20));
        world.see(first);
        world.send(first, &reset(1, REFUSED_STREAM));
        assert_eq!(world.dialled(), usize::from(is_kept));
        if is_kept {
            let second = world.connect(&[(4, 1 << 20)]);
            world.send(second, &wire::window_update(0, 1 << 20));
            world.send(client, &data(1, &[8; 100], true));
            let content = |it| if let Seen::Data { bytes, .. } = it { bytes } else { vec![] };
            let got: Vec<u8> = world.frames(second).into_iter().flat_map(content).collect();
            assert!(got == [vec![7; size], vec![8; 100]].concat());
        } else {
            assert_eq!(world.frames(client), [Seen::Reset { stream: 1, code: REFUSED_STREAM }]);
        }
    }
}

#[test]
fn the_second_refusal_is_the_clients() {
    for request in [whole(), call(1, true)] {
        let (mut world, client, first) = asked(3, &request);
        world.send(first, &reset(1, REFUSED_STREAM));
        let second = world.connect(&[]);
        world.send(second, &go_away(0, NO_ERROR));
        assert_eq!(world.dialled(), 0);
        assert_eq!(world.frames(client), [Seen::Reset { stream: 1, code: REFUSED_STREAM }]);
        assert_eq!(world.counts.in_flight.get(), 0);
    }
}

#[test]
fn streams_above_the_last_of_goaway_go_elsewhere() {
    for code in [NO_ERROR, CALM] {
        let mut world = World::new(1);
        let (client, first) = world.pair(&[], &[]);
        for number in [3, 5, 7] {
            world.send(client, &request(number, "/", true));
        }
        world.frames(first);
        world.send(first, &go_away(3, code));
        let failed = if code == NO_ERROR { vec![] } else { vec![address(0)] };
        assert_eq!(*world.counts.failed.borrow(), failed);
        // There is no other endpoint: a new connection to the same one is as good.
        let second = world.connect(&[]);
        assert_eq!(world.dialled(), 0);
        assert_eq!(world.frames(second).len(), 2);
        assert_eq!(world.frames(client), []);
        world.send(first, &response(3, "200", true));
        assert!(world.relay.is_closing(first));
        world.send(second, &[response(1, "200", true), response(3, "200", true)].concat());
        let ok = |stream| Seen::headers(stream, &[(":status", "200")], true);
        assert_eq!(world.frames(client), [ok(3), ok(5), ok(7)]);
        assert_eq!(world.repeats(), [(Repeat::Refused, true); 2]);
    }
}

#[test]
fn the_notice_of_a_shutdown_moves_nothing() {
    let (mut world, client, first) = asked(1, &request(1, "/", true));
    world.send(first, &go_away((1 << 31) - 1, NO_ERROR));
    world.send(client, &request(3, "/", true));
    let second = world.connect(&[]);
    assert_eq!((world.frames(first).len(), world.frames(second).len()), (1, 1));
    world.send(first, &[go_away(1, NO_ERROR), response(1, "200", true)].concat());
    assert!(world.relay.is_closing(first));
    world.send(second, &response(1, "200", true));
    assert_eq!(world.frames(client).len(), 2);
}

/// A request that waits for a place on a connection which is going away was tried nowhere.
#[test]
fn what_waits_for_a_connection_that_goes_away_stays_at_the_endpoint() {
    let limits = Limits { connections: 1, ..Limits::default() };
    let mut world = World::with(1, limits);
    let (client, first) = world.pair(&[], &[(3, 1)]);
    world.send(client, &[request(3, "/", true), request(5, "/", true)].concat());
    assert_eq!(world.frames(first).len(), 1);
    world.send(first, &go_away(3, NO_ERROR));
    let second = world.connect(&[]);
    assert_eq!(world.frames(second).len(), 1);
    world.send(second, &response(1, "200", true));
    world.send(first, &response(3, "200", true));
    assert_eq!(world.frames(client).len(), 2);
    assert_eq!(world.repeats(), []);
}

#[test]
fn a_request_that_the_endpoints_kernel_never_had_is_sent_again() {
    for (endpoints, end) in [(1, true), (2, true), (2, false)] {
        let mut world = World::new(endpoints);
        let (client, first) = world.pair(&[], &[]);
        world.exchanges();
        world.counts.over.borrow_mut().clear();
        if endpoints == 2 {
            // The endpoint is chosen by turns.
            world.relay.endpoints().set(&[address(0), address(1)]);
        }
        world.send(client, &request(3, "/", true));
        let end = match end {
            // Written, and nothing of it acknowledged.
            true => {
                let before = written_to(&world, first);
                assert_eq!(world.frames(first).len(), 1);
                End::Closed { acknowledged: Some(before) }
            }
            // Not even written.
            false => End::Failed,
        };
        world.end(first, end);
        world.remove(first);
        assert_eq!(world.frames(client), []);
        let second = world.connect(&[]);
        assert_eq!(world.frames(second).len(), 1);
        world.send(second, &response(1, "200", true));
        assert_eq!(world.ends(), [ExchangeEnd::Complete]);
        assert_eq!(world.repeats(), [(Repeat::Unacknowledged, true)]);
    }
}

fn written_to(world: &World, which: PeerId) -> u64 {
    let out = &world.relay.peer(which).expect("a peer").out;
    out.position() - out.len() as u64
}

#[test]
fn a_request_that_may_have_been_processed_is_never_sent_again() {
    for end in [End::Failed, End::Closed { acknowledged: None }] {
        let (mut world, client, first) = asked(2, &request(1, "/", true));
        world.frames(first);
        world.end(first, end);
        assert_eq!(world.dialled(), 0);
        assert_eq!(world.frames(client), [Seen::Reset { stream: 1, code: INTERNAL_ERROR }]);
    }
    let mut world = World::new(1);
    let (client, first) = world.pair(&[], &[]);
    world.exchanges();
    let before = written_to(&world, first);
    world.send(client, &request(3, "/", true));
    world.frames(first);
    world.end(first, End::Closed { acknowledged: Some(before + 1) });
    assert_eq!((world.dialled(), world.frames(client).len()), (0, 1));
    assert_eq!(world.ends(), [ExchangeEnd::UpstreamClosed]);
}

/// The connection of an endpoint that breaks the protocol is given up: what was not written is not any
/// more, as it is sent elsewhere.
#[test]
fn a_request_is_not_written_once_more_to_an_endpoint_that_is_given_up() {
    let mut world = World::new(1);
    let (client, first) = world.pair(&[], &[]);
    world.send(client, &request(3, "/", true));
    world.send(first, &wire::frame(8, 0, 0, &[0; 4]));
    assert!(world.relay.is_closing(first));
    let second = world.connect(&[]);
    assert_eq!((world.frames(first), world.frames(second).len()), (vec![], 1));
}

#[test]
fn a_call_whose_endpoint_has_died_is_unavailable() {
    let (mut world, client, first) = asked(2, &call(1, true));
    world.frames(first);
    world.end(first, End::Failed);
    let Some(Seen::Headers { fields, end: true, .. }) = world.frames(client).pop() else {
        panic!("no answer");
    };
    assert!(fields.contains(&("grpc-status".into(), "14".into())), "{fields:?}");
    assert_eq!(world.ends(), [ExchangeEnd::Answered("upstream-reset")]);
    // With a part of the response it is a reset.
    let (mut world, client, first) = asked(2, &call(1, true));
    world.send(first, &response(1, "200", false));
    world.frames(client);
    world.end(first, End::Failed);
    assert_eq!(world.frames(client), [Seen::Reset { stream: 1, code: INTERNAL_ERROR }]);
}

#[test]
fn a_connection_that_cannot_be_made_costs_an_endpoint_and_not_the_request() {
    let mut world = World::new(3);
    let client = world.client(&[]);
    world.send(client, &whole());
    for _ in 0..2 {
        world.dialled();
        let Dial { upstream, .. } = world.dials.remove(0);
        world.end(PeerId::Upstream(upstream), End::NotConnected);
        world.remove(PeerId::Upstream(upstream));
    }
    let third = world.connect(&[]);
    assert_whole(&world.frames(third));
    world.send(third, &response(1, "200", true));
    assert_eq!(world.repeats(), [(Repeat::NotConnected, true)]);
}

#[test]
fn when_no_endpoint_can_be_reached_the_client_gets_an_answer() {
    let mut world = World::new(3);
    let client = world.client(&[]);
    world.send(client, &whole());
    for left in (0..3).rev() {
        assert_eq!(world.dialled(), 1);
        let Dial { upstream, .. } = world.dials.remove(0);
        world.end(PeerId::Upstream(upstream), End::NotConnected);
        world.remove(PeerId::Upstream(upstream));
        assert_eq!(world.frames(client).len(), usize::from(left == 0));
    }
    assert_eq!(world.ends(), [ExchangeEnd::Answered("no-endpoint")]);
}

#[test]
fn without_an_endpoint_the_client_gets_an_answer() {
    let mut world = World::new(0);
    let client = world.client(&[]);
    world.send(client, &[request(1, "/", true), call(3, false)].concat());
    let fields = [(":status", "502"), ("x-weir-error", "no-endpoint"), ("content-length", "0")];
    let frames = world.frames(client);
    assert_eq!(frames[0], Seen::headers(1, &fields, true));
    assert!(matches!(&frames[1], Seen::Headers { stream: 3, end: true, .. }));
    assert_eq!(frames[2], Seen::Reset { stream: 3, code: NO_ERROR });
    assert_eq!(world.ends(), vec![ExchangeEnd::Answered("no-endpoint"); 2]);
}

/// The interim head was passed on: another one could contradict it.
#[test]
fn a_request_with_an_interim_response_is_not_sent_again() {
    let (mut world, client, first) = asked(2, &request(1, "/", false));
    world.send(first, &[response(1, "100", false), reset(1, REFUSED_STREAM)].concat());
    assert_eq!(world.dialled(), 0);
    assert_eq!(world.frames(client)[1], Seen::Reset { stream: 1, code: REFUSED_STREAM });
}

/// An endpoint that greets and goes away, each time.
#[test]
fn an_endpoint_that_always_goes_away_is_not_dialled_for_ever() {
    let limits = Limits { connections: 1, ..Limits::default() };
    let mut world = World::with(1, limits);
    let client = world.client(&[]);
    world.send(client, &request(1, "/", true));
    let mut dialled = 0;
    while world.dialled() > 0 {
        let endpoint = world.connect_silent();
        world.send(endpoint, &[settings(&[(3, 0)]), go_away(0, NO_ERROR)].concat());
        world.remove(endpoint);
        dialled += 1;
        assert!(dialled < 10, "dialled without end");
    }
    assert_eq!(world.frames(client).len(), 1);
}
