//! The relay between a client and a server of the h2 crate: calls have the same results as without it.

use std::cell::RefCell;
use std::rc::Rc;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex, split};
use tokio::sync::Notify;
use tokio::task::{LocalSet, spawn_local};

use super::world::{Record, Relay, Scripted, address};
use super::{ExchangeEnd, Limits, PeerId};

/// What a socket holds on its way.
const SOCKET: usize = 4096;

/// Sockets of a relay.
#[derive(Clone)]
struct Sockets {
    relay: Rc<RefCell<Relay>>,
    /// Something was read or written.
    moved: Rc<Notify>,
    record: std::sync::Arc<Record>,
}

/// What has become of a call.
#[derive(Debug, PartialEq)]
enum Outcome {
    Done { head: String, content: Vec<u8>, trailers: Option<HeaderMap> },
    Reset(Option<Reason>),
}

// === impl Sockets ===

impl Sockets {
    fn new() -> Self {
        let scripted = Scripted::default();
        scripted.set(&[address(0)]);
        let relay = Rc::new(RefCell::new(Relay::new(scripted, Limits::default())));
        Self { relay, moved: Rc::default(), record: std::sync::Arc::default() }
    }

    fn add_client(&self) -> DuplexStream {
        let id = self.relay.borrow_mut().add_client(std::sync::Arc::clone(&self.record));
        self.serve(PeerId::Client(id))
    }

    fn add_upstream(&self) -> DuplexStream {
        let id = self.relay.borrow_mut().add_upstream(address(0));
        self.serve(PeerId::Upstream(id))
    }

    /// Reads and writes; the other end is the peer's.
    fn serve(&self, which: PeerId) -> DuplexStream {
        let (mine, its) = duplex(SOCKET);
        let (mut reader, mut writer) = split(mine);
        let (relay, moved) = (Rc::clone(&self.relay), Rc::clone(&self.moved));
        spawn_local(async move {
            let mut bytes = [0; 3000];
            while let Ok(count @ 1..) = reader.read(&mut bytes).await {
                relay.borrow_mut().read(which, &bytes[..count]);
                moved.notify_waiters();
            }
        });
        let (relay, moved) = (Rc::clone(&self.relay), Rc::clone(&self.moved));
        spawn_local(async move {
            loop {
                let output = relay.borrow().output(which).to_vec();
                if output.is_empty() {
                    moved.notified().await;
                    continue;
                }
                let Ok(count) = writer.write(&output).await else { return };
                relay.borrow_mut().written(which, count);
                moved.notify_waiters();
            }
        });
        its
    }
}

// === the server ===

/// Answers as paths say.
async fn serve(socket: DuplexStream) {
    let mut builder = h2::server::Builder::new();
    builder.initial_window_size(10_000).max_concurrent_streams(50);
    let mut connection = builder.handshake::<_, Bytes>(socket).await.expect("a handshake");
    while let Some(Ok((request, respond))) = connection.accept().await {
        spawn_local(answer(request, respond));
    }
}

async fn answer(request: Request<RecvStream>, mut respond: h2::server::SendResponse<Bytes>) {
    let path = request.uri().path().to_owned();
    let mut content = request.into_body();
    let head = Response::builder().header("x-path", &path).body(()).expect("a response");
    match path.as_str() {
        "/echo" => {
            let mut stream = respond.send_response(head, false).expect("sent");
            while let Some(Ok(bytes)) = content.data().await {
                let _ = content.flow_control().release_capacity(bytes.len());
                if send(&mut stream, bytes).await.is_none() {
                    return;
                }
            }
            match content.trailers().await.ok().flatten() {
                Some(trailers) => stream.send_trailers(trailers).expect("sent"),
                None => stream.send_data(Bytes::new(), true).expect("sent"),
            }
        }
        "/length" => {
            let (content, _) = collect(content).await.expect("content");
            let head = Response::builder().header("x-length", content.len()).body(());
            respond.send_response(head.expect("a response"), true).expect("sent");
        }
        "/refused" => respond.send_reset(Reason::REFUSED_STREAM),
        "/torn" => {
            let mut stream = respond.send_response(head, false).expect("sent");
            stream.send_reset(Reason::ENHANCE_YOUR_CALM);
        }
        "/cancelled" => {
            let mut stream = respond.send_response(head, false).expect("sent");
            let reason = std::future::poll_fn(|cx| stream.poll_reset(cx)).await;
            assert_eq!(reason.expect("a reset"), Reason::CANCEL);
            CANCELLED.with_borrow_mut(|count| *count += 1);
        }
        _ => unreachable!("{path}"),
    }
}

thread_local! {
    static CANCELLED: RefCell<usize> = const { RefCell::new(0) };
}

// === the client ===

/// A call with content in pieces, and trailers if there is more than one.
async fn call(client: SendRequest<Bytes>, path: &str, pieces: &[usize]) -> Outcome {
    match try_call(client, path, pieces).await {
        Ok(outcome) => outcome,
        Err(error) => Outcome::Reset(error.reason()),
    }
}

async fn begin(
    client: SendRequest<Bytes>,
    path: &str,
) -> Result<(ResponseFuture, SendStream<Bytes>), h2::Error> {
    let uri = format!("http://shop{path}");
    let request = Request::post(uri).header("x-sent", "1").body(()).expect("a request");
    client.ready().await?.send_request(request, false)
}

async fn try_call(
    client: SendRequest<Bytes>,
    path: &str,
    pieces: &[usize],
) -> Result<Outcome, h2::Error> {
    let (response, mut stream) = begin(client, path).await?;
    let sizes = pieces.to_vec();
    let sending = spawn_local(async move {
        for (number, size) in sizes.iter().enumerate() {
            send(&mut stream, Bytes::from(vec![number as u8; *size])).await?;
        }
        let mut trailers = HeaderMap::new();
        trailers.insert("x-pieces", sizes.len().into());
        match sizes.len() {
            0 | 1 => stream.send_data(Bytes::new(), true).ok(),
            _ => stream.send_trailers(trailers).ok(),
        }
    });
    let (head, content) = response.await?.into_parts();
    let (content, trailers) = collect(content).await?;
    sending.await.expect("a task");
    let head = format!("{} {:?}", head.status, head.headers);
    Ok(Outcome::Done { head, content, trailers })
}

async fn collect(mut stream: RecvStream) -> Result<(Vec<u8>, Option<HeaderMap>), h2::Error> {
    let mut content = Vec::new();
    while let Some(bytes) = stream.data().await {
        let bytes = bytes?;
        stream.flow_control().release_capacity(bytes.len())?;
        content.extend_from_slice(&bytes);
    }
    Ok((content, stream.trailers().await?))
}

/// Sends as the window allows; `None` if the stream is no more.
async fn send(stream: &mut SendStream<Bytes>, mut bytes: Bytes) -> Option<()> {
    while !bytes.is_empty() {
        stream.reserve_capacity(bytes.len());
        let allowed = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await?.ok()?;
        stream.send_data(bytes.split_to(allowed.min(bytes.len())), false).ok()?;
    }
    Some(())
}

async fn connect(socket: DuplexStream) -> SendRequest<Bytes> {
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(7000).initial_connection_window_size(100_000);
    let (client, connection) = builder.handshake(socket).await.expect("a handshake");
    spawn_local(async move { connection.await.expect("an end in order") });
    client
}

/// The same calls, at one time.
async fn calls(client: SendRequest<Bytes>) -> Vec<Outcome> {
    let plans: [(&str, &[usize]); 9] = [
        ("/echo", &[]),
        ("/echo", &[1]),
        ("/echo", &[300_000]),
        ("/echo", &[1, 20_000, 5, 100_000]),
        ("/length", &[]),
        ("/length", &[250_000, 1]),
        ("/refused", &[]),
        ("/torn", &[]),
        ("/echo", &[16_384, 16_384]),
    ];
    let tasks = plans.map(|(path, pieces)| {
        let client = client.clone();
        spawn_local(async move { call(client, path, pieces).await })
    });
    let mut outcomes = Vec::new();
    for task in tasks {
        outcomes.push(task.await.expect("a task"));
    }
    outcomes
}

fn run(test: impl Future<Output = ()> + 'static) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    LocalSet::new().block_on(&runtime, test);
}

#[test]
fn calls_have_the_same_results_as_without_the_relay() {
    run(async {
        let (near, far) = duplex(SOCKET);
        spawn_local(serve(far));
        let direct = calls(connect(near).await).await;
        assert!(matches!(direct[0], Outcome::Done { .. }), "{direct:?}");
        assert_eq!(direct[6], Outcome::Reset(Some(Reason::REFUSED_STREAM)));

        let sockets = Sockets::new();
        spawn_local(serve(sockets.add_upstream()));
        let clients = [connect(sockets.add_client()).await, connect(sockets.add_client()).await];
        let tasks = clients.map(|client| spawn_local(calls(client)));
        for task in tasks {
            let relayed = task.await.expect("a task");
            for (relayed, direct) in relayed.iter().zip(&direct) {
                assert!(relayed == direct, "{relayed:?}\n{direct:?}");
            }
        }
        let reports = sockets.record.exchanges.lock().unwrap();
        let complete = reports.iter().filter(|it| it.end == ExchangeEnd::Complete).count();
        assert_eq!((reports.len(), complete), (18, 14));
    });
}

#[test]
fn many_calls_pass_one_after_the_other_and_together() {
    run(async {
        let sockets = Sockets::new();
        spawn_local(serve(sockets.add_upstream()));
        let client = connect(sockets.add_client()).await;
        for _ in 0..20 {
            let tasks = [0; 40].map(|_| {
                let client = client.clone();
                spawn_local(async move { call(client, "/echo", &[100, 3000]).await })
            });
            for task in tasks {
                let outcome = task.await.expect("a task");
                let Outcome::Done { content, .. } = outcome else { panic!("{outcome:?}") };
                assert_eq!(content.len(), 3100);
            }
        }
        assert_eq!(sockets.record.exchanges.lock().unwrap().len(), 800);
    });
}

#[test]
fn a_call_that_is_cancelled_is_cancelled_at_the_server() {
    run(async {
        let sockets = Sockets::new();
        spawn_local(serve(sockets.add_upstream()));
        let client = connect(sockets.add_client()).await;
        let (response, mut stream) = begin(client.clone(), "/cancelled").await.expect("a call");
        let head = response.await.expect("a response");
        stream.send_reset(Reason::CANCEL);
        drop(head);
        while CANCELLED.with_borrow(|count| *count == 0) {
            tokio::task::yield_now().await;
        }
        let end = sockets.record.exchanges.lock().unwrap().pop().expect("a report").end;
        assert_eq!(end, ExchangeEnd::ClientReset(Some(8)));
        // The connections go on.
        let outcome = call(client, "/length", &[5]).await;
        assert!(matches!(outcome, Outcome::Done { .. }));
    });
}
