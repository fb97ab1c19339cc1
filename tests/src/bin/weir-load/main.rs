//! Load with its own proof: clients and servers of several kinds, which check every byte that they
//! get from each other and log every connection.
//!
//! ```text
//! weir-load serve LOG
//! weir-load visit LOG PLAN ADDRESS…
//! ```
//!
//! PLAN is a [`Plan`] as JSON. Both end at SIGTERM: the servers at once, the clients when the connections that there are have
//! come to an end. No socket is closed in order before the exchange is over, so that an end in order
//! means something: whatever fails, and the death of the process, resets it.

mod block;
mod http;
mod http1;
mod http2;
mod journey;
mod raw;
mod resets;
mod steady;
mod tls;

use std::fs::File;
use std::io::Write;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use weir_tests::load::{Kind, Outcome, Plan, Trip};

use crate::http::{Memory, Todo};
use crate::journey::{End, Journey, reset_unless_done};
use crate::raw::Wish;

/// A connection that takes longer than this has others begun beside it, up to so many.
const LONG: Duration = Duration::from_millis(500);
const TOGETHER: usize = 20;
/// How long a connection stays at most where none is to stay, in milliseconds.
const STAY: u64 = 300;

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
            ["visit", log, plan, ref addresses @ ..] if !addresses.is_empty() => {
                let log = Log::open(Path::new(log))?;
                let addresses = addresses.iter().map(|text| text.parse()).collect::<Result<_, _>>();
                let plan: Plan = serde_json::from_str(plan).context("PLAN")?;
                // There is one thread, so this is the seed of everything.
                fastrand::seed(plan.seed);
                block::BITS.store(plan.bits, Ordering::Relaxed);
                stop_at_sigterm(&stop, Some(plan.limit))?;
                visit(log, addresses.context("ADDRESS")?, &plan, &stop).await
            }
            _ => bail!("weir-load serve LOG | weir-load visit LOG PLAN ADDRESS…"),
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
    for kind in Kind::ALL.into_iter().filter(|kind| kind.is_served()) {
        let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, kind.port())).await?;
        // Accepted sockets inherit it: a server that is killed before it has come to look at one
        // must not end that in order.
        SockRef::from(&listener).set_linger(Some(Duration::ZERO))?;
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
                Kind::Slow => raw::serve(&mut journey, stream, false).await,
                Kind::Tls => serve_tls(&mut journey, stream).await,
                Kind::ClientResets => {
                    resets::must_be_reset(raw::serve(&mut journey, stream, false).await)
                }
                Kind::ServerResets => resets::serve(&journey, stream).await,
                Kind::Refused => unreachable!("no socket listens there"),
            };
            log.say(&journey.over(end));
        });
    }
}

async fn serve_tls(journey: &mut Journey, mut stream: TcpStream) -> End {
    if !tls::hear(journey, &mut stream).await? {
        return Ok(Outcome::Left);
    }
    raw::serve(journey, stream, false).await
}

// === Clients ===

async fn visit(
    log: Log,
    addresses: Vec<IpAddr>,
    plan: &Plan,
    stop: &CancellationToken,
) -> Result<()> {
    let mut clients = JoinSet::new();
    let addresses = Arc::new(addresses);
    let Plan { most, rest, stay, .. } = *plan;
    for &(kind, count) in &plan.clients {
        for number in 0..count {
            let (addresses, log, stop) = (Arc::clone(&addresses), log.clone(), stop.clone());
            clients.spawn(async move {
                // A request that one connection leaves unanswered is the next one's.
                let (mut trips, todo) = (JoinSet::new(), Todo::default());
                for trip in number..number + most {
                    if stop.is_cancelled() {
                        break;
                    }
                    let to = SocketAddr::new(addresses[trip % addresses.len()], kind.port());
                    let stop = if stay { stop.clone() } else { soon(&stop) };
                    let (log, todo) = (log.clone(), todo.clone());
                    trips.spawn(async move { log.say(&travel(kind, to, &todo, &stop).await) });
                    wait(kind, &mut trips).await;
                    sleep(Duration::from_millis(fastrand::u64(0..=rest))).await;
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

/// A stop that comes soon, or when the other one does.
fn soon(stop: &CancellationToken) -> CancellationToken {
    let soon = stop.child_token();
    let later = soon.clone();
    tokio::spawn(async move {
        sleep(Duration::from_millis(fastrand::u64(0..=STAY))).await;
        later.cancel();
    });
    soon
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
        if kind == Kind::Refused {
            return resets::refused(&mut journey, to).await;
        }
        let mut stream = journey.step("connect", TcpStream::connect(to)).await?;
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
            Kind::Slow => raw::exchange(&mut journey, stream, Wish::slow(), false).await,
            Kind::Tls => {
                tls::begin(&journey, &mut stream).await?;
                raw::visit(&mut journey, stream, false).await
            }
            Kind::ClientResets => resets::visit(&journey, stream).await,
            Kind::ServerResets => {
                resets::must_be_reset(raw::visit(&mut journey, stream, false).await)
            }
            Kind::Refused => unreachable!("handled above"),
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
