//! Which connections are kept, and which endpoints requests get to.

use super::*;
use crate::forward::http_testing::rest;
use crate::forward::retries::{Repeat, Retry, RetryOutcome};

#[tokio::test]
async fn an_idle_connection_that_ends_or_says_something_is_closed_at_once() {
    let (rig, _listener, _caller, upstream) = served().await;
    drop(upstream);
    rig.idle(0).await;
    let (rig, _listener, _caller, upstream) = served().await;
    tcp::reset(upstream);
    rig.idle(0).await;
    let (rig, _listener, _caller, mut upstream) = served().await;
    upstream.write_all(b"HTTP/1.1 408 Too Late\r\n\r\n").await.unwrap();
    rig.idle(0).await;
}

/// A read that fills its buffer leaves the runtime with the belief that there is more.
#[tokio::test]
async fn a_response_that_fills_the_buffer_leaves_its_connection_in_the_pool() {
    let (rig, _listener, mut caller, mut upstream) = served().await;
    for _ in 0..3 {
        caller.send(GET).await;
        next_request(&mut upstream).await.unwrap();
        let head = "HTTP/1.1 200 OK\r\nContent-Length: 8151\r\n\r\n";
        let response = format!("{head}{}", "x".repeat(8151));
        assert_eq!(response.len(), 8 << 10);
        upstream.write_all(response.as_bytes()).await.unwrap();
        assert_eq!(caller.response().await, response);
        rig.idle(1).await;
    }
    assert_eq!(rig.connect.dials.load(Relaxed), 1);
    drop(upstream);
    rig.idle(0).await;
}

#[tokio::test]
async fn a_connection_is_closed_in_order_when_it_has_been_idle_for_long() {
    let (rig, _listener, caller, mut upstream) = served().await;
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(4)).await;
    tokio::task::yield_now().await;
    assert_eq!(rig.pool.len(), 1);
    tokio::time::advance(Duration::from_secs(2)).await;
    rig.idle(0).await;
    tokio::time::resume();
    assert_eq!(rest(&mut upstream).await, b"");
    assert_eq!(caller.close().await, Some(End::Finished));
}

#[tokio::test]
async fn idle_connections_outlast_their_clients() {
    let (rig, _listener, caller, upstream) = served().await;
    let address = upstream.local_addr().unwrap();
    assert_eq!(caller.close().await, Some(End::Finished));
    let Rig { pool, .. } = rig;
    assert!(Arc::strong_count(&pool) > 1, "the task that watches it has it");
    assert!(pool.take(address).is_some());
}

#[tokio::test]
async fn connections_to_an_endpoint_that_is_gone_are_closed() {
    let servers = servers().await;
    let rig = Rig::new(&addresses(&servers));
    let mut caller = rig.caller(servers[0].address).await;
    for _ in 0..3 {
        caller.ask(GET).await;
    }
    rig.idle(3).await;
    rig.requests.endpoints.lock().unwrap().remove(0);
    tokio::time::pause();
    tokio::time::advance(Duration::from_millis(1500)).await;
    rig.idle(2).await;
    tokio::time::resume();
    for _ in 0..4 {
        assert!(!caller.ask(GET).await.starts_with('a'));
    }
    assert_eq!(servers[0].counts(), [1]);
}

#[tokio::test]
async fn the_next_endpoint_is_tried_when_one_cannot_be_reached() {
    let servers = servers().await;
    let mut endpoints = addresses(&servers);
    endpoints.insert(0, "127.0.0.1:1".parse().unwrap());
    let rig = Rig::new(&endpoints);
    let mut caller = rig.caller(servers[0].address).await;
    for _ in 0..8 {
        caller.ask(GET).await;
    }
    let retried = Retry { why: Repeat::NotConnected, outcome: RetryOutcome::Success };
    let retries = rig.sink.retries();
    assert!(!retries.is_empty() && retries.iter().all(|it| *it == retried), "{retries:?}");
    let exchanges = rig.sink.exchanges(8).await;
    assert!(exchanges.iter().all(|it| it.attempts == 1), "a dial is no attempt");
}

#[tokio::test]
async fn idle_connections_make_room_for_a_new_one() {
    let servers = servers().await;
    let rig = Rig::new(&addresses(&servers));
    let mut caller = rig.caller(servers[0].address).await;
    caller.ask(GET).await;
    rig.idle(1).await;
    rig.connect.exhausted.store(1, Relaxed);
    assert_eq!(caller.ask(GET).await, "c/0/1");
    rig.idle(1).await;
    // Nothing is left that could.
    rig.requests.next.store(0, Relaxed);
    rig.connect.exhausted.store(2, Relaxed);
    caller.send(GET).await;
    let end = within(caller.weir).await.unwrap();
    assert_eq!(end, Some(End::Unreachable(libc::EMFILE)));
    assert_eq!(rig.sink.retries(), []);
}
