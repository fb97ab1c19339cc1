//! HTTP/2 with prior knowledge, both sides by h2: many streams at once on a connection that stays
//! until the other side says GOAWAY.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{join, join_all};
use h2::client::SendRequest;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream, client, server};
use http::{Request, Response};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use weir_tests::load::{Outcome, PATIENCE};
use weir_tests::process::patience;

use crate::block;
use crate::http::{Hearing, Memory, Todo, Wish, read_head};
use crate::journey::{End, Journey, done};

/// Requests at a time.
const STREAMS: usize = 6;
/// Longest pause between two requests of a sixth, in milliseconds.
const REST: u64 = 30;

/// Why a request has no answer.
enum Refusal {
    /// The server takes no more on this connection and has not worked on it.
    Away,
    /// Anything else.
    Failed(Outcome),
}

// === Client ===

/// Requests until the stop or the other side's GOAWAY.
pub(crate) async fn visit(
    journey: &mut Journey,
    stream: TcpStream,
    todo: &Todo,
    stop: &CancellationToken,
) -> End {
    // The protocol tells what is missing.
    done(&stream);
    let opened = journey.within("begin", client::handshake(stream)).await?;
    let (requests, connection) = opened.map_err(|error| broken("begin", &error))?;
    let connection = tokio::spawn(connection);
    let shared = Mutex::new(&mut *journey);
    let workers = (0..STREAMS).map(|_| work(&shared, todo, requests.clone(), stop));
    let ends = join_all(workers).await;
    drop(requests);
    let ended = journey.within("close", connection).await;
    // What a stream has seen tells more than the end of the connection.
    let end = ends.into_iter().reduce(worse).expect("there are streams")?;
    match ended?.expect("h2 does not panic") {
        Err(error) if !is_away(&error) => Err(broken("close", &error)),
        _ => Ok(end),
    }
}

fn worse(one: End, other: End) -> End {
    match (&one, &other) {
        (Err(Outcome::Changed(_)), _) | (Err(_), Ok(_)) | (_, Ok(Outcome::Good)) => one,
        _ => other,
    }
}

/// One request after the other.
async fn work(
    journey: &Mutex<&mut Journey>,
    todo: &Todo,
    requests: SendRequest<Bytes>,
    stop: &CancellationToken,
) -> End {
    while !stop.is_cancelled() {
        let wish = todo.next();
        let moved = Moved::default();
        let asked = moved.watch(ask(&requests, &wish, &moved)).await;
        match asked.unwrap_or_else(|| Err(Refusal::Failed(Outcome::Hung("answer".to_owned())))) {
            Ok(seen) => {
                let mut journey = journey.lock().unwrap_or_else(PoisonError::into_inner);
                journey.seen_as(seen);
                journey.compared(wish.down);
                journey.round();
            }
            Err(Refusal::Away) => {
                todo.again(wish);
                return Ok(Outcome::Left);
            }
            Err(Refusal::Failed(outcome)) => return Err(outcome),
        }
        sleep(Duration::from_millis(fastrand::u64(0..REST))).await;
    }
    Ok(Outcome::Good)
}

async fn ask(
    requests: &SendRequest<Bytes>,
    wish: &Wish,
    moved: &Moved,
) -> Result<std::net::SocketAddr, Refusal> {
    let refused = |stage: &'static str| move |error: h2::Error| refusal(stage, &error);
    let mut requests = requests.clone().ready().await.map_err(refused("ready"))?;
    let request = Request::post(format!("http://weir.test{}", wish.path())).body(());
    let request = request.expect("a valid request");
    let (answer, mut up) =
        requests.send_request(request, wish.up == 0).map_err(refused("request"))?;
    let (sent, answer) = join(send(&mut up, wish.seed, wish.up, moved), answer).await;
    let answer = answer.map_err(refused("answer"))?;
    sent.map_err(refused("upload"))?;
    let seen = read_head(&answer).map_err(Refusal::Failed)?;
    let mut hearing = Hearing::of(wish.down_seed(), wish.down);
    hear(answer.into_body(), &mut hearing, moved).await.map_err(refused("body"))?;
    hearing.end().map_err(|what| Refusal::Failed(Outcome::Changed(what)))?;
    Ok(seen)
}

fn refusal(stage: &str, error: &h2::Error) -> Refusal {
    if is_away(error) || error.reason() == Some(Reason::REFUSED_STREAM) {
        Refusal::Away
    } else {
        Refusal::Failed(broken(stage, error))
    }
}

fn is_away(error: &h2::Error) -> bool {
    error.is_go_away() && error.is_remote() && error.reason() == Some(Reason::NO_ERROR)
}

// === Server ===

/// The other side of [`visit`].
pub(crate) async fn serve(journey: &mut Journey, stream: TcpStream, memory: Arc<Memory>) -> End {
    done(&stream);
    let client = journey.client();
    let mut connection =
        server::handshake(stream).await.map_err(|error| broken("handshake", &error))?;
    while let Some(arrival) = connection.accept().await {
        let (request, respond) = arrival.map_err(|error| broken("accept", &error))?;
        journey.round();
        let memory = Arc::clone(&memory);
        // A stream that fails fails at the client too.
        tokio::spawn(async move { answer(request, respond, &memory, client).await });
    }
    Ok(Outcome::Good)
}

async fn answer(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    memory: &Memory,
    client: std::net::SocketAddr,
) -> Result<(), h2::Error> {
    let Some(wish) = Wish::from_path(request.uri().path()) else {
        return respond.send_response(Response::new(()), true).map(drop);
    };
    let mut hearing = Hearing::of(wish.seed, wish.up);
    let moved = Moved::default();
    hear(request.into_body(), &mut hearing, &moved).await?;
    let answer = Response::builder()
        .header("x-seen", client.to_string())
        .header("x-body", memory.judge(&wish, &hearing))
        .body(());
    let mut down = respond.send_response(answer.expect("a valid answer"), wish.down == 0)?;
    send(&mut down, wish.down_seed(), wish.down, &moved).await
}

// === Parts ===

/// Whether an exchange goes on: its streams share the connection with others, and a large body on a
/// slow machine may take longer than one may be silent.
#[derive(Default)]
struct Moved(AtomicU64);

// === impl Moved ===

impl Moved {
    /// A part has been sent or has come.
    fn on(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// What comes of an exchange; `None` when nothing has moved for too long.
    async fn watch<F: Future>(&self, exchange: F) -> Option<F::Output> {
        let mut exchange = pin!(exchange);
        loop {
            let before = self.0.load(Ordering::Relaxed);
            match timeout(patience(PATIENCE), &mut exchange).await {
                Ok(output) => return Some(output),
                Err(_) if self.0.load(Ordering::Relaxed) == before => return None,
                Err(_) => {}
            }
        }
    }
}

/// Sends a body with its end; the end is with the head where it is empty.
async fn send(
    stream: &mut SendStream<Bytes>,
    seed: u32,
    length: usize,
    moved: &Moved,
) -> Result<(), h2::Error> {
    let mut sent = 0;
    while sent < length {
        if stream.capacity() == 0 {
            // Tells of growth only.
            stream.reserve_capacity(length - sent);
            let Some(room) = poll_fn(|cx| stream.poll_capacity(cx)).await else { return Ok(()) };
            room?;
        }
        let part = block::part(seed, sent, stream.capacity().min(length - sent));
        sent += part.len();
        moved.on();
        stream.send_data(Bytes::from_static(part), sent == length)?;
    }
    Ok(())
}

async fn hear(mut body: RecvStream, hearing: &mut Hearing, moved: &Moved) -> Result<(), h2::Error> {
    while let Some(part) = body.data().await {
        let part = part?;
        body.flow_control().release_capacity(part.len())?;
        hearing.hear(&part);
        moved.on();
    }
    Ok(())
}

fn broken(stage: &str, error: &h2::Error) -> Outcome {
    Outcome::Broken(format!("{stage}: {error}"))
}
