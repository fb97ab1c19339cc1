//! An h2 client and an h2 server with weir between them.

use std::future::poll_fn;

use bytes::Bytes;
use h2::client::SendRequest;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Request};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::within;
use crate::forward::http::{HttpEnd, HttpLimits, HttpVersion};
use crate::forward::http_testing::{Recorder, Rig};

pub(super) type Accepted = (Request<RecvStream>, SendResponse<Bytes>);

/// Streams opened through `client` arrive at `accept`.
pub(super) struct Peers {
    pub(super) client: SendRequest<Bytes>,
    /// Ends with the client's connection; aborting it drops the socket.
    pub(super) client_connection: JoinHandle<Result<(), h2::Error>>,
    accepted: mpsc::UnboundedReceiver<Accepted>,
    /// `None`: shut down gracefully.
    pub(super) shut_down: mpsc::UnboundedSender<Option<Reason>>,
    /// Ends with the upstream's connection; aborting it drops the socket.
    pub(super) upstream_connection: JoinHandle<Result<(), h2::Error>>,
    pub(super) weir: JoinHandle<HttpEnd>,
    pub(super) sink: std::sync::Arc<Recorder>,
    pub(super) drain: CancellationToken,
}

// === impl Peers ===

impl Peers {
    pub(super) async fn new() -> Self {
        Self::with(HttpLimits::default(), |_| {}).await
    }

    pub(super) async fn with(
        limits: HttpLimits,
        configure: impl FnOnce(&mut h2::server::Builder),
    ) -> Self {
        let rig = Rig::with(HttpVersion::Http2, limits).await;
        let mut builder = h2::server::Builder::new();
        configure(&mut builder);
        let (deliver, accepted) = mpsc::unbounded_channel();
        let (shut_down, orders) = mpsc::unbounded_channel();
        let upstream = serve(rig.upstream, builder, deliver, orders);
        let upstream_connection = tokio::spawn(upstream);
        let handshake =
            h2::client::Builder::new().initial_max_send_streams(0).handshake(rig.client);
        let (client, mut connection) = within(handshake).await.unwrap();
        // weir's first SETTINGS, so that tests see the limits it tells.
        within(poll_fn(|cx| {
            assert!(std::pin::Pin::new(&mut connection).poll(cx).is_pending());
            match client.current_max_send_streams() {
                0 => std::task::Poll::Pending,
                _ => std::task::Poll::Ready(()),
            }
        }))
        .await;
        let client_connection = tokio::spawn(connection);
        let (weir, sink, drain) = (rig.weir, rig.sink, rig.drain);
        Self {
            client,
            client_connection,
            accepted,
            shut_down,
            upstream_connection,
            weir,
            sink,
            drain,
        }
    }

    /// `None` once the upstream's connection has ended.
    pub(super) async fn next(&mut self) -> Option<Accepted> {
        self.accepted.recv().await
    }

    pub(super) async fn accept(&mut self) -> Accepted {
        within(self.accepted.recv()).await.expect("the upstream's connection ended")
    }
}

// === helpers ===

async fn serve(
    stream: TcpStream,
    builder: h2::server::Builder,
    deliver: mpsc::UnboundedSender<Accepted>,
    mut orders: mpsc::UnboundedReceiver<Option<Reason>>,
) -> Result<(), h2::Error> {
    let mut connection = builder.handshake(stream).await?;
    loop {
        tokio::select! {
            accepted = connection.accept() => match accepted {
                Some(accepted) => { let _ = deliver.send(accepted?); }
                None => return Ok(()),
            },
            Some(order) = orders.recv() => match order {
                Some(reason) => connection.abrupt_shutdown(reason),
                None => connection.graceful_shutdown(),
            },
        }
    }
}

/// The next DATA frame's content.
pub(super) async fn content(body: &mut RecvStream) -> String {
    let chunk = within(body.data()).await.unwrap().unwrap();
    body.flow_control().release_capacity(chunk.len()).unwrap();
    String::from_utf8(chunk.to_vec()).unwrap()
}

/// Sends as the receiver makes room.
pub(super) async fn send(stream: &mut SendStream<Bytes>, mut data: Bytes, end: bool) {
    while !data.is_empty() {
        stream.reserve_capacity(data.len());
        if stream.capacity() == 0 {
            poll_fn(|cx| stream.poll_capacity(cx)).await.unwrap().unwrap();
        }
        let piece = data.split_to(stream.capacity().min(data.len()));
        stream.send_data(piece, end && data.is_empty()).unwrap();
    }
}

pub(super) fn header_lines(headers: &HeaderMap) -> Vec<String> {
    let line = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
        format!("{name}: {}", value.to_str().unwrap())
    };
    headers.iter().map(line).collect()
}
