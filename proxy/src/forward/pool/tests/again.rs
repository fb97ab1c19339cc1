//! Requests that are sent once more because their route says so.

use std::time::Duration;

use weir_http::{Limit, RetryOn};

use super::super::super::http_testing::{hold_clock, pass};
use super::super::super::retries::{Repeat, Retry, RetryOutcome};
use super::*;

const FAILED: &str = "HTTP/1.1 503 Not Now\r\nContent-Length: 2\r\n\r\nno";

/// A client, and the endpoints `a` and `b` that the test plays. A request goes to `a` first.
struct Scene {
    rig: Rig,
    caller: Caller,
    a: TcpStream,
    b: TcpListener,
}

impl Scene {
    async fn new(attempts: u8, limits: TimeLimits) -> Self {
        let bind = || TcpListener::bind("127.0.0.1:0");
        let (a, b) = (bind().await.unwrap(), bind().await.unwrap());
        let rig = Rig::new(&[a.local_addr().unwrap(), b.local_addr().unwrap()]);
        *rig.requests.limits.lock().unwrap() = Some(limits);
        let on = RetryOn::Http(vec![(502, 504)]);
        let policy = RetryPolicy { on, attempts, backoff: Duration::from_millis(1) };
        let budget = RetryBudget::new(std::time::Instant::now());
        *rig.requests.retries.lock().unwrap() = Some((Arc::new(policy), Arc::new(budget)));
        let caller = rig.caller(a.local_addr().unwrap()).await;
        let (a, _) = a.accept().await.unwrap();
        Self { rig, caller, a, b }
    }

    /// The same, whose request has come to `a`.
    async fn asked(request: &str) -> Self {
        let mut scene = Self::new(1, TimeLimits::default()).await;
        scene.caller.send(request).await;
        next_request(&mut scene.a).await.unwrap();
        scene
    }

    /// The request comes to `b`.
    async fn comes_to_b(&self, request: &str) -> TcpStream {
        let (mut b, _) = within(self.b.accept()).await.unwrap();
        assert_eq!(within(next_request(&mut b)).await.unwrap().1, request);
        b
    }

    fn assert_retried(&self, expected: &[RetryOutcome]) {
        let expected: Vec<_> =
            expected.iter().map(|it| Retry { why: Repeat::Route, outcome: *it }).collect();
        assert_eq!(self.rig.sink.retries(), expected);
    }

    fn came(&self) -> Vec<Came> {
        self.rig.requests.came.lock().unwrap().iter().map(|it| it.1).collect()
    }
}

#[tokio::test]
async fn a_failure_is_not_seen_by_the_client_and_both_connections_are_kept() {
    for request in [GET, "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n"] {
        let mut scene = Scene::asked(request).await;
        let is_head = request != GET;
        let failed = if is_head { FAILED.trim_end_matches("no") } else { FAILED };
        // In pieces: the status decides.
        for piece in [&failed[..10], &failed[10..]] {
            scene.a.write_all(piece.as_bytes()).await.unwrap();
            tokio::task::yield_now().await;
        }
        let mut b = scene.comes_to_b(request).await;
        let ok = if is_head { OK.trim_end_matches("hi") } else { OK };
        b.write_all(ok.as_bytes()).await.unwrap();
        let kind = if is_head { Kind::Head } else { Kind::Other };
        assert_eq!(scene.caller.response_to(kind).await, ok);
        scene.rig.idle(2).await;
        let exchanges = scene.rig.sink.exchanges(1).await;
        assert_eq!((exchanges[0].attempts, exchanges[0].upstream), (2, b.local_addr().ok()));
        scene.assert_retried(&[RetryOutcome::Success]);
        assert_eq!((scene.came(), scene.rig.spread()), (vec![Came::Status(503)], vec![0, 1]));
        assert_eq!(scene.rig.requests.in_flight.load(Relaxed), 0);
    }
}

#[tokio::test]
async fn a_connection_with_more_to_come_is_reset() {
    let mut scene = Scene::asked(GET).await;
    scene.a.write_all(&FAILED.as_bytes()[..FAILED.len() - 1]).await.unwrap();
    let mut b = scene.comes_to_b(GET).await;
    let error = within(scene.a.read(&mut [0])).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    b.write_all(OK.as_bytes()).await.unwrap();
    assert_eq!(scene.caller.response().await, OK);
}

#[tokio::test]
async fn the_last_failure_is_the_clients() {
    let mut scene = Scene::asked(GET).await;
    scene.a.write_all(FAILED.as_bytes()).await.unwrap();
    let mut b = scene.comes_to_b(GET).await;
    b.write_all(FAILED.as_bytes()).await.unwrap();
    assert_eq!(scene.caller.response().await, FAILED);
    scene.assert_retried(&[RetryOutcome::Failure]);
    // The next request has attempts of its own.
    scene.caller.send(GET).await;
    next_request(&mut scene.a).await.unwrap();
    scene.a.write_all(FAILED.as_bytes()).await.unwrap();
    next_request(&mut b).await.unwrap();
    b.write_all(OK.as_bytes()).await.unwrap();
    assert_eq!(scene.caller.response().await, OK);
}

#[tokio::test]
async fn what_must_not_be_processed_twice_or_has_begun_is_not_sent_twice() {
    let post = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx";
    let early = "HTTP/1.1 103 Early Hints\r\n\r\n";
    for (request, said) in [
        (post, vec![FAILED]),
        (GET, vec!["HTTP/1.1 501 No\r\nContent-Length: 0\r\n\r\n"]),
        (GET, vec![early, FAILED]),
    ] {
        let mut scene = Scene::asked(request).await;
        for part in said {
            scene.a.write_all(part.as_bytes()).await.unwrap();
            assert_eq!(scene.caller.response().await, part);
        }
        scene.assert_retried(&[]);
    }
}

#[tokio::test]
async fn content_is_sent_again_if_it_is_kept() {
    let put = |size| {
        let content = "x".repeat(size);
        format!("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n\r\n{content}")
    };
    let small = put(1000);
    let mut scene = Scene::asked(&small).await;
    scene.a.write_all(FAILED.as_bytes()).await.unwrap();
    let mut b = scene.comes_to_b(&small).await;
    b.write_all(OK.as_bytes()).await.unwrap();
    assert_eq!(scene.caller.response().await, OK);
    let mut scene = Scene::asked(&put(64 << 10)).await;
    scene.a.write_all(FAILED.as_bytes()).await.unwrap();
    assert_eq!(scene.caller.response().await, FAILED);
    scene.assert_retried(&[RetryOutcome::TooLarge]);
}

#[tokio::test]
async fn a_lost_connection_is_a_failure() {
    for is_reset in [true, false] {
        let mut scene = Scene::asked(GET).await;
        if is_reset {
            tcp::arm(&scene.a);
        }
        let (other, _) = pair().await;
        drop(std::mem::replace(&mut scene.a, other));
        let mut b = scene.comes_to_b(GET).await;
        b.write_all(OK.as_bytes()).await.unwrap();
        assert_eq!(scene.caller.response().await, OK);
        assert_eq!(scene.came(), [Came::Lost]);
        assert!(
            scene
                .rig
                .sink
                .retries()
                .iter()
                .any(|it| it.why == Repeat::Route && it.outcome == RetryOutcome::Success)
        );
    }
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_is_late_is_left_for_another_one_within_the_requests_time() {
    hold_clock();
    let second = Duration::from_secs(1);
    let limits = TimeLimits { request: Some(second * 3), backend: Some(second * 2), idle: None };
    let mut scene = Scene::new(3, limits).await;
    scene.caller.send(GET).await;
    next_request(&mut scene.a).await.unwrap();
    pass(second * 2 + Duration::from_millis(2)).await;
    pass(Duration::from_millis(10)).await;
    let _b = scene.comes_to_b(GET).await;
    assert_eq!(scene.came(), [Came::Late]);
    pass(second).await;
    assert!(scene.caller.response().await.starts_with("HTTP/1.1 504 "));
    assert_eq!(scene.rig.sink.timeouts(), [Limit::Backend, Limit::Request]);
    scene.assert_retried(&[RetryOutcome::Failure]);
}

#[tokio::test]
async fn without_a_budget_a_failure_is_passed_on_as_it_is() {
    let mut scene = Scene::new(1, TimeLimits::default()).await;
    let retries = scene.rig.requests.retries.lock().unwrap().take().unwrap();
    // Until then it is its first second.
    let later = std::time::Instant::now() + Duration::from_secs(3600);
    let budget = Arc::new(RetryBudget::new(later));
    while budget.take(std::time::Instant::now()) {}
    *scene.rig.requests.retries.lock().unwrap() = Some((retries.0, budget));
    scene.caller.send(GET).await;
    next_request(&mut scene.a).await.unwrap();
    scene.a.write_all(FAILED.as_bytes()).await.unwrap();
    assert_eq!(scene.caller.response().await, FAILED);
    scene.assert_retried(&[RetryOutcome::NoBudget]);
}
