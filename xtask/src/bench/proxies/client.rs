//! `cargo xtask bench load`: origins, and the clients that no well-known tool is. Processes of
//! their own, because what weir captures is a cgroup. Clients print one line of JSON.

mod connect;
mod exchange;
mod idle;
mod origin;
mod probe;

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use super::stats::percentile;

pub(super) use connect::Started;
pub(super) use probe::Probe;

/// One that is silent for longer hangs.
const PATIENCE: Duration = Duration::from_secs(10);

/// The echo origin answers it with the client's port in two bytes, big-endian, and echoes
/// everything else.
const WHO: u8 = b'?';

/// Any other payload: no protocol begins like this, so that raw TCP is decided at once.
const PAYLOAD: u8 = 1;

/// Flags of the hidden subcommand.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    role: Role,
}

#[derive(clap::Subcommand)]
enum Role {
    /// Serve until killed
    Origin(origin::Args),
    /// One request of a kind, looked at closely
    Probe(probe::Args),
    /// Requests and responses on kept connections
    Exchange(exchange::Args),
    /// Connect, one byte each way, close; again and again
    Connect(connect::Args),
    /// Connect until a connection goes through a proxy
    Start(connect::StartArgs),
    /// Connections on which nothing happens, until stdin is closed
    Idle(idle::Args),
}

/// What a client has seen.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Tally {
    /// Requests or connections that were completed.
    pub(super) count: usize,
    pub(super) seconds: f64,
    /// Microseconds until the response.
    pub(super) latency: Percentiles,
    /// Microseconds of connect(2) alone.
    pub(super) connect: Option<Percentiles>,
}

/// Microseconds.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(super) struct Percentiles {
    pub(super) p50: f64,
    pub(super) p99: f64,
    pub(super) p999: f64,
}

/// The client's port as the client and as the origin sees it: another one if there is a proxy
/// between them.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Ports {
    pub(super) own: u16,
    pub(super) seen: u16,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    match &args.role {
        Role::Origin(args) => origin::run(args),
        Role::Probe(args) => print(&probe::run(args)?),
        Role::Exchange(args) => print(&exchange::run(args)?),
        Role::Connect(args) => print(&connect::run(args)?),
        Role::Start(args) => print(&connect::start(args)?),
        Role::Idle(args) => idle::run(args),
    }
}

// === impl Percentiles ===

impl Percentiles {
    /// Of values in any order.
    pub(super) fn of(mut micros: Vec<f64>) -> Self {
        micros.sort_by(f64::total_cmp);
        let at = |share| percentile(&micros, share);
        Self { p50: at(0.5), p99: at(0.99), p999: at(0.999) }
    }
}

// === impl Ports ===

impl Ports {
    /// Whether a proxy was between.
    pub(super) fn proxied(&self) -> bool {
        self.own != self.seen
    }
}

// === helpers ===

/// The monotonic clock, which is the same in all processes; seconds.
pub(super) fn now() -> Result<f64> {
    let time: Duration = clock_gettime(ClockId::CLOCK_MONOTONIC)?.into();
    Ok(time.as_secs_f64())
}

fn print(value: &impl Serialize) -> Result<()> {
    println!("{}", serde_json::to_string(value)?);
    Ok(())
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// Connects, with what every client here sets.
fn connect(address: SocketAddr) -> std::io::Result<std::net::TcpStream> {
    let stream = std::net::TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}
