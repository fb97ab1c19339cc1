//! CONNECT on HTTP/2, plain (RFC 9113 §8.5) and extended (RFC 8441).

use h2::ext::Protocol;

use super::*;

/// Both sides speak freely, then end their streams one after the other.
async fn tunnel(mut peers: Peers, request: Request<()>) {
    let (response, mut up) = peers.client.send_request(request, false).unwrap();
    let (request, mut respond) = peers.accept().await;
    let mut incoming = request.into_body();
    let mut down = respond.send_response(Response::new(()), false).unwrap();
    let mut outgoing = within(response).await.unwrap().into_body();
    up.send_data(Bytes::from_static(b"ping"), false).unwrap();
    assert_eq!(content(&mut incoming).await, "ping");
    down.send_data(Bytes::from_static(b"pong"), true).unwrap();
    assert_eq!(content(&mut outgoing).await, "pong");
    assert_eq!(end_of(&mut outgoing).await, None);
    up.send_data(Bytes::from_static(b"after the end"), true).unwrap();
    assert_eq!(content(&mut incoming).await, "after the end");
    assert_eq!(end_of(&mut incoming).await, None);
    let seen = peers.sink.exchanges(1).await.remove(0);
    assert_eq!((seen.end, seen.request_bytes, seen.response_bytes), (ExchangeEnd::Tunnel, 17, 4));
}

#[tokio::test]
async fn connect_becomes_a_tunnel() {
    let peers = Peers::new().await;
    let request = Request::builder().method("CONNECT").uri("b.example:443").body(()).unwrap();
    tunnel(peers, request).await;
}

#[tokio::test]
async fn extended_connect_is_offered_if_the_upstream_offers_it() {
    let peers = Peers::new().await;
    assert!(!peers.client.is_extended_connect_protocol_enabled());

    let peers = Peers::with(HttpLimits::default(), |server| {
        server.enable_connect_protocol();
    })
    .await;
    assert!(peers.client.is_extended_connect_protocol_enabled());
    let request = Request::builder()
        .method("CONNECT")
        .uri("http://a/chat")
        .extension(Protocol::from_static("websocket"))
        .body(())
        .unwrap();
    tunnel(peers, request).await;
}

#[tokio::test]
async fn the_protocol_of_an_extended_connect_arrives() {
    let mut peers = Peers::with(HttpLimits::default(), |server| {
        server.enable_connect_protocol();
    })
    .await;
    let request = Request::builder()
        .method("CONNECT")
        .uri("https://a/chat?room=1")
        .extension(Protocol::from_static("websocket"))
        .header("sec-websocket-version", "13")
        .body(())
        .unwrap();
    let _sent = peers.client.send_request(request, false).unwrap();
    let (seen, _respond) = peers.accept().await;
    assert_eq!(seen.extensions().get::<Protocol>().unwrap().as_str(), "websocket");
    assert_eq!(seen.uri(), "https://a/chat?room=1");
    assert_eq!(header_lines(seen.headers()), ["sec-websocket-version: 13"]);
}
