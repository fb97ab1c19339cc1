//! Windows: what senders are allowed, and what receivers get.

use super::wire::{data, padded, window_update};
use super::*;

const INITIAL_WINDOW_SIZE: u16 = 4;
/// The window of a connection at its begin.
const CONNECTION: usize = 65_535;

/// Bytes of content in frames, and how many of the frames are of each stream.
fn content(seen: &[Seen]) -> usize {
    let count = |it: &Seen| if let Seen::Data { bytes, .. } = it { bytes.len() } else { 0 };
    seen.iter().map(count).sum()
}

/// By how much the windows of a stream have grown.
fn granted(seen: &[Seen], of: u32) -> u32 {
    let by = |it: &Seen| match it {
        Seen::WindowUpdate { stream, by } if *stream == of => *by,
        _ => 0,
    };
    seen.iter().map(by).sum()
}

/// A client with these settings whose streams, from 3 on, have got the heads of their responses. Numbers
/// are the same at the endpoint.
fn answered(client: &[(u16, u32)], streams: u32) -> (World, PeerId, PeerId) {
    let mut world = World::new(1);
    let (client, endpoint) = world.pair(client, &[]);
    for number in (3..).step_by(2).take(streams as usize) {
        world.send(client, &request(number, "/", true));
        world.send(endpoint, &response(number, "200", false));
    }
    world.see(client);
    (world, client, endpoint)
}

/// An endpoint sends on a stream what it may, until it may send nothing more; how much that was.
fn send_all(world: &mut World, endpoint: PeerId, stream: u32, most: usize) -> usize {
    let mut allowed = 4096 + granted(&world.see(endpoint), stream) as usize;
    let mut sent = 0;
    while sent < most && allowed > 0 {
        let count = allowed.min(16_384).min(most - sent);
        world.send(endpoint, &data(stream, &vec![7; count], false));
        sent += count;
        allowed = allowed - count + granted(&world.see(endpoint), stream) as usize;
    }
    sent
}

#[test]
fn a_receiver_that_changes_its_window_as_it_reads_gets_everything() {
    let (mut world, client, endpoint) = answered(&[(INITIAL_WINDOW_SIZE, 10)], 1);
    world.send(endpoint, &data(3, &[7; 4000], true));
    let mut got = content(&world.see(client));
    assert_eq!(got, 10);
    let sizes = [0, 100, 5, 1000, 90, 3000, 2000, 4000];
    for size in sizes {
        world.send(client, &settings(&[(INITIAL_WINDOW_SIZE, size)]));
        let seen = world.see(client);
        assert!(seen.contains(&Seen::SettingsAck));
        got += content(&seen);
        let most = sizes.iter().take_while(|it| **it != size).chain([&size]).max().unwrap();
        assert_eq!(got, 10.max(*most as usize), "at {size}");
    }
    assert_eq!(world.ends().last(), Some(&ExchangeEnd::Complete));
}

#[test]
fn a_smaller_window_holds_content_and_the_trailers_behind_it() {
    let (mut world, client, endpoint) = answered(&[(INITIAL_WINDOW_SIZE, 1000)], 1);
    world.send(client, &settings(&[(INITIAL_WINDOW_SIZE, 0)]));
    world.see(client);
    let trailers = [("grpc-status", "0")];
    world.send(endpoint, &[data(3, &[7; 1000], false), wire::headers(3, &trailers, true)].concat());
    assert_eq!(world.see(client), []);
    world.send(client, &window_update(3, 400));
    assert_eq!(world.see(client), [Seen::data(3, &[7; 400], false)]);
    world.send(client, &window_update(3, 600));
    let expected = [Seen::data(3, &[7; 600], false), Seen::headers(3, &trailers, true)];
    assert_eq!(world.see(client), expected);
}

#[test]
fn a_slow_reader_holds_a_bounded_part_of_its_stream_and_stops_no_other() {
    let (mut world, client, endpoint) = answered(&[(INITIAL_WINDOW_SIZE, 1 << 30)], 1);
    let other = world.client(&[]);
    // It does not read, and the connection's window would be larger.
    world.send(client, &window_update(0, 1 << 30));
    let sent = send_all(&mut world, endpoint, 3, 10 << 20);
    let most = (256 << 10) + (64 << 10) + (16 << 10);
    assert!((128 << 10..=most).contains(&sent), "{sent} bytes for one that does not read");
    for number in 0..100 {
        world.send(other, &request(2 * number + 1, "/", true));
        let at_endpoint = 5 + 2 * number;
        let bytes = [response(at_endpoint, "200", false), data(at_endpoint, &[1; 4096], true)];
        world.send(endpoint, &bytes.concat());
        assert_eq!(content(&world.see(other)), 4096);
        world.send(other, &window_update(0, 4096));
        world.see(other);
    }
    let got = content(&world.see(client));
    assert_eq!(got, sent);
    assert!(granted(&world.see(endpoint), 3) >= 128 << 10, "more may come as it reads");
}

#[test]
fn a_connection_window_is_shared_by_turns() {
    let (mut world, client, endpoint) = answered(&[], 3);
    let updates = world.see(endpoint);
    for number in [3, 5, 7] {
        let allowed = 4096 + granted(&updates, number) as usize;
        assert_eq!(allowed, CONNECTION);
        world.send(endpoint, &data(number, &vec![7; allowed], false));
    }
    assert_eq!(content(&world.see(client)), CONNECTION);
    world.send(client, &window_update(0, 6 * 16_384));
    let mut turns: Vec<u32> = world.frames(client).iter().map(stream_of).collect();
    assert!(turns.windows(2).all(|pair| pair[0] != pair[1]), "{turns:?}");
    turns.sort_unstable();
    assert_eq!(turns, [5, 5, 5, 7, 7, 7]);
}

fn stream_of(seen: &Seen) -> u32 {
    match seen {
        Seen::Data { stream, .. } | Seen::Headers { stream, .. } => *stream,
        _ => 0,
    }
}

#[test]
fn ends_and_trailers_need_no_window_of_the_connection() {
    let (mut world, client, endpoint) = answered(&[(INITIAL_WINDOW_SIZE, 1 << 20)], 4);
    let mut left = CONNECTION;
    while left > 0 {
        left -= send_all(&mut world, endpoint, 3, left);
        world.see(client);
    }
    world.send(endpoint, &data(5, b"", true));
    assert_eq!(world.frames(client), [Seen::data(5, b"", true)]);
    world.send(endpoint, &wire::headers(7, &[("a", "b")], true));
    assert_eq!(world.frames(client), [Seen::headers(7, &[("a", "b")], true)]);
    world.send(endpoint, &data(9, b"content", true));
    assert_eq!(world.frames(client), []);
    world.send(client, &window_update(0, 7));
    assert_eq!(world.frames(client), [Seen::data(9, b"content", true)]);
}

/// A request with trailers and no content, to an endpoint that takes no content.
#[test]
fn a_request_of_trailers_only_needs_no_window() {
    let mut world = World::new(1);
    let (client, endpoint) = world.pair(&[], &[]);
    world.send(client, &request(3, "/", false));
    world.send(client, &data(3, &[1; CONNECTION], true));
    assert_eq!(content(&world.see(endpoint)), CONNECTION);
    world.relay.retire(1);
    world.relay.retire(0);
    world.send(client, &request(5, "/", false));
    world.send(client, &wire::headers(5, &[("a", "b")], true));
    let second = world.connect_silent();
    let seen = world.frames(second);
    assert_eq!(seen.last(), Some(&Seen::headers(1, &[("a", "b")], true)));
}

/// Content of requests, 128 KiB of each, to an endpoint that takes none, until the client may send no
/// more; how many streams that takes.
fn stuck() -> (World, PeerId, PeerId, u32) {
    let mut world = World::new(1);
    let (client, endpoint) = world.pair(&[], &[(INITIAL_WINDOW_SIZE, 0), (3, 1000)]);
    let mut allowed = 1 << 20;
    let mut streams = 0;
    while allowed >= 128 << 10 {
        let number = 3 + 2 * streams;
        world.send(client, &request(number, "/", false));
        world.send(client, &data(number, &[1; 128 << 10], false));
        allowed = allowed - (128 << 10) + granted(&world.see(client), 0) as usize;
        streams += 1;
    }
    (world, client, endpoint, streams)
}

#[test]
fn a_few_streams_that_are_stuck_do_not_close_the_connection_window() {
    let (world, _, _, streams) = stuck();
    assert!((100..150).contains(&streams), "{streams}");
    assert!(world.relay.memory() < 40 << 20, "{}", world.relay.memory());
}

/// The client has nothing else to say, which would open it.
#[test]
fn the_connection_window_opens_when_what_is_held_has_gone_on() {
    let (mut world, client, endpoint, streams) = stuck();
    world.send(endpoint, &window_update(0, 100 << 20));
    let mut taken = 0;
    for number in (3..).step_by(2).take(streams as usize) {
        world.send(endpoint, &window_update(number, 128 << 10));
        taken += content(&world.see(endpoint));
    }
    assert_eq!(taken, streams as usize * (128 << 10));
    assert!(granted(&world.see(client), 0) >= 512 << 10);
}

#[test]
fn the_connection_window_opens_when_streams_are_reset() {
    let (mut world, client, endpoint, streams) = stuck();
    for number in (3..).step_by(2).take(streams as usize) {
        world.send(endpoint, &wire::reset(number, 8));
    }
    assert!(granted(&world.see(client), 0) >= 512 << 10);
}

#[test]
fn content_behind_a_reset_counts_for_the_connection_only() {
    let mut world = World::new(1);
    let (client, endpoint) = world.pair(&[], &[]);
    world.send(client, &request(3, "/", false));
    world.send(endpoint, &wire::reset(3, 8));
    world.see(client);
    let mut back = 0;
    for _ in 0..100 {
        world.send(client, &padded(3, &[7; 16_000], 100, false));
        back += granted(&world.see(client), 0);
    }
    assert!(back > 1 << 20, "{back}");
    assert_eq!(world.frames(endpoint).len(), 1);
    assert!(!world.relay.is_closing(client));
}

#[test]
fn more_than_a_window_is_an_error() {
    let (mut world, client, endpoint) = answered(&[(INITIAL_WINDOW_SIZE, 0)], 1);
    world.see(endpoint);
    world.send(endpoint, &data(3, &[1; 4097], false));
    assert_eq!(world.frames(endpoint), [Seen::Reset { stream: 3, code: 3 }]);
    assert_eq!(world.frames(client), [Seen::Reset { stream: 3, code: 2 }]);

    let (mut world, client, _, streams) = stuck();
    let number = 3 + 2 * streams;
    world.send(client, &request(number, "/", false));
    world.send(client, &data(number, &[1; 128 << 10], false));
    let last = world.frames(client).pop();
    assert_eq!(last, Some(Seen::GoAway { last: number, code: 3 }));
    assert!(world.relay.is_closing(client));
}

#[test]
fn a_window_beyond_the_largest_is_an_error() {
    for bytes in [
        window_update(0, (1 << 31) - 1),
        settings(&[(INITIAL_WINDOW_SIZE, 1 << 31)]),
        window_update(0, 0),
    ] {
        let (mut world, client, _) = answered(&[], 1);
        world.send(client, &bytes);
        assert!(matches!(world.frames(client)[..], [Seen::GoAway { last: 3, code: 1 | 3 }]));
        assert!(world.relay.is_closing(client));
    }
    let (mut world, client, _) = answered(&[], 1);
    world.send(client, &window_update(3, (1 << 31) - 1 - 65_535));
    world.send(client, &settings(&[(INITIAL_WINDOW_SIZE, 65_536)]));
    assert!(matches!(world.frames(client)[..], [Seen::GoAway { last: 3, code: 3 }]));
}

/// A client that waits for a connection changes its window meanwhile.
#[test]
fn a_stream_that_waits_is_granted_nothing_before_it_is_sent() {
    let mut world = World::new(1);
    let client = world.client(&[(INITIAL_WINDOW_SIZE, 0)]);
    world.send(client, &request(1, "/", true));
    world.send(client, &window_update(1, 1 << 20));
    world.send(client, &settings(&[(INITIAL_WINDOW_SIZE, 1 << 20)]));
    let endpoint = world.connect(&[]);
    let seen = world.see(endpoint);
    assert_eq!(granted(&seen, 0), (4 << 20) - 65_535);
    assert_eq!(granted(&seen, 1), (128 << 10) - 4096);
}

/// A client that reads a little at a time: the output never becomes empty.
#[test]
fn an_output_that_never_becomes_empty_stays_small() {
    let (mut world, client, endpoint) = answered(&[(INITIAL_WINDOW_SIZE, 1 << 30)], 1);
    world.send(client, &window_update(0, 1 << 30));
    let mut allowed = 4096 + granted(&world.see(endpoint), 3) as usize;
    let mut sent = 0;
    while sent < 8 << 20 {
        let count = allowed.min(16_384);
        world.send(endpoint, &data(3, &vec![7; count], false));
        sent += count;
        allowed -= count;
        while world.relay.output(client).len() > 40_000 {
            world.write(client, 5000);
        }
        allowed += granted(&world.see(endpoint), 3) as usize;
    }
    let memory = world.relay.memory();
    assert!(memory < 1 << 20, "{memory} bytes");
}
