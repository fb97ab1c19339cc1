//! Settings, and connections to endpoints.

use super::wire::{data, request_fields};
use super::*;

const HEADER_TABLE_SIZE: u16 = 1;
const MAX_CONCURRENT_STREAMS: u16 = 3;
const MAX_FRAME_SIZE: u16 = 5;
const ENABLE_CONNECT_PROTOCOL: u16 = 8;

#[test]
fn settings_are_said_and_acknowledged() {
    let mut world = World::new(1);
    let client = world.silent_client();
    let said = [(3, 1000), (4, 128 << 10), (6, 64 << 10)];
    let by = (1 << 20) - 65_535;
    let expected = [Seen::Settings(said.to_vec()), Seen::WindowUpdate { stream: 0, by }];
    assert_eq!(world.see(client), expected);
    world.send(client, &[crate::h2::frames::PREFACE, &settings(&[])].concat());
    assert_eq!(world.see(client), [Seen::SettingsAck]);
    world.send(client, &request(1, "/", true));
    let endpoint = world.connect(&[]);
    let seen = world.see(endpoint);
    assert_eq!(seen[0], Seen::Settings(vec![(2, 0), (4, 4096), (6, 64 << 10)]));
    assert!(seen.contains(&Seen::SettingsAck));
    world.send(client, &frame(4, 1, 0, b""));
    assert_eq!(world.see(client), []);
}

#[test]
fn a_second_connection_is_made_when_the_first_is_full_and_no_more_than_allowed() {
    let limits = Limits { connections: 2, ..Limits::default() };
    let mut world = World::with(1, limits);
    let (client, first) = world.pair(&[], &[(MAX_CONCURRENT_STREAMS, 2)]);
    for number in [3, 5, 7] {
        world.send(client, &request(number, "/", true));
    }
    assert_eq!((world.frames(first).len(), world.dialled()), (2, 1));
    let second = world.connect(&[(MAX_CONCURRENT_STREAMS, 2)]);
    assert_eq!(world.frames(second).len(), 1);
    for number in [9, 11, 13] {
        world.send(client, &request(number, "/", true));
    }
    assert_eq!((world.frames(second).len(), world.dialled()), (1, 0));
    // The others wait for their turn.
    world.send(first, &[response(3, "200", true), response(5, "200", true)].concat());
    world.send(second, &[response(1, "200", true), response(3, "200", true)].concat());
    assert_eq!(world.frames(first).len() + world.frames(second).len(), 2);
    assert_eq!(world.frames(client).len(), 4);
}

#[test]
fn an_endpoint_that_takes_no_streams_gets_none_until_it_does() {
    let limits = Limits { connections: 1, ..Limits::default() };
    let mut world = World::with(1, limits);
    let (client, endpoint) = world.pair(&[], &[(MAX_CONCURRENT_STREAMS, 0)]);
    world.send(client, &request(3, "/3", true));
    world.send(client, &request(5, "/5", false));
    world.send(client, &data(5, b"content", true));
    assert_eq!((world.dialled(), world.frames(endpoint)), (0, vec![]));
    assert!(!world.relay.is_idle(endpoint));
    world.send(client, &wire::reset(3, 8));
    world.send(endpoint, &settings(&[(MAX_CONCURRENT_STREAMS, 5)]));
    let expected =
        [Seen::headers(3, &request_fields("/5"), false), Seen::data(3, b"content", true)];
    assert_eq!(world.frames(endpoint), expected);
}

#[test]
fn no_more_streams_wait_for_an_endpoint_than_may_and_others_are_answered() {
    let limits = Limits { connections: 1, waiting: 2, ..Limits::default() };
    let mut world = World::with(2, limits);
    let full = [(MAX_CONCURRENT_STREAMS, 0)];
    let (client, _) = world.pair(&[], &full);
    // Sent before the second one says that it takes none.
    world.send(client, &request(3, "/", true));
    let second = world.connect(&full);
    for number in [5, 7, 9, 11] {
        world.send(client, &request(number, "/", true));
    }
    assert_eq!((world.counts.in_flight.get(), world.frames(second).len()), (5, 1));
    world.send(client, &request(13, "/", true));
    world.send(client, &wire::call(15, true));
    let seen = world.frames(client);
    let fields = [(":status", "503"), ("x-weir-error", "overload"), ("content-length", "0")];
    assert_eq!(seen[0], Seen::headers(13, &fields, true));
    let Seen::Headers { stream: 15, fields, end: true } = &seen[1] else { panic!("{seen:?}") };
    assert!(fields.contains(&("grpc-status".into(), "14".into())), "{fields:?}");
    assert!(fields.contains(&("grpc-message".into(), "overload".into())), "{fields:?}");
    assert_eq!(world.counts.in_flight.get(), 5);
    let ends = [ExchangeEnd::Answered("overload"), ExchangeEnd::Answered("overload")];
    assert_eq!(world.ends()[1..], ends);
    // One of the second's gives up: there is room for another.
    world.send(client, &wire::reset(7, 8));
    world.send(client, &request(17, "/17", true));
    assert_eq!(world.frames(client), []);
    world.send(second, &settings(&[(MAX_CONCURRENT_STREAMS, 9)]));
    let paths = [request_fields("/"), request_fields("/17")];
    let expected = [Seen::headers(3, &paths[0], true), Seen::headers(5, &paths[1], true)];
    assert_eq!(world.frames(second), expected);
}

#[test]
fn clients_are_told_of_the_smallest_list_that_endpoints_take() {
    const MAX_HEADER_LIST_SIZE: u16 = 6;
    let mut world = World::new(2);
    let (client, _) = world.pair(&[], &[(MAX_HEADER_LIST_SIZE, 16 << 10)]);
    world.send(client, &request(3, "/", true));
    let second = world.connect(&[(MAX_HEADER_LIST_SIZE, 0)]);
    let told = |world: &mut World, to| -> Vec<(u16, u32)> {
        let settings = |it| if let Seen::Settings(it) = it { it } else { vec![] };
        world.see(to).into_iter().flat_map(settings).collect()
    };
    assert_eq!(told(&mut world, client).last(), Some(&(MAX_HEADER_LIST_SIZE, 4 << 10)));
    let other = world.silent_client();
    assert!(told(&mut world, other).contains(&(MAX_HEADER_LIST_SIZE, 4 << 10)));
    world.send(second, &settings(&[(MAX_HEADER_LIST_SIZE, 32 << 10)]));
    assert_eq!(told(&mut world, client), [(MAX_HEADER_LIST_SIZE, 16 << 10)]);
}

#[test]
fn a_client_has_no_more_streams_than_it_was_told() {
    let mut world = World::with(1, Limits { streams: 2, ..Limits::default() });
    let (client, endpoint) = world.pair(&[], &[]);
    for number in [3, 5, 7] {
        world.send(client, &request(number, "/", true));
    }
    assert_eq!(world.frames(client), [Seen::Reset { stream: 7, code: 7 }]);
    assert_eq!(world.frames(endpoint).len(), 2);
}

#[test]
fn frames_are_no_larger_than_the_receiver_takes() {
    let mut world = World::new(1);
    let (client, endpoint) = world.pair(&[(4, 1 << 20)], &[(MAX_FRAME_SIZE, 1 << 20)]);
    world.reader(endpoint).max_frame = 1 << 20;
    world.send(client, &request(3, "/", false));
    world.send(client, &data(3, &[1; 60_000], true));
    world.send(endpoint, &response(3, "200", false));
    world.send(endpoint, &data(3, &[1; 60_000], true));
    // The reader of the client looks at the sizes.
    assert!(world.frames(client).len() > 3);
    assert!(world.frames(endpoint).len() > 3);
    world.send(client, &settings(&[(MAX_FRAME_SIZE, 16_383)]));
    assert_eq!(world.frames(client), [Seen::GoAway { last: 3, code: 1 }]);
}

#[test]
fn a_frame_that_is_too_large_ends_the_connection() {
    let mut world = World::new(1);
    let (client, _) = world.pair(&[], &[]);
    world.send(client, &request(3, "/", false));
    world.send(client, &frame(0, 0, 3, &[0; 16_385])[..100]);
    assert_eq!(world.frames(client), [Seen::GoAway { last: 3, code: 6 }]);
}

#[test]
fn a_table_of_no_bytes_is_kept_to() {
    let mut world = World::new(1);
    let (client, endpoint) = world.pair(&[], &[(HEADER_TABLE_SIZE, 0)]);
    // With indexing (RFC 7541 §6.2.1), twice, and by its index then.
    let custom = [&[0x40, 3][..], b"x-a", &[3], b"one"].concat();
    let block = |rest: &[u8]| [&wire::block(&request_fields("/")), rest].concat();
    world.send(client, &frame(1, 5, 3, &block(&custom)));
    world.send(client, &frame(1, 5, 5, &block(&[0xbe])));
    let fields = [&request_fields("/")[..], &[("x-a", "one")]].concat();
    let output = world.relay.output(endpoint).to_vec();
    let expected = [Seen::headers(3, &fields, true), Seen::headers(5, &fields, true)];
    assert_eq!(world.frames(endpoint), expected);
    let at = output.windows(2).position(|it| it == [0x05, 0]).expect("a head");
    assert_eq!(output[at + 5], 0x20, "the block begins with the size of the table");
}

#[test]
fn extended_connect_is_offered_when_every_endpoint_does() {
    let offer = Seen::Settings(vec![(ENABLE_CONNECT_PROTOCOL, 1)]);
    let mut world = World::new(2);
    let client = world.client(&[]);
    world.send(client, &[request(1, "/", true), request(3, "/", true)].concat());
    let first = world.connect(&[]);
    let second = world.connect(&[(ENABLE_CONNECT_PROTOCOL, 1)]);
    assert!(!world.see(client).contains(&offer));
    world.send(first, &settings(&[(ENABLE_CONNECT_PROTOCOL, 1)]));
    world.send(second, &settings(&[]));
    assert_eq!(world.see(client), [offer]);
    let next = world.silent_client();
    let Seen::Settings(said) = world.see(next).remove(0) else { panic!("no settings") };
    assert!(said.contains(&(ENABLE_CONNECT_PROTOCOL, 1)));
}

#[test]
fn pings_are_answered_here() {
    let mut world = World::new(1);
    let (client, endpoint) = world.pair(&[], &[]);
    for peer in [client, endpoint] {
        world.send_slowly(peer, &frame(6, 0, 0, b"whatever"));
        world.send(peer, &frame(6, 1, 0, b"whatever"));
    }
    assert_eq!(world.frames(client), [Seen::PingAck(*b"whatever")]);
    assert_eq!(world.frames(endpoint), [Seen::PingAck(*b"whatever")]);
}

#[test]
fn pushes_are_refused() {
    let mut world = World::new(1);
    let (client, endpoint) = world.pair(&[], &[]);
    world.send(client, &request(3, "/", true));
    world.frames(endpoint);
    let promise = [&[0, 0, 0, 2][..], &wire::block(&request_fields("/"))].concat();
    world.send(endpoint, &frame(5, 4, 3, &promise));
    assert_eq!(world.frames(endpoint), [Seen::GoAway { last: 0, code: 1 }]);
    assert!(world.relay.is_closing(endpoint));
    assert_eq!(world.frames(client), [Seen::Reset { stream: 3, code: 2 }]);
    world.send(client, &frame(5, 4, 3, &promise));
    assert_eq!(world.frames(client), [Seen::GoAway { last: 3, code: 1 }]);
}

#[test]
fn an_endpoint_whose_numbers_are_used_up_gets_a_new_connection() {
    let mut world = World::new(1);
    let (client, first) = world.pair(&[], &[]);
    world.relay.upstreams[0].next = (1 << 31) - 3;
    world.send(client, &[request(3, "/", true), request(5, "/", true)].concat());
    assert!(matches!(world.frames(first)[..], [Seen::Headers { stream: 0x7fff_fffd, .. }]));
    let second = world.connect(&[]);
    assert!(matches!(world.frames(second)[..], [Seen::Headers { stream: 1, .. }]));
    world.send(first, &response(0x7fff_fffd, "200", true));
    assert!(world.relay.is_closing(first));
    world.send(second, &response(1, "200", true));
    assert_eq!(world.frames(client).len(), 2);
}

#[test]
fn what_breaks_a_connection() {
    let preface = crate::h2::frames::PREFACE;
    let begin = [preface, &settings(&[]), &request(1, "/", false)].concat();
    let with = |bytes: &[u8]| [&begin, bytes].concat();
    let bad = [
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), 1),
        ([preface, &frame(6, 0, 0, &[0; 8])].concat(), 1),
        ([preface, &frame(4, 1, 0, b"")].concat(), 1),
        (with(&request(2, "/", true)), 1),
        (with(&frame(0, 0, 3, b"idle")), 1),
        (with(&wire::reset(3, 0)), 1),
        (with(&wire::window_update(3, 1)), 1),
        (with(&frame(0, 0, 0, b"x")), 1),
        (with(&frame(0, 8, 1, &[5, 0, 0])), 1),
        (with(&frame(0, 8, 1, b"")), 6),
        (with(&frame(9, 4, 1, b"")), 1),
        (with(&[frame(1, 0, 3, b""), frame(0, 0, 1, b"")].concat()), 1),
        (with(&[frame(1, 0, 3, b""), frame(9, 4, 1, b"")].concat()), 1),
        (with(&frame(1, 4, 3, &[0xff, 0xff, 0xff])), 9),
        (with(&frame(3, 0, 1, &[0; 5])), 6),
        (with(&frame(4, 0, 0, &[0; 5])), 6),
        (with(&frame(4, 1, 0, &[0; 6])), 6),
        (with(&frame(4, 0, 1, &[0; 6])), 1),
        (with(&frame(6, 0, 0, &[0; 7])), 6),
        (with(&frame(7, 0, 0, &[0; 7])), 6),
        (with(&frame(8, 0, 1, &[0; 3])), 6),
        (with(&settings(&[(2, 2)])), 1),
    ];
    for (bytes, code) in bad {
        let mut world = World::new(1);
        let client = world.silent_client();
        world.send_slowly(client, &bytes);
        let last = world.frames(client).pop();
        assert!(
            matches!(last, Some(Seen::GoAway { code: told, .. }) if told == code),
            "{last:?} to {}",
            bytes.escape_ascii(),
        );
        assert!(world.relay.is_closing(client));
        let PeerId::Client(id) = client else { unreachable!() };
        assert_eq!(world.relay.violation(id).expect("a reason").code.0, code);
        assert_eq!(world.counts.in_flight.get(), 0);
    }
}
