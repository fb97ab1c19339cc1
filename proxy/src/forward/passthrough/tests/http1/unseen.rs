//! Bytes that pass and are not shown, as those that the tap skips.

use weir_http::ParseError;

use super::*;

const HEAD: &str = "HTTP/1.1 200 OK\r\nContent-Length: 50000\r\n\r\n";
const POST: &str = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 50000\r\n\r\n";

#[test]
fn content_that_is_not_shown_counts_as_if_it_were() {
    for shown in [0, 1, 20_000, 49_999, 50_000] {
        let mut watch = Watch::new();
        for (side, head) in [(Client, POST), (Upstream, HEAD)] {
            watch.say(side, head, 7);
            watch.say(side, vec![b'x'; shown], 1000);
            watch.observer.passed(side, 50_000 - shown as u64);
        }
        watch.say(Client, GET, 7);
        watch.say(Upstream, OK, 7);
        let seen = watch.seen();
        let bytes: Vec<_> = seen.iter().map(|it| (it.request_bytes, it.response_bytes)).collect();
        assert_eq!((bytes, watch.downgrade()), (vec![(50_000, 50_000), (0, 0)], None), "{shown}");
    }
}

#[test]
fn what_may_be_more_than_content_is_followed_no_further() {
    let unseen = |watch: &Watch| watch.downgrade().map(|untracked| untracked.reason);
    let why = Some(ParseError::Unseen.reason());
    // Between messages, inside a head, behind a body, of a response without one, and of chunks.
    for (request, response, count, answered) in [
        ("", "", 1, 0),
        (GET, "HTTP/1.1 200", 5, 0),
        (GET, HEAD, 50_001, 1),
        ("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n", HEAD, 1, 1),
        (GET, "HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", 9, 1),
        (GET, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n", 6, 0),
    ] {
        let mut watch = Watch::new();
        watch.say(Client, request, 100);
        watch.say(Upstream, response, 100);
        watch.observer.passed(Upstream, count);
        assert_eq!(unseen(&watch), why, "{request:?} {response:?}");
        watch.say(Client, GET, 100);
        watch.say(Upstream, OK, 100);
        let complete = |exchange: &Exchange| exchange.end == ExchangeEnd::Complete;
        let found = watch.seen().iter().filter(|it| complete(it)).count();
        assert_eq!(found, answered, "{request:?} {response:?}");
    }
}

#[test]
fn a_tunnel_and_a_body_that_ends_with_the_connection_may_pass_unseen() {
    let mut watch = Watch::new();
    watch.say(Client, GET, 100);
    watch.say(Upstream, "HTTP/1.1 200 OK\r\n\r\n", 100);
    watch.observer.passed(Upstream, 1 << 26);
    let watch = watch.ended(Upstream);
    assert_eq!(watch.seen()[0].response_bytes, 1 << 26);
    assert_eq!(watch.downgrade(), None);
}
