//! Load with its own proof: clients and servers of several kinds, which check every byte that they
//! get from each other and log every connection.
//!
//! ```text
//! weir-load serve LOG
//! weir-load visit LOG SECONDS ADDRESS…
//! ```
//!
//! Both end at SIGTERM: the servers at once, the clients when the connections that there are have
//! come to an end. No socket is closed in order before the exchange is over, so that an end in order
//! means something: whatever fails, and the death of the process, resets it.

mod block;
mod http;
mod http1;
mod http2;
mod journey;
mod raw;
mod steady;

use std::fs::File;
use std::io::Write;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use weir_tests::load::{Kind, Trip};

use crate::http::{Memory, Todo};
use crate::journey::{Journey, reset_unless_done};

/// How many clients of each kind there are, and how long each rests between two connections, in
/// milliseconds. Together they leave a busy two-core machine some time for weir.
const CLIENTS: [(Kind, usize, u64); 7] = [
    (Kind::ClientFirst, 3, 20),
    (Kind::ServerFirst, 3, 20),
    (Kind::Steady, 3, 20),
    (Kind::Silent, 2, 20),
    (Kind::Http1, 3, 20),
    (Kind::Http1Kept, 3, 20),
    (Kind::Http2, 2, 20),
];
/// A bound on the connections of one client.
const MOST: usize = 10_000;
/// A connection that takes longer than this has others begun beside it, up to so many.
const LONG: Duration = Duration::from_millis(500);
const TOGETHER: usize = 20;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let stop = CancellationToken::new();
        match words[..] {
            ["serve", log] => {
                let log = Log::open(Path::new(log))?;
                stop_at_sigterm(&stop, None)?;
                serve(log, &stop).await
            }
            ["visit", log, seconds, ref addresses @ ..] if !addresses.is_empty() => {
                let log = Log::open(Path::new(log))?;
                let addresses = addresses.iter().map(|text| text.parse()).collect::<Result<_, _>>();
                let limit = Duration::from_secs(seconds.parse().context("SECONDS")?);
                stop_at_sigterm(&stop, Some(limit))?;
                visit(log, addresses.context("ADDRESS")?, &stop).await
            }
            _ => bail!("weir-load serve LOG | weir-load visit LOG SECONDS ADDRESS…"),
        }
    })
}

fn stop_at_sigterm(stop: &CancellationToken, limit: Option<Duration>) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let stop = stop.clone();
    tokio::spawn(async move {
        let limit = limit.unwrap_or(Duration::MAX);
        let _either_way = timeout(limit, terminate.recv()).await;
        stop.cancel();
    });
    Ok(())
}

// === Servers ===

async fn serve(log: Log, stop: &CancellationToken) -> Result<()> {
    let (memory, mut listening) = (Arc::new(Memory::default()), JoinSet::new());
    for kind in Kind::ALL {
        let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, kind.port())).await?;
        listening.spawn(accept(kind, listener, Arc::clone(&memory), log.clone()));
    }
    stop.cancelled().await;
    Ok(())
}

async fn accept(kind: Kind, listener: TcpListener, memory: Arc<Memory>, log: Log) -> Result<()> {
    loop {
        let (stream, client) = listener.accept().await?;
        let mut journey = Journey::accepted(kind, &stream, client);
        let (memory, log) = (Arc::clone(&memory), log.clone());
        tokio::spawn(async move {
            reset_unless_done(&stream);
            let end = match kind {
                Kind::ClientFirst | Kind::Silent => raw::serve(&mut journey, stream, false).await,
                Kind::ServerFirst => raw::serve(&mut journey, stream, true).await,
                Kind::Steady => steady::serve(&mut journey, stream).await,
                Kind::Http1 | Kind::Http1Kept => http1::serve(&mut journey, stream, memory).await,
                Kind::Http2 => http2::serve(&mut journey, stream, memory).await,
            };
            log.say(&journey.over(end));
        });
    }
}

// === Clients ===

async fn visit(log: Log, addresses: Vec<IpAddr>, stop: &CancellationToken) -> Result<()> {
    let mut clients = JoinSet::new();
    let addresses = Arc::new(addresses);
    for (kind, count, rest) in CLIENTS {
        for number in 0..count {
            let (addresses, log, stop) = (Arc::clone(&addresses), log.clone(), stop.clone());
            clients.spawn(async move {
                // A request that one connection leaves unanswered is the next one's.
                let (mut trips, todo) = (JoinSet::new(), Todo::default());
                for trip in number..number + MOST {
                    if stop.is_cancelled() {
                        break;
                    }
                    let to = SocketAddr::new(addresses[trip % addresses.len()], kind.port());
                    let (log, todo, stop) = (log.clone(), todo.clone(), stop.clone());
                    trips.spawn(async move { log.say(&travel(kind, to, &todo, &stop).await) });
                    wait(kind, &mut trips).await;
                    sleep(Duration::from_millis(fastrand::u64(0..rest))).await;
                }
                while trips.join_next().await.is_some() {}
            });
        }
    }
    while let Some(client) = clients.join_next().await {
        client?;
    }
    Ok(())
}

/// Waits for a connection to be over, so that one comes after the other. But one exchange that
/// takes long does not keep a client from beginning the next.
async fn wait(kind: Kind, trips: &mut JoinSet<()>) {
    if kind.is_short() && trips.len() < TOGETHER {
        let _goes_on = timeout(LONG, trips.join_next()).await;
    } else {
        trips.join_next().await;
    }
}

async fn travel(kind: Kind, to: SocketAddr, todo: &Todo, stop: &CancellationToken) -> Trip {
    let mut journey = Journey::begin(kind);
    let end = async {
        let stream = journey.step("connect", TcpStream::connect(to)).await?;
        reset_unless_done(&stream);
        journey.connected(&stream);
        match kind {
            Kind::ClientFirst => raw::visit(&mut journey, stream, false).await,
            Kind::ServerFirst => raw::visit(&mut journey, stream, true).await,
            Kind::Silent => {
                raw::silence(&journey, &stream, stop).await?;
                raw::visit(&mut journey, stream, false).await
            }
            Kind::Steady => steady::visit(&mut journey, stream, stop).await,
            Kind::Http1 => http1::visit(&mut journey, stream, todo, None).await,
            Kind::Http1Kept => http1::visit(&mut journey, stream, todo, Some(stop)).await,
            Kind::Http2 => http2::visit(&mut journey, stream, todo, stop).await,
        }
    }
    .await;
    journey.over(end)
}

// === Log ===

/// Where trips are written, a line each.
#[derive(Clone)]
struct Log(Arc<File>);

// === impl Log ===

impl Log {
    fn open(path: &Path) -> Result<Self> {
        let file =
            File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self(Arc::new(file)))
    }

    fn say(&self, trip: &Trip) {
        let line = serde_json::to_string(trip).expect("a trip is plain data") + "\n";
        // One write per line: a reader may look at any time.
        (&*self.0).write_all(line.as_bytes()).expect("the log can be written");
    }
}
