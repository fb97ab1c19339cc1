//! The loop that accepts HTTP connections, with bounds for each.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, combinators::UnsyncBoxBody};
use hyper::{
    Request, Response, StatusCode,
    body::{Body as _, Incoming},
    header::{self, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{net::TcpListener, sync::Semaphore, task::JoinSet, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::accept::{AcceptOptions, Acceptor, Slots};

/// Connections served at once; more wait in the listen queue.
const MAX_CLIENTS: usize = 64;

/// A request's head must arrive within this time.
pub(super) const HEAD_DEADLINE: Duration = Duration::from_secs(5);

/// However slowly a client reads, and however long it keeps the connection: then it must dial
/// again. Longer than Prometheus' default scrape interval of a minute. A response without an end, such as
/// the records of a tap, has no limit.
pub(super) const CONNECTION_DEADLINE: Duration = Duration::from_secs(90);

/// The body of a response.
pub(in crate::admin) type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Answers every request on `listener` until it is dropped. `answer` also gets the client's address.
pub(in crate::admin) async fn serve<A, F>(listener: &TcpListener, slots: &dyn Slots, answer: A)
where
    A: Fn(SocketAddr, Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<Body>> + Send,
{
    let clients = Arc::new(Semaphore::new(MAX_CLIENTS));
    let mut tasks = JoinSet::new();
    let never = CancellationToken::new();
    let mut acceptor = Acceptor::new(listener, slots, &never, AcceptOptions::admin());
    loop {
        let permit =
            Arc::clone(&clients).acquire_owned().await.expect("the semaphore is never closed");
        while tasks.try_join_next().is_some() {}
        let Some((stream, client)) = acceptor.next().await else { return };
        let answer = answer.clone();
        tasks.spawn(async move {
            let _permit = permit;
            let endless = Arc::new(AtomicBool::new(false));
            let seen = Arc::clone(&endless);
            let service = service_fn(move |request| {
                let (answered, seen) = (answer(client, request), Arc::clone(&seen));
                async move {
                    let response = answered.await;
                    seen.store(response.body().size_hint().exact().is_none(), Relaxed);
                    Ok::<_, Infallible>(response)
                }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_DEADLINE)
                .serve_connection(TokioIo::new(stream), service);
            tokio::select! {
                ended = connection => if let Err(error) = ended {
                    tracing::debug!(%error, "admin client disconnected");
                },
                () = too_long(&endless) => {}
            }
        });
    }
}

/// Ends when a connection has lasted long enough.
async fn too_long(endless: &AtomicBool) {
    loop {
        sleep(CONNECTION_DEADLINE).await;
        if !endless.load(Relaxed) {
            return;
        }
    }
}

/// A whole response of this type.
pub(in crate::admin) fn whole(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Bytes>,
) -> Response<Body> {
    let mut response = Response::new(Full::new(body.into()).boxed_unsync());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// A line of text.
pub(in crate::admin) fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Body> {
    whole(status, "text/plain; charset=utf-8", body)
}
