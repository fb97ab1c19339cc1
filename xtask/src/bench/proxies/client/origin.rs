//! The origins that are not nginx: echo, and gRPC, which needs trailers.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use bytes::{Bytes, BytesMut};
use h2::server;
use http::{HeaderMap, HeaderValue, Request, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::WHO;

/// The largest message of a cell.
const BUFFER: usize = 16 * 1024;

/// Connections that may wait for accept(2): all of a cell at once.
const BACKLOG: u32 = 16 * 1024;

/// Header field with the port that the connection comes from.
pub(super) const PEER: &str = "x-peer";

/// Flags of the origin.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Where bytes are sent back
    #[arg(long)]
    echo: SocketAddr,
    /// Where gRPC is served
    #[arg(long)]
    grpc: SocketAddr,
}

pub(super) fn run(args: &Args) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let echo = listen(args.echo)?;
        let grpc = listen(args.grpc)?;
        tokio::join!(serve(echo, echo_connection), serve(grpc, grpc_connection));
        Ok(())
    })
}

fn listen(address: SocketAddr) -> Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address).with_context(|| format!("cannot serve {address}"))?;
    Ok(socket.listen(BACKLOG)?)
}

/// A connection that fails is the client's to report.
async fn serve<F>(listener: TcpListener, connection: impl Fn(TcpStream, SocketAddr) -> F)
where
    F: Future<Output = Result<()>> + Send + 'static,
{
    loop {
        if let Ok((stream, peer)) = listener.accept().await {
            let _fails_without_harm = stream.set_nodelay(true);
            tokio::spawn(connection(stream, peer));
        }
    }
}

async fn echo_connection(mut stream: TcpStream, peer: SocketAddr) -> Result<()> {
    // Idle connections are counted by ten thousands, and have only sent a byte.
    let mut first = [0; 64];
    let count = stream.read(&mut first).await?;
    if first[..count] == [WHO] {
        stream.write_all(&peer.port().to_be_bytes()).await?;
    } else {
        stream.write_all(&first[..count]).await?;
    }
    let mut buffer = Vec::new();
    loop {
        stream.readable().await?;
        buffer.resize(BUFFER, 0);
        match stream.read(&mut buffer).await? {
            0 => return Ok(()),
            count => stream.write_all(&buffer[..count]).await?,
        }
    }
}

async fn grpc_connection(stream: TcpStream, peer: SocketAddr) -> Result<()> {
    let mut builder = server::Builder::new();
    builder.max_concurrent_streams(1000).initial_window_size(1 << 20);
    builder.initial_connection_window_size(1 << 24);
    let mut connection = builder.handshake::<_, Bytes>(stream).await?;
    let port = HeaderValue::from(peer.port());
    while let Some(stream) = connection.accept().await {
        let (request, respond) = stream?;
        tokio::spawn(answer(request, respond, port.clone()));
    }
    Ok(())
}

/// Unary: the message comes back, with a status in the trailers.
async fn answer(
    request: Request<h2::RecvStream>,
    mut respond: server::SendResponse<Bytes>,
    port: HeaderValue,
) -> Result<()> {
    let mut body = request.into_body();
    let mut message = BytesMut::new();
    while let Some(part) = body.data().await {
        let part = part?;
        body.flow_control().release_capacity(part.len())?;
        message.extend_from_slice(&part);
    }
    let response = Response::builder()
        .header("content-type", "application/grpc")
        .header(PEER, port)
        .body(())?;
    let mut stream = respond.send_response(response, false)?;
    stream.send_data(message.freeze(), false)?;
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    stream.send_trailers(trailers)?;
    Ok(())
}
