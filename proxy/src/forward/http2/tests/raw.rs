//! Peers whose frames are written by hand, several in one segment, as no h2 peer would send them.

use h2::Reason;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;
use crate::forward::http::HttpVersion;
use crate::forward::http_testing::Rig;
use weir_http::h2::frames::{
    DATA, END_HEADERS, END_STREAM, HEADERS, PREFACE, RST_STREAM, SETTINGS,
};

const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;

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

/// One segment with a whole response, a GOAWAY with a reason behind it, and the end.
#[tokio::test]
async fn a_response_right_before_goaway_with_a_reason_arrives() {
    let mut rig = Rig::new(HttpVersion::Http2).await;
    rig.upstream.write_all(&frame(SETTINGS, 0, &[])).await.unwrap();
    let (client, connection) = within(h2::client::handshake(rig.client)).await.unwrap();
    let connection = tokio::spawn(connection);
    let mut client = within(client.ready()).await.unwrap();
    let (response, _) = client.send_request(get("http://a/"), true).unwrap();
    within(rig.upstream.read_exact(&mut [0; PREFACE.len()])).await.unwrap();
    skip_to(&mut rig.upstream, HEADERS).await;
    let mut goaway = frame(GOAWAY, 0, &[0, 0, 0, 1, 0, 0, 0, 11]);
    goaway[8] = 0;
    let body = vec![b'x'; 10_000];
    let answer = [frame(HEADERS, END_HEADERS, b"\x88"), frame(DATA, END_STREAM, &body), goaway];
    rig.upstream.write_all(&answer.concat()).await.unwrap();
    rig.upstream.shutdown().await.unwrap();
    let mut received = within(response).await.unwrap().into_body();
    assert_eq!(content(&mut received).await.len(), body.len());
    assert_eq!(rig.sink.exchanges(1).await[0].end, ExchangeEnd::Complete);
    drop((client, received));
    let error = within(connection).await.unwrap().unwrap_err();
    assert_eq!(error.reason(), Some(Reason::ENHANCE_YOUR_CALM));
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

/// Reads one frame: its kind, its flags and its payload.
async fn read_frame(stream: &mut TcpStream) -> (u8, u8, Vec<u8>) {
    let mut head = [0; 9];
    within(stream.read_exact(&mut head)).await.unwrap();
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
    let mut payload = vec![0; length as usize];
    within(stream.read_exact(&mut payload)).await.unwrap();
    (head[3], head[4], payload)
}

/// Data that arrives for a closed socket makes the kernel drop what that socket has still to send
/// (`tcp_rcv_state_process` in net/ipv4/tcp_input.c): weir must not close before the client does.
#[tokio::test]
async fn a_slow_client_gets_the_whole_response_of_a_drained_connection() {
    const SIZE: usize = 1 << 20;
    let rig = Rig::new(HttpVersion::Http2).await;
    let mut client = rig.client;
    socket2::SockRef::from(&client).set_recv_buffer_size(64 << 10).unwrap();
    let window = 0x7fff_ffff_u32 - 65_535;
    let mut window_update = frame(WINDOW_UPDATE, 0, &window.to_be_bytes());
    window_update[8] = 0;
    let mut initial_window = vec![0, 4];
    initial_window.extend(0x7fff_ffff_u32.to_be_bytes());
    let request = [
        PREFACE.to_vec(),
        frame(SETTINGS, 0, &initial_window),
        window_update,
        // GET, http, /, :authority a
        frame(HEADERS, END_HEADERS | END_STREAM, b"\x82\x86\x84\x41\x01a"),
    ];
    client.write_all(&request.concat()).await.unwrap();
    let mut upstream = within(h2::server::Builder::new().handshake(rig.upstream)).await.unwrap();
    let (_, mut respond) = within(upstream.accept()).await.unwrap().unwrap();
    let _upstream = tokio::spawn(async move { upstream.accept().await.is_none() });
    rig.drain.cancel();
    // The drain's PING: the pong lets weir say the last stream's number.
    let ping = loop {
        match read_frame(&mut client).await {
            (PING, 0, payload) => break payload,
            _ => continue,
        }
    };
    let mut pong = frame(PING, 1, &ping);
    pong[8] = 0;
    client.write_all(&pong).await.unwrap();
    let mut down = respond.send_response(Response::new(()), false).unwrap();
    send(&mut down, vec![7; SIZE].into(), true).await;
    let mut seen = 0;
    let mut ended = false;
    while !ended {
        let (kind, flags, payload) = read_frame(&mut client).await;
        if kind == DATA {
            seen += payload.len();
            ended = flags & END_STREAM != 0;
            // As clients do that have a window of their own for each stream.
            let mut update = frame(WINDOW_UPDATE, 0, &1_u32.to_be_bytes());
            update[8] = 0;
            // What fails here, fails the next read: only what is lost counts.
            let _ = client.write_all(&update).await;
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    }
    assert_eq!(seen, SIZE);
    drop(client);
    within(rig.weir).await.unwrap();
    assert_eq!(rig.sink.exchanges(1).await[0].end, ExchangeEnd::Complete);
}
