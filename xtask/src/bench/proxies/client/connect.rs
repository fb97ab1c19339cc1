//! Short connections: how many, how long until they are there, and when the first goes through a
//! proxy that has just been started.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use super::{PAYLOAD, Percentiles, Tally, connect, micros, now, probe};

/// How long a proxy may take to start.
const START_LIMIT: Duration = Duration::from_secs(20);

/// Flags of the client.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Threads, each with one connection after the other
    #[arg(long)]
    at_once: usize,
    #[arg(long)]
    seconds: u64,
    address: SocketAddr,
}

/// Flags of the client that waits for a proxy.
#[derive(clap::Args)]
pub(super) struct StartArgs {
    address: SocketAddr,
}

/// When the first connection that was proxied had its answer; seconds of the monotonic clock.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::bench::proxies) struct Started {
    pub(in crate::bench::proxies) at: f64,
}

#[derive(Default)]
struct Took {
    connect: Vec<f64>,
    answer: Vec<f64>,
}

/// # Errors
///
/// Fails when one connection does.
pub(super) fn run(args: &Args) -> Result<Tally> {
    let began = Instant::now();
    let deadline = began + Duration::from_secs(args.seconds);
    let took = thread::scope(|scope| {
        let one = || scope.spawn(|| one_after_the_other(args.address, deadline));
        let all: Vec<_> = (0..args.at_once).map(|_| one()).collect();
        let ended = all.into_iter().map(|it| it.join().unwrap_or_else(|_| Ok(Took::default())));
        ended.collect::<Result<Vec<_>>>()
    })?;
    let seconds = began.elapsed().as_secs_f64();
    let answer: Vec<f64> = took.iter().flat_map(|it| &it.answer).copied().collect();
    let connect = took.into_iter().flat_map(|it| it.connect).collect();
    Ok(Tally {
        count: answer.len(),
        seconds,
        latency: Percentiles::of(answer),
        connect: Some(Percentiles::of(connect)),
    })
}

/// # Errors
///
/// Fails when none is proxied in time.
pub(super) fn start(args: &StartArgs) -> Result<Started> {
    let deadline = Instant::now() + START_LIMIT;
    let mut last = None;
    while Instant::now() < deadline {
        match probe::echo(args.address) {
            Ok(ports) if ports.proxied() => return Ok(Started { at: now()? }),
            Ok(_) => {}
            Err(error) => last = Some(error),
        }
        thread::sleep(Duration::from_millis(1));
    }
    match last {
        Some(error) => Err(error).context("no connection was proxied"),
        None => bail!("all connections went direct"),
    }
}

fn one_after_the_other(address: SocketAddr, deadline: Instant) -> Result<Took> {
    let mut took = Took::default();
    loop {
        let begin = Instant::now();
        if begin >= deadline {
            return Ok(took);
        }
        let mut stream = connect(address).context("cannot connect")?;
        let connected = begin.elapsed();
        let mut received = [0];
        stream.write_all(&[PAYLOAD])?;
        stream.read_exact(&mut received)?;
        took.answer.push(micros(begin.elapsed()));
        took.connect.push(micros(connected));
        ensure!(received == [PAYLOAD], "the echo is another");
    }
}
