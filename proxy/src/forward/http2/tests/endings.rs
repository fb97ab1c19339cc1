//! Streams and connections that end early, and how both sides learn of it.

use std::future::poll_fn;

use h2::Reason;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::forward::http::{EndCause, HeadLimits, HttpVersion, Side};
use crate::forward::http_testing::{Rig, until_reset};

const ODD: u32 = 0x1234;

fn post() -> Request<()> {
    Request::builder().method("POST").uri("http://a/").body(()).unwrap()
}

#[tokio::test]
async fn a_reset_of_the_client_reaches_the_upstream_with_its_reason() {
    for reason in [Reason::CANCEL, Reason::INTERNAL_ERROR, Reason::from(ODD)] {
        for answered in [false, true] {
            let mut peers = Peers::new().await;
            let (response, mut up) = peers.client.send_request(post(), false).unwrap();
            let (_request, mut respond) = peers.accept().await;
            if answered {
                let mut down = respond.send_response(Response::new(()), false).unwrap();
                let _response = within(response).await.unwrap();
                up.send_reset(reason);
                assert_eq!(within(poll_fn(|cx| down.poll_reset(cx))).await.unwrap(), reason);
            } else {
                up.send_reset(reason);
                assert_eq!(within(poll_fn(|cx| respond.poll_reset(cx))).await.unwrap(), reason);
            }
            let seen = peers.sink.exchanges(1).await;
            assert_eq!(seen[0].end, ExchangeEnd::ClientReset(Some(reason.into())));
        }
    }
}

#[tokio::test]
async fn a_reset_of_the_upstream_reaches_the_client_with_its_reason() {
    for reason in [Reason::REFUSED_STREAM, Reason::ENHANCE_YOUR_CALM, Reason::from(ODD)] {
        for answered in [false, true] {
            let mut peers = Peers::new().await;
            let (response, _up) = peers.client.send_request(post(), false).unwrap();
            let (_request, mut respond) = peers.accept().await;
            let error = if answered {
                let mut down = respond.send_response(Response::new(()), false).unwrap();
                down.send_data(Bytes::from_static(b"half"), false).unwrap();
                let mut body = within(response).await.unwrap().into_body();
                assert_eq!(content(&mut body).await, "half");
                down.send_reset(reason);
                within(body.data()).await.unwrap().unwrap_err()
            } else {
                respond.send_reset(reason);
                within(response).await.unwrap_err()
            };
            assert_eq!((error.reason(), error.is_remote()), (Some(reason), true));
            let seen = peers.sink.exchanges(1).await;
            assert_eq!(seen[0].end, ExchangeEnd::UpstreamReset(Some(reason.into())));
        }
    }
}

#[tokio::test]
async fn an_early_response_may_stop_the_upload() {
    let mut peers = Peers::new().await;
    let (response, mut up) = peers.client.send_request(post(), false).unwrap();
    let (request, mut respond) = peers.accept().await;
    let head = Response::builder().status(413).body(()).unwrap();
    respond.send_response(head, true).unwrap();
    assert_eq!(within(response).await.unwrap().status(), 413);
    drop((request, respond)); // h2 says RST_STREAM(NO_ERROR)
    assert_eq!(within(poll_fn(|cx| up.poll_reset(cx))).await.unwrap(), Reason::NO_ERROR);
    assert_eq!(peers.sink.exchanges(1).await[0].end, ExchangeEnd::Complete);
}

#[tokio::test]
async fn goaway_of_the_upstream_lets_streams_end_and_reaches_the_client() {
    let mut peers = Peers::new().await;
    let (response, mut up) = peers.client.send_request(post(), false).unwrap();
    let (request, mut respond) = peers.accept().await;
    peers.shut_down.send(None).unwrap();
    let refused = within(async {
        while poll_fn(|cx| peers.client.poll_ready(cx)).await.is_ok() {
            tokio::task::yield_now().await;
        }
        poll_fn(|cx| peers.client.poll_ready(cx)).await.unwrap_err()
    })
    .await;
    assert!(refused.is_go_away() && refused.reason() == Some(Reason::NO_ERROR), "{refused}");
    up.send_data(Bytes::from_static(b"late"), true).unwrap();
    assert_eq!(content(&mut request.into_body()).await, "late");
    let mut down = respond.send_response(Response::new(()), false).unwrap();
    down.send_data(Bytes::from_static(b"later"), true).unwrap();
    assert_eq!(content(within(response).await.unwrap().body_mut()).await, "later");
    assert_eq!(peers.sink.exchanges(1).await[0].end, ExchangeEnd::Complete);
    drop((up, down, respond, peers.client));
    within(peers.client_connection).await.unwrap().unwrap();
    within(peers.upstream_connection).await.unwrap().unwrap();
    assert_eq!(within(peers.weir).await.unwrap().cause, EndCause::Closed(Side::Upstream));
}

#[tokio::test]
async fn an_error_of_the_upstreams_connection_reaches_the_client() {
    let mut peers = Peers::new().await;
    let (response, _up) = peers.client.send_request(post(), false).unwrap();
    let _accepted = peers.accept().await;
    peers.shut_down.send(Some(Reason::ENHANCE_YOUR_CALM)).unwrap();
    // What is recorded as the answer is one: it goes before the reason.
    assert_eq!(within(response).await.unwrap().headers()["x-weir-error"], "upstream-reset");
    let error = within(peers.client_connection).await.unwrap().unwrap_err();
    assert_eq!(error.reason(), Some(Reason::ENHANCE_YOUR_CALM));
    peers.sink.exchanges(1).await;
}

#[tokio::test]
async fn an_upstream_that_dies_before_answering_gives_502() {
    let mut peers = Peers::new().await;
    let (response, _up) = peers.client.send_request(post(), false).unwrap();
    let (grpc_response, _grpc_up) = peers.client.send_request(grpc(), false).unwrap();
    let accepted = (peers.accept().await, peers.accept().await);
    peers.upstream_connection.abort();
    let response = within(response).await.unwrap();
    assert_eq!((response.status().as_u16(), response.body().is_end_stream()), (502, true));
    assert_eq!(response.headers()["x-weir-error"], "upstream-reset");
    let response = within(grpc_response).await.unwrap();
    assert_eq!((response.status().as_u16(), response.body().is_end_stream()), (200, true));
    assert_eq!(response.headers()["grpc-status"], "14");
    assert_eq!(response.headers()["x-weir-error"], "upstream-reset");
    let seen = peers.sink.exchanges(2).await;
    assert!(seen.iter().all(|seen| seen.end == ExchangeEnd::Answered("upstream-reset")));
    drop((accepted, peers.client, _up, _grpc_up));
    within(peers.client_connection).await.unwrap().unwrap();
    let cause = within(peers.weir).await.unwrap().cause;
    assert!(matches!(cause, EndCause::Reset(Side::Upstream) | EndCause::Closed(Side::Upstream)));
}

#[tokio::test]
async fn an_upstream_that_dies_mid_response_resets_the_stream() {
    let mut peers = Peers::new().await;
    let (response, _) = peers.client.send_request(get("http://a/"), true).unwrap();
    let (_, mut respond) = peers.accept().await;
    let mut down = respond.send_response(Response::new(()), false).unwrap();
    down.send_data(Bytes::from_static(b"half"), false).unwrap();
    let mut body = within(response).await.unwrap().into_body();
    assert_eq!(content(&mut body).await, "half");
    peers.upstream_connection.abort();
    let error = within(body.data()).await.unwrap().unwrap_err();
    assert_eq!(error.reason(), Some(Reason::INTERNAL_ERROR));
    assert_eq!(peers.sink.exchanges(1).await[0].end, ExchangeEnd::UpstreamReset(None));
}

#[tokio::test]
async fn a_client_that_dies_cancels_its_streams() {
    let mut peers = Peers::new().await;
    let (_response, _up) = peers.client.send_request(post(), false).unwrap();
    let (_request, mut respond) = peers.accept().await;
    peers.client_connection.abort();
    let reason = within(poll_fn(|cx| respond.poll_reset(cx))).await.unwrap();
    assert_eq!(reason, Reason::CANCEL);
    within(peers.upstream_connection).await.unwrap().unwrap();
    let seen = peers.sink.exchanges(1).await;
    assert_eq!(seen[0].end, ExchangeEnd::ClientReset(None));
}

#[tokio::test]
async fn a_client_that_closes_in_order_closes_the_upstream() {
    let mut peers = Peers::new().await;
    let (response, _) = peers.client.send_request(get("http://a/"), true).unwrap();
    let (_, mut respond) = peers.accept().await;
    respond.send_response(Response::new(()), true).unwrap();
    within(response).await.unwrap();
    drop((peers.client, respond));
    within(peers.client_connection).await.unwrap().unwrap();
    within(peers.upstream_connection).await.unwrap().unwrap();
    assert_eq!(within(peers.weir).await.unwrap().cause, EndCause::Closed(Side::Client));
    peers.sink.exchanges(1).await;
}

#[tokio::test]
async fn a_drain_lets_streams_end() {
    let mut peers = Peers::new().await;
    let (response, _) = peers.client.send_request(get("http://a/"), true).unwrap();
    let (_, mut respond) = peers.accept().await;
    peers.drain.cancel();
    within(async {
        while poll_fn(|cx| peers.client.poll_ready(cx)).await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    respond.send_response(Response::new(()), true).unwrap();
    assert_eq!(within(response).await.unwrap().status(), StatusCode::OK);
    drop((peers.client, respond));
    within(peers.client_connection).await.unwrap().unwrap();
    assert_eq!(within(peers.weir).await.unwrap().cause, EndCause::Drained);
    assert_eq!(peers.sink.exchanges(1).await[0].end, ExchangeEnd::Complete);
}

/// The client opens a stream before it can have heard of the drain: GOAWAY comes in two steps, so
/// that it is served (RFC 9113 §6.8).
#[tokio::test]
async fn a_stream_that_crosses_with_the_drain_is_served() {
    let mut peers = Peers::new().await;
    let (first, _) = peers.client.send_request(get("http://a/1"), true).unwrap();
    let (_, mut respond) = peers.accept().await;
    peers.drain.cancel();
    let (crossing, _) = peers.client.send_request(get("http://a/2"), true).unwrap();
    let (request, mut respond_crossing) = peers.accept().await;
    assert_eq!(request.uri().path(), "/2");
    respond.send_response(Response::new(()), true).unwrap();
    respond_crossing.send_response(Response::new(()), true).unwrap();
    assert_eq!(within(first).await.unwrap().status(), StatusCode::OK);
    assert_eq!(within(crossing).await.unwrap().status(), StatusCode::OK);
    drop((peers.client, request, respond, respond_crossing));
    within(peers.client_connection).await.unwrap().unwrap();
    assert_eq!(within(peers.weir).await.unwrap().cause, EndCause::Drained);
    peers.sink.exchanges(2).await;
}

#[tokio::test]
async fn a_dropped_connection_reports_what_was_in_flight() {
    let mut peers = Peers::new().await;
    let (_response, _up) = peers.client.send_request(post(), false).unwrap();
    let _accepted = peers.accept().await;
    peers.weir.abort();
    assert_eq!(peers.sink.exchanges(1).await[0].end, ExchangeEnd::Cancelled);
}

#[tokio::test]
async fn an_upstream_that_does_not_speak_http2_ends_the_connection() {
    let mut rig = Rig::new(HttpVersion::Http2).await;
    rig.client.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    let mut preface = [0; 24];
    within(rig.upstream.read_exact(&mut preface)).await.unwrap();
    rig.upstream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
    until_reset(&mut rig.client).await;
    let cause = within(rig.weir).await.unwrap().cause;
    assert!(matches!(cause, EndCause::Protocol { side: Side::Upstream, .. }), "{cause:?}");
}

#[tokio::test]
async fn a_response_head_beyond_the_limits_is_answered_with_a_reason() {
    let limits = HttpLimits {
        head: HeadLimits { bytes: 4096, ..HeadLimits::default() },
        ..HttpLimits::default()
    };
    let mut peers = Peers::with(limits, |_| {}).await;
    let (response, _) = peers.client.send_request(get("http://a/"), true).unwrap();
    let (_, mut respond) = peers.accept().await;
    let head = Response::builder().header("x-large", "x".repeat(8192)).body(()).unwrap();
    respond.send_response(head, true).unwrap();
    let response = within(response).await.unwrap();
    assert_eq!(response.status(), 502);
    assert_eq!(response.headers()["x-weir-error"], "upstream-invalid-response");
    peers.sink.exchanges(1).await;
}

#[tokio::test]
async fn a_request_head_beyond_the_limits_is_refused() {
    let limits = HttpLimits {
        head: HeadLimits { bytes: 4096, ..HeadLimits::default() },
        ..HttpLimits::default()
    };
    let mut peers = Peers::with(limits, |_| {}).await;
    let request = Request::builder().uri("http://a/").header("x-large", "x".repeat(8192));
    let (response, _) = peers.client.send_request(request.body(()).unwrap(), true).unwrap();
    assert_eq!(within(response).await.unwrap().status(), 431);
    peers.sink.exchanges(0).await;
}

#[tokio::test]
async fn requests_wait_for_an_upstream_that_is_late_with_its_settings() {
    let limits = HttpLimits { settings_wait: std::time::Duration::ZERO, ..HttpLimits::default() };
    let rig = Rig::with(HttpVersion::Http2, limits).await;
    let (mut client, connection) = within(h2::client::handshake(rig.client)).await.unwrap();
    let _connection = tokio::spawn(connection);
    let (response, _) = client.send_request(get("http://a/"), true).unwrap();
    // weir has answered the client's SETTINGS: it has gone on without the upstream's.
    rig.sink.started(1).await;
    let mut upstream = within(h2::server::handshake(rig.upstream)).await.unwrap();
    let (_, mut respond) = within(upstream.accept()).await.unwrap().unwrap();
    respond.send_response(Response::new(()), true).unwrap();
    let _upstream = tokio::spawn(async move { upstream.accept().await.is_none() });
    assert_eq!(within(response).await.unwrap().status(), StatusCode::OK);
}
