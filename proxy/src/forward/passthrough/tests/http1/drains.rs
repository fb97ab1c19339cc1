//! A drain: the last response says that the connection ends behind it, and nothing else is changed.

use proptest::collection::vec;
use proptest::prelude::*;
use weir_http::h1::Edit;

use super::sessions::{Step, cut, observe, session};
use super::*;

const KEEP: &str = "HTTP/1.1 204 No\r\nConnection: keep-alive\r\n\r\n";
const CLOSED: &str = "HTTP/1.1 204 No\r\nConnection: close\r\n\r\n";
const NO: &str = "HTTP/1.1 204 No\r\n\r\n";
const NO_MORE: &str = "HTTP/1.1 204 No\r\nconnection: close\r\n\r\n";

impl Watch {
    /// Shows a segment of a draining connection; what arrives at the other side.
    fn pass(&mut self, from: Side, bytes: impl AsRef<[u8]>) -> String {
        let bytes = bytes.as_ref();
        self.observer.bytes(from, bytes);
        let Some(Edit { start, end, text }) = self.observer.edit(from) else {
            return String::from_utf8_lossy(bytes).into_owned();
        };
        String::from_utf8_lossy(&[&bytes[..start], text, &bytes[end..]].concat()).into_owned()
    }
}

#[test]
fn the_response_in_flight_says_close() {
    let cases = [
        (GET, NO, NO_MORE),
        (GET, KEEP, CLOSED),
        (GET, CLOSED, CLOSED),
        (GET, "HTTP/1.0 200 OK\r\n\r\nhi", "HTTP/1.0 200 OK\r\n\r\nhi"),
        (
            GET,
            "HTTP/1.1 103 Early\r\n\r\nHTTP/1.1 204 No\r\n\r\n",
            "HTTP/1.1 103 Early\r\n\r\nHTTP/1.1 204 No\r\nconnection: close\r\n\r\n",
        ),
        (
            GET,
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nSum: x\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nconnection: close\r\n\r\n1\r\na\r\n0\r\nSum: x\r\n\r\n",
        ),
        (
            "HEAD / HTTP/1.1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 9\r\nconnection: close\r\n\r\n",
        ),
    ];
    for (request, said, heard) in cases {
        let mut watch = Watch::new();
        watch.say(Client, request, 1000);
        assert_eq!(watch.pass(Upstream, said), heard);
    }
}

#[test]
fn a_switch_of_protocols_says_nothing() {
    let upgrade = "GET / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n";
    let switched = "HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\n";
    let connect = "CONNECT a:1 HTTP/1.1\r\n\r\n";
    for (request, answer) in [(upgrade, switched), (connect, "HTTP/1.1 200 OK\r\n\r\n")] {
        let mut watch = Watch::new();
        watch.say(Client, request, 1000);
        assert_eq!(watch.pass(Upstream, answer), answer);
        assert_eq!(watch.pass(Client, "anything"), "anything");
        assert_eq!(watch.pass(Upstream, NO), NO);
    }
    // One that is not taken up is an ordinary request, and what came behind it would be answered.
    let mut watch = Watch::new();
    watch.say(Client, upgrade, 1000);
    assert_eq!(watch.pass(Upstream, NO), NO_MORE);
    let mut watch = Watch::new();
    watch.say(Client, [upgrade, GET].concat(), 1000);
    assert_eq!(watch.pass(Upstream, NO), NO);
    assert_eq!(watch.pass(Upstream, NO), NO_MORE);
}

/// Only the last one says close: what a client has sent before it knows has to be answered
/// (RFC 9112 §9.6).
#[test]
fn pipelined_requests_are_all_answered() {
    let mut watch = Watch::new();
    watch.say(Client, GET.repeat(3), 1000);
    assert_eq!(watch.pass(Upstream, KEEP), KEEP);
    assert_eq!(watch.pass(Client, GET), GET);
    assert_eq!(watch.pass(Upstream, KEEP.repeat(2)), KEEP.repeat(2));
    let (begun, rest) = GET.split_at(5);
    assert_eq!(watch.pass(Client, begun), begun);
    assert_eq!(watch.pass(Upstream, KEEP), KEEP, "a request has begun");
    assert_eq!(watch.pass(Client, rest), rest);
    assert_eq!(watch.pass(Upstream, KEEP), CLOSED);
    assert!(watch.observer.is_idle());
    assert_eq!(watch.seen().len(), 5);
}

#[test]
fn what_comes_behind_the_last_response_does_not_reach_the_upstream() {
    let mut watch = Watch::new();
    watch.say(Client, "POST / HTTP/1.1\r\nContent-Length: 4\r\n\r\nab", 1000);
    assert_eq!(watch.pass(Upstream, NO), NO_MORE);
    assert!(!watch.observer.is_idle(), "the request has not ended");
    assert_eq!(watch.pass(Client, "c"), "c");
    assert_eq!(watch.pass(Client, format!("d{GET}")), "d");
    assert_eq!(watch.pass(Client, GET), "");
    assert!(watch.observer.is_idle());
    assert_eq!((watch.seen().len(), watch.seen()[0].request_bytes), (1, 4));
    assert_eq!(watch.downgrade(), None);
}

#[test]
fn a_head_in_pieces_is_changed_where_its_bytes_are() {
    for at in 1..KEEP.len() {
        let (first, second) = KEEP.split_at(at);
        let mut watch = Watch::new();
        watch.say(Client, GET, 1000);
        let heard = watch.pass(Upstream, first) + &watch.pass(Upstream, second);
        let is_there = second.contains("keep-alive");
        assert_eq!(heard, if is_there { CLOSED } else { KEEP }, "{at}");
        let mut watch = Watch::new();
        watch.say(Client, GET, 1000);
        let Some((first, second @ [_, ..])) = NO.as_bytes().split_at_checked(at) else { continue };
        let heard = watch.pass(Upstream, first) + &watch.pass(Upstream, second);
        assert_eq!(heard, if second.len() >= 2 { NO_MORE } else { NO }, "{at}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    /// At most one response is changed, in nothing but its `Connection` field, and the same is
    /// reported of it.
    #[test]
    fn nothing_else_is_changed(
        steps in session(),
        cuts in vec(1_usize..80, 1..8),
        from in any::<prop::sample::Index>(),
    ) {
        let steps = cut(&steps, &cuts);
        let from = from.index(steps.len());
        let mut watch = Watch::new();
        let mut heard = Vec::new();
        let (mut said, mut dropped) = (Vec::new(), false);
        for (at, Step(side, bytes)) in steps.iter().enumerate() {
            if bytes.is_empty() {
                watch.observer.ended(*side);
                heard.push(Step(*side, Vec::new()));
                continue;
            }
            watch.observer.bytes(*side, bytes);
            let edit = (at >= from).then(|| watch.observer.edit(*side)).flatten();
            let passed = match edit {
                None => bytes.clone(),
                Some(Edit { start, end, text }) => {
                    match side {
                        Client => dropped = true,
                        Upstream => said.push((bytes[start..end].to_vec(), text)),
                    }
                    [&bytes[..start], text, &bytes[end..]].concat()
                }
            };
            if !passed.is_empty() {
                heard.push(Step(*side, passed));
            }
        }
        watch.observer.finish(ExchangeEnd::UpstreamReset(None));
        prop_assert!(said.len() <= 1, "{said:?}");
        prop_assert!(!dropped || !said.is_empty());
        for (old, new) in said {
            let is_value = old.eq_ignore_ascii_case(b"keep-alive") && new == b"close";
            prop_assert!(is_value || old.is_empty() && new == b"connection: close\r\n");
        }
        // What has been said is understood by the next observer as by this one.
        let next = observe(&heard);
        prop_assert_eq!(next.seen(), watch.seen());
        prop_assert_eq!(next.downgrade(), watch.downgrade());
    }
}
