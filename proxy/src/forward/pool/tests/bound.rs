//! What is bound to a connection, or ambiguous, never shares one.

use super::*;
use crate::forward::http::Unpoolable;

/// Requests whose clients have an upstream connection of their own from there on.
const REQUESTS: &[(Unpoolable, &str)] = &[
    (Unpoolable::Http10, "GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n"),
    (Unpoolable::Host, "GET / HTTP/1.1\r\n\r\n"),
    (Unpoolable::Host, "GET / HTTP/1.1\r\nHost:\r\n\r\n"),
    (Unpoolable::Host, "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n"),
    (Unpoolable::Target, "GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n"),
    (Unpoolable::Target, "GET http://u@a/ HTTP/1.1\r\nHost: a\r\n\r\n"),
    (Unpoolable::Authentication, "GET / HTTP/1.1\r\nHost: a\r\nAuthorization: nTLM x\r\n\r\n"),
    (Unpoolable::Authentication, "GET / HTTP/1.1\r\nHost: a\r\nAuthorization:Negotiate\r\n\r\n"),
    (
        Unpoolable::Authentication,
        "GET / HTTP/1.1\r\nHost: a\r\nProxy-Authorization: Kerberos x\r\n\r\n",
    ),
    (
        Unpoolable::Upgrade,
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
    ),
    (Unpoolable::Upgrade, "CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n"),
    (
        Unpoolable::Unfollowed,
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nG",
    ),
    (Unpoolable::Unfollowed, "GET / HTTP/1.1\r\nHost: a\r\nX: b\r\n c\r\n\r\n"),
    (Unpoolable::Unfollowed, "GET / HTTP/1.1\r\nHost: a\r\nX: b\rc\r\n\r\n"),
    (Unpoolable::Unfollowed, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n"),
    (Unpoolable::Unfollowed, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n"),
    (Unpoolable::Unfollowed, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +3\r\n\r\nabc"),
    (Unpoolable::Unfollowed, "\u{16}\u{3}\u{1}"),
    (Unpoolable::Framing, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3, 3\r\n\r\nabc"),
    (
        Unpoolable::Framing,
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
    ),
    (
        Unpoolable::Framing,
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        Unpoolable::Framing,
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        Unpoolable::Framing,
        "POST / HTTP/1.1\r\nHost: a\r\nConnection: Content-Length\r\nContent-Length: 3\r\n\r\nabc",
    ),
    (
        Unpoolable::Framing,
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\nabc\r\n0\r\n\r\n",
    ),
    (Unpoolable::Lines, "GET / HTTP/1.1\nHost: a\r\n\r\n"),
    (Unpoolable::Lines, "GET / HTTP/1.1\r\nHost: a\n\r\n"),
    (Unpoolable::Lines, "GET / HTTP/1.1\r\nHost: a\r\n\n"),
];

/// Responses with the same effect, to a GET.
const RESPONSES: &[(Unpoolable, &str)] = &[
    (Unpoolable::Http10, "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi"),
    (Unpoolable::UntilClose, "HTTP/1.1 200 OK\r\n\r\nhi"),
    (Unpoolable::Close, "HTTP/1.1 200 OK\r\nConnection: x, close\r\nContent-Length: 2\r\n\r\nhi"),
    (
        Unpoolable::Authentication,
        "HTTP/1.1 401 No\r\nWWW-Authenticate: Basic realm=x, NTLM\r\nContent-Length: 2\r\n\r\nhi",
    ),
    (
        Unpoolable::Authentication,
        "HTTP/1.1 407 No\r\nProxy-Authenticate: negotiate\r\nContent-Length: 2\r\n\r\nhi",
    ),
    (Unpoolable::Upgrade, "HTTP/1.1 101 Switching\r\n\r\nhi"),
    (
        Unpoolable::Unfollowed,
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\nhi",
    ),
    (Unpoolable::Unfollowed, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nhi"),
    (Unpoolable::Unfollowed, "hi"),
    (Unpoolable::Lines, "HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 2\r\n\r\nhi"),
    (Unpoolable::Lines, "HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\nhi"),
    (Unpoolable::Lines, "HTTP/1.1 200 OK\nContent-Length: 2\r\n\r\nhi"),
    (Unpoolable::Framing, "HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nhi"),
    (Unpoolable::Framing, "HTTP/1.1 204 No\r\nContent-Length: 2\r\n\r\n"),
    (
        Unpoolable::Framing,
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\nhi\r\n0\r\n\r\n",
    ),
];

async fn expect(stream: &mut TcpStream, bytes: &str) {
    let mut seen = vec![0; bytes.len()];
    within(stream.read_exact(&mut seen)).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&seen), bytes);
}

/// Another client's requests go anywhere but to a connection that is not its own.
async fn another_is_served(rig: &Rig, listener: &TcpListener) {
    let mut other = rig.caller(listener.local_addr().unwrap()).await;
    let (mut upstream, _) = listener.accept().await.unwrap();
    for _ in 0..3 {
        other.send(GET).await;
        next_request(&mut upstream).await.unwrap();
        upstream.write_all(OK.as_bytes()).await.unwrap();
        assert_eq!(other.response().await, OK);
    }
    assert_eq!(other.close().await, Some(End::Finished));
}

#[tokio::test]
async fn ambiguous_requests_and_all_that_follow_have_a_connection_of_their_own() {
    for (reason, request) in REQUESTS {
        let (rig, listener, mut caller, _shared) = served().await;
        caller.send(format!("{request}{GET}")).await;
        let (mut own, _) = within(listener.accept()).await.unwrap();
        expect(&mut own, &format!("{request}{GET}")).await;
        assert_eq!(rig.sink.reasons(), [*reason], "{request:?}");
        another_is_served(&rig, &listener).await;
        // Both directions pass until both sides close.
        own.write_all(b"anything").await.unwrap();
        expect(&mut caller.stream, "anything").await;
        caller.send("more").await;
        expect(&mut own, "more").await;
        drop(own);
        assert_eq!(caller.close().await, None, "{request:?}");
        assert_eq!(rig.connect.dials.load(Relaxed), 3);
    }
}

#[tokio::test]
async fn a_first_request_that_is_ambiguous_keeps_the_connection_that_was_made_for_it() {
    for (reason, request) in REQUESTS {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let rig = Rig::new(&["127.0.0.1:1".parse().unwrap()]);
        let mut caller = rig.caller(listener.local_addr().unwrap()).await;
        let (mut upstream, _) = listener.accept().await.unwrap();
        caller.send(request).await;
        expect(&mut upstream, request).await;
        drop(upstream);
        assert_eq!(caller.close().await, None);
        assert_eq!((rig.sink.reasons(), rig.pool.len()), (vec![*reason], 0));
        assert_eq!(rig.requests.shared.load(Relaxed), 0);
    }
}

#[tokio::test]
async fn ambiguous_responses_leave_the_connection_to_their_client() {
    for (reason, response) in RESPONSES {
        for step in [1, 1000] {
            let (rig, listener, mut caller, mut upstream) = served().await;
            caller.send(GET).await;
            next_request(&mut upstream).await.unwrap();
            for piece in response.as_bytes().chunks(step) {
                upstream.write_all(piece).await.unwrap();
                tokio::task::yield_now().await;
            }
            expect(&mut caller.stream, response).await;
            another_is_served(&rig, &listener).await;
            caller.send(GET).await;
            expect(&mut upstream, GET).await;
            assert_eq!(rig.sink.reasons(), [*reason], "{response:?}");
            drop(upstream);
            assert_eq!(caller.close().await, None, "{response:?}");
        }
    }
}

#[tokio::test]
async fn a_request_that_is_to_be_the_last_is_sent_and_its_connection_closed_behind_it() {
    let (rig, _listener, mut caller, mut upstream) = served().await;
    let last = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    caller.send(last).await;
    expect(&mut upstream, last).await;
    upstream.write_all(OK.as_bytes()).await.unwrap();
    drop(upstream);
    assert_eq!(caller.response().await, OK);
    assert_eq!(caller.close().await, None);
    assert_eq!((rig.sink.reasons(), rig.pool.len()), (vec![Unpoolable::Close], 0));
    rig.sink.exchanges(2).await;
}

#[tokio::test]
async fn a_response_ahead_of_its_request_leaves_the_connection_to_its_client() {
    let (rig, listener, mut caller, mut upstream) = served().await;
    let head = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n";
    caller.send(head).await;
    expect(&mut upstream, head).await;
    upstream.write_all(OK.as_bytes()).await.unwrap();
    assert_eq!(caller.response().await, OK);
    another_is_served(&rig, &listener).await;
    caller.send("body").await;
    expect(&mut upstream, "body").await;
    assert_eq!(rig.sink.reasons(), [Unpoolable::EarlyAnswer]);
    drop(upstream);
    assert_eq!(caller.close().await, None);
}

#[tokio::test]
async fn a_web_socket_has_its_connection_and_passes_both_ways() {
    let (rig, listener, mut caller, _shared) = served().await;
    let request = "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    caller.send(request).await;
    let (mut own, _) = within(listener.accept()).await.unwrap();
    expect(&mut own, request).await;
    let switched = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n";
    own.write_all(format!("{switched}frame").as_bytes()).await.unwrap();
    expect(&mut caller.stream, &format!("{switched}frame")).await;
    caller.send("back").await;
    expect(&mut own, "back").await;
    drop(own);
    assert_eq!(caller.close().await, None);
    assert_eq!(rig.sink.reasons(), [Unpoolable::Upgrade]);
    let exchanges = rig.sink.exchanges(2).await;
    assert_eq!(exchanges[1].end, crate::forward::http::ExchangeEnd::Tunnel);
}

/// A server like those with NTLM: all requests of a connection are of the user that has
/// authenticated it.
async fn identifying(mut stream: TcpStream) {
    let mut user = "nobody".to_owned();
    while let Some((_, text)) = next_request(&mut stream).await {
        if let Some((_, rest)) = text.split_once("Authorization: NTLM ") {
            user = rest.lines().next().unwrap_or_default().to_owned();
        }
        let length = user.len();
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{user}");
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

#[tokio::test]
async fn an_identity_that_is_bound_to_a_connection_stays_with_its_user() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(identifying(stream));
        }
    });
    let rig = Rig::new(&[address]);
    for _ in 0..20 {
        let mut callers = [rig.caller(address).await, rig.caller(address).await];
        for caller in &mut callers {
            assert_eq!(caller.ask(GET).await, "nobody");
        }
        let [alice, bob] = &mut callers;
        let authenticated = "GET / HTTP/1.1\r\nHost: a\r\nAuthorization: NTLM alice\r\n\r\n";
        assert_eq!(alice.ask(authenticated).await, "alice");
        for _ in 0..3 {
            assert_eq!(bob.ask(GET).await, "nobody");
            assert_eq!(alice.ask(GET).await, "alice");
        }
        let [alice, bob] = callers;
        drop(alice);
        let mut bob = bob;
        assert_eq!(bob.ask(GET).await, "nobody");
    }
    serving.abort();
}
