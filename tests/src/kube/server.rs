//! The HTTP side: who may ask what, and what is answered. Everything that weir needs no right for
//! is forbidden, so that a test sees if it asks for more.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::net::TcpListener;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use futures_util::stream;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER};
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch as tick};
use tokio_util::sync::CancellationToken;

use super::events::Events;
use super::query::Query;
use super::status::Refusal;
use super::store::{Key, Kind, Store};
use super::watch::{Orders, Part, Watch, as_metadata, cut};

type Body = UnsyncBoxBody<Bytes, io::Error>;

/// What a client does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// A list, or a page of one.
    List(Kind),
    /// A page of a list that is not the first.
    NextPage(Kind),
    /// A watch.
    Watch(Kind),
    /// An event, created or patched.
    Event,
    /// The status of a route, patched.
    Status(Kind),
    /// Anything else.
    Other,
}

/// What happens to a request instead of, or before, its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// It is refused with this status, and told to come again after so many seconds.
    Refused(u16, Option<u64>),
    /// It is answered after so long.
    Slow(Duration),
    /// The connection is closed without an answer.
    Cut,
    /// The connection is closed in the middle of the answer.
    Torn,
}

/// How the server treats `sendInitialEvents`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Streaming {
    /// As it is meant.
    #[default]
    Served,
    /// Refused: its feature gate is off.
    Forbidden,
    /// Older than the parameter: it is ignored.
    Unknown,
}

/// A request that came, and the status of its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// What for.
    pub call: Call,
    /// `GET`, …
    pub method: String,
    /// Without parameters.
    pub path: String,
    /// The parameters.
    pub query: Query,
    /// 0 for one that got no answer.
    pub status: u16,
}

/// Everything that the server knows.
#[derive(Debug, Default)]
pub struct State {
    /// The objects.
    pub store: Store,
    /// The events that clients have sent.
    pub events: Events,
    /// All requests.
    pub asked: Vec<Asked>,
    /// What is to go wrong, first come first served.
    pub troubles: VecDeque<(Call, Trouble)>,
    /// What watches are to do.
    pub orders: Orders,
    /// Open watches.
    pub watches: Vec<Kind>,
    /// Watches that were cut in the middle of a line.
    pub torn: usize,
    /// No page of a list is longer.
    pub page: Option<usize>,
    /// No watch is longer.
    pub watch_limit: Option<Duration>,
    /// How `sendInitialEvents` is treated.
    pub streaming: Streaming,
    /// A watch from a forgotten version is refused with an HTTP status and not with an error event.
    pub gone_as_status: bool,
    /// The one that clients must show.
    pub token: String,
}

/// The state, and a word to all watches when it has changed.
#[derive(Debug)]
pub struct Shared {
    state: Mutex<State>,
    changed: tick::Sender<()>,
}

// === impl Streaming ===

impl Streaming {
    /// Whether the server does not know of it.
    #[must_use]
    pub fn ignored(self) -> bool {
        self == Self::Unknown
    }
}

// === impl Shared ===

impl Shared {
    /// Nothing but the token.
    #[must_use]
    pub fn new(token: &str) -> Self {
        let state = State { token: token.to_owned(), ..State::default() };
        Self { state: Mutex::new(state), changed: tick::Sender::new(()) }
    }

    /// The state, to be read, or changed where no watch needs to know.
    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state and wakes all watches.
    pub fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.lock());
        self.changed.send_replace(());
        result
    }

    /// What tells of changes.
    #[must_use]
    pub fn ticks(&self) -> tick::Receiver<()> {
        self.changed.subscribe()
    }

    fn trouble(&self, call: Call) -> Option<Trouble> {
        let mut state = self.lock();
        let applies = |wanted: Call| match (wanted, call) {
            (Call::List(one), Call::NextPage(other)) => one == other,
            _ => wanted == call,
        };
        let place = state.troubles.iter().position(|(wanted, _)| applies(*wanted))?;
        state.troubles.remove(place).map(|(_, trouble)| trouble)
    }
}

/// Accepts and answers until it is told to stop; then all connections are cut.
///
/// # Errors
///
/// Fails when the listener cannot be watched.
pub async fn serve(
    shared: Arc<Shared>,
    listener: TcpListener,
    stop: CancellationToken,
) -> Result<()> {
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return Ok(()),
        };
        let Ok((stream, _)) = accepted else { continue };
        let (shared, stop) = (Arc::clone(&shared), stop.clone());
        tokio::spawn(async move {
            let service = service_fn(|request| answer(Arc::clone(&shared), request));
            let connection = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service);
            tokio::select! {
                _cut_or_over = connection => {}
                () = stop.cancelled() => {}
            }
        });
    }
}

async fn answer(shared: Arc<Shared>, request: Request<Incoming>) -> io::Result<Response<Body>> {
    let query = Query::parse(request.uri().query().unwrap_or_default());
    let path = request.uri().path().to_owned();
    let call = call(request.method(), &path, &query);
    let method = request.method().to_string();
    let number = {
        let mut state = shared.lock();
        let asked = Asked { call, method, path: path.clone(), query: query.clone(), status: 0 };
        state.asked.push(asked);
        state.asked.len() - 1
    };
    let trouble = shared.trouble(call);
    let said = match &trouble {
        Some(Trouble::Cut) => return Err(io::Error::other("cut off by the test")),
        Some(Trouble::Refused(code, after)) => {
            let code = StatusCode::from_u16(*code).map_err(io::Error::other)?;
            let mut response = refuse(&Refusal::new(code, "refused by the test"));
            if let Some(after) = after {
                response.headers_mut().insert(RETRY_AFTER, (*after).into());
            }
            Ok(response)
        }
        Some(Trouble::Slow(time)) => {
            tokio::time::sleep(*time).await;
            decide(&shared, call, &path, &query, request).await
        }
        Some(Trouble::Torn) | None => decide(&shared, call, &path, &query, request).await,
    };
    let response = said.unwrap_or_else(|refusal| refuse(&refusal));
    shared.lock().asked[number].status = response.status().as_u16();
    if trouble == Some(Trouble::Torn) { tear(response).await } else { Ok(response) }
}

/// The part of the API that weir needs, by method and path.
fn call(method: &Method, path: &str, query: &Query) -> Call {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let kind = match parts[..] {
        ["api", "v1", "pods"] | ["api", "v1", "namespaces", _, "pods"] => Some(Kind::Pod),
        ["api", "v1", "namespaces"] => Some(Kind::Namespace),
        ["api", "v1", "services"] => Some(Kind::Service),
        ["apis", "discovery.k8s.io", "v1", "endpointslices"] => Some(Kind::EndpointSlice),
        ["apis", "gateway.networking.k8s.io", "v1", "httproutes"] => Some(Kind::HttpRoute),
        ["apis", "gateway.networking.k8s.io", "v1", "grpcroutes"] => Some(Kind::GrpcRoute),
        _ => None,
    };
    match (method, kind) {
        (&Method::GET, Some(kind)) if query.flag("watch") => Call::Watch(kind),
        (&Method::GET, Some(kind)) if !query.text("continue").is_empty() => Call::NextPage(kind),
        (&Method::GET, Some(kind)) => Call::List(kind),
        (&Method::POST | &Method::PATCH, _) if event_place(path).is_some() => Call::Event,
        (&Method::PATCH, _) => status_place(path).map_or(Call::Other, |key| Call::Status(key.0)),
        _ => Call::Other,
    }
}

/// The namespace of an event, and its name if it has one already.
fn event_place(path: &str) -> Option<(&str, Option<&str>)> {
    let rest = path.strip_prefix("/apis/events.k8s.io/v1/namespaces/")?;
    let (namespace, rest) = rest.split_once("/events")?;
    Some((namespace, rest.strip_prefix('/').filter(|name| !name.is_empty())))
}

/// The route whose status this is.
fn status_place(path: &str) -> Option<Key> {
    let rest = path.strip_prefix("/apis/gateway.networking.k8s.io/v1/namespaces/")?;
    let parts: Vec<&str> = rest.split('/').collect();
    let [namespace, plural, name, "status"] = parts[..] else { return None };
    let kind = Kind::ALL.into_iter().find(|kind| kind.plural() == plural)?;
    Some((kind, namespace.to_owned(), name.to_owned()))
}

async fn decide(
    shared: &Arc<Shared>,
    call: Call,
    path: &str,
    query: &Query,
    request: Request<Incoming>,
) -> Result<Response<Body>, Refusal> {
    let header = |name| {
        let value = request.headers().get(name).and_then(|value| value.to_str().ok());
        value.unwrap_or_default().to_owned()
    };
    if header(AUTHORIZATION) != format!("Bearer {}", shared.lock().token) {
        return Err(Refusal::new(StatusCode::UNAUTHORIZED, "Unauthorized"));
    }
    let partial = header(ACCEPT).contains("as=PartialObjectMetadata");
    match call {
        Call::List(kind) | Call::NextPage(kind) => list(shared, kind, path, query, partial),
        Call::Watch(kind) => watch(shared, kind, path, query, partial),
        Call::Event => event(shared, path, request).await,
        Call::Status(_) => route_status(shared, path, request).await,
        Call::Other => other(shared, path, request.method()),
    }
}

/// The parameters, with a namespace in the path as one more.
fn within(path: &str, query: &Query) -> Query {
    match path.strip_prefix("/api/v1/namespaces/").and_then(|rest| rest.split_once('/')) {
        Some((namespace, _)) => query.and_field("metadata.namespace", namespace),
        None => query.clone(),
    }
}

fn list(
    shared: &Shared,
    kind: Kind,
    path: &str,
    query: &Query,
    partial: bool,
) -> Result<Response<Body>, Refusal> {
    let state = shared.lock();
    let page = state.store.list(kind, &within(path, query), state.page)?;
    drop(state);
    let mut metadata = json!({"resourceVersion": page.version.to_string()});
    if !page.next.is_empty() {
        metadata["continue"] = json!(page.next);
    }
    // In a list, objects are without kind and version.
    let items = page.items.into_iter().map(|mut item| {
        if partial {
            return as_metadata(item);
        }
        if let Some(fields) = item.as_object_mut() {
            fields.retain(|field, _| field != "kind" && field != "apiVersion");
        }
        item
    });
    let items: Vec<Value> = items.collect();
    let list = if partial {
        json!({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1",
            "metadata": metadata, "items": items})
    } else {
        json!({"kind": format!("{}List", kind.name()), "apiVersion": kind.version(),
            "metadata": metadata, "items": items})
    };
    Ok(say(StatusCode::OK, &list))
}

fn watch(
    shared: &Arc<Shared>,
    kind: Kind,
    path: &str,
    query: &Query,
    partial: bool,
) -> Result<Response<Body>, Refusal> {
    let mut watch = Watch::parse(kind, &within(path, query))?;
    watch.partial = partial;
    let (parts, out) = mpsc::channel(16);
    let mut state = shared.lock();
    if query.flag("sendInitialEvents") && state.streaming == Streaming::Forbidden {
        let message = "sendInitialEvents: Forbidden: sendInitialEvents is forbidden for watch \
                       unless the WatchList feature gate is enabled";
        return Err(Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, message));
    }
    let (since, oldest) = (watch.since(), state.store.oldest());
    if since != 0 && since < oldest {
        let refusal = Refusal::too_old(since, oldest);
        if state.gone_as_status {
            return Err(refusal);
        }
        // As apiserver does once a request has been let in: 200, and an event that says no.
        return Ok(say(StatusCode::OK, &json!({"type": "ERROR", "object": refusal.object()})));
    }
    let begun = state.orders;
    state.watches.push(kind);
    drop(state);
    tokio::spawn(watch.run(Arc::clone(shared), begun, parts));
    Ok(with_body(StatusCode::OK, flow(out)))
}

async fn event(
    shared: &Shared,
    path: &str,
    request: Request<Incoming>,
) -> Result<Response<Body>, Refusal> {
    let bad = |message: String| Refusal::new(StatusCode::BAD_REQUEST, message);
    let (namespace, name) = event_place(path).ok_or_else(|| bad("no event".into()))?;
    let patches = ["application/merge-patch+json", "application/strategic-merge-patch+json"];
    let kind = request.headers().get(CONTENT_TYPE).cloned();
    let body = request.into_body().collect().await.map_err(|error| bad(error.to_string()))?;
    let body = serde_json::from_slice(&body.to_bytes()).map_err(|error| bad(error.to_string()))?;
    match name {
        None => {
            let created = shared.change(|state| state.events.create(namespace, body))?;
            Ok(say(StatusCode::CREATED, &created))
        }
        Some(name) if patches.iter().any(|known| kind.as_ref().is_some_and(|it| it == known)) => {
            let patched = shared.change(|state| state.events.patch(namespace, name, &body))?;
            Ok(say(StatusCode::OK, &patched))
        }
        Some(_) => {
            Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, format!("patch of {kind:?}")))
        }
    }
}

/// A merge patch of nothing but the status, on the version that it names.
async fn route_status(
    shared: &Shared,
    path: &str,
    request: Request<Incoming>,
) -> Result<Response<Body>, Refusal> {
    let bad = |message: String| Refusal::new(StatusCode::BAD_REQUEST, message);
    let key = status_place(path).ok_or_else(|| bad("no status".into()))?;
    let kind = request.headers().get(CONTENT_TYPE).cloned();
    if kind.as_ref().is_none_or(|it| it != "application/merge-patch+json") {
        let message = format!("patch of {kind:?}");
        return Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
    }
    let body = request.into_body().collect().await.map_err(|error| bad(error.to_string()))?;
    let patch: Value =
        serde_json::from_slice(&body.to_bytes()).map_err(|error| bad(error.to_string()))?;
    let patched = shared.change(|state| state.store.patch_status(&key, &patch))?;
    Ok(say(StatusCode::OK, &patched))
}

/// What everybody may ask, one object, and the rest.
fn other(shared: &Shared, path: &str, method: &Method) -> Result<Response<Body>, Refusal> {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let key = match (method, &parts[..]) {
        (&Method::GET, ["version"]) => {
            let version = json!({"major": "1", "minor": "34", "gitVersion": "v1.34.1",
                "gitTreeState": "clean", "compiler": "gc", "platform": "linux/amd64"});
            return Ok(say(StatusCode::OK, &version));
        }
        (&Method::GET, ["api"]) => {
            return Ok(say(StatusCode::OK, &json!({"kind": "APIVersions", "versions": ["v1"]})));
        }
        (&Method::GET, ["apis"]) => {
            let version = json!({"groupVersion": "events.k8s.io/v1", "version": "v1"});
            let group = json!({"name": "events.k8s.io", "versions": [version],
                "preferredVersion": version});
            let groups = json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": [group]});
            return Ok(say(StatusCode::OK, &groups));
        }
        (&Method::GET, ["api", "v1", "namespaces", namespace, "pods", name]) => {
            (Kind::Pod, (*namespace).to_owned(), (*name).to_owned())
        }
        (&Method::GET, ["api", "v1", "namespaces", name]) => {
            (Kind::Namespace, String::new(), (*name).to_owned())
        }
        _ => {
            let message = format!("User \"weir\" cannot {method} {path}");
            return Err(Refusal::new(StatusCode::FORBIDDEN, message));
        }
    };
    let found = shared.lock().store.get(&key).cloned();
    let missing = || format!("{} \"{}\" not found", key.0.plural(), key.2);
    let object = found.ok_or_else(|| Refusal::new(StatusCode::NOT_FOUND, missing()))?;
    Ok(say(StatusCode::OK, &object))
}

// === Answers ===

fn say(status: StatusCode, object: &Value) -> Response<Body> {
    let text = Bytes::from(format!("{object}\n"));
    with_body(status, Full::new(text).map_err(|never: Infallible| match never {}).boxed_unsync())
}

fn refuse(refusal: &Refusal) -> Response<Body> {
    say(refusal.code, &refusal.object())
}

fn with_body(status: StatusCode, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    response
}

fn flow(out: mpsc::Receiver<Part>) -> Body {
    let parts = stream::unfold(out, |mut out| async move {
        let part = out.recv().await?;
        Some((part, out))
    });
    StreamBody::new(parts).boxed_unsync()
}

/// Half of the answer, and then nothing.
async fn tear(response: Response<Body>) -> io::Result<Response<Body>> {
    let (head, body) = response.into_parts();
    let whole = body.collect().await?.to_bytes();
    let (parts, out) = mpsc::channel(2);
    tokio::spawn(async move {
        if parts.send(Ok(Frame::data(whole.slice(..whole.len() / 2)))).await.is_ok() {
            let _always = cut(&parts).await;
        }
    });
    Ok(Response::from_parts(head, flow(out)))
}
