//! Connections on which nothing happens after one exchange.

use std::io::{Read, Write, stdin};
use std::net::{SocketAddr, TcpStream};

use anyhow::{Context, Result, ensure};

use super::{PAYLOAD, connect};

/// The answer of 1 KiB and its head.
const BUFFER: usize = 4096;

/// Flags of the client.
#[derive(clap::Args)]
pub(super) struct Args {
    #[arg(long)]
    connections: usize,
    /// The exchange is an HTTP/1 request, not a byte
    #[arg(long)]
    http: bool,
    address: SocketAddr,
}

/// Opens them, says `open`, and keeps them until stdin is closed.
///
/// # Errors
///
/// Fails when one connection does.
pub(super) fn run(args: &Args) -> Result<()> {
    let open =
        |number| open(args).with_context(|| format!("connection {number} of {}", args.connections));
    let connections = (1..=args.connections).map(open).collect::<Result<Vec<_>>>()?;
    println!("open");
    stdin().read_to_end(&mut Vec::new())?;
    drop(connections);
    Ok(())
}

fn open(args: &Args) -> Result<TcpStream> {
    let mut stream = connect(args.address)?;
    if !args.http {
        stream.write_all(&[PAYLOAD])?;
        stream.read_exact(&mut [0])?;
        return Ok(stream);
    }
    stream.write_all(b"GET /1k HTTP/1.1\r\nHost: bench\r\n\r\n")?;
    let mut response = Vec::new();
    let mut buffer = [0; BUFFER];
    loop {
        let head = response.windows(4).position(|at| at == b"\r\n\r\n");
        if head.is_some_and(|at| response.len() >= at + 4 + 1024) {
            return Ok(stream);
        }
        let count = stream.read(&mut buffer)?;
        ensure!(count > 0, "closed in the middle of a response");
        response.extend_from_slice(&buffer[..count]);
    }
}
