//! Admin over HTTP: `/live`, `/ready` and `/metrics`, and for clients on the machine itself the page, if it
//! is asked for. Reading only: this port may be open to a whole pod network.

mod negotiate;
mod serve;

pub(super) use serve::{Body, serve, text, whole};

use std::{
    io::{self, Write as _},
    net::SocketAddr,
    sync::Arc,
};

use flate2::{Compression, write::GzEncoder};
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{self, HeaderValue},
};
use tokio::{net::TcpListener, sync::Mutex};

use self::negotiate::Wanted;
use super::ui::{self, Ui};
use crate::{accept::Slots, telemetry::Telemetry};

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

    /// Answers until dropped; with the page of a `ui` below `/ui/`.
    pub async fn serve(
        self,
        telemetry: Telemetry,
        readiness: impl Fn() -> Readiness + Clone + Send + Sync + 'static,
        ui: Option<Ui>,
    ) {
        let counts = Counted(telemetry.clone());
        let metrics = Arc::new(Metrics { telemetry, one_at_a_time: Mutex::default() });
        serve(&self.listener, &counts, move |client, request: Request<Incoming>| {
            let (metrics, readiness) = (Arc::clone(&metrics), readiness());
            let ui = ui.clone().filter(|_| ui::is_local(client));
            async move {
                match (&ui, request.uri().path().strip_prefix("/ui/")) {
                    (Some(ui), Some(path)) => ui.answer(path, &request).await,
                    _ => respond(&request, &metrics, readiness).await,
                }
            }
        })
        .await;
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
    /// The metrics as a client wants them, made on a thread that serves no connections.
    async fn answer(&self, wanted: Wanted) -> Response<Body> {
        let turn = self.one_at_a_time.lock().await;
        let telemetry = self.telemetry.clone();
        let encoded = tokio::task::spawn_blocking(move || encode(&telemetry, wanted)).await;
        drop(turn);
        let body = match encoded.map_err(io::Error::from).flatten() {
            Ok(body) => body,
            Err(error) => {
                tracing::error!(%error, "cannot encode metrics");
                return text(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "cannot encode metrics; see the log\n",
                );
            }
        };
        let mut response = whole(StatusCode::OK, wanted.format.content_type(), body);
        let headers = response.headers_mut();
        headers.insert(header::VARY, HeaderValue::from_static("accept, accept-encoding"));
        if wanted.gzip {
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        response
    }
}

/// The metrics as the body of a response.
fn encode(telemetry: &Telemetry, wanted: Wanted) -> io::Result<Vec<u8>> {
    let text = telemetry.encode_metrics(wanted.format);
    if !wanted.gzip {
        return Ok(text.into_bytes());
    }
    // Names and labels repeat: the least effort makes it a tenth.
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(text.as_bytes())?;
    gzip.finish()
}

async fn respond(
    request: &Request<Incoming>,
    metrics: &Metrics,
    readiness: Readiness,
) -> Response<Body> {
    let path = request.uri().path();
    if !matches!(path, "/live" | "/ready" | "/metrics") {
        return text(StatusCode::NOT_FOUND, "not found; available: /live, /ready and /metrics\n");
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = text(
            StatusCode::METHOD_NOT_ALLOWED,
            "read-only; use the control socket for changes (weir ports, weir workload)\n",
        );
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match (path, readiness) {
        ("/metrics", _) => metrics.answer(Wanted::of(request.headers())).await,
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

#[cfg(test)]
mod tests;
