//! Where HTTP ends: Upgrade and CONNECT.

use super::*;

const UPGRADE: &str =
    "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: custom\r\n\r\n";
const SWITCHED: &str =
    "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: custom\r\n\r\n";

/// Both sides speak freely, then close one after the other.
async fn tunnel(mut rig: Rig) {
    rig.say("\0\x01raw").await;
    rig.answer("HTTP/1.1 is not parsed here\r\n\r\n").await;
    rig.client.shutdown().await.unwrap();
    assert_eq!(rest(&mut rig.upstream).await, b"");
    rig.answer("after the client's end").await;
    rig.upstream.shutdown().await.unwrap();
    assert_eq!(rest(&mut rig.client).await, b"");
    let end = within(rig.weir).await.unwrap();
    assert_eq!((end.cause, end.untracked), (EndCause::Closed(Side::Client), None));
    let seen = rig.sink.exchanges(1).await;
    assert_eq!(seen[0].end, ExchangeEnd::Tunnel);
    assert!(seen[0].request_bytes >= 5 && seen[0].response_bytes > 40, "{seen:?}");
}

#[tokio::test]
async fn an_upgrade_becomes_a_tunnel() {
    let mut rig = rig().await;
    rig.say(UPGRADE).await;
    rig.answer(SWITCHED).await;
    tunnel(rig).await;
}

#[tokio::test]
async fn bytes_sent_along_with_the_heads_are_not_lost() {
    let mut rig = rig().await;
    rig.client.write_all(format!("{UPGRADE}early").as_bytes()).await.unwrap();
    expect(&mut rig.upstream, UPGRADE.as_bytes()).await;
    rig.answer(format!("{SWITCHED}hello")).await;
    expect(&mut rig.upstream, b"early").await;
    tunnel(rig).await;
}

#[tokio::test]
async fn an_ignored_upgrade_is_an_ordinary_request() {
    let mut rig = rig().await;
    rig.client.write_all(format!("{UPGRADE}{GET}").as_bytes()).await.unwrap();
    expect(&mut rig.upstream, UPGRADE.as_bytes()).await;
    rig.answer(OK).await;
    expect(&mut rig.upstream, GET.as_bytes()).await;
    rig.answer(OK).await;
    close(rig, 2).await;
}

#[tokio::test]
async fn connect_becomes_a_tunnel() {
    let mut rig = rig().await;
    rig.say("CONNECT b:443 HTTP/1.1\r\nHost: b:443\r\n\r\n").await;
    rig.answer("HTTP/1.1 200 Connection Established\r\nContent-Length: 7\r\n\r\n").await;
    tunnel(rig).await;
}

#[tokio::test]
async fn a_refused_connect_leaves_http() {
    let mut rig = rig().await;
    rig.say("CONNECT b:443 HTTP/1.1\r\nHost: b:443\r\n\r\n").await;
    rig.answer("HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 2\r\n\r\nno").await;
    rig.say("CONNECT b:443 HTTP/1.1\r\nHost: b:443\r\nProxy-Authorization: x\r\n\r\n").await;
    rig.answer("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n").await;
    let seen = close(rig, 2).await;
    assert_eq!((seen[0].authority.as_deref(), &*seen[0].path), (Some("b:443"), ""));
}

#[tokio::test]
async fn a_tunnel_survives_a_drain() {
    let mut rig = rig().await;
    rig.say(UPGRADE).await;
    rig.answer(SWITCHED).await;
    rig.drain.cancel();
    tunnel(rig).await;
}
