//! The engine over loopback sockets, with clients, endpoints and a balancer that tests hold in their hands.

mod again;
mod bound;
mod endings;
mod endpoints;
mod limits;
mod messages;
mod retries;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use weir_http::h1::{Body, Kind, RequestHead, RequestReader, ResponseReader};
use weir_http::{
    Came, Choice, Endpoints, Lease, Plan, RequestEdits, RequestView, Retries, RetryBudget,
    RetryPolicy, RouteName, RouteTo, Routed, TimeLimits,
};

use super::super::ByteCounters;
use super::super::http::{Exchange, ExchangeEnd, ExchangeSink, HeadLimits};
use super::super::http_testing::{Recorder, pair, within};
use super::super::passthrough::Observer as _;
use super::super::requests::{BoxedLease, Connect, Connected, Connecting, Requests};
use super::super::tcp::{self, Endpoint, Observed, Observing, TcpOptions};
use super::*;
use crate::budget::{Budgets, Share};
use crate::stop::Stop;

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";

/// Chooses endpoints in turn.
#[derive(Default)]
struct InTurn {
    endpoints: Mutex<Vec<SocketAddr>>,
    next: AtomicUsize,
    not_current: AtomicBool,
    /// Clients whose first connection is shared.
    shared: AtomicUsize,
    in_flight: Arc<AtomicUsize>,
    /// What leases were told.
    over: Arc<Mutex<Vec<SocketAddr>>>,
    /// Of the route that all requests take, if there is one.
    limits: Mutex<Option<TimeLimits>>,
    retries: Mutex<Option<(Arc<RetryPolicy>, Arc<RetryBudget>)>>,
    /// What leases were told of requests that were sent elsewhere.
    came: Arc<Mutex<Vec<(SocketAddr, Came)>>>,
    /// Called with the next choice, before the connection is looked at.
    hook: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

#[derive(Debug)]
struct Counted {
    address: SocketAddr,
    in_flight: Arc<AtomicUsize>,
    over: Arc<Mutex<Vec<SocketAddr>>>,
    came: Arc<Mutex<Vec<(SocketAddr, Came)>>>,
}

/// Connects without any detours.
#[derive(Default)]
struct Direct {
    /// So many attempts find no descriptor.
    exhausted: AtomicUsize,
    dials: AtomicUsize,
}

/// weir, the clients' and the endpoints' sockets aside.
struct Rig {
    pool: Arc<Pool>,
    requests: Arc<InTurn>,
    connect: Arc<Direct>,
    sink: Arc<Recorder>,
    share: Share,
    drain: Stop,
    head: HeadLimits,
}

/// A client's connection.
struct Caller {
    stream: TcpStream,
    /// `None` once it has been passed through to its end.
    weir: JoinHandle<Option<End>>,
}

/// An endpoint that answers each request with `name/connection/request` and what it has got.
struct Server {
    address: SocketAddr,
    /// Requests by connection.
    seen: Arc<Mutex<Vec<Vec<String>>>>,
    task: JoinHandle<()>,
}

// === impl InTurn ===

impl Endpoints for InTurn {
    type Lease = BoxedLease;

    fn choose(&self, tried: &[SocketAddr]) -> Option<Choice<BoxedLease>> {
        if let Some(hook) = self.hook.lock().unwrap().take() {
            hook();
        }
        let endpoints = self.endpoints.lock().unwrap();
        let left: Vec<_> = endpoints.iter().filter(|it| !tried.contains(it)).collect();
        let address = **left.get(self.next.fetch_add(1, Relaxed) % left.len().max(1))?;
        self.in_flight.fetch_add(1, Relaxed);
        let (in_flight, over) = (Arc::clone(&self.in_flight), Arc::clone(&self.over));
        let came = Arc::clone(&self.came);
        let lease = Box::new(Counted { address, in_flight, over, came });
        Some(Choice { address, connect_timeout: None, lease })
    }

    fn is_routed(&self) -> bool {
        self.limits.lock().unwrap().is_some()
    }

    fn route(&self, request: &RequestView<'_>) -> Option<Routed<BoxedLease>> {
        let endpoints = Self {
            endpoints: Mutex::new(self.endpoints.lock().unwrap().clone()),
            in_flight: Arc::clone(&self.in_flight),
            over: Arc::clone(&self.over),
            came: Arc::clone(&self.came),
            ..Self::default()
        };
        let name = RouteName { route: "route".into(), rule: "0".into(), backend: None };
        let limits = *self.limits.lock().unwrap();
        let retries = self.retries.lock().unwrap().clone();
        let retries = retries.map(|(policy, budget)| Retries::new(policy, budget, request));
        Some(Routed::To(Box::new(RouteTo {
            name: Arc::new(name),
            endpoints: Arc::new(endpoints),
            request: RequestEdits::default(),
            response: Arc::default(),
            plan: limits.map(|limits| Box::new(Plan::new(limits, retries))),
        })))
    }
}

impl Requests for InTurn {
    fn is_used(&self, address: SocketAddr) -> bool {
        self.endpoints.lock().unwrap().contains(&address)
    }

    fn connected(&self, _: SocketAddr) -> Option<crate::forward::requests::Counted> {
        None
    }

    fn shares(&self) {
        self.shared.fetch_add(1, Relaxed);
    }

    fn is_current(&self) -> bool {
        !self.not_current.load(Relaxed)
    }
}

impl std::fmt::Debug for InTurn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("InTurn").finish_non_exhaustive()
    }
}

// === impl Counted ===

impl Lease for Counted {
    fn over(&mut self, exchange: &Exchange) {
        assert_eq!(exchange.upstream, Some(self.address));
        self.over.lock().unwrap().push(self.address);
    }

    fn failed(&mut self, came: Came, _: Duration) {
        self.came.lock().unwrap().push((self.address, came));
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.in_flight.fetch_sub(1, Relaxed);
    }
}

// === impl Direct ===

impl Connect for Direct {
    fn connect(&self, to: SocketAddr, _: Option<Duration>) -> Connecting<'_> {
        Box::pin(async move {
            let one_less = |left: usize| left.checked_sub(1);
            if self.exhausted.fetch_update(Relaxed, Relaxed, one_less).is_ok() {
                return Err(std::io::Error::from_raw_os_error(libc::EMFILE));
            }
            let stream = TcpStream::connect(to).await?;
            self.dials.fetch_add(1, Relaxed);
            stream.set_nodelay(true)?;
            tcp::arm(&stream);
            Ok(Connected { stream, descriptor: None })
        })
    }
}

// === impl Rig ===

impl Rig {
    fn new(endpoints: &[SocketAddr]) -> Self {
        let requests = Arc::new(InTurn::default());
        *requests.endpoints.lock().unwrap() = endpoints.to_vec();
        let (connect, drain) = (Arc::new(Direct::default()), Stop::new());
        let share = Budgets::default().share(&"shop".into());
        let pool = Pool::new(
            Arc::clone(&requests) as Arc<dyn Requests>,
            Arc::clone(&connect) as Arc<dyn Connect>,
            Some(share.clone()),
            drain.clone(),
        );
        Self {
            pool: Arc::new(pool),
            requests,
            connect,
            sink: Recorder::charging(Some(share.clone())),
            share,
            drain,
            head: HeadLimits::default(),
        }
    }

    /// A client, whose first upstream connection is to this endpoint.
    async fn caller(&self, first: SocketAddr) -> Caller {
        let (stream, near) = pair().await;
        tcp::arm(&near);
        let far = self.connect.connect(first, None).await.unwrap().stream;
        let upstream = Endpoint::from((far, None));
        let counters = Arc::new(ByteCounters::default());
        let sink = Arc::clone(&self.sink) as Arc<dyn ExchangeSink>;
        let requests = Arc::clone(&self.requests) as Arc<dyn Requests>;
        let context =
            PoolContext { requests, sink, counters: Arc::clone(&counters), head: self.head };
        let (pool, drain) = (Arc::clone(&self.pool), self.drain.clone());
        let weir = tokio::spawn(async move {
            let mut pinned = match serve(pool, near.into(), upstream, context).await {
                Served::Over(end) => return Some(end),
                Served::Pinned(pinned) => pinned,
            };
            let (options, never) = (TcpOptions::default(), Stop::new());
            let observing = Observing { observer: &mut pinned.observer, drain: &drain };
            let (client, upstream) = (pinned.client, pinned.upstream);
            let observed =
                tcp::forward_observed(client, upstream, &options, &counters, &never, observing);
            match observed.await {
                Observed::Over(_) => pinned.observer.finish(ExchangeEnd::UpstreamClosed),
                Observed::Quiet(client, upstream) => tcp::close(client, upstream).await,
            }
            None
        });
        Caller { stream, weir }
    }

    /// Waits until so many connections are idle.
    async fn idle(&self, count: usize) {
        within(async {
            while self.pool.len() != count {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }

    /// As the leases were told: how many requests each endpoint had.
    fn spread(&self) -> Vec<usize> {
        let (over, endpoints) =
            (self.requests.over.lock().unwrap(), self.requests.endpoints.lock());
        let mut counts = HashMap::new();
        over.iter().for_each(|address| *counts.entry(*address).or_insert(0) += 1);
        endpoints.unwrap().iter().map(|it| counts.get(it).copied().unwrap_or(0)).collect()
    }
}

// === impl Caller ===

impl Caller {
    async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        within(self.stream.write_all(bytes.as_ref())).await.unwrap();
    }

    /// A whole response to GET: its head and its content.
    async fn response(&mut self) -> String {
        self.response_to(Kind::Other).await
    }

    async fn response_to(&mut self, kind: Kind) -> String {
        let mut reader = ResponseReader::new(HeadLimits::NONE);
        let (mut text, mut byte) = (Vec::new(), [0]);
        let head = loop {
            within(self.stream.read_exact(&mut byte)).await.unwrap();
            text.push(byte[0]);
            if let Some((head, _)) = reader.read(&byte, kind).unwrap() {
                break head;
            }
        };
        let mut body = Body::new(head.framing);
        while !body.is_done() {
            within(self.stream.read_exact(&mut byte)).await.unwrap();
            text.push(byte[0]);
            body.advance(&byte).unwrap();
        }
        String::from_utf8(text).unwrap()
    }

    /// Sends a request, and returns the content of its response.
    async fn ask(&mut self, request: &str) -> String {
        self.send(request).await;
        let response = self.response().await;
        response.split_once("\r\n\r\n").unwrap().1.to_owned()
    }

    /// Closes, and returns how weir's side has ended.
    async fn close(mut self) -> Option<End> {
        self.stream.shutdown().await.unwrap();
        let mut rest = Vec::new();
        within(self.stream.read_to_end(&mut rest)).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&rest), "");
        within(self.weir).await.unwrap()
    }
}

// === impl Server ===

impl Server {
    async fn start(name: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let all = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            let mut served = tokio::task::JoinSet::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                let connection = all.lock().unwrap().len();
                all.lock().unwrap().push(Vec::new());
                let all = Arc::clone(&all);
                served.spawn(async move {
                    let mut request = 0;
                    while let Some((head, text)) = next_request(&mut stream).await {
                        request += 1;
                        all.lock().unwrap()[connection].push(text);
                        let content = match head.kind {
                            Kind::Head => String::new(),
                            _ => format!("{name}/{connection}/{request}"),
                        };
                        let length = content.len();
                        let answer =
                            format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{content}");
                        if stream.write_all(answer.as_bytes()).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Self { address, seen, task }
    }

    /// Requests on each connection.
    fn counts(&self) -> Vec<usize> {
        self.seen.lock().unwrap().iter().map(Vec::len).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

// === helpers ===

/// A client whose request has reached the endpoint, which the test serves.
async fn asked() -> (Rig, TcpListener, Caller, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let rig = Rig::new(&[address]);
    let mut caller = rig.caller(address).await;
    let (mut upstream, _) = listener.accept().await.unwrap();
    caller.send(GET).await;
    next_request(&mut upstream).await.unwrap();
    (rig, listener, caller, upstream)
}

/// The same, answered: the connection to the endpoint was used once and is idle.
async fn served() -> (Rig, TcpListener, Caller, TcpStream) {
    let (rig, listener, mut caller, mut upstream) = asked().await;
    upstream.write_all(OK.as_bytes()).await.unwrap();
    assert_eq!(caller.response().await, OK);
    rig.idle(1).await;
    (rig, listener, caller, upstream)
}

/// Three endpoints.
async fn servers() -> [Server; 3] {
    [Server::start("a").await, Server::start("b").await, Server::start("c").await]
}

fn addresses(servers: &[Server]) -> Vec<SocketAddr> {
    servers.iter().map(|server| server.address).collect()
}

/// The next request of a stream, as it was sent; `None` at its end.
async fn next_request(stream: &mut TcpStream) -> Option<(RequestHead, String)> {
    let mut reader = RequestReader::new(HeadLimits::NONE);
    let (mut text, mut byte) = (Vec::new(), [0]);
    let head = loop {
        stream.read_exact(&mut byte).await.ok()?;
        text.push(byte[0]);
        match reader.read(&byte) {
            Ok(Some((head, _))) => break head,
            Ok(None) => {}
            Err(_) => return None,
        }
    };
    let mut body = Body::new(head.framing);
    while !body.is_done() {
        stream.read_exact(&mut byte).await.ok()?;
        text.push(byte[0]);
        body.advance(&byte).ok()?;
    }
    Some((head, String::from_utf8_lossy(&text).into_owned()))
}
