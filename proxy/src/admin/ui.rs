//! The page of `weir ui` and of `admin.ui`: one self-contained document, and the answers that its script
//! asks for. These are replies of the control socket, passed on as they are; only calls that change
//! nothing are.

mod server;

pub use server::{UiError, UiServer};

use std::{
    convert::Infallible,
    fs::File,
    io::{self, Read as _},
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::{Arc, LazyLock},
    time::Duration,
};

use bytes::{BufMut as _, Bytes, BytesMut};
use futures_util::stream;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode,
    body::Frame,
    header::{self, HeaderValue},
    http::uri::Authority,
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::UnixStream,
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use super::{
    http::{Body, text, whole},
    protocol::{
        Call, GetConnections, GetStatus, GetUsedServices, MAX_RESPONSE, SampleStat, StartTap,
        read_reply, request_line,
    },
};
use crate::telemetry::{stats::By, tap::TapFilter};

/// How long weir may take for a reply.
const DEADLINE: Duration = Duration::from_secs(10);

/// Open connections that the page lists, the oldest ones first.
const MAX_CONNECTIONS: usize = 500;

/// Taps at a time: half of those that a weir has.
const MAX_TAPS: usize = 4;

/// Where no record comes, the browser is told this often that the connection is alive.
const ALIVE: Duration = Duration::from_secs(15);

/// The document. Its script and its style have a nonce that each response replaces.
static PAGE: LazyLock<String> = LazyLock::new(|| {
    include_str!("ui/page.html")
        .replace("/* style.css */", include_str!("ui/style.css"))
        .replace("/* page.js */", include_str!("ui/page.js"))
});

/// What stands for the nonce in the document.
const NONCE: &str = "NONCE";

/// The page of the weir behind a control socket.
#[derive(Clone, Debug)]
pub struct Ui {
    socket: PathBuf,
    taps: Arc<Semaphore>,
}

/// Lines of a tap, as events.
struct Events {
    lines: BufReader<UnixStream>,
    _permit: OwnedSemaphorePermit,
}

// === impl Ui ===

impl Ui {
    /// The page of the weir behind this socket, which does not have to run yet.
    #[must_use]
    pub fn new(socket: PathBuf) -> Self {
        Self { socket, taps: Arc::new(Semaphore::new(MAX_TAPS)) }
    }

    /// Answers a request for `path`, which is below the page's own and has no slash at its beginning.
    pub(super) async fn answer<B>(&self, path: &str, request: &Request<B>) -> Response<Body> {
        let mut response = if !is_for_loopback(request.headers()) {
            // A page of another site whose name has been made to lead here (DNS rebinding).
            text(StatusCode::MISDIRECTED_REQUEST, "ask for 127.0.0.1, [::1] or localhost\n")
        } else if matches!(*request.method(), Method::GET | Method::HEAD) {
            self.get(path, request.uri().query().unwrap_or_default()).await
        } else {
            let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "the page is read-only\n");
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
            response
        };
        let headers = response.headers_mut();
        for (name, value) in [
            (header::CACHE_CONTROL, "no-store"),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (header::REFERRER_POLICY, "no-referrer"),
            (header::HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        response
    }

    async fn get(&self, path: &str, query: &str) -> Response<Body> {
        match path {
            "" => page(),
            "api/status" => self.ask(&GetStatus).await,
            "api/stat" => self.ask(&SampleStat { by: By::Destination }).await,
            "api/connections" => {
                let filter = TapFilter::default();
                self.ask(&GetConnections { filter, limit: MAX_CONNECTIONS }).await
            }
            "api/endpoints" => self.ask(&GetUsedServices).await,
            "api/tap" => self.tap(query).await,
            _ => text(StatusCode::NOT_FOUND, "not found\n"),
        }
    }

    /// The reply to a call, or the refusal.
    async fn ask<C: Call>(&self, call: &C) -> Response<Body> {
        let asked = async {
            let mut lines = self.send(None, call).await?;
            read_line(&mut lines).await
        };
        match timeout(DEADLINE, asked).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        {
            Ok(line) => whole(StatusCode::OK, "application/json", line),
            Err(error) => self.unreachable(&error),
        }
    }

    /// Records as server-sent events, from now on. `query` has a filter in JSON and a workload.
    async fn tap(&self, query: &str) -> Response<Body> {
        let (filter, workload) = match parse(query) {
            Ok(parsed) => parsed,
            Err(error) => return problem(StatusCode::BAD_REQUEST, &error.to_string()),
        };
        let Ok(permit) = Arc::clone(&self.taps).try_acquire_owned() else {
            let text = format!("{MAX_TAPS} pages show records already; close one of them");
            return problem(StatusCode::SERVICE_UNAVAILABLE, &text);
        };
        let begun = async {
            let mut lines = self.send(workload.as_deref(), &StartTap(filter)).await?;
            let reply = read_line(&mut lines).await?;
            Ok::<_, io::Error>((lines, reply))
        };
        let begun = timeout(DEADLINE, begun).await;
        let (lines, reply) = match begun.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            Ok(begun) => begun,
            Err(error) => return self.unreachable(&error),
        };
        match read_reply::<StartTap>(&reply).map(|it| it.outcome) {
            Ok(super::protocol::Outcome::Ok(())) => {}
            Ok(super::protocol::Outcome::Error(error)) => {
                return problem(StatusCode::CONFLICT, &error.to_string());
            }
            Err(error) => return problem(StatusCode::BAD_GATEWAY, &error.to_string()),
        }
        let events = Events { lines, _permit: permit };
        let frames = stream::unfold(Some(events), |events| async move {
            let mut events = events?;
            let event = events.next().await?;
            Some((Ok::<_, Infallible>(Frame::data(event)), Some(events)))
        });
        let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
        let kind = HeaderValue::from_static("text/event-stream");
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        response
    }

    async fn send<C: Call>(
        &self,
        workload: Option<&str>,
        call: &C,
    ) -> io::Result<BufReader<UnixStream>> {
        let mut line = request_line(workload, call)?;
        line.push(b'\n');
        let mut stream = UnixStream::connect(&self.socket).await?;
        stream.write_all(&line).await?;
        Ok(BufReader::new(stream))
    }

    fn unreachable(&self, error: &io::Error) -> Response<Body> {
        let text = format!(
            "no weir answers at {}: {error}; start it with `weir run` or `weir exec`",
            self.socket.display()
        );
        problem(StatusCode::SERVICE_UNAVAILABLE, &text)
    }
}

// === impl Events ===

impl Events {
    /// The next event, or a sign of life; `None` at the end.
    async fn next(&mut self) -> Option<Bytes> {
        // Asked before the line is read: a line that is read in part would be lost with the time limit.
        let waited = timeout(ALIVE, self.lines.fill_buf()).await;
        match waited {
            Err(_) => return Some(Bytes::from_static(b":\n\n")),
            Ok(Err(_)) => return None,
            Ok(Ok(_)) => {}
        }
        let line = read_line(&mut self.lines).await.ok()?;
        let mut event = BytesMut::with_capacity(line.len() + 8);
        event.put_slice(b"data: ");
        event.put_slice(line.trim_ascii_end());
        event.put_slice(b"\n\n");
        Some(event.freeze())
    }
}

// === helpers ===

/// The document, for which nothing but its own script and style is allowed.
fn page() -> Response<Body> {
    let nonce = match secret() {
        Ok(nonce) => nonce,
        Err(error) => return problem(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    };
    let page = PAGE.replace(NONCE, &nonce);
    let mut response = whole(StatusCode::OK, "text/html; charset=utf-8", page);
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    let policy = HeaderValue::try_from(policy).expect("hexadecimal digits fit into a header");
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy);
    response
}

/// What the page shows in place of an answer.
fn problem(status: StatusCode, message: &str) -> Response<Body> {
    let body = serde_json::json!({ "error": { "message": message } });
    whole(status, "application/json", body.to_string())
}

async fn read_line(lines: &mut BufReader<UnixStream>) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    lines.take(MAX_RESPONSE as u64).read_until(b'\n', &mut line).await?;
    if line.ends_with(b"\n") { Ok(line) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

/// The filter and the workload of a query.
fn parse(query: &str) -> Result<(TapFilter, Option<String>), serde_json::Error> {
    let (mut filter, mut workload) = (TapFilter::default(), None);
    for pair in query.split('&') {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value = percent_encoding::percent_decode_str(value).decode_utf8_lossy();
        match key {
            "filter" => filter = serde_json::from_str(&value)?,
            "workload" if !value.is_empty() => workload = Some(value.into_owned()),
            _ => {}
        }
    }
    Ok((filter, workload))
}

/// Whether a request names this machine, and not a site that another name leads here for.
fn is_for_loopback(headers: &HeaderMap) -> bool {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let Some(Ok(host)) = host.map(str::parse::<Authority>) else { return false };
    let host = host.host().trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost")
        || host.parse().is_ok_and(|host: IpAddr| host.is_loopback())
}

/// Whether a client is on this machine.
pub(super) fn is_local(client: SocketAddr) -> bool {
    client.ip().to_canonical().is_loopback()
}

/// 128 random bits as hexadecimal digits.
fn secret() -> io::Result<String> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(format!("{:032x}", u128::from_ne_bytes(bytes)))
}

#[cfg(test)]
mod tests;
