//! The two peers: a client that sends requests, and a server that hands them to the test.

use std::future::poll_fn;
use std::io::ErrorKind;
use std::net::TcpStream as StdStream;

use anyhow::{Context, Result, anyhow};
use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream, client, server};
use http::{HeaderMap, Request, Response};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use weir_tests::process::patience;
use weir_tests::site::PATIENCE;
use weir_tests::way::Way;
use weir_tests::wire::Wire;

/// As much as a head may have, at both peers: more than any behaviour sends.
const HEAD_LIMIT: u32 = 1 << 20;

/// A request as the server sees it, and where to answer.
pub(crate) type Arrival = (Request<RecvStream>, SendResponse<Bytes>);

/// One HTTP/2 connection.
pub(crate) struct Peers {
    /// Where the client sends requests.
    pub(crate) client: SendRequest<Bytes>,
    arrivals: mpsc::Receiver<Arrival>,
    orders: mpsc::Sender<Order>,
    client_end: JoinHandle<Result<(), h2::Error>>,
    server_end: JoinHandle<Result<(), h2::Error>>,
}

/// What the server's connection is told to do.
pub(crate) enum Order {
    /// GOAWAY, and open streams go on.
    Leave,
    /// GOAWAY with a reason, and nothing goes on.
    Abort(Reason),
    /// The process dies: the socket is closed under everything.
    Die,
}

/// Runs a behaviour over one connection and looks at the records.
pub(crate) fn http2<F>(way: &Way, statuses: &[u64], talk: F) -> Result<()>
where
    F: AsyncFnOnce(&mut Peers) -> Result<()>,
{
    http2_with(way, &mut server::Builder::new(), statuses, talk)
}

/// As [`http2`], with a server that has something to offer.
pub(crate) fn http2_with<F>(
    way: &Way,
    builder: &mut server::Builder,
    statuses: &[u64],
    talk: F,
) -> Result<()>
where
    F: AsyncFnOnce(&mut Peers) -> Result<()>,
{
    let server = way.listen()?;
    let wire = server.wire()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut peers =
            timeout(patience(PATIENCE), Peers::new(wire, builder)).await.context("handshake")??;
        timeout(patience(PATIENCE), talk(&mut peers)).await.context("it hangs")??;
        peers.end().await
    })?;
    drop(runtime);
    server.recorded(1, "http2", statuses)
}

// === impl Peers ===

impl Peers {
    async fn new(wire: Wire, builder: &mut server::Builder) -> Result<Self> {
        let (up, down) = (into_tokio(wire.client)?, into_tokio(wire.server)?);
        builder.max_header_list_size(HEAD_LIMIT);
        let mut client = client::Builder::new();
        client.max_header_list_size(HEAD_LIMIT);
        let (client, server) =
            tokio::join!(client.handshake::<_, Bytes>(up), builder.handshake::<_, Bytes>(down));
        let ((client, connection), server) = (client.context("client")?, server.context("server")?);
        let client_end = tokio::spawn(connection);
        let (sender, arrivals) = mpsc::channel(200);
        let (orders, receiver) = mpsc::channel(1);
        let server_end = tokio::spawn(serve(server, sender, receiver));
        let client = client.ready().await?;
        Ok(Self { client, arrivals, orders, client_end, server_end })
    }

    /// Sends a request's head; `end` if nothing follows.
    pub(crate) async fn request(
        &mut self,
        request: Request<()>,
        end: bool,
    ) -> Result<(ResponseFuture, SendStream<Bytes>)> {
        self.client = self.client.clone().ready().await?;
        Ok(self.client.send_request(request, end)?)
    }

    /// The next request at the server.
    pub(crate) async fn arrival(&mut self) -> Result<Arrival> {
        self.arrivals.recv().await.context("the server's connection is over")
    }

    /// Gives the server an order.
    pub(crate) async fn order(&self, order: Order) -> Result<()> {
        self.orders.send(order).await.map_err(|_| anyhow!("the server's connection is over"))
    }

    /// How the connection ends for the client.
    pub(crate) async fn client_end(&mut self) -> Result<(), h2::Error> {
        (&mut self.client_end).await.expect("the connection does not panic")
    }

    /// The client leaves, and both connections end well unless they have ended before.
    async fn end(self) -> Result<()> {
        let Self { client, arrivals, orders, client_end, server_end } = self;
        drop((client, arrivals));
        // A task that was asked for its end has told it already.
        if !client_end.is_finished() {
            timeout(patience(PATIENCE), client_end)
                .await
                .context("the client's connection goes on")???;
        }
        let ended = timeout(patience(PATIENCE), server_end)
            .await
            .context("the server's connection goes on")?;
        drop(orders);
        match ended? {
            Err(error) if error.is_io() && !is_disconnect(&error) => Err(error.into()),
            _ => Ok(()),
        }
    }
}

/// A server that was ordered to abort finds its client gone.
fn is_disconnect(error: &h2::Error) -> bool {
    let gone = [ErrorKind::ConnectionReset, ErrorKind::BrokenPipe, ErrorKind::NotConnected];
    error.get_io().is_some_and(|error| gone.contains(&error.kind()))
}

async fn serve(
    mut connection: server::Connection<TcpStream, Bytes>,
    arrivals: mpsc::Sender<Arrival>,
    mut orders: mpsc::Receiver<Order>,
) -> Result<(), h2::Error> {
    loop {
        tokio::select! {
            arrival = connection.accept() => match arrival {
                Some(Ok(arrival)) => {
                    let _test_over = arrivals.send(arrival).await;
                }
                Some(Err(error)) => return Err(error),
                None => return Ok(()),
            },
            Some(order) = orders.recv() => match order {
                Order::Leave => connection.graceful_shutdown(),
                Order::Abort(reason) => connection.abrupt_shutdown(reason),
                Order::Die => return Ok(()),
            },
        }
    }
}

fn into_tokio(stream: StdStream) -> Result<TcpStream> {
    stream.set_nonblocking(true)?;
    stream.set_nodelay(true)?;
    Ok(TcpStream::from_std(stream)?)
}

// === Messages ===

/// A request to the test's server with these fields, in this order.
pub(crate) fn request(method: &str, path: &str, fields: &[(&str, &str)]) -> Result<Request<()>> {
    let builder = Request::builder().method(method).uri(format!("http://host.test{path}"));
    let builder =
        fields.iter().fold(builder, |builder, (name, value)| builder.header(*name, *value));
    Ok(builder.body(())?)
}

/// An answer with these fields, in this order.
pub(crate) fn response(status: u16, fields: &[(&str, &str)]) -> Result<Response<()>> {
    let builder = Response::builder().status(status);
    let builder =
        fields.iter().fold(builder, |builder, (name, value)| builder.header(*name, *value));
    Ok(builder.body(())?)
}

/// Fields in the order that they have.
pub(crate) fn list(fields: &HeaderMap) -> Vec<(String, String)> {
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    fields.iter().map(|(name, value)| (name.to_string(), text(value))).collect()
}

/// Says all of a body, then trailers or the end.
pub(crate) fn say(
    stream: &mut SendStream<Bytes>,
    body: &[u8],
    trailers: Option<HeaderMap>,
) -> Result<()> {
    stream.send_data(Bytes::copy_from_slice(body), trailers.is_none())?;
    trailers.map_or(Ok(()), |trailers| stream.send_trailers(trailers)).map_err(Into::into)
}

/// Reads a body to its end, with its trailers.
pub(crate) async fn hear(body: &mut RecvStream) -> Result<(Vec<u8>, Option<HeaderMap>), h2::Error> {
    let mut bytes = Vec::new();
    while let Some(part) = body.data().await {
        let part = part?;
        body.flow_control().release_capacity(part.len())?;
        bytes.extend_from_slice(&part);
    }
    Ok((bytes, body.trailers().await?))
}

/// Reads just as much of a body as it must have by now.
pub(crate) async fn hear_part(body: &mut RecvStream, length: usize) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    while bytes.len() < length {
        let part = body.data().await.context("the body ended")??;
        body.flow_control().release_capacity(part.len())?;
        bytes.extend_from_slice(&part);
    }
    Ok(bytes)
}

/// The reason that the other side has reset the stream for.
pub(crate) async fn reset_reason(stream: &mut SendResponse<Bytes>) -> Result<Reason> {
    Ok(poll_fn(|cx| stream.poll_reset(cx)).await?)
}
