//! HTTP/1.1, both sides by hyper: one request on a connection, or one after the other, with bodies in
//! one piece or in chunks.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Body, Frame, Incoming};
use hyper::client::conn::http1 as client;
use hyper::server::conn::http1 as server;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use weir_tests::load::Outcome;

use crate::block;
use crate::http::{Hearing, Memory, Todo, Wish, read_head};
use crate::journey::{End, Journey, done};

/// Requests of a connection that may have more than one.
const MOST: u64 = 50;
/// Longest pause between two of them, in milliseconds.
const REST: u64 = 20;

// === Client ===

/// One request, or requests until `stay` is cancelled.
pub(crate) async fn visit(
    journey: &mut Journey,
    stream: TcpStream,
    todo: &Todo,
    stay: Option<&CancellationToken>,
) -> End {
    // The protocol tells what is missing.
    done(&stream);
    let opened = client::handshake::<_, BoxBody<Bytes, Infallible>>(TokioIo::new(stream)).await;
    let (mut requests, connection) = opened.map_err(|error| broken("begin", &error))?;
    let connection = tokio::spawn(connection);
    loop {
        let wish = todo.next();
        let last = stay.is_none_or(CancellationToken::is_cancelled) || journey.rounds() >= MOST;
        let request = request(&wish, last && fastrand::bool());
        let sent = journey.within("answer", requests.send_request(request)).await?;
        match sent {
            Ok(answer) => hear(journey, &wish, answer).await?,
            // A server may close between two requests, also while one is on its way to it.
            Err(error) if journey.rounds() > 0 && has_left(&error) => {
                todo.again(wish);
                return Ok(Outcome::Left);
            }
            Err(error) => return Err(broken("answer", &error)),
        }
        journey.round();
        if last {
            break;
        }
        sleep(Duration::from_millis(fastrand::u64(0..REST))).await;
        if journey.within("ready", requests.ready()).await?.is_err() {
            return Ok(Outcome::Left);
        }
    }
    drop(requests);
    let ended = journey.within("close", connection).await?.expect("hyper does not panic");
    ended.map_err(|error| broken("close", &error))?;
    Ok(Outcome::Good)
}

fn request(wish: &Wish, last: bool) -> Request<BoxBody<Bytes, Infallible>> {
    let request = Request::post(wish.path()).header("host", "weir.test");
    let request = if last { request.header("connection", "close") } else { request };
    request.body(body(wish.chunked, wish.seed, wish.up)).expect("a valid request")
}

async fn hear(
    journey: &mut Journey,
    wish: &Wish,
    answer: Response<Incoming>,
) -> Result<(), Outcome> {
    journey.seen_as(read_head(&answer)?);
    if answer.body().size_hint().exact().is_none() != wish.chunked {
        return Err(Outcome::Changed(format!("other framing: {:?}", answer.headers())));
    }
    let hearing = Hearing::of(wish.down_seed(), wish.down);
    let heard = journey.within("body", collect(answer.into_body(), hearing)).await?;
    let heard = heard.map_err(|error| broken("body", &error))?;
    heard.end().map_err(Outcome::Changed)?;
    journey.compared(wish.down);
    Ok(())
}

fn has_left(error: &hyper::Error) -> bool {
    error.is_canceled() || error.is_closed() || error.is_incomplete_message()
}

// === Server ===

/// The other side of [`visit`].
pub(crate) async fn serve(journey: &mut Journey, stream: TcpStream, memory: Arc<Memory>) -> End {
    done(&stream);
    let client = journey.client();
    let answer = |request: Request<Incoming>| {
        let memory = Arc::clone(&memory);
        async move {
            let Some(wish) = Wish::from_path(request.uri().path()) else {
                return Ok(Response::new(body(false, 0, 0)));
            };
            let framing = request.body().size_hint().exact().is_none() == wish.chunked;
            let hearing = Hearing::of(wish.seed, wish.up);
            let heard = collect(request.into_body(), hearing).await?;
            let said = memory.judge(&wish, &heard);
            let said = if framing { said } else { "other framing".to_owned() };
            let answer = Response::builder()
                .header("x-seen", client.to_string())
                .header("x-body", said)
                .body(body(wish.chunked, wish.down_seed(), wish.down));
            Ok::<_, hyper::Error>(answer.expect("a valid answer"))
        }
    };
    let connection =
        server::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer));
    connection.await.map_err(|error| broken("serve", &error))?;
    Ok(Outcome::Good)
}

// === Parts ===

fn body(chunked: bool, seed: u32, length: usize) -> BoxBody<Bytes, Infallible> {
    let mut position = 0;
    let parts = std::iter::from_fn(move || {
        let part = (position < length).then(|| block::part(seed, position, length - position))?;
        position += part.len();
        Some(part)
    });
    if chunked {
        let frames = parts.map(|part| Ok(Frame::data(Bytes::from_static(part))));
        BodyExt::boxed(StreamBody::new(stream::iter(frames)))
    } else {
        BodyExt::boxed(Full::new(parts.flatten().copied().collect()))
    }
}

async fn collect(mut body: Incoming, mut hearing: Hearing) -> Result<Hearing, hyper::Error> {
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data() {
            hearing.hear(&data);
        }
    }
    Ok(hearing)
}

/// hyper's own words and those of the cause.
fn broken(stage: &str, error: &hyper::Error) -> Outcome {
    let causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
    let causes: String = causes.map(|cause| format!(": {cause}")).collect();
    Outcome::Broken(format!("{stage}: {error}{causes}"))
}
