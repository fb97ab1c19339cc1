//! Messages arrive as they were sent, in order, at endpoints that are chosen for each.

use super::*;

#[tokio::test]
async fn requests_of_one_connection_are_spread_and_answered_in_order() {
    let servers = servers().await;
    let rig = Rig::new(&addresses(&servers));
    let mut caller = rig.caller(servers[0].address).await;
    for request in 1..=10 {
        for name in ["a", "b", "c"] {
            assert_eq!(caller.ask(GET).await, format!("{name}/0/{request}"));
        }
    }
    assert_eq!((rig.spread(), rig.pool.len()), (vec![10, 10, 10], 3));
    assert_eq!(caller.close().await, Some(End::Finished));
    let exchanges = rig.sink.exchanges(30).await;
    assert!(exchanges.iter().all(|it| it.attempts == 1 && it.status == Some(200)));
    assert_eq!(rig.requests.in_flight.load(Relaxed), 0);
    assert_eq!((rig.sink.reasons(), rig.sink.retries()), (vec![], vec![]));
}

#[tokio::test]
async fn clients_share_connections_and_each_has_no_more_than_one() {
    let servers = servers().await;
    let rig = Rig::new(&addresses(&servers));
    for _ in 0..5 {
        let mut caller = rig.caller(servers[0].address).await;
        for _ in 0..3 {
            caller.ask(GET).await;
        }
        assert_eq!(caller.close().await, Some(End::Finished));
    }
    // One was made for each client, and one for each other endpoint.
    assert_eq!(rig.connect.dials.load(Relaxed), 7);
    assert_eq!(rig.requests.shared.load(Relaxed), 5);
    assert_eq!(rig.spread(), [5, 5, 5]);
}

#[tokio::test]
async fn pipelined_requests_wait_for_one_another_and_are_answered_in_order() {
    let servers = servers().await;
    let rig = Rig::new(&addresses(&servers));
    let mut caller = rig.caller(servers[0].address).await;
    caller.send(GET.repeat(9)).await;
    for request in 1..=3 {
        for name in ["a", "b", "c"] {
            let response = caller.response().await;
            assert!(response.ends_with(&format!("{name}/0/{request}")), "{response}");
        }
    }
    // Also those whose client has ended its stream.
    caller.send(GET.repeat(2)).await;
    caller.stream.shutdown().await.unwrap();
    assert!(caller.response().await.ends_with("a/0/4"));
    assert!(caller.response().await.ends_with("b/0/4"));
    let mut rest = Vec::new();
    within(caller.stream.read_to_end(&mut rest)).await.unwrap();
    assert!(rest.is_empty());
    rig.sink.exchanges(11).await;
}

#[tokio::test]
async fn bytes_arrive_as_they_were_sent_in_any_segmentation() {
    let requests = [
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
        "GET /with-a-body HTTP/1.1\r\nhOST: a\r\nContent-Length: 5\r\nX-a:  y  \r\n\r\nhello",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;e=\"1\"\r\nhello\r\n0\r\nSum: x\r\n\r\n",
        "GET http://a/x?y HTTP/1.1\r\nHost: A\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
        "\r\nGET /behind-an-empty-line HTTP/1.1\r\nHost: a\r\n\r\n",
    ];
    let servers = servers().await;
    for step in [1, 7, 1000] {
        let rig = Rig::new(&addresses(&servers));
        let mut caller = rig.caller(servers[0].address).await;
        for (request, server) in requests.iter().zip(servers.iter().cycle()) {
            for piece in request.as_bytes().chunks(step) {
                caller.send(piece).await;
                tokio::task::yield_now().await;
            }
            caller.response().await;
            let seen = server.seen.lock().unwrap();
            assert_eq!(seen.last().unwrap().last().unwrap(), request);
        }
        assert_eq!(caller.close().await, Some(End::Finished));
        assert_eq!(rig.sink.reasons(), []);
    }
}

#[tokio::test]
async fn responses_arrive_as_they_were_sent_and_connections_are_kept() {
    let cases = [
        (Kind::Other, "HTTP/1.1 200 \r\ncontent-length: 2\r\nX-b: 1\r\nX-A: 2\r\n\r\nhi"),
        (Kind::Other, "HTTP/1.1 204 No Content\r\n\r\n"),
        (Kind::Other, "HTTP/1.1 304 Not Modified\r\nContent-Length: 99\r\n\r\n"),
        (Kind::Head, "HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n"),
        (Kind::Head, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
        (
            Kind::Other,
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nSum: x\r\n\r\n",
        ),
    ];
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let rig = Rig::new(&[listener.local_addr().unwrap()]);
    let mut caller = rig.caller(listener.local_addr().unwrap()).await;
    let (mut upstream, _) = listener.accept().await.unwrap();
    for step in [1, 1000] {
        for (kind, response) in cases {
            let method = if kind == Kind::Head { "HEAD" } else { "GET" };
            caller.send(format!("{method} / HTTP/1.1\r\nHost: a\r\n\r\n")).await;
            next_request(&mut upstream).await.unwrap();
            for piece in response.as_bytes().chunks(step) {
                upstream.write_all(piece).await.unwrap();
                tokio::task::yield_now().await;
            }
            assert_eq!(caller.response_to(kind).await, response);
            rig.idle(1).await;
        }
    }
    assert_eq!(rig.connect.dials.load(Relaxed), 1);
}

#[tokio::test]
async fn a_client_that_expects_100_sends_its_body_when_it_is_asked_to() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let rig = Rig::new(&[listener.local_addr().unwrap()]);
    let mut caller = rig.caller(listener.local_addr().unwrap()).await;
    let (mut upstream, _) = listener.accept().await.unwrap();
    for _ in 0..2 {
        let head =
            "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n";
        caller.send(head).await;
        let mut seen = vec![0; head.len()];
        within(upstream.read_exact(&mut seen)).await.unwrap();
        let interim = "HTTP/1.1 100 Continue\r\n\r\n";
        upstream.write_all(interim.as_bytes()).await.unwrap();
        assert_eq!(caller.response_to(Kind::Head).await, interim);
        caller.send("body").await;
        within(upstream.read_exact(&mut seen[..4])).await.unwrap();
        upstream.write_all(OK.as_bytes()).await.unwrap();
        assert_eq!(caller.response().await, OK);
        rig.idle(1).await;
    }
    assert_eq!(rig.sink.reasons(), []);
}

#[tokio::test]
async fn large_bodies_pass_both_ways_and_slow_readers_hold_them_up() {
    const LENGTH: usize = 16 << 20;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let rig = Rig::new(&[listener.local_addr().unwrap()]);
    let caller = rig.caller(listener.local_addr().unwrap()).await;
    let (mut upstream, _) = listener.accept().await.unwrap();
    let (mut read, mut write) = caller.stream.into_split();
    let head = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {LENGTH}\r\n\r\n");
    let (head_length, sent) = (head.len(), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&sent);
    let sends = tokio::spawn(async move {
        write.write_all(head.as_bytes()).await.unwrap();
        for _ in 0..LENGTH >> 16 {
            write.write_all(&[b'x'; 1 << 16]).await.unwrap();
            counted.fetch_add(1 << 16, Relaxed);
        }
        write
    });
    // The upstream does not read: the client comes to a stop.
    let mut before = usize::MAX;
    while sent.load(Relaxed) != before || before == 0 {
        before = sent.load(Relaxed);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(before < LENGTH);
    assert!(rig.share.used(crate::budget::Resource::Memory) <= 256 << 10);
    let mut left = LENGTH + head_length;
    let mut buffer = vec![0; 1 << 16];
    while left > 0 {
        left -= within(upstream.read(&mut buffer)).await.unwrap();
    }
    let _write = sends.await.unwrap();
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\n\r\n");
    let answers = tokio::spawn(async move {
        upstream.write_all(head.as_bytes()).await.unwrap();
        for _ in 0..LENGTH >> 16 {
            upstream.write_all(&[b'y'; 1 << 16]).await.unwrap();
        }
        (upstream, head.len())
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(rig.share.used(crate::budget::Resource::Memory) <= 256 << 10);
    let mut left = LENGTH + "HTTP/1.1 200 OK\r\nContent-Length: 16777216\r\n\r\n".len();
    while left > 0 {
        left -= within(read.read(&mut buffer)).await.unwrap();
    }
    let _upstream = answers.await.unwrap();
    rig.idle(1).await;
    let exchange = &rig.sink.exchanges(1).await[0];
    assert_eq!((exchange.request_bytes, exchange.response_bytes), (LENGTH as u64, LENGTH as u64));
}
