//! Does a path work, and is a proxy on it? Asked before anything is measured.

use std::io::{Read, Write};
use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use bytes::{Bytes, BytesMut};
use clap::ValueEnum;
use h2::client;
use http::{HeaderMap, Request};
use tokio::net::TcpStream;

use super::origin::PEER;
use super::{PATIENCE, Ports, WHO, connect};
use crate::bench::proxies::arena::body;
use crate::bench::proxies::cells::h2load::GRPC_MESSAGE;

/// What is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(in crate::bench::proxies) enum Probe {
    Echo,
    Http1,
    Http2,
    Grpc,
}

/// Flags of the probe.
#[derive(clap::Args)]
pub(super) struct Args {
    #[arg(long)]
    kind: Probe,
    address: SocketAddr,
}

/// # Errors
///
/// Fails when an answer is not the right one.
pub(super) fn run(args: &Args) -> Result<Ports> {
    match args.kind {
        Probe::Echo => echo(args.address),
        Probe::Http1 => http1(args.address),
        Probe::Http2 | Probe::Grpc => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let probe = http2(args.kind, args.address);
                tokio::time::timeout(PATIENCE, probe).await.context("no answer")?
            })
        }
    }
}

/// Which port the echo origin sees.
pub(super) fn echo(address: SocketAddr) -> Result<Ports> {
    let mut stream = connect(address)?;
    stream.write_all(&[WHO])?;
    let mut seen = [0; 2];
    stream.read_exact(&mut seen).context("no answer")?;
    Ok(Ports { own: stream.local_addr()?.port(), seen: u16::from_be_bytes(seen) })
}

fn http1(address: SocketAddr) -> Result<Ports> {
    for (path, bytes) in [("/1k", 1024), ("/64k", 64 * 1024)] {
        let (_, got) = get(address, path)?;
        ensure!(got == body(bytes), "{path} has another body, of {} bytes", got.len());
    }
    let (own, seen) = get(address, "/peer")?;
    Ok(Ports { own, seen: port(&seen)? })
}

/// The own port, and the body.
fn get(address: SocketAddr, path: &str) -> Result<(u16, Vec<u8>)> {
    let mut stream = connect(address)?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")?;
    let mut response = Vec::new();
    stream.read_to_end(&mut response).context("no answer")?;
    ensure!(response.starts_with(b"HTTP/1.1 200 "), "{path}: {}", first_line(&response));
    let head = response.windows(4).position(|at| at == b"\r\n\r\n").context("no head")?;
    Ok((stream.local_addr()?.port(), response.split_off(head + 4)))
}

async fn http2(kind: Probe, address: SocketAddr) -> Result<Ports> {
    let stream = TcpStream::connect(address).await?;
    let own = stream.local_addr()?.port();
    let (sender, connection) = client::handshake(stream).await?;
    tokio::spawn(connection);
    let seen = if kind == Probe::Grpc {
        let message = Bytes::from_static(GRPC_MESSAGE);
        let answer = ask(sender, "POST", "/bench.Echo/Unary", message.clone()).await?;
        ensure!(answer.body == message, "the message has changed");
        let status = answer.trailers.get("grpc-status").context("no grpc-status")?;
        ensure!(status == "0", "grpc-status {status:?}");
        answer.headers.get(PEER).context("no port in the answer")?.as_bytes().to_vec()
    } else {
        let file = ask(sender.clone(), "GET", "/1k", Bytes::new()).await?;
        ensure!(file.body == body(1024), "another body, of {} bytes", file.body.len());
        ask(sender, "GET", "/peer", Bytes::new()).await?.body.to_vec()
    };
    Ok(Ports { own, seen: port(&seen)? })
}

struct Answer {
    headers: HeaderMap,
    body: BytesMut,
    trailers: HeaderMap,
}

async fn ask(
    sender: client::SendRequest<Bytes>,
    method: &str,
    path: &str,
    body: Bytes,
) -> Result<Answer> {
    let mut sender = sender.ready().await?;
    let mut request = Request::builder().method(method).uri(format!("http://bench{path}"));
    if method == "POST" {
        request = request.header("content-type", "application/grpc").header("te", "trailers");
    }
    let (response, mut stream) = sender.send_request(request.body(())?, body.is_empty())?;
    if !body.is_empty() {
        stream.send_data(body, true)?;
    }
    let (head, mut incoming) = response.await?.into_parts();
    ensure!(head.status == 200, "{path}: status {}", head.status);
    let mut body = BytesMut::new();
    while let Some(part) = incoming.data().await {
        let part = part?;
        incoming.flow_control().release_capacity(part.len())?;
        body.extend_from_slice(&part);
    }
    let trailers = incoming.trailers().await?.unwrap_or_default();
    Ok(Answer { headers: head.headers, body, trailers })
}

fn port(text: &[u8]) -> Result<u16> {
    let text = String::from_utf8_lossy(text);
    text.trim().parse().with_context(|| format!("{text:?} is no port"))
}

fn first_line(response: &[u8]) -> String {
    String::from_utf8_lossy(response).lines().next().unwrap_or("no answer").to_owned()
}
