//! How connections end: the client sees what it would have seen of its own upstream connection.

use super::*;
use crate::forward::http::ExchangeEnd;
use crate::forward::http_testing::{rest, until_reset};

const BEGINNING: &str = "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhi";

#[tokio::test]
async fn an_upstream_that_closes_inside_a_response_closes_the_client() {
    let (rig, _listener, mut caller, mut upstream) = asked().await;
    upstream.write_all(BEGINNING.as_bytes()).await.unwrap();
    drop(upstream);
    assert_eq!(rest(&mut caller.stream).await, BEGINNING.as_bytes());
    drop(caller.stream);
    assert_eq!(within(caller.weir).await.unwrap(), None);
    let exchanges = rig.sink.exchanges(1).await;
    assert_eq!(exchanges[0].end, ExchangeEnd::UpstreamReset(None));
}

#[tokio::test]
async fn a_reset_inside_a_response_follows_what_was_received() {
    let (rig, _listener, mut caller, mut upstream) = asked().await;
    upstream.write_all(BEGINNING.as_bytes()).await.unwrap();
    let mut seen = vec![0; BEGINNING.len()];
    within(caller.stream.read_exact(&mut seen)).await.unwrap();
    tcp::reset(upstream);
    assert_eq!(until_reset(&mut caller.stream).await, b"");
    assert_eq!(within(caller.weir).await.unwrap(), Some(End::UpstreamReset));
    let exchanges = rig.sink.exchanges(1).await;
    assert_eq!(exchanges[0].end, ExchangeEnd::UpstreamReset(None));
    assert_eq!(rig.requests.in_flight.load(Relaxed), 0);
}

#[tokio::test]
async fn a_client_that_resets_takes_the_connection_of_its_request_with_it() {
    let (rig, _listener, caller, mut upstream) = asked().await;
    tcp::reset(caller.stream);
    until_reset(&mut upstream).await;
    assert_eq!(within(caller.weir).await.unwrap(), Some(End::ClientReset));
    assert_eq!(rig.pool.len(), 0);
    let exchanges = rig.sink.exchanges(1).await;
    assert_eq!(exchanges[0].end, ExchangeEnd::ClientReset(None));
}

#[tokio::test]
async fn an_upstream_learns_that_its_client_has_ended_its_stream() {
    let (rig, _listener, mut caller, mut upstream) = asked().await;
    caller.stream.shutdown().await.unwrap();
    assert_eq!(rest(&mut upstream).await, b"");
    upstream.write_all(OK.as_bytes()).await.unwrap();
    drop(upstream);
    assert_eq!(rest(&mut caller.stream).await, OK.as_bytes());
    assert_eq!(within(caller.weir).await.unwrap(), None);
    assert_eq!((rig.sink.reasons(), rig.pool.len()), (vec![], 0));
}

#[tokio::test]
async fn a_client_that_ends_inside_a_head_is_passed_on_as_it_is() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let rig = Rig::new(&[listener.local_addr().unwrap()]);
    let mut caller = rig.caller(listener.local_addr().unwrap()).await;
    caller.send("GET / HTTP/1.1\r\nHo").await;
    caller.stream.shutdown().await.unwrap();
    let (mut upstream, _) = listener.accept().await.unwrap();
    assert_eq!(rest(&mut upstream).await, b"GET / HTTP/1.1\r\nHo");
    drop(upstream);
    assert_eq!(caller.close().await, None);
}

#[tokio::test]
async fn a_client_is_reset_when_no_endpoint_can_be_reached() {
    let server = Server::start("a").await;
    let refusing = ["127.0.0.1:1".parse().unwrap(), "127.0.0.1:2".parse().unwrap()];
    let rig = Rig::new(&refusing);
    let mut caller = rig.caller(server.address).await;
    caller.send(GET).await;
    assert_eq!(until_reset(&mut caller.stream).await, b"");
    assert_eq!(within(caller.weir).await.unwrap(), Some(End::Unreachable(libc::ECONNREFUSED)));
    let exchanges = rig.sink.exchanges(1).await;
    assert_eq!(exchanges[0].end, ExchangeEnd::UpstreamReset(None));
    assert!(refusing.contains(&exchanges[0].upstream.unwrap()));
}

#[tokio::test]
async fn a_drain_says_close_with_the_next_response_and_closes_idle_connections() {
    let (rig, listener, mut caller, mut upstream) = asked().await;
    let mut idle = rig.caller(listener.local_addr().unwrap()).await;
    let (mut other, _) = listener.accept().await.unwrap();
    idle.send(GET).await;
    next_request(&mut other).await.unwrap();
    other.write_all(OK.as_bytes()).await.unwrap();
    assert_eq!(idle.response().await, OK);
    rig.idle(1).await;
    rig.drain.cancel();
    assert_eq!(rest(&mut other).await, b"");
    upstream.write_all(OK.as_bytes()).await.unwrap();
    let last = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nconnection: close\r\n\r\nhi";
    assert_eq!(rest(&mut caller.stream).await, last.as_bytes());
    assert_eq!(rest(&mut upstream).await, b"");
    drop(caller.stream);
    assert_eq!(within(caller.weir).await.unwrap(), Some(End::Finished));
    // A client without a request is asked nothing: it is closed when it has been idle for a time.
    assert_eq!(rest(&mut idle.stream).await, b"");
    drop(idle.stream);
    assert_eq!(within(idle.weir).await.unwrap(), Some(End::Finished));
    assert_eq!(rig.pool.len(), 0);
}

#[tokio::test]
async fn a_client_stays_where_it_is_once_nothing_is_to_be_balanced() {
    let servers = servers().await;
    let rig = Rig::new(&addresses(&servers));
    let mut caller = rig.caller(servers[0].address).await;
    assert_eq!(caller.ask(GET).await, "a/0/1");
    assert_eq!(caller.ask(GET).await, "b/0/1");
    rig.requests.not_current.store(true, Relaxed);
    for request in 2..6 {
        assert_eq!(caller.ask(GET).await, format!("b/0/{request}"));
    }
    drop(caller.stream);
    assert_eq!(within(caller.weir).await.unwrap(), None);
    assert_eq!(rig.sink.reasons(), []);
}

#[tokio::test]
async fn heads_beyond_the_limit_pass_unread_on_a_connection_of_their_own() {
    let servers = servers().await;
    let mut rig = Rig::new(&addresses(&servers));
    rig.head = HeadLimits { bytes: 1000, fields: 10 };
    let mut caller = rig.caller(servers[0].address).await;
    let large = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(2000));
    assert_eq!(caller.ask(&large).await, "a/0/1");
    let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(20));
    assert_eq!(caller.ask(&many).await, "a/0/2");
    assert_eq!(rig.sink.downgrades().len(), 1);
    assert_eq!(rig.pool.len(), 0);
}
