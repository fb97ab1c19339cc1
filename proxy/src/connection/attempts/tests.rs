//! Connections with several endpoints, accepted first and held.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use socket2::{Domain, Socket, Type};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::*;
use crate::{
    budget::Resource,
    connection::{
        Held,
        tests::{Deaf, captured, client, context},
    },
    decision::Direction,
    upstream::Upstream,
};

/// What a selection was told.
#[derive(Debug, PartialEq, Eq)]
enum Heard {
    /// An address, and the errno.
    Attempt(SocketAddr, Option<i32>),
    /// The upstream, and the reason's name.
    Closed(Option<SocketAddr>, &'static str),
}

/// The same endpoints for all connections.
#[derive(Clone, Default)]
struct Endpoints {
    all: Vec<Endpoint>,
    heard: Arc<Mutex<Vec<Heard>>>,
    in_flight: Arc<AtomicUsize>,
}

struct OneConnection {
    left: std::vec::IntoIter<Endpoint>,
    heard: Arc<Mutex<Vec<Heard>>>,
    in_flight: Arc<AtomicUsize>,
}

/// What connect(2) has come to, if it has: the source address that was told, or an errno.
type Connected = Option<Result<Option<IpAddr>, i32>>;

/// An application in connect(2).
struct Waiting {
    accepted: std::net::TcpStream,
    outcome: Arc<Mutex<Connected>>,
}

impl Endpoints {
    fn of(all: impl IntoIterator<Item = SocketAddr>) -> Self {
        Self { all: all.into_iter().map(Endpoint::from).collect(), ..Self::default() }
    }

    fn heard(&self) -> Vec<Heard> {
        std::mem::take(&mut self.heard.lock().unwrap())
    }
}

impl Upstream for Endpoints {
    fn select(&self, target: &Target) -> Option<Box<dyn Selection>> {
        assert_eq!(target.direction, Direction::Outbound);
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        Some(Box::new(OneConnection {
            left: self.all.clone().into_iter(),
            heard: Arc::clone(&self.heard),
            in_flight: Arc::clone(&self.in_flight),
        }))
    }
}

impl Selection for OneConnection {
    fn next(&mut self) -> Option<Endpoint> {
        self.left.next()
    }

    fn attempted(&mut self, attempt: &Attempt<'_>) {
        let errno = attempt.result.err().map(|error| error.raw_os_error().unwrap());
        self.heard.lock().unwrap().push(Heard::Attempt(attempt.address, errno));
    }

    fn closed(&mut self, outcome: &Outcome<'_>) {
        self.heard.lock().unwrap().push(Heard::Closed(outcome.upstream, outcome.reason.name()));
    }
}

impl Drop for OneConnection {
    fn drop(&mut self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Held for Waiting {
    async fn gone(&self) {
        std::future::pending::<()>().await;
    }

    async fn admit(self, source: Option<IpAddr>) -> Option<std::net::TcpStream> {
        *self.outcome.lock().unwrap() = Some(Ok(source));
        Some(self.accepted)
    }

    fn refuse(self, errno: i32) {
        *self.outcome.lock().unwrap() = Some(Err(errno));
    }
}

/// A server that answers with its own address, and the address.
async fn server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            stream.write_all(address.to_string().as_bytes()).await.unwrap();
        }
    });
    address
}

/// An address without a listener.
fn refusing() -> (Socket, SocketAddr) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    (socket, address)
}

/// Serves a connection to `destination` that is accepted first; what the client has read.
async fn serve(context: Context, destination: SocketAddr) -> String {
    let (mut client, accepted, peer) = client().await;
    let context = Arc::new(context);
    let served = tokio::spawn(async move {
        let dialling = context.share.occupy(Resource::Dialling, 1);
        let captured = Some(captured(Direction::Outbound, destination));
        context.serve(accepted, peer, captured, dialling).await;
    });
    let mut answer = String::new();
    let _ = client.read_to_string(&mut answer).await;
    drop(client);
    served.await.unwrap();
    answer
}

/// The same for one whose SYN is held; with what its connect(2) has come to.
async fn serve_held(context: Context, destination: SocketAddr) -> (String, Connected) {
    let (mut client, accepted, peer) = client().await;
    let context = Arc::new(context);
    let outcome = Arc::<Mutex<Connected>>::default();
    let held = Waiting { accepted, outcome: Arc::clone(&outcome) };
    let dialling = context.share.occupy(Resource::Dialling, 1);
    let captured = captured(Direction::Outbound, destination);
    let read = async move {
        let mut answer = String::new();
        let _ = client.read_to_string(&mut answer).await;
        answer
    };
    let ((), answer) = tokio::join!(context.serve_held(held, peer, captured, dialling), read);
    let outcome = outcome.lock().unwrap().take();
    (answer, outcome)
}

#[tokio::test]
async fn endpoints_are_dialled_in_turn_until_one_answers() {
    let (_reserved, refuses) = refusing();
    let (loops, answers, destination) =
        ("127.64.0.1:9".parse().unwrap(), server().await, server().await);
    let endpoints = Endpoints::of([loops, refuses, answers, destination]);
    let mut context = context(&Arc::default());
    context.own.extend(["0.0.0.0:9".parse().unwrap()]);
    context.upstream = Arc::new(endpoints.clone());
    assert_eq!(serve(context, destination).await, answers.to_string());
    let heard = [
        Heard::Attempt(loops, Some(libc::ELOOP)),
        Heard::Attempt(refuses, Some(libc::ECONNREFUSED)),
        Heard::Attempt(answers, None),
        Heard::Closed(Some(answers), "finished"),
    ];
    assert_eq!(endpoints.heard(), heard);
    assert_eq!(endpoints.in_flight.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn the_original_destination_is_the_last_endpoint_and_its_error_the_clients() {
    let (_reserved, refuses) = refusing();
    let (_another, destination) = refusing();
    for (destination, errno) in [(server().await, None), (destination, Some(libc::ECONNREFUSED))] {
        let endpoints = Endpoints::of([refuses]);
        let feedback = Arc::default();
        let mut context = context(&feedback);
        context.upstream = Arc::new(endpoints.clone());
        let answer = serve(context, destination).await;
        let upstream = errno.is_none().then_some(destination);
        assert_eq!(answer, upstream.map(|it| it.to_string()).unwrap_or_default());
        let end = if errno.is_none() { "finished" } else { "connect_failed" };
        let heard = [
            Heard::Attempt(refuses, Some(libc::ECONNREFUSED)),
            Heard::Attempt(destination, errno),
            Heard::Closed(upstream, end),
        ];
        assert_eq!(endpoints.heard(), heard);
        assert_eq!(endpoints.in_flight.load(Ordering::Relaxed), 0);
        let unreachable = feedback.unreachable.lock().unwrap();
        assert_eq!(unreachable.len(), usize::from(errno.is_some()), "told once, of the last");
    }
}

/// The accept queue is full: the kernel drops the SYN.
#[tokio::test]
async fn a_silent_endpoint_takes_no_more_than_its_own_time() {
    let (silent, address) = refusing();
    silent.listen(0).unwrap();
    let _queued = std::net::TcpStream::connect(address).unwrap();
    let destination = server().await;
    let endpoint = Endpoint { address, connect_timeout: Some(Duration::from_millis(20)) };
    let endpoints = Endpoints { all: vec![endpoint], ..Endpoints::default() };
    let mut context = context(&Arc::default());
    context.upstream = Arc::new(endpoints.clone());
    assert_eq!(serve(context, destination).await, destination.to_string());
    assert_eq!(endpoints.heard()[0], Heard::Attempt(address, Some(libc::ETIMEDOUT)));
}

#[tokio::test]
async fn a_held_connection_waits_while_endpoints_are_dialled() {
    let (_reserved, refuses) = refusing();
    let (answers, destination) = (server().await, server().await);
    let endpoints = Endpoints::of([refuses, answers]);
    let upstream = |endpoints| {
        let mut context = context(&Arc::default());
        context.upstream = Arc::new(endpoints);
        context
    };
    let (answer, outcome) = serve_held(upstream(endpoints.clone()), destination).await;
    assert_eq!(answer, answers.to_string());
    assert_eq!(outcome, Some(Ok(Some(Ipv4Addr::LOCALHOST.into()))), "the upstream's own address");
    assert_eq!(endpoints.heard().last(), Some(&Heard::Closed(Some(answers), "finished")));

    let context = upstream(Endpoints::of([refuses]));
    let (answer, outcome) = serve_held(context, refuses).await;
    assert_eq!((&*answer, outcome), ("", Some(Err(libc::ECONNREFUSED))));
}

/// An application that has connected over IPv4 is not told an IPv6 address.
#[tokio::test]
async fn a_source_of_the_other_family_is_not_told() {
    let listener = TcpListener::bind("[::1]:0").await.unwrap();
    let endpoints = Endpoints::of([listener.local_addr().unwrap()]);
    tokio::spawn(async move { while listener.accept().await.is_ok() {} });
    let mut context = context(&Arc::default());
    context.upstream = Arc::new(endpoints);
    let (_, outcome) = serve_held(context, server().await).await;
    assert_eq!(outcome, Some(Ok(None)));
}

#[tokio::test]
async fn no_endpoint_is_to_blame_where_descriptors_are_missing() {
    let (_reserved, refuses) = refusing();
    let endpoints = Endpoints::of([refuses, server().await]);
    let feedback: Arc<Deaf> = Arc::default();
    feedback.exhausted.store(true, Ordering::Relaxed);
    let mut context = context(&feedback);
    context.upstream = Arc::new(endpoints.clone());
    let (_, outcome) = serve_held(context, server().await).await;
    assert_eq!(outcome, None, "the kernel asks again");
    assert_eq!(endpoints.heard(), [Heard::Closed(None, "connect_failed")]);
}
