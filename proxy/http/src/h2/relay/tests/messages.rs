//! Messages as they pass, and those that do not.

use super::wire::{data, padded, request_fields};
use super::*;

const PROTOCOL_ERROR: u32 = 1;
const INTERNAL_ERROR: u32 = 2;
const STREAM_CLOSED: u32 = 5;
const CANCEL: u32 = 8;
const CALM: u32 = 11;

/// A pair whose stream 3 has come to the endpoint.
fn asked(fields: &[(&str, &str)], end: bool) -> (World, PeerId, PeerId) {
    let mut world = World::new(1);
    let (client, endpoint) = world.pair(&[], &[]);
    world.send(client, &wire::headers(3, fields, end));
    assert_eq!(world.frames(endpoint), [Seen::headers(3, fields, end)]);
    world.exchanges();
    (world, client, endpoint)
}

#[test]
fn streams_of_two_clients_are_numbered_anew_in_any_interleaving() {
    let mut world = World::new(1);
    let (first, endpoint) = world.pair(&[], &[]);
    let second = world.client(&[]);
    world.send(second, &request(7, "/second/7", false));
    world.send(first, &request(3, "/first/3", false));
    world.send(second, &request(9, "/second/9", true));
    let paths = |seen: Vec<Seen>| -> Vec<(u32, String)> {
        let path = |it| match it {
            Seen::Headers { stream, fields, .. } => Some((stream, fields[3].1.clone())),
            _ => None,
        };
        seen.into_iter().filter_map(path).collect()
    };
    let expected = [(3, "/second/7"), (5, "/first/3"), (7, "/second/9")];
    assert_eq!(paths(world.frames(endpoint)), expected.map(|(id, path)| (id, path.to_owned())));
    world.send(first, &data(3, b"of the first", true));
    world.send(second, &data(7, b"of the second", true));
    let sent = [Seen::data(5, b"of the first", true), Seen::data(3, b"of the second", true)];
    assert_eq!(world.frames(endpoint), sent);
    for number in [7, 3, 5] {
        world.send(endpoint, &response(number, "200", true));
    }
    let ok = |stream| Seen::headers(stream, &[(":status", "200")], true);
    assert_eq!(world.frames(first), [ok(3)]);
    assert_eq!(world.frames(second), [ok(9), ok(7)]);
    assert_eq!(world.ends(), vec![ExchangeEnd::Complete; 4]);
}

#[test]
fn any_segmentation_gives_the_same() {
    let mut world = World::new(1);
    let client = world.silent_client();
    let fields = request_fields("/");
    let bytes = [
        crate::h2::frames::PREFACE,
        &settings(&[(4, 100)]),
        &frame(1, 0x20 | 8, 1, &[&[3, 0, 0, 0, 0, 9][..], &wire::block(&fields), &[0; 3]].concat()),
        &frame(9, 4, 1, &[]),
        &padded(1, b"content", 5, false),
        &frame(0, 0, 1, b""),
        &padded(1, b"", 0, true),
    ];
    world.send_slowly(client, &bytes.concat());
    let endpoint = world.connect(&[]);
    let seen = world.frames(endpoint);
    assert_eq!(seen, [Seen::headers(1, &fields, false), Seen::data(1, b"content", true)]);
    world.send_slowly(endpoint, &[response(1, "200", false), data(1, b"yes", true)].concat());
    let content: Vec<u8> = world
        .frames(client)
        .into_iter()
        .flat_map(|it| if let Seen::Data { bytes, .. } = it { bytes } else { Vec::new() })
        .collect();
    assert_eq!(content, b"yes");
    assert_eq!(world.ends(), [ExchangeEnd::Complete]);
}

#[test]
fn padding_and_empty_frames_are_not_passed_on() {
    let (mut world, client, endpoint) = asked(&request_fields("/"), false);
    world.send_slowly(client, &padded(3, b"", 200, false));
    world.send(client, &data(3, b"", false));
    assert_eq!(world.frames(endpoint), []);
    world.send(client, &padded(3, b"a", 255, true));
    assert_eq!(world.frames(endpoint), [Seen::data(3, b"a", true)]);
}

#[test]
fn priorities_are_dropped() {
    let (mut world, client, endpoint) = asked(&request_fields("/"), false);
    world.send(client, &frame(2, 0, 3, &[0, 0, 0, 1, 9]));
    world.send(client, &frame(2, 0, 99, &[0, 0, 0, 1, 9]));
    world.send(client, &frame(16, 0, 0, &[0, 0, 0, 3, b'u', b'=', b'1']));
    world.send(client, &frame(0xfa, 0, 3, b"unknown"));
    assert_eq!((world.frames(endpoint), world.frames(client)), (vec![], vec![]));
    assert!(!world.relay.is_closing(client));
}

#[test]
fn interim_heads_and_trailers_pass() {
    let (mut world, client, endpoint) = asked(&request_fields("/"), false);
    let trailers = [("x-checksum", "1")];
    world.send(client, &[data(3, b"a", false), wire::headers(3, &trailers, true)].concat());
    let sent = [Seen::data(3, b"a", false), Seen::headers(3, &trailers, true)];
    assert_eq!(world.frames(endpoint), sent);
    let early = [(":status", "103"), ("link", "</a>")];
    world.send(endpoint, &wire::headers(3, &early, false));
    world.send(endpoint, &[response(3, "100", false), response(3, "200", false)].concat());
    world.send(endpoint, &[data(3, b"b", false), wire::headers(3, &trailers, true)].concat());
    let sent = [
        Seen::headers(3, &early, false),
        Seen::headers(3, &[(":status", "100")], false),
        Seen::headers(3, &[(":status", "200")], false),
        Seen::data(3, b"b", false),
        Seen::headers(3, &trailers, true),
    ];
    assert_eq!(world.frames(client), sent);
    assert_eq!(world.ends(), [ExchangeEnd::Complete]);
}

#[test]
fn a_response_of_trailers_only_is_reported_with_its_status() {
    let mut world = World::new(1);
    let (client, endpoint) = world.pair(&[], &[]);
    world.exchanges();
    world.send(client, &wire::call(3, true));
    world.frames(endpoint);
    let fields = [(":status", "200"), ("content-type", "application/grpc"), ("grpc-status", "5")];
    world.send(endpoint, &wire::headers(3, &fields, true));
    assert_eq!(world.frames(client), [Seen::headers(3, &fields, true)]);
    let exchange = world.exchanges().remove(0);
    assert_eq!((exchange.status, exchange.grpc_status, exchange.grpc), (Some(200), Some(5), true));
}

#[test]
fn responses_without_content_may_say_the_length_of_it() {
    let head = [(":method", "HEAD"), (":scheme", "http"), (":path", "/")];
    let get = [(":method", "GET"), (":scheme", "http"), (":path", "/")];
    for (request, status) in [(&head, "200"), (&get, "304")] {
        for ending in [true, false] {
            let (mut world, client, endpoint) = asked(&request[..], true);
            let fields = [(":status", status), ("content-length", "1000")];
            world.send(endpoint, &wire::headers(3, &fields, ending));
            let mut expected = vec![Seen::headers(3, &fields, ending)];
            if !ending {
                world.send(endpoint, &data(3, b"", true));
                expected.push(Seen::data(3, b"", true));
            }
            assert_eq!(world.frames(client), expected);
            assert_eq!(world.ends(), [ExchangeEnd::Complete]);
        }
    }
}

/// What a malformed response does to its stream.
fn assert_broken_by_endpoint(request: &[(&str, &str)], response: &[u8], code: u32) {
    let (mut world, client, endpoint) = asked(request, true);
    world.send(endpoint, response);
    let reset = Seen::Reset { stream: 3, code: INTERNAL_ERROR };
    assert_eq!(world.frames(client).last(), Some(&reset));
    assert_eq!(world.frames(endpoint), [Seen::Reset { stream: 3, code }]);
    assert_eq!(world.ends(), [ExchangeEnd::UpstreamReset(Some(code))]);
    // The connections go on.
    world.send(client, &wire::request(5, "/", true));
    assert_eq!(world.frames(endpoint).len(), 1);
}

#[test]
fn a_malformed_response_is_the_endpoints_error() {
    let get = [(":method", "GET"), (":scheme", "http"), (":path", "/")];
    let head = [(":method", "HEAD"), (":scheme", "http"), (":path", "/")];
    let long = [(":status", "200"), ("content-length", "3")];
    let bad = [
        data(3, b"before the head", true),
        wire::headers(3, &[("server", "x")], false),
        wire::headers(3, &[(":status", "200"), ("X", "y")], false),
        wire::headers(3, &[(":status", "200"), ("connection", "close")], false),
        wire::headers(3, &[(":status", "200"), (":path", "/")], false),
        response(3, "100", true),
        [response(3, "200", false), response(3, "100", false)].concat(),
        [response(3, "200", false), wire::headers(3, &[("a", "b")], false)].concat(),
        [response(3, "200", false), wire::headers(3, &[(":status", "200")], true)].concat(),
        [wire::headers(3, &long, false), data(3, b"ab", true)].concat(),
        [wire::headers(3, &long, false), data(3, b"abcd", false)].concat(),
        [wire::headers(3, &long, false), wire::headers(3, &[("a", "b")], true)].concat(),
        wire::headers(3, &long, true),
        wire::headers(3, &[(":status", "200"), ("content-length", "x")], false),
        wire::headers(
            3,
            &[(":status", "200"), ("content-length", "1"), ("content-length", "2")],
            true,
        ),
        [response(3, "204", false), data(3, b"content", true)].concat(),
    ];
    for response in bad {
        assert_broken_by_endpoint(&get, &response, PROTOCOL_ERROR);
    }
    let content = [wire::headers(3, &long, false), data(3, b"abc", true)].concat();
    assert_broken_by_endpoint(&head, &content, PROTOCOL_ERROR);
}

#[test]
fn a_malformed_request_is_refused_and_not_forwarded() {
    let post = request_fields("/");
    let with = |more: &[(&'static str, &'static str)]| [&post[..], more].concat();
    let bad = [
        wire::headers(3, &post[1..], true),
        wire::headers(3, &with(&[(":path", "/")]), true),
        wire::headers(3, &with(&[("Upper", "x")]), true),
        wire::headers(3, &with(&[("connection", "close")]), true),
        wire::headers(3, &with(&[("te", "gzip")]), true),
        wire::headers(3, &with(&[("content-length", "x")]), false),
        wire::headers(3, &with(&[("content-length", "1"), ("content-length", "2")]), false),
        wire::headers(3, &with(&[("content-length", "1")]), true),
        wire::headers(3, &with(&[(":status", "200")]), true),
    ];
    for request in bad {
        let mut world = World::new(1);
        let (client, endpoint) = world.pair(&[], &[]);
        world.exchanges();
        world.send(client, &request);
        let reset = Seen::Reset { stream: 3, code: PROTOCOL_ERROR };
        assert_eq!(world.frames(client), [reset], "{}", request.escape_ascii());
        assert_eq!(world.frames(endpoint), []);
        world.send(client, &wire::request(5, "/", true));
        assert_eq!(world.frames(endpoint).len(), 1);
    }
}

#[test]
fn a_request_that_turns_out_malformed_is_taken_back() {
    let length = [&request_fields("/")[..], &[("content-length", "3")]].concat();
    let trailers = wire::headers(3, &[("a", "b")], true);
    let bad = [
        (data(3, b"ab", true), PROTOCOL_ERROR),
        (data(3, b"abcd", false), PROTOCOL_ERROR),
        (trailers.clone(), PROTOCOL_ERROR),
        ([data(3, b"abc", true), data(3, b"", true)].concat(), STREAM_CLOSED),
        ([data(3, b"abc", true), trailers].concat(), STREAM_CLOSED),
        (wire::headers(3, &[("a", "b")], false), PROTOCOL_ERROR),
        (wire::window_update(3, 0), PROTOCOL_ERROR),
        (wire::window_update(3, (1 << 31) - 1), 3),
    ];
    for (content, code) in bad {
        let (mut world, client, endpoint) = asked(&length, false);
        world.send(client, &content);
        assert_eq!(world.frames(client), [Seen::Reset { stream: 3, code }]);
        let reset = Seen::Reset { stream: 3, code: CANCEL };
        assert_eq!(world.frames(endpoint).last(), Some(&reset));
        assert_eq!(world.ends(), [ExchangeEnd::ClientReset(Some(code))]);
    }
}

#[test]
fn a_header_list_that_is_too_large_ends_its_stream_only() {
    let value = "v".repeat(30 << 10);
    let large = [&request_fields("/")[..], &[("a", &value), ("b", &value), ("c", &value)]].concat();
    let pieces = |stream: u32, block: &[u8], flags: u8| {
        let mut pieces = block.chunks(16_384);
        let first = frame(1, flags, stream, pieces.next().expect("a piece"));
        let rest = pieces.flat_map(|piece| frame(9, 0, stream, piece)).collect();
        [first, rest, frame(9, 4, stream, b"")].concat()
    };
    let mut world = World::new(1);
    let (client, endpoint) = world.pair(&[], &[]);
    world.send(client, &pieces(3, &wire::block(&large), 1));
    assert_eq!(world.frames(client), [Seen::Reset { stream: 3, code: CALM }]);
    world.send(client, &wire::request(5, "/", true));
    assert_eq!(world.frames(endpoint).len(), 1);
    let large = [(":status", "200"), ("a", &value), ("b", &value), ("c", &value)];
    world.send(endpoint, &pieces(3, &wire::block(&large), 0));
    assert_eq!(world.frames(client), [Seen::Reset { stream: 5, code: INTERNAL_ERROR }]);
    assert_eq!(world.frames(endpoint), [Seen::Reset { stream: 3, code: PROTOCOL_ERROR }]);
}

#[test]
fn a_large_header_list_is_cut_into_frames() {
    let value = "v".repeat(20 << 10);
    let fields = [&request_fields("/")[..], &[("a", &value), ("b", &value)]].concat();
    let mut world = World::new(1);
    let (client, endpoint) = world.pair(&[], &[]);
    let block = wire::block(&fields);
    let mut pieces = block.chunks(10_000);
    let mut bytes = frame(1, 1, 3, pieces.next().expect("a piece"));
    bytes.extend(pieces.flat_map(|piece| frame(9, 0, 3, piece)));
    world.send(client, &[bytes, frame(9, 4, 3, b"")].concat());
    assert_eq!(world.frames(endpoint), [Seen::headers(3, &fields, true)]);
}
