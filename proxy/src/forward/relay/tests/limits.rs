//! Time limits of routes. The clock moves when a test says so.

use std::time::Duration;

use http::StatusCode;
use weir_http::Limit;

use super::*;
use crate::forward::http_testing::{hold_clock, pass};

const SECOND: Duration = Duration::from_secs(1);

fn limited(server: &Server, request: Duration) -> Scene {
    hold_clock();
    let limits = TimeLimits { request: Some(request), ..TimeLimits::default() };
    Scene::with(&[server], Some(limits))
}

async fn assert_late(response: ResponseFuture) {
    let response = within(response).await.unwrap();
    assert_eq!(response.status(), StatusCode::GATEWAY_TIMEOUT);
    assert_eq!(response.headers()["x-weir-error"], "timeout");
}

#[tokio::test(start_paused = true)]
async fn streams_that_are_late_are_answered_for_at_their_times() {
    let server = Server::new().await;
    let scene = limited(&server, SECOND * 10);
    let (mut client, _served) = scene.client(server.address).await;
    let (first, _) = client.send_request(get("/wait"), true).unwrap();
    within(scene.sink.started(1)).await;
    pass(SECOND * 4).await;
    let (second, _) = client.send_request(get("/wait"), true).unwrap();
    let (in_time, _) = client.send_request(get("/"), true).unwrap();
    assert_eq!(from(in_time).await.0, server.address.to_string());
    pass(SECOND * 5).await;
    assert_eq!(scene.sink.timeouts(), []);
    pass(SECOND).await;
    assert_late(first).await;
    assert_eq!(scene.sink.timeouts(), [Limit::Request]);
    pass(SECOND * 4).await;
    assert_late(second).await;
    let exchanges = scene.sink.exchanges(3).await;
    let late = exchanges.iter().filter(|it| it.end == ExchangeEnd::Answered("timeout")).count();
    // The endpoint has had all the time there was.
    let told: Vec<_> = scene.turns.over.lock().unwrap().iter().map(|it| it.1).collect();
    assert_eq!((late, told), (2, vec![Some(200), Some(504), Some(504)]));
    assert_eq!((scene.in_flight(), scene.relay.lock().core.next_deadline()), (0, None));
}

/// The timer that was set for a stream that is over is used on.
#[tokio::test(start_paused = true)]
async fn a_limit_holds_for_streams_that_come_when_there_was_nothing_to_wait_for() {
    let server = Server::new().await;
    let scene = limited(&server, SECOND);
    let (mut client, _served) = scene.client(server.address).await;
    for (round, pause) in [0, 500, 990, 3000].into_iter().enumerate() {
        let (response, _) = client.send_request(get("/"), true).unwrap();
        let _body = from(response).await;
        pass(Duration::from_millis(pause)).await;
        let (response, _) = client.send_request(get("/wait"), true).unwrap();
        within(scene.sink.started(2 * round + 2)).await;
        pass(Duration::from_millis(990)).await;
        assert_eq!(scene.sink.timeouts().len(), round, "after {pause} ms");
        pass(Duration::from_millis(11)).await;
        assert_late(response).await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_task_that_keeps_the_limits_ends_with_the_relay() {
    let server = Server::new().await;
    let scene = limited(&server, SECOND * 3600);
    let tasks = tokio::runtime::Handle::current().metrics();
    let before = tasks.num_alive_tasks();
    let (mut client, served) = scene.client(server.address).await;
    let (response, body) = client.send_request(get("/"), true).unwrap();
    let answer = from(response).await;
    assert!(tasks.num_alive_tasks() > before);
    scene.drain.cancel();
    served.abort();
    drop((client, body, answer, scene, served));
    within(async {
        while tasks.num_alive_tasks() > before {
            tokio::task::yield_now().await;
        }
    })
    .await;
}
