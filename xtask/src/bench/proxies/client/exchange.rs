//! Request and response over raw TCP, on connections that are kept: a thread each.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::{PAYLOAD, Percentiles, Tally, connect, micros};

/// Flags of the client.
#[derive(clap::Args)]
pub(super) struct Args {
    #[arg(long)]
    bytes: usize,
    #[arg(long)]
    connections: usize,
    #[arg(long)]
    seconds: u64,
    address: SocketAddr,
}

/// # Errors
///
/// Fails when one connection does.
pub(super) fn run(args: &Args) -> Result<Tally> {
    let barrier = Barrier::new(args.connections);
    let began = Instant::now();
    let took = thread::scope(|scope| {
        let one = || scope.spawn(|| connection(args, &barrier));
        let all: Vec<_> = (0..args.connections).map(|_| one()).collect();
        let ended = all.into_iter().map(|it| it.join().unwrap_or_else(|_| Ok(Vec::new())));
        ended.collect::<Result<Vec<_>>>()
    })?;
    let seconds = began.elapsed().as_secs_f64();
    let took = took.concat();
    Ok(Tally { count: took.len(), seconds, latency: Percentiles::of(took), connect: None })
}

fn connection(args: &Args, barrier: &Barrier) -> Result<Vec<f64>> {
    let stream = connect(args.address).context("cannot connect");
    // Also of one that fails: the others wait for it.
    barrier.wait();
    let mut stream = stream?;
    let sent = vec![PAYLOAD; args.bytes];
    let mut received = vec![0; args.bytes];
    let deadline = Instant::now() + Duration::from_secs(args.seconds);
    let mut took = Vec::new();
    let mut begin = Instant::now();
    while begin < deadline {
        stream.write_all(&sent)?;
        stream.read_exact(&mut received)?;
        let end = Instant::now();
        took.push(micros(end - begin));
        begin = end;
    }
    ensure!(sent == received, "the echo is another");
    Ok(took)
}
