//! HTTP/1 over real sockets, written and compared by hand: what a peer sees is what the other said.

mod anything;
mod drains;
mod endings;
mod tunnels;

use std::hash::{DefaultHasher, Hasher};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::super::http::{
    EndCause, Exchange, ExchangeEnd, HeadLimits, HttpLimits, HttpVersion, Side,
};
use super::super::http_testing::{Rig, expect, rest, within};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

async fn rig() -> Rig {
    Rig::new(HttpVersion::Http1).await
}

/// The client closes, and all is in order.
async fn close(mut rig: Rig, exchanges: usize) -> Vec<Exchange> {
    rig.client.shutdown().await.unwrap();
    assert_eq!(rest(&mut rig.upstream).await, b"");
    rig.upstream.shutdown().await.unwrap();
    assert_eq!(rest(&mut rig.client).await, b"");
    let seen = rig.sink.exchanges(exchanges).await;
    assert!(seen.iter().all(|exchange| exchange.end == ExchangeEnd::Complete), "{seen:?}");
    let end = rig.end().await;
    assert_eq!((end.cause, end.untracked), (EndCause::Closed(Side::Client), None));
    seen
}

const REQUESTS: &[&str] = &[
    "GET / HTTP/1.0\r\n\r\n",
    "GET /1.0 HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n",
    "GET http://other.example:81/x?y HTTP/1.1\r\nHost: a\r\n\r\n",
    "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
    "\r\nGET /leading-empty-line HTTP/1.1\r\nHost: a\r\n\r\n",
    "DELETE /bodyless HTTP/1.1\r\nhost: a\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: a\r\ncontent-length: 0\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
    "GET /with-a-body HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
    "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;ext=\"1\"\r\nhello\r\n00\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, Chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Undeclared: yes\r\n\r\n",
    "M-SEARCH /odd-method HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET / HTTP/1.1\r\nhOST: a\r\nX-B:no-space\r\nx-a:   many spaces  \r\nX-B: again\r\nEmpty:\r\nProxy-Authorization: x\r\nTE: trailers\r\nConnection: TE, close\r\nKeep-Alive: 5\r\nX-Latin: \u{e9}\r\n\r\n",
    "GET /bare-lf HTTP/1.1\nHost: a\n\n",
    "GET /a|b^{x}\"<>`\\ HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET /\u{fc}ml?a=[]#f HTTP/1.1\r\nHost: a\r\n\r\n",
];

#[tokio::test]
async fn requests_arrive_byte_for_byte() {
    for request in REQUESTS {
        let mut rig = rig().await;
        rig.say(request).await;
        rig.answer(OK).await;
        rig.say(GET).await;
        rig.answer(OK).await;
        close(rig, 2).await;
    }
}

#[tokio::test]
async fn segmentation_changes_nothing() {
    for request in REQUESTS {
        let mut rig = rig().await;
        let writes = async {
            for byte in request.as_bytes() {
                rig.client.write_all(&[*byte]).await.unwrap();
                tokio::task::yield_now().await;
            }
        };
        tokio::join!(writes, expect(&mut rig.upstream, request.as_bytes()));
        for byte in OK.as_bytes() {
            rig.upstream.write_all(&[*byte]).await.unwrap();
            tokio::task::yield_now().await;
        }
        expect(&mut rig.client, OK.as_bytes()).await;
        close(rig, 1).await;
    }
}

#[tokio::test]
async fn responses_arrive_byte_for_byte() {
    let cases = [
        (GET, "HTTP/1.1 200 \r\ncontent-length: 2\r\nX-b: 1\r\nX-A: 2\r\nx-B: 3\r\n\r\nhi"),
        (GET, "HTTP/1.1 200\r\ncontent-length: 2\r\n\r\nhi"),
        (GET, "HTTP/1.1 299 Odd Reason!\r\ncontent-length: 0\r\n\r\n"),
        (GET, "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi"),
        ("GET / HTTP/1.0\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"),
        (GET, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n"),
        (
            GET,
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nSum: x\r\n\r\n",
        ),
        (GET, "HTTP/1.1 204 No Content\r\n\r\n"),
        (GET, "HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\nContent-Length: 99\r\n\r\n"),
        ("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n"),
        (GET, "HTTP/1.1 200 OK\r\nX-Folded: a\r\n  b\r\nContent-Length: 0\r\n\r\n"),
        (
            GET,
            "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 102 P\r\n\r\nHTTP/1.1 204 No\r\n\r\n",
        ),
    ];
    for (request, response) in cases {
        let mut rig = rig().await;
        rig.say(request).await;
        rig.answer(response).await;
        rig.say(GET).await;
        rig.answer(OK).await;
        close(rig, 2).await;
    }
}

#[tokio::test]
async fn a_body_that_ends_with_the_connection_still_does() {
    for head in ["HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", "HTTP/1.0 200 OK\r\n\r\n"] {
        let mut rig = rig().await;
        rig.say(GET).await;
        rig.answer(head).await;
        rig.answer("some content").await;
        rig.upstream.shutdown().await.unwrap();
        assert_eq!(rest(&mut rig.client).await, b"");
        let seen = rig.sink.exchanges(1).await;
        assert_eq!((&seen[0].end, seen[0].response_bytes), (&ExchangeEnd::Complete, 12));
        assert_eq!(rig.end().await.cause, EndCause::Closed(Side::Upstream));
    }
}

#[tokio::test]
async fn interim_responses_come_before_the_body_is_sent() {
    let head = "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n";
    let mut accepted = rig().await;
    accepted.say(head).await;
    accepted.answer("HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n").await;
    accepted.answer("HTTP/1.1 100 Continue\r\nX-Odd: 1\r\n\r\n").await;
    accepted.say("hi").await;
    accepted.answer(OK).await;
    let seen = close(accepted, 1).await;
    assert_eq!((seen[0].status, seen[0].request_bytes), (Some(200), 2));

    let mut impatient = rig().await;
    impatient.say(head).await;
    impatient.say("hi").await;
    impatient.answer(OK).await;
    close(impatient, 1).await;
}

#[tokio::test]
async fn a_refused_expectation_reaches_the_client() {
    let mut rig = rig().await;
    rig.say("POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n").await;
    let refusal =
        "HTTP/1.1 417 Expectation Failed\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    rig.answer(refusal).await;
    rig.upstream.shutdown().await.unwrap();
    assert_eq!(rest(&mut rig.client).await, b"");
    let seen = rig.sink.exchanges(1).await;
    assert_eq!((seen[0].status, &seen[0].end), (Some(417), &ExchangeEnd::Complete));
    rig.end().await;
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let mut rig = rig().await;
    let requests: String = (0..50).map(|n| format!("GET /{n} HTTP/1.1\r\n\r\n")).collect();
    let responses: String = (0..50)
        .map(|n| format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{n}", n.to_string().len()))
        .collect();
    rig.say(&requests).await;
    rig.answer(&responses).await;
    let seen = close(rig, 50).await;
    let paths: Vec<_> = seen.iter().map(|exchange| exchange.path.to_string()).collect();
    assert_eq!(paths, (0..50).map(|n| format!("/{n}")).collect::<Vec<_>>());
}

#[tokio::test]
async fn pipelined_requests_beyond_the_bound_wait() {
    const COUNT: usize = 5000;
    let mut rig = rig().await;
    let (mut client_read, mut client_write) = rig.client.split();
    let write = async {
        client_write.write_all(GET.repeat(COUNT).as_bytes()).await.unwrap();
        client_write.shutdown().await.unwrap();
    };
    let serve = async {
        // Answered in batches below the bound: weir holds requests back, and has to let them go.
        for _ in 0..COUNT / 1000 {
            expect(&mut rig.upstream, GET.repeat(1000).as_bytes()).await;
            rig.upstream.write_all(OK.repeat(1000).as_bytes()).await.unwrap();
        }
    };
    let mut seen = vec![0; OK.len() * COUNT];
    let ((), (), read) =
        within(async { tokio::join!(write, serve, client_read.read_exact(&mut seen)) }).await;
    read.unwrap();
    close(rig, COUNT).await;
}

#[tokio::test]
async fn heads_may_be_large() {
    let field = format!("X-Large: {}\r\n", "x".repeat(1000)).repeat(262);
    let mut rig = rig().await;
    rig.say(format!("GET / HTTP/1.1\r\nHost: a\r\n{field}\r\n")).await;
    rig.answer(format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n{field}\r\n")).await;
    rig.say(format!(
        "GET /{} HTTP/1.1\r\nCookie: {}\r\n\r\n",
        "p".repeat(262_144),
        "c".repeat(262_144)
    ))
    .await;
    rig.answer(OK).await;
    close(rig, 2).await;
}

#[tokio::test]
async fn heads_beyond_the_limits_pass_untracked() {
    let large = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(3000));
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(100));
    for (request, reason) in [(large, "head larger than the limit"), (many, "too many headers")] {
        let limits =
            HttpLimits { head: HeadLimits { bytes: 2000, fields: 70 }, ..HttpLimits::default() };
        let mut rig = Rig::with(HttpVersion::Http1, limits).await;
        rig.say(&request).await;
        rig.answer(OK).await;
        rig.say("anything").await;
        rig.sink.exchanges(0).await;
        let end = rig.end().await;
        assert_eq!(end.untracked.unwrap().reason, reason);
    }
}

#[tokio::test]
async fn what_is_not_http_passes_untracked() {
    let cases = [
        (GET, "SSH-2.0-odd\r\n"),
        (GET, "ICY 200 OK\r\n\r\n"),
        ("HELO example\r\n", "250 hello\r\n"),
        ("GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", "anything"),
        ("POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", "anything"),
        ("POST / HTTP/1.1\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", OK),
        ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nnothing chunked", "what?"),
        ("GET /a b HTTP/1.1\r\n\r\n", OK),
        ("GET / HTTP/1.1\r\nBad Name: x\r\n\r\n", OK),
        ("", "HTTP/1.1 408 Request Time-out\r\n\r\n"),
    ];
    for (request, response) in cases {
        let mut rig = rig().await;
        rig.say(request).await;
        rig.answer(response).await;
        rig.say("more").await;
        rig.answer("and more").await;
        rig.client.shutdown().await.unwrap();
        assert_eq!(rest(&mut rig.upstream).await, b"");
        rig.answer("still").await;
        rig.upstream.shutdown().await.unwrap();
        assert_eq!(rest(&mut rig.client).await, b"");
        let end = within(rig.weir).await.unwrap();
        assert_eq!(end.cause, EndCause::Closed(Side::Client), "{request:?}");
        assert!(end.untracked.is_some(), "{request:?}");
    }
}

#[tokio::test]
async fn large_bodies_arrive_whole_both_ways_at_once() {
    const SIZE: usize = 64 << 20;
    let block: Vec<u8> = (0..65_536_u32).map(|n| ((n * 31) >> 3) as u8).collect();
    let mut expected = DefaultHasher::new();
    (0..SIZE / block.len()).for_each(|_| expected.write(&block));
    let mut rig = rig().await;
    rig.say(format!("POST / HTTP/1.1\r\nContent-Length: {SIZE}\r\n\r\n")).await;
    rig.answer(format!("HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n")).await;
    {
        let (mut client_read, mut client_write) = rig.client.split();
        let (mut upstream_read, mut upstream_write) = rig.upstream.split();
        let write = async |to: &mut (dyn tokio::io::AsyncWrite + Unpin)| {
            for _ in 0..SIZE / block.len() {
                to.write_all(&block).await.unwrap();
            }
        };
        let read = async |from: &mut (dyn tokio::io::AsyncRead + Unpin)| {
            let (mut hash, mut buffer) = (DefaultHasher::new(), vec![0; block.len()]);
            for _ in 0..SIZE / block.len() {
                from.read_exact(&mut buffer).await.unwrap();
                hash.write(&buffer);
            }
            hash.finish()
        };
        let ((), (), up, down) = within(async {
            tokio::join!(
                write(&mut client_write),
                write(&mut upstream_write),
                read(&mut upstream_read),
                read(&mut client_read)
            )
        })
        .await;
        assert_eq!((up, down), (expected.finish(), expected.finish()));
    }
    let seen = close(rig, 1).await;
    assert_eq!((seen[0].request_bytes, seen[0].response_bytes), (SIZE as u64, SIZE as u64));
}

#[tokio::test]
async fn an_exchange_is_described() {
    let mut rig = rig().await;
    rig.say("PUT http://b.example/p/q?secret HTTP/1.0\r\nHost: a.example:80\r\nContent-Length: 2\r\n\r\nhi")
        .await;
    rig.answer("HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
        .await;
    let seen = close(rig, 1).await.remove(0);
    assert_eq!((seen.version, &*seen.method, &*seen.path), (10, "PUT", "/p/q"));
    assert_eq!((seen.authority.as_deref(), seen.status), (Some("b.example"), Some(201)));
    assert_eq!((seen.request_bytes, seen.response_bytes), (2, 3));
    assert!(seen.time_to_head.unwrap() <= seen.duration);
    assert!(!seen.grpc && seen.grpc_status.is_none());
}
