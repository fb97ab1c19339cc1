//! Connections that end early, and how both sides learn of it.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;

use super::*;
use crate::forward::http::{HttpContext, serve};
use crate::forward::http_testing::{Recorder, until_reset};

const ANSWER: &str = "HTTP/1.1 502 Bad Gateway\r\nx-weir-error: ";

fn reset(stream: TcpStream) {
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
}

#[tokio::test]
async fn an_upstream_that_closes_before_answering_gives_502() {
    for partial in ["", "HTTP/1.1 200 OK\r\nContent-"] {
        let mut rig = rig().await;
        rig.say(GET).await;
        rig.upstream.write_all(partial.as_bytes()).await.unwrap();
        rig.upstream.shutdown().await.unwrap();
        let answer = String::from_utf8(rest(&mut rig.client).await).unwrap();
        assert!(answer.starts_with(&format!("{ANSWER}upstream-closed\r\n")), "{answer}");
        assert!(answer.ends_with("content-length: 0\r\nconnection: close\r\n\r\n"), "{answer}");
        let seen = rig.sink.exchanges(1).await;
        assert_eq!(seen[0].end, ExchangeEnd::Answered("upstream-closed"));
        assert_eq!(rig.end().await.cause, EndCause::Answered("upstream-closed"));
    }
}

#[tokio::test]
async fn an_upstream_that_resets_before_answering_gives_502() {
    let mut rig = rig().await;
    rig.say(GET).await;
    reset(rig.upstream);
    let answer = String::from_utf8(rest(&mut rig.client).await).unwrap();
    assert!(answer.starts_with(&format!("{ANSWER}upstream-reset\r\n")), "{answer}");
    drop(rig.client);
    assert_eq!(within(rig.weir).await.unwrap().cause, EndCause::Answered("upstream-reset"));
}

#[tokio::test]
async fn a_reused_connection_that_closes_is_closed_without_an_answer() {
    let mut rig = rig().await;
    rig.say(GET).await;
    rig.answer(OK).await;
    rig.say(GET).await;
    rig.upstream.shutdown().await.unwrap();
    assert_eq!(rest(&mut rig.client).await, b"");
    drop(rig.client);
    assert_eq!(within(rig.weir).await.unwrap().cause, EndCause::Closed(Side::Upstream));
    assert_eq!(rig.sink.exchanges(2).await[1].end, ExchangeEnd::UpstreamClosed);
}

#[tokio::test]
async fn a_truncated_response_ends_where_the_upstream_closed() {
    let starts = [
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
    ];
    for start in starts {
        let mut rig = rig().await;
        rig.say(GET).await;
        rig.answer(start).await;
        rig.upstream.shutdown().await.unwrap();
        assert_eq!(rest(&mut rig.client).await, b"");
        let seen = rig.sink.exchanges(1).await;
        assert_eq!((seen[0].status, seen[0].response_bytes), (Some(200), 4));
        assert_eq!(seen[0].end, ExchangeEnd::UpstreamReset(None));
        assert_eq!(rig.end().await.cause, EndCause::Truncated);
    }
}

#[tokio::test]
async fn a_response_cut_off_by_a_reset_is_reset() {
    let mut rig = rig().await;
    rig.say(GET).await;
    rig.answer("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n").await;
    reset(rig.upstream);
    assert_eq!(until_reset(&mut rig.client).await, b"");
    assert_eq!(rig.sink.exchanges(1).await[0].end, ExchangeEnd::UpstreamReset(None));
}

#[tokio::test]
async fn a_reset_of_the_upstream_resets_the_client() {
    let mut rig = rig().await;
    rig.say(GET).await;
    rig.answer("HTTP/1.0 200 OK\r\n\r\nuntil the end").await;
    reset(rig.upstream);
    until_reset(&mut rig.client).await;
    assert_eq!(within(rig.weir).await.unwrap().cause, EndCause::Reset(Side::Upstream));
    // A reset ends no body, not even one that has no other end.
    assert_eq!(rig.sink.exchanges(1).await[0].end, ExchangeEnd::UpstreamReset(None));
}

/// nginx, Go and node close when they see that the client has.
#[tokio::test]
async fn what_a_client_has_left_is_not_the_upstreams_failure() {
    let half = "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf";
    for (answer, resets) in [("", false), (half, false), ("", true), (half, true)] {
        let mut rig = rig().await;
        rig.say(GET).await;
        if !answer.is_empty() {
            rig.answer(answer).await;
        }
        rig.client.shutdown().await.unwrap();
        assert_eq!(rest(&mut rig.upstream).await, b"");
        if resets {
            reset(rig.upstream);
        } else {
            drop(rig.upstream);
        }
        let seen = rig.sink.exchanges(1).await;
        assert_eq!(seen[0].end, ExchangeEnd::ClientReset(None), "{answer:?} {resets}");
        if !resets {
            assert_eq!(rest(&mut rig.client).await, b"", "an answer of weir's own");
        }
    }
}

#[tokio::test]
async fn a_reset_of_the_client_resets_the_upstream() {
    for half in [GET, "POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\nhalf"] {
        let mut rig = rig().await;
        rig.say(half).await;
        reset(rig.client);
        assert_eq!(until_reset(&mut rig.upstream).await, b"");
        let seen = rig.sink.exchanges(1).await;
        assert_eq!(seen[0].end, ExchangeEnd::ClientReset(None));
        assert_eq!(within(rig.weir).await.unwrap().cause, EndCause::Reset(Side::Client));
    }
}

#[tokio::test]
async fn an_idle_connection_closes_when_the_upstream_does() {
    for used in [false, true] {
        let mut rig = rig().await;
        if used {
            rig.say(GET).await;
            rig.answer(OK).await;
        }
        rig.upstream.shutdown().await.unwrap();
        assert_eq!(rest(&mut rig.client).await, b"");
        drop(rig.client);
        assert_eq!(within(rig.weir).await.unwrap().cause, EndCause::Closed(Side::Upstream));
    }
}

#[tokio::test]
async fn a_client_that_has_said_all_still_gets_its_answer() {
    let mut rig = rig().await;
    rig.say("POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\nhi").await;
    rig.client.shutdown().await.unwrap();
    assert_eq!(rest(&mut rig.upstream).await, b"");
    rig.answer("HTTP/1.1 200 OK\r\n\r\n").await;
    rig.answer("late").await;
    rig.upstream.shutdown().await.unwrap();
    assert_eq!(rest(&mut rig.client).await, b"");
    assert_eq!(rig.sink.exchanges(1).await[0].end, ExchangeEnd::Complete);
}

#[tokio::test]
async fn an_early_answer_ends_an_upload() {
    let mut rig = rig().await;
    rig.say("POST / HTTP/1.1\r\nContent-Length: 1000000000\r\n\r\nstart").await;
    rig.answer("HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno").await;
    rig.upstream.shutdown().await.unwrap();
    assert_eq!(rest(&mut rig.client).await, b"");
    let seen = rig.sink.exchanges(1).await;
    assert_eq!((seen[0].status, &seen[0].end), (Some(413), &ExchangeEnd::Complete));
}

#[tokio::test]
async fn a_dropped_connection_reports_what_was_in_flight() {
    let mut rig = rig().await;
    rig.say(GET).await;
    rig.weir.abort();
    assert_eq!(rig.sink.exchanges(1).await[0].end, ExchangeEnd::Cancelled);
}

#[tokio::test(start_paused = true)]
async fn a_silent_half_closed_tunnel_ends() {
    let (mut client, weir_client) = tokio::io::duplex(1024);
    let (mut upstream, weir_upstream) = tokio::io::duplex(1024);
    let context = HttpContext::new(Arc::new(Recorder::default()));
    let weir = tokio::spawn(serve(HttpVersion::Http1, weir_client, weir_upstream, context));
    client.write_all(b"not http\r\n").await.unwrap();
    client.shutdown().await.unwrap();
    let mut seen = Vec::new();
    upstream.read_to_end(&mut seen).await.unwrap();
    assert_eq!(seen, b"not http\r\n");
    assert_eq!(weir.await.unwrap().cause, EndCause::Idle);
}

#[tokio::test]
async fn a_slow_reader_slows_the_sender_down() {
    let (mut client, weir_client) = tokio::io::duplex(1024);
    let (upstream, weir_upstream) = tokio::io::duplex(1024);
    let context = HttpContext::new(Arc::new(Recorder::default()));
    let _weir = tokio::spawn(serve(HttpVersion::Http1, weir_client, weir_upstream, context));
    client.write_all(b"POST / HTTP/1.1\r\nContent-Length: 1000000000\r\n\r\n").await.unwrap();
    let mut taken = 0;
    // Ends when neither weir nor the pipes take more, which a yielding runtime makes visible.
    for _ in 0..10_000 {
        tokio::task::yield_now().await;
        let mut write = std::pin::pin!(client.write(&[0; 1024]));
        let once = std::future::poll_fn(|cx| std::task::Poll::Ready(write.as_mut().poll(cx)));
        if let std::task::Poll::Ready(written) = once.await {
            taken += written.unwrap();
        }
    }
    assert!(taken < 256 << 10, "{taken} bytes were taken");
    drop(upstream);
}

/// So much is pipelined behind what the upstream does not answer that weir reads no more.
#[tokio::test]
async fn a_client_that_resets_while_it_is_held_is_noticed() {
    let mut rig = rig().await;
    let mut upstream = rig.upstream;
    let sunk =
        tokio::spawn(async move { tokio::io::copy(&mut upstream, &mut tokio::io::sink()).await });
    let pour = async { while rig.client.write_all(GET.repeat(1000).as_bytes()).await.is_ok() {} };
    // No more is taken.
    assert!(tokio::time::timeout(Duration::from_secs(3), pour).await.is_err());
    reset(rig.client);
    assert_eq!(within(rig.weir).await.unwrap().cause, EndCause::Reset(Side::Client));
    let _reset_or_ended = within(sunk).await.unwrap();
}
