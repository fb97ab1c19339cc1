//! With h2 as every peer, over loopback.

mod limits;

use std::{
    collections::HashSet,
    net::SocketAddr,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use h2::{
    RecvStream,
    client::{ResponseFuture, SendRequest},
    server,
};
use http::{Request, Response};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use weir_http::{
    Choice, Endpoints, Lease, Plan, RequestEdits, RequestView, RouteName, RouteTo, Routed,
    TimeLimits,
};

use super::*;
use crate::{
    budget::{Budgets, Resource},
    forward::{
        ByteCounters,
        http::{EndCause, Exchange, Side},
        http_testing::{Recorder, within},
        requests::{BoxedLease, Connecting, Counted},
    },
};

/// What leases were told: the endpoint, and the status of the exchange.
type Told = Arc<Mutex<Vec<(SocketAddr, Option<u16>)>>>;

/// Endpoints in turn.
#[derive(Debug, Default)]
struct Turns {
    endpoints: Vec<SocketAddr>,
    next: AtomicUsize,
    in_flight: Arc<AtomicUsize>,
    over: Told,
    unused: Mutex<HashSet<SocketAddr>>,
    /// Of the route that all requests take, if there is one.
    limits: Option<TimeLimits>,
}

#[derive(Debug)]
struct Turn {
    address: SocketAddr,
    in_flight: Arc<AtomicUsize>,
    over: Told,
}

struct Loopback(Share);

/// A server that answers each request with its own address, once it is told to.
struct Server {
    address: SocketAddr,
    accepted: Arc<AtomicUsize>,
    _task: JoinHandle<()>,
}

/// A relay, and what is charged to its workload.
struct Scene {
    relay: Arc<Relay>,
    turns: Arc<Turns>,
    sink: Arc<Recorder>,
    drain: Stop,
    share: Share,
}

impl Endpoints for Turns {
    type Lease = BoxedLease;

    fn choose(&self, tried: &[SocketAddr]) -> Option<Choice<BoxedLease>> {
        let left: Vec<_> = self.endpoints.iter().filter(|it| !tried.contains(it)).collect();
        let address = **left.get(self.next.fetch_add(1, Relaxed) % left.len().max(1))?;
        self.in_flight.fetch_add(1, Relaxed);
        let (in_flight, over) = (Arc::clone(&self.in_flight), Arc::clone(&self.over));
        let lease = Box::new(Turn { address, in_flight, over });
        Some(Choice { address, connect_timeout: Some(Duration::from_secs(5)), lease })
    }

    fn is_routed(&self) -> bool {
        self.limits.is_some()
    }

    fn route(&self, _: &RequestView<'_>) -> Option<Routed<BoxedLease>> {
        let endpoints = Self {
            endpoints: self.endpoints.clone(),
            in_flight: Arc::clone(&self.in_flight),
            over: Arc::clone(&self.over),
            ..Self::default()
        };
        let name = RouteName { route: "route".into(), rule: "0".into(), backend: None };
        Some(Routed::To(Box::new(RouteTo {
            name: Arc::new(name),
            endpoints: Arc::new(endpoints),
            request: RequestEdits::default(),
            response: Arc::default(),
            plan: self.limits.map(|limits| Box::new(Plan::new(limits, None))),
        })))
    }
}

impl Requests for Turns {
    fn is_used(&self, address: SocketAddr) -> bool {
        !self.unused.lock().unwrap().contains(&address)
    }

    fn is_current(&self) -> bool {
        true
    }

    fn connected(&self, _: SocketAddr) -> Option<Counted> {
        None
    }

    fn shares(&self) {}
}

impl Lease for Turn {
    fn over(&mut self, exchange: &Exchange) {
        self.over.lock().unwrap().push((self.address, exchange.status));
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.in_flight.fetch_sub(1, Relaxed);
    }
}

impl Connect for Loopback {
    fn connect(&self, to: SocketAddr, _: Option<Duration>) -> Connecting<'_> {
        Box::pin(async move {
            let stream = TcpStream::connect(to).await?;
            let descriptor = Some(self.0.occupy(Resource::Descriptors, 1));
            Ok(Connected { stream, descriptor })
        })
    }
}

impl Server {
    async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let accepted = Arc::<AtomicUsize>::default();
        let count = Arc::clone(&accepted);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Relaxed);
                tokio::spawn(answer(stream, address));
            }
        });
        Self { address, accepted, _task: task }
    }
}

/// `/size` gives so many bytes; the body of a request is read first. `/wait` is not answered.
async fn answer(stream: TcpStream, address: SocketAddr) {
    let Ok(mut connection) = server::handshake(stream).await else { return };
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        tokio::spawn(async move {
            let size = request.uri().path().trim_start_matches('/').parse().unwrap_or(0);
            if request.uri().path() == "/wait" {
                return std::future::pending().await;
            }
            let mut body = request.into_body();
            let mut received = 0;
            while let Some(Ok(part)) = body.data().await {
                received += part.len();
                let _ = body.flow_control().release_capacity(part.len());
            }
            let head = Response::builder()
                .header("x-from", address.to_string())
                .header("x-received", received)
                .body(())
                .unwrap();
            let Ok(mut stream) = respond.send_response(head, size == 0) else { return };
            if size > 0 {
                let _ = stream.send_data(Bytes::from(vec![b'x'; size]), true);
            }
        });
    }
}

impl Scene {
    fn new(endpoints: &[&Server]) -> Self {
        Self::with(endpoints, None)
    }

    fn with(endpoints: &[&Server], limits: Option<TimeLimits>) -> Self {
        let budgets = Budgets::default();
        let share = budgets.share(&"shop".into());
        let endpoints = endpoints.iter().map(|it| it.address).collect();
        let turns = Arc::new(Turns { endpoints, limits, ..Turns::default() });
        let requests: Arc<dyn Requests> = Arc::<Turns>::clone(&turns);
        let connect = Arc::new(Loopback(share.clone()));
        let (drain, abort) = (Stop::new(), Stop::new());
        let stops = (drain.clone(), abort);
        let relay = Relay::new((requests, connect), Limits::default(), share.clone(), stops);
        Self { relay, turns, sink: Arc::default(), drain, share }
    }

    /// A client whose first connection was made to `first`.
    async fn client(&self, first: SocketAddr) -> (SendRequest<Bytes>, JoinHandle<EndCause>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let connecting = TcpStream::connect(listener.local_addr().unwrap());
        let (client, accepted) = tokio::join!(connecting, listener.accept());
        let (client, accepted) = (client.unwrap(), accepted.unwrap().0);
        let upstream = TcpStream::connect(first).await.unwrap();
        let relay = Arc::clone(&self.relay);
        let client_of = Client {
            stream: accepted,
            prefix: BytesMut::new(),
            has_ended: false,
            sink: Arc::<Recorder>::clone(&self.sink),
            counters: Arc::<ByteCounters>::default(),
        };
        let served =
            tokio::spawn(async move { relay.serve(client_of, (upstream, BytesMut::new())).await });
        let mut builder = h2::client::Builder::new();
        // With the usual one, a stream that is not read holds up the others by itself.
        builder.initial_connection_window_size(1 << 20);
        let (send, connection) = within(builder.handshake(client)).await.unwrap();
        tokio::spawn(connection);
        (send, served)
    }

    fn in_flight(&self) -> usize {
        self.turns.in_flight.load(Relaxed)
    }
}

fn get(path: &str) -> Request<()> {
    Request::get(format!("http://shop{path}")).body(()).unwrap()
}

async fn from(response: ResponseFuture) -> (String, RecvStream) {
    let response = within(response).await.unwrap();
    (response.headers()["x-from"].to_str().unwrap().to_owned(), response.into_body())
}

#[tokio::test]
async fn requests_of_one_connection_go_to_all_endpoints_and_clients_share_connections() {
    let servers = [Server::new().await, Server::new().await, Server::new().await];
    let scene = Scene::new(&servers.each_ref());
    let (mut one, _one) = scene.client(servers[0].address).await;
    let (mut other, _other) = scene.client(servers[0].address).await;
    let mut seen = HashSet::new();
    for _ in 0..3 {
        for client in [&mut one, &mut other] {
            let (response, _) = client.send_request(get("/"), true).unwrap();
            seen.insert(from(response).await.0);
        }
    }
    assert_eq!(seen.len(), 3);
    // The one that was dialled for the other client was not needed.
    let accepted = servers.each_ref().map(|it| it.accepted.load(Relaxed));
    assert_eq!(accepted, [2, 1, 1]);
    let exchanges = scene.sink.exchanges(6).await;
    assert!(exchanges.iter().all(|it| it.status == Some(200) && it.attempts == 1));
    let upstreams: HashSet<_> = exchanges.iter().map(|it| it.upstream.unwrap()).collect();
    assert_eq!(upstreams, servers.iter().map(|it| it.address).collect());
    assert_eq!((scene.in_flight(), scene.turns.over.lock().unwrap().len()), (0, 6));
}

#[tokio::test]
async fn a_request_goes_past_endpoints_that_refuse_and_is_answered_where_all_do() {
    let server = Server::new().await;
    let refusing = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap()
    };
    let mut scene = Scene::new(&[&server]);
    let endpoints = vec![refusing, server.address];
    scene.turns = Arc::new(Turns { endpoints, ..Turns::default() });
    let requests: Arc<dyn Requests> = Arc::<Turns>::clone(&scene.turns);
    let connect: Arc<dyn Connect> = Arc::new(Loopback(scene.share.clone()));
    let stops = (Stop::new(), Stop::new());
    scene.relay = Relay::new((requests, connect), Limits::default(), scene.share.clone(), stops);
    let (mut client, _served) = scene.client(server.address).await;
    for _ in 0..4 {
        let (response, _) = client.send_request(get("/"), true).unwrap();
        assert_eq!(from(response).await.0, server.address.to_string());
    }
    let exchanges = scene.sink.exchanges(4).await;
    assert!(exchanges.iter().all(|it| it.upstream == Some(server.address) && it.attempts == 1));
    assert_eq!(scene.in_flight(), 0);
}

#[tokio::test]
async fn large_bodies_pass_both_ways_and_a_slow_reader_holds_up_itself_only() {
    const LARGE: usize = 3 << 20;
    let server = Server::new().await;
    let scene = Scene::new(&[&server]);
    let (mut client, _served) = scene.client(server.address).await;
    let (slow, _) = client.send_request(get(&format!("/{LARGE}")), true).unwrap();
    let (_, mut slow) = from(slow).await;
    let request = Request::post("http://shop/").body(()).unwrap();
    let (response, mut up) = client.send_request(request, false).unwrap();
    up.send_data(Bytes::from(vec![b'y'; LARGE]), true).unwrap();
    let response = within(response).await.unwrap();
    assert_eq!(response.headers()["x-received"], LARGE.to_string().as_str());
    for _ in 0..20 {
        let (response, _) = client.send_request(get("/1000"), true).unwrap();
        let (_, mut body) = from(response).await;
        assert_eq!(within(body.data()).await.unwrap().unwrap().len(), 1000);
    }
    let mut read = 0;
    while let Some(part) = within(slow.data()).await {
        let part = part.unwrap();
        read += part.len();
        slow.flow_control().release_capacity(part.len()).unwrap();
    }
    assert_eq!(read, LARGE);
}

#[tokio::test]
async fn a_drain_lets_streams_end_and_then_closes_everything() {
    let server = Server::new().await;
    let scene = Scene::new(&[&server]);
    let (mut client, served) = scene.client(server.address).await;
    let request = Request::post("http://shop/").body(()).unwrap();
    let (response, mut up) = client.send_request(request, false).unwrap();
    scene.sink.started(1).await;
    scene.drain.cancel();
    // h2 opens no streams once it has read GOAWAY.
    within(async {
        while std::future::poll_fn(|cx| client.poll_ready(cx)).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    up.send_data(Bytes::from_static(b"late"), true).unwrap();
    assert_eq!(within(response).await.unwrap().headers()["x-received"], "4");
    assert_eq!(within(served).await.unwrap(), EndCause::Drained);
    within(async {
        while scene.relay.lock().core.address(0).is_some() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_client_that_is_gone_leaves_nothing_behind() {
    let server = Server::new().await;
    let scene = Scene::new(&[&server]);
    let (mut client, served) = scene.client(server.address).await;
    let request = Request::post("http://shop/").body(()).unwrap();
    let (response, up) = client.send_request(request, false).unwrap();
    scene.sink.started(1).await;
    assert_eq!(scene.in_flight(), 1);
    served.abort();
    let _ = served.await;
    drop((response, up, client));
    let exchanges = scene.sink.exchanges(1).await;
    assert_eq!(exchanges[0].end, ExchangeEnd::Cancelled);
    assert_eq!((scene.in_flight(), scene.relay.lock().core.clients()), (0, 0));
    assert!(scene.relay.lock().core.is_idle(PeerId::Upstream(0)));
}

#[tokio::test]
async fn a_client_that_speaks_nonsense_is_told_and_recorded() {
    let server = Server::new().await;
    let scene = Scene::new(&[&server]);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let connecting = TcpStream::connect(listener.local_addr().unwrap());
    let (client, accepted) = tokio::join!(connecting, listener.accept());
    let client_of = Client {
        stream: accepted.unwrap().0,
        prefix: BytesMut::from(&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nnonsense, and more of it"[..]),
        has_ended: false,
        sink: Arc::<Recorder>::clone(&scene.sink),
        counters: Arc::default(),
    };
    let upstream = TcpStream::connect(server.address).await.unwrap();
    let relay = Arc::clone(&scene.relay);
    let served =
        tokio::spawn(async move { relay.serve(client_of, (upstream, BytesMut::new())).await });
    let mut said = Vec::new();
    let mut client = client.unwrap();
    within(tokio::io::AsyncReadExt::read_to_end(&mut client, &mut said)).await.unwrap();
    let reason: &[u8] = b"HTTP/2 does not start with SETTINGS";
    assert!(said.ends_with(reason), "{said:?}");
    drop(client);
    let text = String::from_utf8(reason.to_vec()).unwrap();
    assert_eq!(within(served).await.unwrap(), EndCause::Protocol { side: Side::Client, text });
}

#[tokio::test]
async fn a_connection_to_an_endpoint_that_is_not_used_any_more_is_closed_behind_its_streams() {
    let servers = [Server::new().await, Server::new().await];
    let scene = Scene::new(&servers.each_ref());
    let (mut client, _served) = scene.client(servers[0].address).await;
    let request = Request::post("http://shop/").body(()).unwrap();
    let (response, mut up) = client.send_request(request, false).unwrap();
    scene.sink.started(1).await;
    scene.turns.unused.lock().unwrap().insert(servers[0].address);
    scene.relay.look_after(0, Duration::ZERO);
    assert!(scene.relay.lock().core.address(0).is_some());
    up.send_data(Bytes::new(), true).unwrap();
    within(response).await.unwrap();
    within(async {
        while scene.relay.lock().core.address(0).is_some() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// Nothing is left of what a connection to an endpoint has taken.
#[tokio::test]
async fn descriptors_are_given_back_when_everything_ends() {
    let servers = [Server::new().await, Server::new().await];
    let scene = Scene::new(&servers.each_ref());
    let (mut client, served) = scene.client(servers[0].address).await;
    for _ in 0..4 {
        let (response, _) = client.send_request(get("/"), true).unwrap();
        let _body = from(response).await;
    }
    assert_eq!(scene.share.used(Resource::Descriptors), 1, "the other was made for the client");
    drop(client);
    assert_eq!(within(served).await.unwrap(), EndCause::Closed(Side::Client));
    scene.relay.abort.cancel();
    within(async {
        while scene.share.used(Resource::Descriptors) > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}
