//! HTTP/2 with h2 as both peers: heads, bodies, trailers and settings arrive as they were sent.

mod endings;
mod peers;
mod raw;
mod storm;
mod tunnels;

use bytes::Bytes;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri, Version};

use self::peers::{Peers, content, header_lines, send};
use super::super::http::{Exchange, ExchangeEnd, HttpLimits};
use super::super::http_testing::within;

fn get(uri: &str) -> Request<()> {
    Request::builder().uri(uri).version(Version::HTTP_2).body(()).unwrap()
}

fn grpc() -> Request<()> {
    Request::builder()
        .method(Method::POST)
        .uri("http://svc/pkg.Service/Method")
        .header("te", "trailers")
        .header("content-type", "application/grpc+proto")
        .header("grpc-timeout", "1S")
        .body(())
        .unwrap()
}

fn trailers(status: &'static str) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", status.parse().unwrap());
    trailers.insert("grpc-message", "why".parse().unwrap());
    trailers
}

async fn end_of(body: &mut RecvStream) -> Option<HeaderMap> {
    while let Some(chunk) = within(body.data()).await {
        assert!(chunk.unwrap().is_empty());
    }
    within(body.trailers()).await.unwrap()
}

#[tokio::test]
async fn a_request_head_arrives_as_it_is() {
    let mut peers = Peers::new().await;
    let request = Request::builder()
        .method("PATCH")
        .uri("https://user@a.example:8443/p/a%20th?q=1&r={x}|y")
        .header("te", "trailers")
        .header("x-b", "1")
        .header("user-agent", "")
        .header("x-a", "2")
        .header("cookie", "a=b")
        .header("cookie", "c=d")
        .header("expect", "100-continue")
        .header("content-length", "0")
        .body(())
        .unwrap();
    let expected = request.headers().clone();
    let (_response, _) = peers.client.send_request(request, true).unwrap();
    let (seen, _respond) = peers.accept().await;
    assert_eq!(seen.method(), "PATCH");
    assert_eq!(seen.uri(), "https://user@a.example:8443/p/a%20th?q=1&r={x}|y");
    assert_eq!(header_lines(seen.headers()), header_lines(&expected));
    assert!(seen.body().is_end_stream());
}

#[tokio::test]
async fn odd_requests_arrive_as_they_are() {
    let mut peers = Peers::new().await;
    let without_authority = Request::builder()
        .version(Version::HTTP_11)
        .uri("/path")
        .header("host", "a.example")
        .body(())
        .unwrap();
    let _ = peers.client.send_request(without_authority, true).unwrap();
    let (seen, _respond) = peers.accept().await;
    assert_eq!((seen.uri().to_string().as_str(), seen.uri().authority()), ("/path", None));
    assert_eq!(header_lines(seen.headers()), ["host: a.example"]);

    let target = Uri::builder().scheme("http").authority("a").path_and_query("*").build().unwrap();
    let options = Request::builder().method("OPTIONS").uri(target).body(()).unwrap();
    let _ = peers.client.send_request(options, true).unwrap();
    let (seen, _respond) = peers.accept().await;
    assert_eq!((seen.method().as_str(), seen.uri().path()), ("OPTIONS", "*"));
}

#[tokio::test]
async fn a_response_head_arrives_as_it_is() {
    let cases = [
        ("GET", 200, "content-length", "0"),
        ("HEAD", 200, "content-length", "99"),
        ("GET", 204, "x-a", "b"),
        ("GET", 304, "etag", "\"x\""),
        ("GET", 599, "set-cookie", "a=b"),
        ("GET", 404, "server", "x"),
    ];
    let mut peers = Peers::new().await;
    for (method, status, name, value) in cases {
        let request = Request::builder().method(method).uri("http://a/").body(()).unwrap();
        let (response, _) = peers.client.send_request(request, true).unwrap();
        let (_, mut respond) = peers.accept().await;
        let head = Response::builder().status(status).header(name, value).header("z", "1");
        respond.send_response(head.body(()).unwrap(), true).unwrap();
        let response = within(response).await.unwrap();
        assert_eq!(response.status(), status);
        assert_eq!(header_lines(response.headers()), [format!("{name}: {value}"), "z: 1".into()]);
        assert!(response.body().is_end_stream(), "{method} {status}");
    }
    let seen = peers.sink.exchanges(cases.len()).await;
    assert!(seen.iter().all(|exchange| exchange.end == ExchangeEnd::Complete));
}

#[tokio::test]
async fn interim_responses_arrive() {
    let mut peers = Peers::new().await;
    let (mut response, _) = peers.client.send_request(get("http://a/"), true).unwrap();
    let (_, mut respond) = peers.accept().await;
    for status in [100, 103] {
        let interim = Response::builder().status(status).header("link", "</x>").body(()).unwrap();
        respond.send_informational(interim).unwrap();
        let seen = within(std::future::poll_fn(|cx| response.poll_informational(cx))).await;
        let seen = seen.unwrap().unwrap();
        assert_eq!(seen.status(), status);
        assert_eq!(header_lines(seen.headers()), ["link: </x>"]);
    }
    respond.send_response(Response::new(()), true).unwrap();
    assert_eq!(within(response).await.unwrap().status(), StatusCode::OK);
}

/// Answers with as many messages as asked for; checks what arrives at each side.
async fn grpc_exchange(requests: &[&'static str], responses: &[&'static str]) -> Exchange {
    let mut peers = Peers::new().await;
    let (response, mut up) = peers.client.send_request(grpc(), false).unwrap();
    let (request, mut respond) = peers.accept().await;
    assert_eq!(request.headers()["te"], "trailers");
    let mut incoming = request.into_body();
    let head = Response::builder().header("content-type", "application/grpc").body(()).unwrap();
    let mut down = respond.send_response(head, false).unwrap();
    let mut outgoing = within(response).await.unwrap().into_body();
    // As in a bidirectional stream: each message is seen before the next one is sent.
    for turn in 0..requests.len().max(responses.len()) {
        if let Some(message) = requests.get(turn) {
            up.send_data(Bytes::from_static(message.as_bytes()), false).unwrap();
            assert_eq!(content(&mut incoming).await, *message);
        }
        if let Some(message) = responses.get(turn) {
            down.send_data(Bytes::from_static(message.as_bytes()), false).unwrap();
            assert_eq!(content(&mut outgoing).await, *message);
        }
    }
    up.send_data(Bytes::new(), true).unwrap();
    assert_eq!(end_of(&mut incoming).await, None);
    down.send_trailers(trailers("5")).unwrap();
    assert_eq!(end_of(&mut outgoing).await, Some(trailers("5")));
    peers.sink.exchanges(1).await.remove(0)
}

#[tokio::test]
async fn grpc_of_every_shape() {
    let shapes: [(&[&str], &[&str]); 4] = [
        (&["one"], &["two"]),
        (&["a", "bc", "d"], &["all"]),
        (&["go"], &["a", "bc", "d"]),
        (&["a", "b", "c"], &["1", "2", "3"]),
    ];
    for (requests, responses) in shapes {
        let seen = grpc_exchange(requests, responses).await;
        assert_eq!((seen.grpc, seen.grpc_status, seen.status), (true, Some(5), Some(200)));
        assert_eq!(seen.request_bytes as usize, requests.concat().len());
        assert_eq!(seen.response_bytes as usize, responses.concat().len());
        assert_eq!((&*seen.path, seen.authority.as_deref()), ("/pkg.Service/Method", Some("svc")));
        assert_eq!((seen.version, seen.end), (20, ExchangeEnd::Complete));
    }
}

#[tokio::test]
async fn a_trailers_only_response_has_its_status() {
    let mut peers = Peers::new().await;
    let (response, _up) = peers.client.send_request(grpc(), false).unwrap();
    let (request, mut respond) = peers.accept().await;
    let head = Response::builder().header("grpc-status", "12").body(()).unwrap();
    respond.send_response(head, true).unwrap();
    drop((request, respond)); // h2 says RST_STREAM(NO_ERROR)
    assert!(within(response).await.unwrap().body().is_end_stream());
    assert_eq!(peers.sink.exchanges(1).await[0].grpc_status, Some(12));
}

#[tokio::test]
async fn trailers_of_a_request_arrive() {
    let mut peers = Peers::new().await;
    let request = Request::builder().method("POST").uri("http://a/").body(()).unwrap();
    let (_response, mut up) = peers.client.send_request(request, false).unwrap();
    up.send_data(Bytes::from_static(b"x"), false).unwrap();
    up.send_trailers(trailers("0")).unwrap();
    let (request, _respond) = peers.accept().await;
    let mut body = request.into_body();
    assert_eq!(content(&mut body).await, "x");
    assert_eq!(end_of(&mut body).await, Some(trailers("0")));
}

#[tokio::test]
async fn heads_may_be_large() {
    let mut peers = Peers::new().await;
    let large = || (0..64).map(|n| (format!("x-{n}"), "v".repeat(4096)));
    let mut request = Request::builder().uri("http://a/");
    let mut head = Response::builder();
    for (name, value) in large() {
        request = request.header(&name, &value);
        head = head.header(&name, &value);
    }
    let (response, _) = peers.client.send_request(request.body(()).unwrap(), true).unwrap();
    let (request, mut respond) = peers.accept().await;
    assert_eq!(request.headers().len(), 64);
    respond.send_response(head.body(()).unwrap(), true).unwrap();
    let response = within(response).await.unwrap();
    assert_eq!(response.headers(), request.headers());
}

#[tokio::test]
async fn large_bodies_arrive_whole_both_ways_at_once() {
    const SIZE: usize = 64 << 20;
    fn block() -> Bytes {
        (0..65_536_u32).map(|n| ((n * 31) >> 3) as u8).collect()
    }
    async fn write(to: SendStream<Bytes>) {
        let (mut to, block) = (to, block());
        for turn in 1..=SIZE / block.len() {
            send(&mut to, block.clone(), turn == SIZE / block.len()).await;
        }
    }
    async fn read(mut from: RecvStream) -> usize {
        let (block, mut size) = (block(), 0);
        while let Some(chunk) = from.data().await {
            let mut chunk = chunk.unwrap();
            from.flow_control().release_capacity(chunk.len()).unwrap();
            while !chunk.is_empty() {
                let expected = &block[size % block.len()..];
                let piece = chunk.split_to(chunk.len().min(expected.len()));
                assert!(piece == expected[..piece.len()], "another byte behind {size}");
                size += piece.len();
            }
        }
        size
    }
    let mut peers = Peers::new().await;
    let request = Request::builder().method("POST").uri("http://a/").body(()).unwrap();
    let (response, up) = peers.client.send_request(request, false).unwrap();
    let (request, mut respond) = peers.accept().await;
    let down = respond.send_response(Response::new(()), false).unwrap();
    let response = within(response).await.unwrap();
    let tasks = (
        tokio::spawn(write(up)),
        tokio::spawn(write(down)),
        tokio::spawn(read(request.into_body())),
        tokio::spawn(read(response.into_body())),
    );
    within(async { tokio::try_join!(tasks.0, tasks.1) }).await.unwrap();
    let received = within(async { tokio::try_join!(tasks.2, tasks.3) }).await.unwrap();
    assert_eq!(received, (SIZE, SIZE));
    let seen = peers.sink.exchanges(1).await;
    assert_eq!((seen[0].request_bytes, seen[0].response_bytes), (SIZE as u64, SIZE as u64));
}

#[tokio::test]
async fn a_slow_reader_slows_only_its_own_stream_down() {
    let limits = HttpLimits {
        stream_window: 65_535,
        connection_window: 1 << 20,
        send_buffer: 16 << 10,
        ..HttpLimits::default()
    };
    let mut peers = Peers::with(limits, |_| {}).await;
    let request = || Request::builder().method("POST").uri("http://a/").body(()).unwrap();
    let (_response, mut up) = peers.client.send_request(request(), false).unwrap();
    let (_unread, _respond) = peers.accept().await;
    up.reserve_capacity(10 << 20);
    let mut taken = 0;
    // Another stream's round trips show that weir has had the time to take what it will take.
    for _ in 0..50 {
        while up.capacity() > 0 {
            let count = up.capacity();
            up.send_data(vec![0; count].into(), false).unwrap();
            taken += count;
        }
        let (response, _) = peers.client.send_request(request(), true).unwrap();
        let (_, mut respond) = peers.accept().await;
        respond.send_response(Response::new(()), true).unwrap();
        within(response).await.unwrap();
    }
    // Both peers' windows, what weir has queued, and one frame on the way.
    assert!(taken > 0 && taken <= 2 * 65_535 + (16 << 10) + (16 << 10), "{taken} bytes were taken");
}

#[tokio::test]
async fn a_stalled_stream_of_tiny_frames_survives() {
    const FRAMES: usize = 200_000;
    let mut peers = Peers::with(HttpLimits::default(), |server| {
        server.initial_window_size(512).data_frame_budget(1 << 30);
    })
    .await;
    let request = Request::builder().method("POST").uri("http://a/").body(()).unwrap();
    let (response, mut up) = peers.client.send_request(request, false).unwrap();
    let (request, mut respond) = peers.accept().await;
    for sent in 1..=FRAMES {
        send(&mut up, Bytes::from_static(b"x"), sent == FRAMES).await;
    }
    let mut body = request.into_body();
    let mut seen = 0;
    while let Some(chunk) = within(body.data()).await {
        let chunk = chunk.unwrap();
        seen += chunk.len();
        body.flow_control().release_capacity(chunk.len()).unwrap();
    }
    assert_eq!(seen, FRAMES);
    respond.send_response(Response::new(()), true).unwrap();
    assert_eq!(within(response).await.unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn the_upstreams_stream_limit_is_the_clients() {
    let mut peers = Peers::with(HttpLimits::default(), |server| {
        server.max_concurrent_streams(3);
    })
    .await;
    let mut responses = Vec::new();
    for _ in 0..20 {
        let mut client = within(peers.client.clone().ready()).await.unwrap();
        let (response, _) = client.send_request(get("http://a/"), true).unwrap();
        responses.push(response);
    }
    for _ in 0..20 {
        let (_, mut respond) = peers.accept().await;
        respond.send_response(Response::new(()), true).unwrap();
    }
    for response in responses {
        assert_eq!(within(response).await.unwrap().status(), StatusCode::OK);
    }
    assert_eq!(peers.client.current_max_send_streams(), 3);
    peers.sink.exchanges(20).await;
}
