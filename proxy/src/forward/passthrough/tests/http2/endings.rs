//! Streams and connections that end early, and what cannot be followed.

use super::*;

fn reset(from: Side, stream: u32, code: u8) -> (Side, Vec<u8>) {
    (from, frame(RST_STREAM, 0, stream, &[0, 0, 0, code]))
}

fn goaway(last: u32, code: u8) -> (Side, Vec<u8>) {
    upstream(GOAWAY, 0, 0, &[&last.to_be_bytes()[..], &[0, 0, 0, code], b"debug"].concat())
}

#[test]
fn resets_in_every_state() {
    let open = client(HEADERS, END_HEADERS, 1, POST);
    let asked = client(HEADERS, BOTH, 1, GET);
    let head = upstream(HEADERS, END_HEADERS, 1, OK);
    let half = upstream(DATA, 0, 1, b"half");
    let answer = upstream(HEADERS, BOTH, 1, OK);
    let cases: Vec<(Script, Side, u8, &str)> = vec![
        (vec![open.clone()], Side::Client, 8, "POST a / - 0/0 ClientReset(Some(8))"),
        (vec![open.clone()], Side::Upstream, 7, "POST a / - 0/0 UpstreamReset(Some(7))"),
        (vec![open.clone()], Side::Upstream, 0, "POST a / - 0/0 UpstreamReset(Some(0))"),
        (vec![asked.clone()], Side::Client, 8, "GET a / - 0/0 ClientReset(Some(8))"),
        (
            vec![asked.clone(), head.clone(), half.clone()],
            Side::Upstream,
            2,
            "GET a / 200 0/4 UpstreamReset(Some(2))",
        ),
        (vec![asked.clone(), head, half], Side::Client, 8, "GET a / 200 0/4 ClientReset(Some(8))"),
        // The upstream does not want the rest of the request.
        (vec![open.clone(), answer.clone()], Side::Upstream, 0, "POST a / 200 0/0 Complete"),
        (vec![open, answer.clone()], Side::Client, 8, "POST a / 200 0/0 Complete"),
        (vec![asked, answer], Side::Client, 8, "GET a / 200 0/0 Complete"),
    ];
    for (mut steps, from, code, expected) in cases {
        steps.push(reset(from, 1, code));
        // On their way when the reset came.
        steps.push(client(DATA, END_STREAM, 1, b"late"));
        steps.push(upstream(HEADERS, BOTH, 1, OK));
        assert_eq!(complete(&script(steps)), [expected]);
    }
}

#[test]
fn a_reset_tunnel_is_a_reset() {
    let connect = field(":method", "CONNECT");
    let steps = script([
        client(HEADERS, END_HEADERS, 1, &connect),
        upstream(HEADERS, END_HEADERS, 1, OK),
        reset(Side::Client, 1, 8),
    ]);
    assert_eq!(complete(&steps), ["CONNECT -  200 0/0 ClientReset(Some(8))"]);
}

#[test]
fn streams_beyond_goaway_are_refused() {
    let steps = script([
        client(HEADERS, BOTH, 1, GET),
        client(HEADERS, END_HEADERS, 3, POST),
        goaway(0x7fff_ffff, 0),
        client(HEADERS, BOTH, 5, GET),
        goaway(1, 0),
        client(HEADERS, BOTH, 7, b"\x82\x84"),
        client(DATA, END_STREAM, 3, b"late"),
        upstream(HEADERS, BOTH, 1, OK),
    ]);
    let refused = |line| format!("{line} - 0/0 UpstreamReset(Some(0))");
    let expected = [
        refused("POST a /"),
        refused("GET a /"),
        refused("GET - /"),
        "GET a / 200 0/0 Complete".to_owned(),
    ];
    assert_eq!(complete(&steps), expected);
    let mut watched = Watched::new();
    watched.show(&steps, usize::MAX);
    assert!(watched.observer.is_idle());
}

#[test]
fn the_end_of_the_connection_ends_what_is_in_flight() {
    let steps = script([
        client(HEADERS, BOTH, 1, GET),
        client(HEADERS, END_HEADERS, 3, POST),
        upstream(HEADERS, BOTH, 3, OK),
        upstream(HEADERS, END_HEADERS, 1, OK),
        upstream(DATA, 0, 1, b"ha"),
    ]);
    for end in [ExchangeEnd::UpstreamReset(None), ExchangeEnd::ClientReset(None)] {
        let expected = [format!("GET a / 200 0/2 {end:?}"), "POST a / 200 0/0 Complete".into()];
        assert_eq!(reported(&steps, &end), expected);
    }
    let mut watched = Watched::new();
    watched.show(&steps, usize::MAX);
    let sink = Arc::clone(&watched.sink);
    drop(watched);
    assert!(sink.is_settled());
    assert!(sink.so_far().iter().any(|seen| seen.end == ExchangeEnd::Cancelled));
}

/// gRPC servers reset the streams of a client that was killed, end them with UNAVAILABLE, say GOAWAY, or
/// just close.
#[test]
fn what_a_client_has_left_is_not_the_upstreams_failure() {
    let begun = script([client(HEADERS, BOTH, 1, GET), upstream(HEADERS, END_HEADERS, 1, OK)]);
    let unavailable = upstream(HEADERS, BOTH, 1, &field("grpc-status", "14"));
    let afters = [vec![], vec![reset(Side::Upstream, 1, 8)], vec![unavailable], vec![goaway(0, 2)]];
    for after in afters {
        let mut watched = Watched::new();
        watched.show(&begun, usize::MAX);
        watched.observer.ended(Side::Client);
        watched.show(&after, usize::MAX);
        watched.observer.ended(Side::Upstream);
        watched.observer.finish(ExchangeEnd::UpstreamReset(None));
        let seen = &watched.sink.so_far()[0];
        let expected = (&ExchangeEnd::ClientReset(None), None);
        assert_eq!((&seen.end, seen.grpc_status), expected, "{after:?}");

        let mut watched = Watched::new();
        watched.show(&begun, usize::MAX);
        watched.observer.ended(Side::Upstream);
        watched.observer.ended(Side::Client);
        watched.observer.finish(ExchangeEnd::UpstreamReset(None));
        assert_eq!(watched.sink.so_far()[0].end, ExchangeEnd::UpstreamReset(None));
    }
}

#[test]
fn the_notice_of_a_shutdown_fits_between_two_frames_of_the_upstream() {
    let [settings, interim] = [upstream(SETTINGS, 0, 0, &[]), upstream(HEADERS, 0, 1, OK)];
    let mut watched = Watched::new();
    assert_eq!(watched.observer.farewell(), None, "before SETTINGS");
    let mut fits = |script: &[(Side, Vec<u8>)]| {
        watched.show(script, usize::MAX);
        watched.observer.farewell().is_some()
    };
    assert!(!fits(&[(Side::Upstream, settings.1[..5].to_vec())]));
    assert!(fits(&[(Side::Upstream, settings.1[5..].to_vec())]));
    assert!(fits(&[(Side::Client, PREFACE.to_vec()), client(SETTINGS, 0, 0, &[])]));
    assert!(fits(&[client(HEADERS, 0, 1, GET)]), "the client's blocks do not matter");
    assert!(fits(&[client(CONTINUATION, END_HEADERS, 1, b"")]));
    assert!(!fits(&[interim]), "inside a header block");
    assert!(fits(&[upstream(CONTINUATION, END_HEADERS, 1, b"")]));
    assert!(!fits(&[(Side::Upstream, frame(DATA, 0, 1, b"1234")[..10].to_vec())]));
    assert!(fits(&[(Side::Upstream, b"234".to_vec())]));
    let notice = watched.observer.farewell().unwrap();
    assert_eq!(notice, frame(GOAWAY, 0, 0, &[0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0]));
    watched.show(&[goaway(1, 0)], usize::MAX);
    assert_eq!(watched.observer.farewell(), None, "the upstream has said it");

    let mut watched = Watched::new();
    watched.show(&script([]), usize::MAX);
    watched.observer.ended(Side::Client);
    assert!(watched.observer.farewell().is_some());
    watched.observer.ended(Side::Upstream);
    assert_eq!(watched.observer.farewell(), None, "behind the end");
}

#[test]
fn a_connection_is_idle_between_exchanges() {
    let mut watched = Watched::new();
    let mut idle = |script: &[(Side, Vec<u8>)]| {
        watched.show(script, usize::MAX);
        watched.observer.is_idle()
    };
    assert!(!idle(&[]));
    assert!(!idle(&script([])[..2]), "the upstream has said nothing yet");
    assert!(idle(&script([])[2..]));
    assert!(!idle(&[client(HEADERS, BOTH, 1, GET)]));
    assert!(!idle(&[upstream(HEADERS, END_HEADERS, 1, OK)]));
    assert!(idle(&[upstream(DATA, END_STREAM, 1, b"x")]));
    assert!(!idle(&[(Side::Client, vec![0])]));
}

#[test]
fn what_cannot_be_followed_is_said_once() {
    let cases: Vec<(&str, (Side, Vec<u8>))> = vec![
        ("an HTTP/2 stream's frame on stream 0", client(DATA, 0, 0, b"")),
        ("an HTTP/2 stream's frame on stream 0", upstream(HEADERS, BOTH, 0, OK)),
        ("an HTTP/2 connection's frame on a stream", upstream(GOAWAY, 0, 1, &[0; 8])),
        ("HTTP/2 CONTINUATION out of place", client(CONTINUATION, END_HEADERS, 1, OK)),
        ("an HTTP/2 header block is interrupted", {
            let block = [frame(HEADERS, 0, 1, OK), frame(PING, 0, 0, &[0; 8])];
            (Side::Upstream, block.concat())
        }),
        ("HTTP/2 CONTINUATION out of place", {
            let block = [frame(HEADERS, 0, 1, OK), frame(CONTINUATION, 0, 3, OK)];
            (Side::Upstream, block.concat())
        }),
        ("an HTTP/2 frame is too short", upstream(RST_STREAM, 0, 1, &[0; 3])),
        ("an HTTP/2 frame is too short", client(HEADERS, WITH_PRIORITY, 1, &[0; 4])),
        ("an HTTP/2 frame is shorter than its padding", client(DATA, PADDED, 1, &[4, 0, 0, 0])),
        ("HTTP/2 SETTINGS are cut short", client(SETTINGS, 0, 0, &[0; 7])),
        ("PUSH_PROMISE of a client", client(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2])),
        ("HPACK index without an entry", upstream(HEADERS, BOTH, 1, b"\xff\x01")),
        ("an HTTP/2 header block is cut short", upstream(HEADERS, BOTH, 1, b"\x41")),
    ];
    for (reason, step) in cases {
        let side = step.0;
        let steps = script([client(HEADERS, END_HEADERS, 1, POST), step]);
        for size in [1, 4, usize::MAX] {
            let mut watched = Watched::new();
            watched.show(&steps, size);
            let expected = Untracked { side, reason };
            assert_eq!(watched.observer.untracked(), Some(expected));
            assert!(!watched.observer.is_idle() && watched.observer.farewell().is_none());
            watched.show(&steps, size);
            watched.observer.finish(ExchangeEnd::ClientReset(None));
            assert_eq!(watched.lines(), ["POST a / - 0/0 Untracked"], "{reason}");
            assert_eq!(watched.sink.downgrades(), [expected]);
        }
    }
}

#[test]
fn peers_that_do_not_speak_http2_are_not_followed() {
    let cases = [
        (Side::Client, b"PRI * HTTP/1.1\r\n\r\nSM\r\n\r\n".to_vec()),
        (Side::Client, [PREFACE, &frame(PING, 0, 0, &[0; 8])].concat()),
        (Side::Upstream, b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()),
        (Side::Upstream, frame(SETTINGS, ACK, 0, &[])),
    ];
    for (side, bytes) in cases {
        let mut watched = Watched::new();
        watched.show(&[(side, bytes)], 1);
        assert_eq!(watched.observer.untracked().map(|untracked| untracked.side), Some(side));
    }
}

#[test]
fn streams_are_bounded() {
    let mut watched = Watched::new();
    watched.show(&script([]), usize::MAX);
    for stream in 0..=1_u32 << 16 {
        assert_eq!(watched.observer.untracked(), None);
        watched.show(&[client(HEADERS, BOTH, 2 * stream + 1, GET)], usize::MAX);
    }
    assert!(watched.observer.untracked().is_some());
    assert!(watched.sink.is_settled());
}

/// One field of 60 KiB in the table, of which 8 KiB are kept, and each request that names it a byte.
#[test]
fn what_requests_in_flight_say_is_bounded() {
    let length = [0x7f, 0xe1, 0xd3, 0x03];
    let big = [&[0x44][..], &length, &vec![b'a'; 60_000]].concat();
    let table = [&[0x3f, 0xe1, 0xff, 0x03][..], &big].concat();
    let named = |id| client(HEADERS, BOTH, id, b"\x82\x86\xbe");
    let mut watched = Watched::new();
    let allowed = upstream(SETTINGS, 0, 0, &[0, 1, 0, 1, 0, 0]);
    watched.show(&script([allowed]), usize::MAX);
    let first = [&table[..4], b"\x82\x86", &table[4..]].concat();
    watched.show(&[client(HEADERS, BOTH, 1, &first)], usize::MAX);
    // Those that have ended do not count.
    for id in (3..603).step_by(2) {
        watched.show(&[named(id), upstream(HEADERS, BOTH, id, OK)], usize::MAX);
    }
    assert_eq!((watched.lines().len(), watched.observer.untracked()), (300, None));
    let ids = (603..2003).step_by(2);
    watched.show(&ids.map(named).collect::<Vec<_>>(), usize::MAX);
    let lost = watched.observer.untracked().map(|untracked| untracked.reason);
    assert_eq!(lost, Some("HTTP/2 requests at a time too large to be followed"));
    assert!(watched.lines().len() < 300 + 520, "{}", watched.lines().len());
}
