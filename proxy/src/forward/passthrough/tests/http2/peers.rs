//! h2 as both peers: what the observer reports is what they did, in whatever pieces and order the
//! bytes pass by.

use std::future::poll_fn;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, HeaderValue, Request, Response};
use proptest::collection::vec;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::*;
use crate::forward::http_testing::within;

const METHODS: [&str; 4] = ["GET", "POST", "DELETE", "BREW"];

/// One exchange, as both peers carry it out.
#[derive(Clone, Debug)]
struct Call {
    method: &'static str,
    path: String,
    grpc: bool,
    /// Lengths of further values in the request's head and in the response's.
    values: Vec<usize>,
    up: Vec<usize>,
    request_trailers: bool,
    answer: Answer,
}

#[derive(Clone, Debug)]
enum Answer {
    Response {
        interim: bool,
        status: u16,
        down: Vec<usize>,
        grpc_status: Option<u32>,
    },
    /// Instead of a response.
    UpstreamReset(u32),
    /// Once the response's head is there.
    ClientReset(u32),
}

#[derive(Clone, Debug)]
struct Session {
    calls: Vec<Call>,
    /// SETTINGS_HEADER_TABLE_SIZE of client and upstream.
    tables: [u32; 2],
    seed: u64,
}

fn session() -> impl Strategy<Value = Session> {
    let table = || prop::sample::select(vec![0, 100, 4096, 65_536]);
    (vec(call(), 1..12), table(), table(), any::<u64>()).prop_map(
        |(calls, client, upstream, seed)| Session { calls, tables: [client, upstream], seed },
    )
}

fn call() -> impl Strategy<Value = Call> {
    // Some come again and again, more of them than fit into a table of 4096 bytes.
    let again = || prop::sample::select(vec![30, 700, 1500, 2500]);
    let value = || prop_oneof![2 => 0_usize..60, 8 => again(), 1 => 4000_usize..30_000];
    let body = || vec(prop_oneof![4 => 0_usize..50, 1 => 0_usize..40_000], 0..4);
    let response = (any::<bool>(), 200_u16..600, body(), prop::option::of(0_u32..17)).prop_map(
        |(interim, status, down, grpc_status)| Answer::Response {
            interim,
            status,
            down,
            grpc_status,
        },
    );
    let answer = prop_oneof![
        6 => response,
        1 => any::<u32>().prop_map(Answer::UpstreamReset),
        1 => any::<u32>().prop_map(Answer::ClientReset),
    ];
    let method = prop::sample::select(METHODS.to_vec());
    let flags = (any::<bool>(), any::<bool>());
    (method, "[a-zA-Z0-9~!$+_/-]{0,20}", flags, vec(value(), 0..6), body(), answer).prop_map(
        |(method, path, (grpc, request_trailers), values, up, answer)| {
            let up = if matches!(answer, Answer::Response { .. }) { up } else { Vec::new() };
            Call { method, path, grpc, values, up, request_trailers, answer }
        },
    )
}

impl Call {
    fn request(&self, at: usize) -> Request<()> {
        let uri = format!("http://a{}.example/{at}/{}?query=1", at % 3, self.path);
        let mut request = Request::builder().method(self.method).uri(uri).body(()).unwrap();
        self.fill(request.headers_mut());
        request
    }

    fn response(&self, status: u16) -> Response<()> {
        let mut response = Response::builder().status(status).body(()).unwrap();
        self.fill(response.headers_mut());
        response
    }

    fn fill(&self, headers: &mut HeaderMap) {
        if self.grpc {
            headers.insert("content-type", HeaderValue::from_static("application/grpc"));
        }
        for (at, length) in self.values.iter().enumerate() {
            // Every byte that a value may have, so that their Huffman codes come up.
            let value: Vec<u8> =
                (0..*length).map(|n| (n * 7 + at) as u8).map(|b| b.max(b' ')).collect();
            let value: Vec<u8> = value.iter().map(|b| if *b == 127 { b'~' } else { *b }).collect();
            headers.append(["x-a", "x-b", "x-c"][at % 3], HeaderValue::from_bytes(&value).unwrap());
        }
    }

    /// What is to be reported.
    fn line(&self, at: usize) -> String {
        let up: usize = self.up.iter().sum();
        let (status, sizes, grpc_status, end) = match &self.answer {
            Answer::Response { status, down, grpc_status, .. } => {
                let down: usize = down.iter().sum();
                (status.to_string(), format!("{up}/{down}"), *grpc_status, ExchangeEnd::Complete)
            }
            Answer::UpstreamReset(code) => {
                ("-".into(), "0/0".into(), None, ExchangeEnd::UpstreamReset(Some(*code)))
            }
            Answer::ClientReset(code) => {
                ("200".into(), "0/0".into(), None, ExchangeEnd::ClientReset(Some(*code)))
            }
        };
        let grpc = match (self.grpc, grpc_status) {
            (false, None) => String::new(),
            (grpc, status) => format!(" grpc {grpc} {status:?}"),
        };
        let (method, path) = (self.method, &self.path);
        format!("{method} a{}.example /{at}/{path} {status}{grpc} {sizes} {end:?}", at % 3)
    }
}

/// Sends a body of such frames, and trailers or the end of the stream.
async fn send(to: &mut SendStream<Bytes>, sizes: &[usize], trailers: Option<HeaderMap>) {
    for size in sizes {
        let mut rest = Bytes::from(vec![0; *size]);
        while !rest.is_empty() {
            to.reserve_capacity(rest.len());
            while to.capacity() == 0 {
                poll_fn(|cx| to.poll_capacity(cx)).await.unwrap().unwrap();
            }
            let piece = rest.split_to(to.capacity().min(rest.len()));
            to.send_data(piece, false).unwrap();
        }
    }
    match trailers {
        Some(trailers) => to.send_trailers(trailers).unwrap(),
        None => to.send_data(Bytes::new(), true).unwrap(),
    }
}

/// How much came, to the end.
async fn receive(from: &mut RecvStream) -> usize {
    let mut size = 0;
    while let Some(piece) = from.data().await {
        let piece = piece.unwrap();
        size += piece.len();
        from.flow_control().release_capacity(piece.len()).unwrap();
    }
    from.trailers().await.unwrap();
    size
}

async fn ask(client: h2::client::SendRequest<Bytes>, at: usize, call: Call) {
    let mut client = client.ready().await.unwrap();
    let answered = matches!(call.answer, Answer::Response { .. });
    let ended = answered && call.up.is_empty() && !call.request_trailers;
    let (response, mut up) = client.send_request(call.request(at), ended).unwrap();
    let trailers = call
        .request_trailers
        .then(|| HeaderMap::from_iter([("x-t".parse().unwrap(), HeaderValue::from_static("t"))]));
    match call.answer {
        Answer::Response { status, down, .. } => {
            let send = async {
                if !ended {
                    send(&mut up, &call.up, trailers).await;
                }
            };
            let receive = async {
                let response = response.await.unwrap();
                assert_eq!(response.status(), status);
                assert_eq!(receive(&mut response.into_body()).await, down.iter().sum::<usize>());
            };
            tokio::join!(send, receive);
        }
        Answer::UpstreamReset(code) => {
            assert_eq!(response.await.unwrap_err().reason(), Some(Reason::from(code)));
        }
        Answer::ClientReset(code) => {
            let _response = response.await.unwrap();
            up.send_reset(Reason::from(code));
        }
    }
}

async fn answer(request: Request<RecvStream>, mut respond: SendResponse<Bytes>, call: Call) {
    match &call.answer {
        Answer::Response { interim, status, down, grpc_status } => {
            if *interim {
                respond.send_informational(call.response(103)).unwrap();
            }
            let trailers = grpc_status.map(|status| {
                HeaderMap::from_iter([("grpc-status".parse().unwrap(), HeaderValue::from(status))])
            });
            let ended = down.is_empty() && trailers.is_none();
            let mut to = respond.send_response(call.response(*status), ended).unwrap();
            let send = async {
                if !ended {
                    send(&mut to, down, trailers).await;
                }
            };
            let mut body = request.into_body();
            let ((), received) = tokio::join!(send, receive(&mut body));
            assert_eq!(received, call.up.iter().sum::<usize>());
        }
        Answer::UpstreamReset(code) => respond.send_reset(Reason::from(*code)),
        Answer::ClientReset(code) => {
            let mut to = respond.send_response(call.response(200), false).unwrap();
            assert_eq!(poll_fn(|cx| to.poll_reset(cx)).await.unwrap(), Reason::from(*code));
        }
    }
}

async fn serve(io: DuplexStream, session: Session) {
    let mut builder = h2::server::Builder::new();
    builder.header_table_size(session.tables[1]).max_concurrent_streams(5);
    let mut connection = builder.handshake::<_, Bytes>(io).await.unwrap();
    while let Some(accepted) = connection.accept().await {
        let (request, respond) = accepted.unwrap();
        let at: usize = request.uri().path().split('/').nth(1).unwrap().parse().unwrap();
        let call = session.calls[at].clone();
        assert_eq!(request.method(), call.method);
        tokio::spawn(answer(request, respond, call));
    }
}

async fn request_all(io: DuplexStream, session: Session) {
    let mut builder = h2::client::Builder::new();
    builder.header_table_size(session.tables[0]).initial_max_send_streams(5);
    let (client, connection) = builder.handshake(io).await.unwrap();
    let connection = tokio::spawn(connection);
    let calls = session.calls.into_iter().enumerate();
    let asked: Vec<_> =
        calls.map(|(at, call)| tokio::spawn(ask(client.clone(), at, call))).collect();
    drop(client);
    for call in asked {
        call.await.unwrap();
    }
    connection.await.unwrap().unwrap();
}

/// Passes bytes on in pieces of any size, after the observer has seen them. Returns the pieces.
async fn relay(
    client: DuplexStream,
    upstream: DuplexStream,
    watched: &mut Watched,
    seed: u64,
) -> Script {
    let mut random = fastrand::Rng::with_seed(seed);
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (mut from_upstream, mut to_upstream) = tokio::io::split(upstream);
    let (mut seen, mut open) = (Script::new(), [true; 2]);
    let mut rooms = [vec![0; 70_000], vec![0; 70_000]];
    while open != [false; 2] {
        let [client_room, upstream_room] = &mut rooms;
        let mut room = || 1 << random.u32(0..17);
        let (client_room, upstream_room) =
            (&mut client_room[..room()], &mut upstream_room[..room()]);
        let (from, count) = tokio::select! {
            count = from_client.read(client_room), if open[0] => (Side::Client, count.unwrap()),
            count = from_upstream.read(upstream_room), if open[1] => {
                (Side::Upstream, count.unwrap())
            }
        };
        let (piece, to, open) = match from {
            Side::Client => (&client_room[..count], &mut to_upstream, &mut open[0]),
            Side::Upstream => (&upstream_room[..count], &mut to_client, &mut open[1]),
        };
        if piece.is_empty() {
            *open = false;
            watched.observer.ended(from);
            // The other side may have closed already.
            let _ = to.shutdown().await;
            continue;
        }
        watched.observer.bytes(from, piece);
        seen.push((from, piece.to_vec()));
        let _ = to.write_all(piece).await;
    }
    seen
}

/// What is reported while the peers carry the session out, and the bytes that passed.
async fn carry_out(session: Session) -> (Vec<String>, Script) {
    let (client, weir_client) = duplex(1 << 20);
    let (upstream, weir_upstream) = duplex(1 << 20);
    let mut watched = Watched::new();
    let seed = session.seed;
    let server = tokio::spawn(serve(upstream, session.clone()));
    let asking = tokio::spawn(request_all(client, session));
    let script = within(relay(weir_client, weir_upstream, &mut watched, seed)).await;
    asking.await.unwrap();
    server.await.unwrap();
    assert_eq!(watched.observer.untracked(), None);
    assert!(watched.observer.is_idle());
    watched.observer.finish(ExchangeEnd::Cancelled);
    (watched.lines(), script)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_reported_is_what_the_peers_did(session in session()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let (lines, script) = runtime.block_on(carry_out(session.clone()));
        let calls = session.calls.iter().enumerate();
        let mut expected: Vec<String> = calls.map(|(at, call)| call.line(at)).collect();
        let mut sorted = lines.clone();
        expected.sort();
        sorted.sort();
        prop_assert_eq!(sorted, expected);
        prop_assert_eq!(reported_in([1, 7, 4096], &script, &ExchangeEnd::Cancelled), lines);
    }
}
