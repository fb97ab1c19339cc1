//! Connections that end early, tunnels, and what is idle.

use super::*;

const UPGRADE: &str = "GET /chat HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: custom\r\n\r\n";
const SWITCHED: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: custom\r\n\r\n";
const H2C: &str = "GET / HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: x, h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n";
const SWITCHED_H2C: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: H2C\r\n\r\n";

fn ends(watch: &Watch) -> Vec<ExchangeEnd> {
    watch.seen().into_iter().map(|exchange| exchange.end).collect()
}

fn said(client: &str, upstream: &str) -> Watch {
    Watch::play([(Client, client.as_bytes()), (Upstream, upstream.as_bytes())], 1000)
}

#[test]
fn the_end_of_the_upstream_ends_what_it_has_not_answered() {
    let (closed, reset) = (ExchangeEnd::UpstreamClosed, ExchangeEnd::UpstreamReset(None));
    let only_reset = std::slice::from_ref(&reset);
    let complete = ExchangeEnd::Complete;
    let two = GET.repeat(2);
    let post = "POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\nhalf";
    let (only_closed, only_complete) =
        (std::slice::from_ref(&closed), std::slice::from_ref(&complete));
    let both = [complete.clone(), closed.clone()];
    let cases: &[(&str, &str, &[ExchangeEnd])] = &[
        (GET, "", only_closed),
        (GET, "HTTP/1.1 200 OK\r\nConte", only_closed),
        (GET, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", only_reset),
        (GET, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n", only_reset),
        (GET, "HTTP/1.0 200 OK\r\n\r\nuntil the end", only_complete),
        (GET, "HTTP/1.1 200 OK\r\nTransfer-Encoding: x\r\n\r\nto the end", only_complete),
        (&two, "HTTP/1.0 200 OK\r\n\r\nuntil the end", &both),
        (post, "HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno", only_complete),
        (post, "HTTP/1.1 413 Too Large\r\n\r\nno", only_complete),
        (post, "", only_closed),
    ];
    for (client, upstream, expected) in cases {
        let mut watch = said(client, upstream).ended(Upstream);
        assert_eq!(ends(&watch), *expected, "{client:?} {upstream:?}");
        // What the client still says is not answered.
        watch.say(Client, GET, 1000);
        watch.observer.finish(ExchangeEnd::Complete);
        assert_eq!(ends(&watch), *expected);
        assert_eq!((watch.downgrade(), watch.observer.connection.memory()), (None, 0));
    }
}

#[test]
fn what_a_client_has_left_is_not_the_upstreams_failure() {
    let half = "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf";
    let cut = ExchangeEnd::UpstreamReset(None);
    for (answer, by_upstream) in [("", ExchangeEnd::UpstreamClosed), (half, cut)] {
        let watch = said(GET, answer).ended(Client).ended(Upstream);
        assert_eq!(ends(&watch), [ExchangeEnd::ClientReset(None)], "{answer:?}");
        let watch = said(GET, answer).ended(Upstream).ended(Client);
        assert_eq!(ends(&watch), [by_upstream], "{answer:?}");
    }
}

#[test]
fn a_client_that_ends_inside_a_head_is_not_followed() {
    for head in ["G", "GET / HTTP/1.1\r\nHos", "GET / HTTP/1.1\r\n\r"] {
        let watch = said(&format!("{GET}{head}"), "").ended(Client);
        assert_eq!(watch.downgrade().unwrap().reason, "the client closed inside a head");
        assert_eq!(ends(&watch), [ExchangeEnd::Untracked]);
    }
}

#[test]
fn a_client_that_has_said_all_still_gets_its_answer() {
    let mut watch = said(GET, "").ended(Client);
    assert!(!watch.observer.is_idle());
    watch.say(Upstream, OK, 1);
    assert_eq!(ends(&watch), [ExchangeEnd::Complete]);
    assert!(watch.observer.is_idle());
}

#[test]
fn finishing_reports_what_is_in_flight() {
    let mut watch = said(&GET.repeat(3), OK);
    watch.observer.finish(ExchangeEnd::Answered("upstream-closed"));
    let reset = ExchangeEnd::UpstreamReset(None);
    let answered = ExchangeEnd::Answered("upstream-closed");
    assert_eq!(ends(&watch), [ExchangeEnd::Complete, answered, reset]);

    let mut watch = said(GET, "");
    watch.observer.finish(ExchangeEnd::ClientReset(None));
    assert_eq!(ends(&watch), [ExchangeEnd::ClientReset(None)]);

    let watch = said(&GET.repeat(2), "");
    drop(watch.observer);
    assert!(watch.sink.so_far().iter().all(|exchange| exchange.end == ExchangeEnd::Cancelled));
    assert_eq!(watch.sink.so_far().len(), 2);
}

#[test]
fn between_messages_is_idle() {
    let cases = [
        ("", "", true),
        ("\r\n", "", true),
        ("\r", "", false),
        (GET, "", false),
        (GET, "HTTP/1.1 100 Continue\r\n\r\n", false),
        (GET, "HTTP/1.1 200", false),
        (GET, OK, true),
        ("POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\nhalf", OK, false),
        ("POST / HTTP/1.1\r\nContent-Length: 4\r\n\r\nhalf", OK, true),
        (UPGRADE, SWITCHED, false),
        (UPGRADE, OK, true),
    ];
    for (client, upstream, idle) in cases {
        let watch = said(client, upstream);
        assert_eq!(watch.observer.is_idle(), idle, "{client:?} {upstream:?}");
        assert_eq!(watch.observer.farewell(), None);
    }
}

#[test]
fn an_upgrade_becomes_a_tunnel() {
    for (request, answer) in [
        (UPGRADE, SWITCHED),
        ("CONNECT b:443 HTTP/1.1\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n"),
        ("POST / HTTP/1.1\r\nUpgrade: x\r\nContent-Length: 9\r\n\r\nhalf", SWITCHED),
    ] {
        for step in [1, 7, 1000] {
            let mut watch = Watch::new();
            watch.say(Client, request, step);
            watch.say(Client, "early\0", step);
            watch.say(Upstream, answer, step);
            watch.say(Upstream, "HTTP/1.1 is not parsed", step);
            watch.say(Client, "GET / HT", step);
            assert_eq!(watch.observer.connection.memory(), 0);
            watch = watch.ended(Upstream);
            watch.say(Client, "late", step);
            assert_eq!(ends(&watch), []);
            watch.observer.finish(ExchangeEnd::ClientReset(None));
            let seen = watch.seen();
            assert_eq!((ends(&watch), watch.downgrade()), (vec![ExchangeEnd::Tunnel], None));
            let body = if request.ends_with("half") { 4 } else { 0 };
            assert_eq!((seen[0].request_bytes, seen[0].response_bytes), (18 + body, 22));
        }
    }
}

#[test]
fn an_ignored_upgrade_is_an_ordinary_request() {
    for step in [1, 7, 1000] {
        let mut watch = Watch::new();
        watch.say(Client, format!("{UPGRADE}{UPGRADE}{GET}"), step);
        watch.say(Upstream, OK.repeat(3), step);
        assert_eq!(ends(&watch), vec![ExchangeEnd::Complete; 3]);
        assert!(watch.observer.is_idle());
    }
    // Pipelined behind a response that is under way, it may still become a tunnel.
    let mut watch = said(GET, "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n");
    watch.say(Client, format!("{UPGRADE}\0\0"), 1000);
    watch.say(Upstream, format!(".{SWITCHED}"), 1000);
    watch.observer.finish(ExchangeEnd::Complete);
    assert_eq!(ends(&watch), [ExchangeEnd::Complete, ExchangeEnd::Tunnel]);
    assert_eq!((watch.seen()[1].request_bytes, watch.downgrade()), (2, None));
}

#[test]
fn bytes_kept_for_the_decision_that_end_inside_a_head_are_not_followed() {
    let mut watch = said(&format!("{UPGRADE}GET /"), "").ended(Client);
    assert_eq!(watch.downgrade(), None);
    watch.say(Upstream, OK, 1000);
    assert_eq!(ends(&watch), [ExchangeEnd::Complete]);
    assert_eq!(watch.downgrade().unwrap().reason, "the client closed inside a head");
}

#[test]
fn an_upgrade_to_h2c_goes_on_as_http2() {
    for step in [1, 1000] {
        let mut watch = Watch::new();
        watch.say(Client, H2C, step);
        watch.say(Client, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", step);
        watch.say(Upstream, SWITCHED_H2C, step);
        assert_eq!(watch.observer.farewell(), None, "SETTINGS come first");
        watch.say(Upstream, "\0\0\0\x04\0\0\0\0\0", step);
        assert!(watch.observer.farewell().is_some(), "it is HTTP/2");
    }
    // Without the settings, or to something else, it is a tunnel.
    let no_settings = H2C.replace("HTTP2-Settings: ", "X: ");
    for (request, answer) in [(&*no_settings, SWITCHED_H2C), (H2C, SWITCHED)] {
        let mut watch = said(request, answer);
        watch.say(Upstream, "\0\0\0\x04\0\0\0\0\0", 1000);
        assert_eq!(watch.observer.farewell(), None);
        watch.observer.finish(ExchangeEnd::Complete);
        assert_eq!(ends(&watch), [ExchangeEnd::Tunnel]);
    }
}
