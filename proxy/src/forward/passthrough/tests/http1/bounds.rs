//! However much the peers say, little is kept.

use weir_http::h1::{MAX_HELD, MAX_PIPELINED};
use weir_http::{LONGEST_TEXT, ParseError};

use super::*;
use crate::budget::{Budgets, Resource, Sizes};

/// The largest segment that the transport shows at once.
const SEGMENT: usize = 64 << 10;
/// Two pieces split over segments, at twice their length as vectors grow.
const PIECES: usize = 4 * LONGEST_TEXT;

#[test]
fn a_head_of_eight_mib_with_a_hundred_thousand_fields_is_followed() {
    let field = format!("X-Field: {}\r\n", "v".repeat(73));
    let mut head = b"POST / HTTP/1.1\r\n".to_vec();
    for _ in 0..50_000 {
        head.extend_from_slice(field.as_bytes());
    }
    head.extend_from_slice(b"Content-Length: 3\r\n");
    for _ in 0..50_000 {
        head.extend_from_slice(field.as_bytes());
    }
    assert!(head.len() > 8 << 20);
    for step in [7, SEGMENT, usize::MAX] {
        let mut watch = Watch::new();
        for segment in head.chunks(step) {
            watch.observer.bytes(Client, segment);
            assert!(watch.observer.connection.memory() <= PIECES);
        }
        watch.say(Client, format!("\r\nabc{GET}"), step);
        watch.say(Upstream, OK.repeat(2), step);
        let seen = watch.seen();
        assert_eq!((seen.len(), seen[0].request_bytes, watch.downgrade()), (2, 3, None));
    }
}

#[test]
fn endless_pieces_are_cut() {
    let long = "a".repeat(1 << 20);
    let cases = [
        format!("{long} / HTTP/1.1\r\n\r\n"),
        format!("GET /{long} HTTP/1.1\r\n\r\n"),
        format!("GET /{}\u{e9}{long} HTTP/1.1\r\n\r\n", "b".repeat(LONGEST_TEXT - 2)),
        format!("GET / HTTP/1.1\r\nHost: {long}\r\n\r\n"),
        format!("GET / HTTP/1.1\r\n{long}: x\r\n\r\n"),
        format!("GET / HTTP/1.1\r\nX: {long}\r\n\r\n"),
    ];
    for request in &cases {
        let mut reports = Vec::new();
        for step in [1, 1000, SEGMENT, usize::MAX] {
            let mut watch = Watch::new();
            for segment in request.as_bytes().chunks(step) {
                watch.observer.bytes(Client, segment);
                assert!(
                    watch.observer.connection.memory() <= PIECES + 4096,
                    "{}",
                    watch.observer.connection.memory()
                );
            }
            watch.say(Upstream, OK, 1000);
            assert_eq!(watch.downgrade(), None);
            reports.push(watch.seen());
        }
        assert_eq!(reports[0].len(), 1);
        assert!(reports.iter().all(|report| *report == reports[0]), "{}", &request[..40]);
        let it = &reports[0][0];
        let longest =
            [&it.method, &it.path].into_iter().chain(&it.authority).map(|word| word.len()).max();
        assert!(longest.unwrap() <= LONGEST_TEXT);
    }
    for field in ["Content-Length", "Transfer-Encoding"] {
        let request = format!("GET / HTTP/1.1\r\n{field}: {}5\r\n\r\n", "5,".repeat(5000));
        for step in [1, usize::MAX] {
            let watch = Watch::play([(Client, request.as_bytes())], step);
            assert_eq!(watch.downgrade().unwrap().reason, "framing field too long");
        }
    }
}

#[test]
fn pipelined_requests_are_bounded_in_number_and_in_words() {
    let mut watch = Watch::new();
    for _ in 0..MAX_PIPELINED {
        watch.say(Client, GET, 1000);
    }
    assert_eq!(watch.downgrade(), None);
    let kept = watch.observer.connection.memory();
    assert!(kept < 2 << 20, "{kept}");
    watch.say(Upstream, OK, 1000);
    watch.say(Client, GET, 1000);
    assert_eq!(watch.downgrade(), None);
    watch.say(Client, GET, 1000);
    assert_eq!(
        watch.downgrade(),
        Some(Untracked { side: Client, reason: ParseError::TooManyRequests.reason() })
    );
    assert!(watch.sink.is_settled());

    let mut watch = Watch::new();
    let request = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(LONGEST_TEXT));
    for _ in 0..MAX_PIPELINED {
        watch.say(Client, &request, 1000);
        assert!(watch.observer.connection.memory() < 2 << 20);
    }
    assert_eq!(
        watch.downgrade(),
        Some(Untracked { side: Client, reason: ParseError::TooManyRequests.reason() })
    );
    assert_eq!(watch.observer.connection.memory(), 0);
}

#[test]
fn a_connection_that_was_busy_keeps_little_when_it_is_idle() {
    let mut watch = Watch::new();
    watch.say(Client, GET.repeat(1000), 999);
    watch.say(Upstream, OK.repeat(1000), 999);
    assert_eq!((watch.seen().len(), watch.observer.is_idle()), (1000, true));
    let kept = watch.observer.connection.memory();
    assert!(kept < 4096, "{kept}");
}

#[test]
fn bytes_behind_an_upgrade_are_bounded() {
    let mut watch = Watch::new();
    watch.say(Client, "CONNECT a:1 HTTP/1.1\r\n\r\n", 1000);
    watch.say(Client, vec![0; MAX_HELD], 1000);
    assert_eq!(watch.downgrade(), None);
    assert!(watch.observer.connection.memory() <= 2 * MAX_HELD + 4096);
    watch.say(Client, [0], 1);
    assert_eq!(watch.downgrade().unwrap().reason, "too many bytes behind an upgrade");
    assert_eq!(watch.observer.connection.memory(), 0);
}

#[test]
fn what_is_kept_is_charged_and_stops_at_the_budget() {
    let budgets = Budgets::new(&Sizes { memory: 256 << 10, ..Sizes::default() });
    let share = budgets.share(&"a".into());
    let mut watch = Watch::of(Some(share.clone()));
    let request = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "p".repeat(6000));
    let mut sent = 0;
    while watch.downgrade().is_none() {
        watch.say(Client, &request, SEGMENT);
        sent += 1;
        assert!(share.used(Resource::Memory) <= 128 << 10);
        assert!(sent < 100, "about twenty fit");
    }
    assert_eq!(watch.downgrade().unwrap().reason, ParseError::OverBudget.reason());
    assert_eq!(budgets.used(Resource::Memory), 0);
    assert_eq!(watch.seen().len(), sent);
    // Once answered, requests are kept no more: any number of them passes.
    let mut watch = Watch::of(Some(share.clone()));
    for _ in 0..100 {
        watch.say(Client, &request, SEGMENT);
        watch.say(Upstream, OK, SEGMENT);
    }
    assert_eq!(watch.downgrade(), None);
    drop(watch);
    assert_eq!(budgets.used(Resource::Memory), 0);
}
