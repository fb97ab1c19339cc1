//! Admin over HTTP: `/live`, `/ready` and `/metrics`. Reading only: this port may be open to a
//! whole pod network.

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode, body::Incoming, header, server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::TcpListener,
    sync::{Mutex, Semaphore},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::{
    accept::{AcceptOptions, Acceptor, Slots},
    telemetry::Telemetry,
};

/// Connections served at once; more wait in the listen queue.
const MAX_CLIENTS: usize = 64;

/// A request's head must arrive within this time.
const HEAD_DEADLINE: Duration = Duration::from_secs(5);

/// However slowly a client reads, and however long it keeps the connection: then it must dial
/// again. Longer than Prometheus' default scrape interval of a minute.
const CONNECTION_DEADLINE: Duration = Duration::from_secs(90);

/// What Prometheus must be told for the text that prometheus-client writes.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Whether weir is ready to be given connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Readiness {
    /// Not attached yet.
    #[default]
    Starting,
    /// Capturing.
    Ready,
    /// Not all pods are captured that should be.
    Missing {
        /// How many are not.
        pods: usize,
    },
    /// Another weir is taking over: new connections may be its by now.
    Replaced,
    /// Not all workloads are captured that should be.
    Waiting {
        /// How many are not.
        workloads: usize,
    },
    /// Finishing what is there.
    Draining,
}

/// The admin port could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot open admin address {address}: {source}; choose another with --admin")]
pub struct AdminError {
    /// What was asked for.
    pub address: SocketAddr,
    /// The cause.
    pub source: io::Error,
}

/// The listening socket.
#[derive(Debug)]
pub struct AdminServer {
    listener: TcpListener,
    address: SocketAddr,
}

/// Counts accepts that fail; there is nothing to withdraw.
struct Counted(Telemetry);

/// Where scrapes come from.
struct Metrics {
    telemetry: Telemetry,
    /// Held while they are encoded: however many clients ask, one processor is busy with it.
    one_at_a_time: Mutex<()>,
}

// === impl AdminServer ===

impl AdminServer {
    /// Opens the port; port 0 picks one.
    ///
    /// # Errors
    /// If it can't be opened.
    pub async fn bind(address: SocketAddr) -> Result<Self, AdminError> {
        let fail = |source| AdminError { address, source };
        let listener = TcpListener::bind(address).await.map_err(fail)?;
        let address = listener.local_addr().map_err(fail)?;
        Ok(Self { listener, address })
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until dropped.
    pub async fn serve(
        self,
        telemetry: Telemetry,
        readiness: impl Fn() -> Readiness + Clone + Send + Sync + 'static,
    ) {
        let clients = Arc::new(Semaphore::new(MAX_CLIENTS));
        let mut tasks = tokio::task::JoinSet::new();
        let counts = Counted(telemetry.clone());
        let metrics = Arc::new(Metrics { telemetry, one_at_a_time: Mutex::default() });
        let never = CancellationToken::new();
        let mut acceptor = Acceptor::new(&self.listener, &counts, &never, AcceptOptions::admin());
        loop {
            let permit =
                Arc::clone(&clients).acquire_owned().await.expect("the semaphore is never closed");
            while tasks.try_join_next().is_some() {}
            let Some((stream, _)) = acceptor.next().await else { return };
            let (metrics, readiness) = (Arc::clone(&metrics), readiness.clone());
            tasks.spawn(async move {
                let _permit = permit;
                let service = service_fn(move |request| {
                    let (metrics, readiness) = (Arc::clone(&metrics), readiness());
                    async move { Ok::<_, Infallible>(respond(&request, &metrics, readiness).await) }
                });
                let connection = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(HEAD_DEADLINE)
                    .serve_connection(TokioIo::new(stream), service);
                if let Ok(Err(error)) = timeout(CONNECTION_DEADLINE, connection).await {
                    tracing::debug!(%error, "admin client disconnected");
                }
            });
        }
    }
}

// === impl Counted ===

impl Slots for Counted {
    fn exhausted(&self, error: &std::io::Error) {
        self.0.accept_failed(error.raw_os_error().unwrap_or_default());
    }

    fn shed(&self, count: u64) {
        self.0.accept_shed(count);
    }
}

// === impl Metrics ===

impl Metrics {
    /// The metrics as text, made on a thread that serves no connections.
    async fn encode(&self) -> Option<String> {
        let _turn = self.one_at_a_time.lock().await;
        let telemetry = self.telemetry.clone();
        let encoded = tokio::task::spawn_blocking(move || telemetry.encode_metrics()).await;
        encoded.inspect_err(|error| tracing::error!(%error, "cannot encode metrics")).ok()
    }
}

async fn respond(
    request: &Request<Incoming>,
    metrics: &Metrics,
    readiness: Readiness,
) -> Response<Full<Bytes>> {
    let path = request.uri().path();
    if !matches!(path, "/live" | "/ready" | "/metrics") {
        return text(StatusCode::NOT_FOUND, "not found; available: /live, /ready and /metrics\n");
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = text(
            StatusCode::METHOD_NOT_ALLOWED,
            "read-only; use the control socket for changes (weir ports, weir workload)\n",
        );
        response.headers_mut().insert(header::ALLOW, header::HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match (path, readiness) {
        ("/metrics", _) => {
            let Some(encoded) = metrics.encode().await else {
                return text(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "cannot encode metrics; see the log\n",
                );
            };
            let mut response = text(StatusCode::OK, encoded);
            response
                .headers_mut()
                .insert(header::CONTENT_TYPE, header::HeaderValue::from_static(OPENMETRICS));
            response
        }
        ("/live", _) => text(StatusCode::OK, "live\n"),
        (_, Readiness::Ready) => text(StatusCode::OK, "ready\n"),
        (_, Readiness::Missing { pods }) => text(
            StatusCode::SERVICE_UNAVAILABLE,
            format!("{pods} selected pods are not captured; see weir status\n"),
        ),
        (_, Readiness::Waiting { workloads }) => text(
            StatusCode::SERVICE_UNAVAILABLE,
            format!("{workloads} workloads are not captured; see weir status\n"),
        ),
        (_, Readiness::Starting) => text(StatusCode::SERVICE_UNAVAILABLE, "starting\n"),
        (_, Readiness::Replaced) => {
            text(StatusCode::SERVICE_UNAVAILABLE, "another weir is taking over\n")
        }
        (_, Readiness::Draining) => text(StatusCode::SERVICE_UNAVAILABLE, "draining\n"),
    }
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    response
}

#[cfg(test)]
mod tests;
