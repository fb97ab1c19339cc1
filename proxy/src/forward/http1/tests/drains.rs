//! The end that weir wants: clients learn of it in time, and nothing that was sent is lost.

use super::*;

/// weir closes, and all that was asked for has been answered.
async fn drained(mut rig: Rig, exchanges: usize) {
    assert_eq!(rest(&mut rig.client).await, b"");
    drop(rig.client);
    assert_eq!(within(rig.weir).await.unwrap().cause, EndCause::Drained);
    assert_eq!(rest(&mut rig.upstream).await, b"");
    let seen = rig.sink.exchanges(exchanges).await;
    assert!(seen.iter().all(|exchange| exchange.end == ExchangeEnd::Complete), "{seen:?}");
}

#[tokio::test]
async fn a_drain_closes_an_idle_connection() {
    let mut rig = rig().await;
    rig.say(GET).await;
    rig.answer(OK).await;
    rig.drain.cancel();
    drained(rig, 1).await;
}

#[tokio::test]
async fn a_drain_lets_the_response_in_flight_end_and_says_close() {
    let mut rig = rig().await;
    rig.say(GET).await;
    rig.drain.cancel();
    rig.upstream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi").await.unwrap();
    let answer = rest(&mut rig.client).await;
    assert_eq!(answer, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nconnection: close\r\n\r\nhi");
    assert_eq!(rig.end().await.cause, EndCause::Drained);
}

/// The upstream answers with the first, the client sees the second, and the connection ends.
#[tokio::test]
async fn a_drain_says_close_in_the_words_of_the_response() {
    let cases = [
        ("HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n"),
        (
            "HTTP/1.1 204 No\r\nConnection: keep-alive\r\nKeep-Alive: timeout=5\r\nA: b\r\n\r\n",
            "HTTP/1.1 204 No\r\nConnection: close\r\nKeep-Alive: timeout=5\r\nA: b\r\n\r\n",
        ),
        (
            "HTTP/1.0 200 OK\r\nContent-Length: 2\r\nconnection:Keep-Alive  \r\n\r\nhi",
            "HTTP/1.0 200 OK\r\nContent-Length: 2\r\nconnection:close  \r\n\r\nhi",
        ),
        (
            "HTTP/1.1 204 No\r\nConnection: close\r\n\r\n",
            "HTTP/1.1 204 No\r\nConnection: close\r\n\r\n",
        ),
    ];
    for (said, heard) in cases {
        let mut rig = rig().await;
        rig.say(GET).await;
        rig.drain.cancel();
        let until_eof = said == cases[0].0;
        rig.upstream.write_all(said.as_bytes()).await.unwrap();
        if until_eof {
            rig.upstream.shutdown().await.unwrap();
        }
        assert_eq!(String::from_utf8(rest(&mut rig.client).await).unwrap(), heard);
        drop(rig.client);
        let cause = within(rig.weir).await.unwrap().cause;
        assert!(until_eof || cause == EndCause::Drained, "{cause:?}");
        assert_eq!(rig.sink.exchanges(1).await[0].end, ExchangeEnd::Complete);
    }
}

#[tokio::test]
async fn a_drain_leaves_words_that_it_does_not_know() {
    let answers = [
        "HTTP/1.1 204 No\r\nConnection: x-odd, keep-alive\r\n\r\n",
        "HTTP/1.1 204 No\r\nConnection: keep-alive\r\nConnection: x-odd\r\n\r\n",
        "HTTP/1.1 204 No\nServer: bare\n\n",
    ];
    for answer in answers {
        let mut rig = rig().await;
        rig.say(GET).await;
        rig.drain.cancel();
        rig.answer(answer).await;
        // The client does not know, and goes on at once.
        rig.say(GET).await;
        rig.answer(answer).await;
        drained(rig, 2).await;
    }
}

#[tokio::test]
async fn a_client_at_work_gets_its_next_answer_and_learns() {
    let mut rig = rig().await;
    rig.say(GET).await;
    rig.answer(OK).await;
    rig.drain.cancel();
    // Sent before the client could know anything.
    rig.say(GET).await;
    rig.upstream.write_all(OK.as_bytes()).await.unwrap();
    let answer = rest(&mut rig.client).await;
    assert_eq!(answer, OK.replace("\r\n\r\n", "\r\nconnection: close\r\n\r\n").as_bytes());
    drained(rig, 2).await;
}

#[tokio::test]
async fn half_a_request_is_waited_for() {
    let mut rig = rig().await;
    rig.say(GET).await;
    rig.answer(OK).await;
    let (first, second) = GET.split_at(9);
    rig.client.write_all(first.as_bytes()).await.unwrap();
    rig.drain.cancel();
    // Longer than an idle connection is left alone.
    tokio::time::sleep(HttpLimits::default().drain_idle * 2).await;
    rig.client.write_all(second.as_bytes()).await.unwrap();
    expect(&mut rig.upstream, GET.as_bytes()).await;
    rig.upstream.write_all(b"HTTP/1.1 204 No\r\n\r\n").await.unwrap();
    expect(&mut rig.client, b"HTTP/1.1 204 No\r\nconnection: close\r\n\r\n").await;
    drained(rig, 2).await;
}

#[tokio::test]
async fn an_upload_is_waited_for() {
    let mut rig = rig().await;
    rig.say("POST / HTTP/1.1\r\nContent-Length: 4\r\n\r\nab").await;
    rig.drain.cancel();
    tokio::time::sleep(HttpLimits::default().drain_idle * 2).await;
    rig.say("cd").await;
    rig.upstream.write_all(b"HTTP/1.1 204 No\r\n\r\n").await.unwrap();
    expect(&mut rig.client, b"HTTP/1.1 204 No\r\nconnection: close\r\n\r\n").await;
    drained(rig, 1).await;
}

/// Only the last answer says close: what a client sends behind it would not be answered (RFC 9112
/// §9.6), and what it had sent before is.
#[tokio::test]
async fn pipelined_requests_are_all_answered() {
    let mut rig = rig().await;
    rig.say(GET.repeat(3)).await;
    rig.drain.cancel();
    let keep = "HTTP/1.1 204 No\r\nConnection: keep-alive\r\n\r\n";
    rig.answer(keep).await;
    rig.say(GET).await;
    rig.answer(keep.repeat(2)).await;
    rig.upstream.write_all(keep.as_bytes()).await.unwrap();
    expect(&mut rig.client, b"HTTP/1.1 204 No\r\nConnection: close\r\n\r\n").await;
    drained(rig, 4).await;
}

#[tokio::test]
async fn what_comes_after_close_was_said_does_not_reach_the_upstream() {
    let mut rig = rig().await;
    rig.say(GET).await;
    rig.drain.cancel();
    rig.upstream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nh").await.unwrap();
    expect(&mut rig.client, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nconnection: close\r\n\r\nh")
        .await;
    rig.client.write_all(GET.as_bytes()).await.unwrap();
    rig.upstream.write_all(b"i").await.unwrap();
    assert_eq!(rest(&mut rig.client).await, b"i", "an end, and no reset that could overtake it");
    drained(rig, 1).await;
}
