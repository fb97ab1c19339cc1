//! Peers whose frames are written by hand, several in one segment, as no h2 peer would send them.

use h2::Reason;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;
use crate::forward::http::HttpVersion;
use crate::forward::http_testing::Rig;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const END_HEADERS: u8 = 4;

/// A frame (RFC 9113 §4.1); SETTINGS on the connection, anything else on stream 1.
fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let [.., a, b, c] = (payload.len() as u32).to_be_bytes();
    let stream = u8::from(kind != SETTINGS);
    [&[a, b, c, kind, flags, 0, 0, 0, stream], payload].concat()
}

/// Reads up to the end of the first frame of this kind.
async fn skip_to(stream: &mut TcpStream, kind: u8) {
    loop {
        let mut head = [0; 9];
        within(stream.read_exact(&mut head)).await.unwrap();
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        within(stream.read_exact(&mut vec![0; length as usize])).await.unwrap();
        if head[3] == kind {
            return;
        }
    }
}

#[tokio::test]
async fn data_right_before_a_reset_of_the_upstream_arrives() {
    let mut rig = Rig::new(HttpVersion::Http2).await;
    let settings = frame(SETTINGS, 0, &[]);
    rig.upstream.write_all(&settings).await.unwrap();
    let (client, connection) = within(h2::client::handshake(rig.client)).await.unwrap();
    let _connection = tokio::spawn(connection);
    let mut client = within(client.ready()).await.unwrap();
    let (response, _) = client.send_request(get("http://a/"), true).unwrap();
    within(rig.upstream.read_exact(&mut [0; PREFACE.len()])).await.unwrap();
    skip_to(&mut rig.upstream, HEADERS).await;
    let answer = [
        frame(HEADERS, END_HEADERS, b"\x88"),
        frame(DATA, 0, b"half"),
        frame(RST_STREAM, 0, &[0, 0, 0, 2]),
    ];
    rig.upstream.write_all(&answer.concat()).await.unwrap();
    let mut body = within(response).await.unwrap().into_body();
    assert_eq!(content(&mut body).await, "half");
    let error = within(body.data()).await.unwrap().unwrap_err();
    assert_eq!(error.reason(), Some(Reason::INTERNAL_ERROR));
    let seen = rig.sink.exchanges(1).await;
    assert_eq!(seen[0].end, ExchangeEnd::UpstreamReset(Some(2)));
}

#[tokio::test]
async fn data_right_before_a_reset_of_the_client_arrives() {
    let mut rig = Rig::new(HttpVersion::Http2).await;
    let request = [
        PREFACE.to_vec(),
        frame(SETTINGS, 0, &[]),
        // POST, http, /, :authority a
        frame(HEADERS, END_HEADERS, b"\x83\x86\x84\x41\x01a"),
        frame(DATA, 0, b"half"),
        frame(RST_STREAM, 0, &[0, 0, 0, 8]),
    ];
    rig.client.write_all(&request.concat()).await.unwrap();
    let mut upstream = within(h2::server::handshake(rig.upstream)).await.unwrap();
    let (request, _respond) = within(upstream.accept()).await.unwrap().unwrap();
    let _upstream = tokio::spawn(async move { upstream.accept().await.is_none() });
    let mut body = request.into_body();
    assert_eq!(content(&mut body).await, "half");
    let error = within(body.data()).await.unwrap().unwrap_err();
    assert_eq!(error.reason(), Some(Reason::CANCEL));
    let seen = rig.sink.exchanges(1).await;
    assert_eq!(seen[0].end, ExchangeEnd::ClientReset(Some(8)));
}
