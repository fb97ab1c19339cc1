//! Properties that hold for any bytes in any segmentation.

use std::sync::Arc;
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use tokio::io::{AsyncRead, AsyncWrite, duplex, split};

use super::*;
use crate::forward::http::{HttpContext, serve};
use crate::forward::http_testing::Recorder;

/// Valid, nearly valid and meaningless pieces: concatenations of them reach every state.
const PIECES: &[&str] = &[
    GET,
    OK,
    "POST / HTTP/1.1\r\nContent-Length: 4\r\n\r\nabcd",
    "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    "GET / HTTP/1.1\r\nUpgrade: x\r\n\r\n",
    "CONNECT a:1 HTTP/1.1\r\n\r\n",
    "HEAD / HTTP/1.0\r\n\r\n",
    "HTTP/1.1 100 Continue\r\n\r\n",
    "HTTP/1.1 101 Switching Protocols\r\n\r\n",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nA: b\r\n\r\n",
    "HTTP/1.1 200 OK\r\n\r\n",
    "HTTP/1.1 304 Not Modified\r\nContent-Length: 4\r\n\r\n",
    "GET / HT",
    "\r\n",
    "\0\u{ff}",
    "0\r\n",
];

fn stream() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let pieces = vec(prop::sample::select(PIECES), 0..6);
    let cuts = vec(1_usize..40, 1..8);
    (pieces, cuts).prop_map(|(pieces, cuts)| {
        let mut bytes = pieces.concat().into_bytes();
        let mut segments = Vec::new();
        for cut in cuts.iter().cycle() {
            if bytes.is_empty() {
                break;
            }
            let rest = bytes.split_off((*cut).min(bytes.len()));
            segments.push(std::mem::replace(&mut bytes, rest));
        }
        segments
    })
}

async fn write(mut to: impl AsyncWrite + Unpin, segments: &[Vec<u8>]) {
    for segment in segments {
        // weir may have ended the connection, as the other side did.
        if to.write_all(segment).await.is_err() {
            return;
        }
        tokio::task::yield_now().await;
    }
    let _ = to.shutdown().await;
}

async fn read(mut from: impl AsyncRead + Unpin) -> Vec<u8> {
    let mut seen = Vec::new();
    from.read_to_end(&mut seen).await.unwrap();
    seen
}

/// What arrives at the upstream and at the client, and how many exchanges were reported.
async fn run(client: &[Vec<u8>], upstream: &[Vec<u8>]) -> (Vec<u8>, Vec<u8>) {
    let (client_end, weir_client) = duplex(64);
    let (upstream_end, weir_upstream) = duplex(64);
    let sink = Arc::new(Recorder::default());
    let context = HttpContext::new(Arc::clone(&sink) as Arc<_>);
    let weir = tokio::spawn(serve(HttpVersion::Http1, weir_client, weir_upstream, context));
    let (client_read, client_write) = split(client_end);
    let (upstream_read, upstream_write) = split(upstream_end);
    let (_, _, at_client, at_upstream) = tokio::join!(
        write(client_write, client),
        write(upstream_write, upstream),
        read(client_read),
        read(upstream_read)
    );
    tokio::time::timeout(Duration::from_secs(86_400), weir).await.unwrap().unwrap();
    assert!(sink.is_settled());
    (at_upstream, at_client)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn bytes_are_never_changed_reordered_or_skipped(client in stream(), upstream in stream()) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        let (at_upstream, at_client) = runtime.block_on(run(&client, &upstream));
        prop_assert!(client.concat().starts_with(&at_upstream));
        let said = upstream.concat();
        let own = at_client.windows(12).position(|bytes| bytes == b"x-weir-error");
        let heard = match own {
            Some(at) => &at_client[..at - "HTTP/1.1 502 Bad Gateway\r\n".len()],
            None => &at_client[..],
        };
        prop_assert!(said.starts_with(heard), "{:?}", String::from_utf8_lossy(&at_client));
    }
}
