//! Time limits of routes. The clock moves when a test says so.

use std::time::Duration;

use weir_http::Limit;

use super::super::super::http_testing::{hold_clock, pass};
use super::*;

const SECOND: Duration = Duration::from_secs(1);
/// Timers are exact to a millisecond.
const MOMENT: Duration = Duration::from_millis(2);

/// A client, and an endpoint that the test plays.
async fn limited(limits: TimeLimits) -> (Rig, TcpListener, Caller, TcpStream) {
    hold_clock();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let rig = Rig::new(&[address]);
    *rig.requests.limits.lock().unwrap() = Some(limits);
    let caller = rig.caller(address).await;
    let (upstream, _) = listener.accept().await.unwrap();
    (rig, listener, caller, upstream)
}

fn backend(limit: Duration) -> TimeLimits {
    TimeLimits { backend: Some(limit), ..TimeLimits::default() }
}

/// weir has reset the connection.
async fn assert_reset(mut stream: TcpStream) {
    let error = within(stream.read(&mut [0])).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_without_an_answer_is_answered_for_and_the_client_goes_on() {
    let (rig, listener, mut caller, mut upstream) = limited(backend(SECOND * 2)).await;
    caller.send(GET).await;
    next_request(&mut upstream).await.unwrap();
    pass(SECOND * 2 - MOMENT).await;
    assert_eq!(rig.sink.timeouts(), []);
    pass(MOMENT * 2).await;
    let response = caller.response().await;
    let expected =
        "HTTP/1.1 504 Gateway Timeout\r\nx-weir-error: timeout\r\ncontent-length: 0\r\n\r\n";
    assert_eq!(response, expected);
    assert_reset(upstream).await;
    caller.send(GET).await;
    let (mut upstream, _) = within(listener.accept()).await.unwrap();
    next_request(&mut upstream).await.unwrap();
    pass(SECOND).await;
    upstream.write_all(OK.as_bytes()).await.unwrap();
    assert_eq!(caller.response().await, OK);
    let exchanges = rig.sink.exchanges(2).await;
    assert_eq!(exchanges[0].end, ExchangeEnd::Answered("timeout"));
    assert_eq!(exchanges[0].upstream, listener.local_addr().ok());
    assert_eq!((exchanges[1].status, rig.sink.timeouts()), (Some(200), vec![Limit::Backend]));
    assert_eq!((rig.spread(), rig.requests.in_flight.load(Relaxed)), (vec![2], 0));
}

#[tokio::test(start_paused = true)]
async fn a_response_that_takes_too_long_ends_the_connections() {
    for limits in [
        backend(SECOND),
        TimeLimits { request: Some(SECOND), ..TimeLimits::default() },
        TimeLimits { idle: Some(SECOND), ..TimeLimits::default() },
    ] {
        let (rig, _listener, mut caller, mut upstream) = limited(limits).await;
        caller.send(GET).await;
        next_request(&mut upstream).await.unwrap();
        upstream.write_all(&OK.as_bytes()[..OK.len() - 1]).await.unwrap();
        let mut said = vec![0; OK.len() - 1];
        within(caller.stream.read_exact(&mut said)).await.unwrap();
        // Idleness is found by looks in between.
        for _ in 0..10 {
            pass(SECOND / 4).await;
        }
        assert_reset(caller.stream).await;
        assert_reset(upstream).await;
        assert_eq!(within(caller.weir).await.unwrap(), Some(End::TimedOut));
        let exchanges = rig.sink.exchanges(1).await;
        assert_eq!((exchanges[0].status, &exchanges[0].end), (Some(200), &ExchangeEnd::TimedOut));
        assert_eq!(rig.spread(), [1]);
    }
}

#[tokio::test(start_paused = true)]
async fn behind_an_interim_response_an_answer_is_possible() {
    const EARLY: &str = "HTTP/1.1 103 Early Hints\r\n\r\n";
    let (_rig, _listener, mut caller, mut upstream) = limited(backend(SECOND)).await;
    caller.send(GET).await;
    next_request(&mut upstream).await.unwrap();
    upstream.write_all(EARLY.as_bytes()).await.unwrap();
    assert_eq!(caller.response().await, EARLY);
    pass(SECOND + MOMENT).await;
    assert!(caller.response().await.starts_with("HTTP/1.1 504 "));
    // In the middle of a head none is.
    let (_rig, _listener, mut caller, mut upstream) = limited(backend(SECOND)).await;
    caller.send(GET).await;
    next_request(&mut upstream).await.unwrap();
    upstream.write_all(format!("{EARLY}HTTP/1.1 200 ").as_bytes()).await.unwrap();
    assert_eq!(caller.response().await, EARLY);
    pass(SECOND + MOMENT).await;
    assert_reset(caller.stream).await;
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_is_not_to_blame_for_a_client_that_does_not_send_its_request() {
    let (rig, _listener, mut caller, _upstream) = limited(backend(SECOND)).await;
    caller.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf").await;
    rig.sink.started(1).await;
    pass(SECOND + MOMENT).await;
    let response = caller.response().await;
    assert!(response.starts_with("HTTP/1.1 504 ") && response.contains("connection: close\r\n"));
    assert_eq!((rig.spread(), rig.requests.in_flight.load(Relaxed)), (vec![0], 0));
    drop(caller.stream);
    assert_eq!(within(caller.weir).await.unwrap(), Some(End::Finished));
}

#[tokio::test(start_paused = true)]
async fn requests_that_are_in_time_one_after_the_other_have_their_own_time_each() {
    let limits =
        TimeLimits { request: Some(SECOND * 2), backend: Some(SECOND * 2), idle: Some(SECOND * 2) };
    let (rig, _listener, mut caller, mut upstream) = limited(limits).await;
    for _ in 0..5 {
        caller.send(GET).await;
        next_request(&mut upstream).await.unwrap();
        pass(SECOND).await;
        upstream.write_all(OK.as_bytes()).await.unwrap();
        assert_eq!(caller.response().await, OK);
        pass(SECOND * 3).await;
    }
    assert_eq!((rig.sink.timeouts(), rig.spread()), (vec![], vec![5]));
}
