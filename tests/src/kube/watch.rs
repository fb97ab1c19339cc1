//! One watch: a stream of JSON lines that ends in order when its time is over, with an error event
//! when its version is forgotten, and in the middle of a line when a test wants that.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::body::Frame;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};

use super::query::{Query, Selector};
use super::server::Shared;
use super::status::Refusal;
use super::store::{Kind, Told};

/// What a body is made of; an error cuts the connection without an end of the body.
pub type Part = Result<Frame<Bytes>, io::Error>;

/// Kubernetes' own default is between 30 and 60 minutes at random.
const LIMIT: Duration = Duration::from_secs(1800);
/// hyper has flushed what it has been given once it waits for more.
const FLUSH: Duration = Duration::from_millis(50);

/// What the annotation of the bookmark behind the initial events is called.
const INITIAL_END: &str = "k8s.io/initial-events-end";

/// How often each has been asked for; a watch does what was asked since it began.
#[derive(Clone, Copy, Debug, Default)]
pub struct Orders {
    /// Send a bookmark.
    pub bookmarks: usize,
    /// Say that the version is too old, and end.
    pub expiries: usize,
    /// Cut the connection.
    pub cuts: usize,
    /// Cut it in the middle of the next line.
    pub torn: usize,
}

/// What a client wants to see.
#[derive(Debug)]
pub struct Watch {
    kind: Kind,
    selector: Selector,
    /// Metadata only ([`as_metadata`]).
    pub partial: bool,
    bookmarks: bool,
    /// Begin with all objects, and say when they are through.
    initial: bool,
    since: u64,
    limit: Duration,
}

// === impl Watch ===

impl Watch {
    /// Reads the parameters.
    ///
    /// # Errors
    ///
    /// Fails when they are wrong.
    pub fn parse(kind: Kind, query: &Query) -> Result<Self, Refusal> {
        let limit = query.number("timeoutSeconds")?.map(Duration::from_secs);
        Ok(Self {
            kind,
            selector: query.selector()?,
            partial: false,
            bookmarks: query.flag("allowWatchBookmarks"),
            initial: query.flag("sendInitialEvents"),
            since: query.number("resourceVersion")?.unwrap_or_default(),
            limit: limit.filter(|limit| !limit.is_zero()).unwrap_or(LIMIT),
        })
    }

    /// The version that it goes on from; 0 for one that begins with all objects.
    #[must_use]
    pub fn since(&self) -> u64 {
        if self.initial { 0 } else { self.since }
    }

    /// Writes lines until something ends it; `begun` is what had been asked for before it began.
    pub async fn run(self, shared: Arc<Shared>, begun: Orders, out: mpsc::Sender<Part>) {
        let _error_is_the_clients_end = self.tell(&shared, begun, &out).await;
        let mut state = shared.lock();
        if let Some(place) = state.watches.iter().position(|kind| *kind == self.kind) {
            state.watches.swap_remove(place);
        }
    }

    /// `Err` when the watcher has gone, or is to go.
    async fn tell(
        &self,
        shared: &Shared,
        mut begun: Orders,
        out: &mpsc::Sender<Part>,
    ) -> Result<(), ()> {
        let mut ticks = shared.ticks();
        let mut seen = self.since;
        let old_server = shared.lock().streaming.ignored();
        let limit = shared.lock().watch_limit.unwrap_or(self.limit).min(self.limit);
        let end = Instant::now() + limit;
        if self.since() == 0 {
            let (objects, version) = {
                let state = shared.lock();
                let version = state.store.version();
                (state.store.snapshot(self.kind, version).unwrap_or_default(), version)
            };
            for object in objects.into_values().filter(|object| self.selector.takes(object)) {
                self.send(out, "ADDED", object).await?;
            }
            seen = version;
            if self.initial && !old_server {
                let mut bookmark = self.bookmark(seen);
                bookmark["metadata"]["annotations"] = json!({INITIAL_END: "true"});
                self.send(out, "BOOKMARK", bookmark).await?;
            }
        }
        loop {
            let (news, version, orders, oldest) = {
                let state = shared.lock();
                let news = state.store.changes(self.kind, seen, &self.selector);
                (news, state.store.version(), state.orders, state.store.oldest())
            };
            for Told { what, object } in news {
                if orders.torn > begun.torn {
                    let line = self.line(what, object);
                    let half = line.slice(..line.len() / 2);
                    out.send(Ok(Frame::data(half))).await.map_err(drop)?;
                    shared.lock().torn += 1;
                    return cut(out).await;
                }
                self.send(out, what, object).await?;
            }
            seen = version;
            if orders.bookmarks > begun.bookmarks && self.bookmarks {
                self.send(out, "BOOKMARK", self.bookmark(seen)).await?;
                begun.bookmarks = orders.bookmarks;
            }
            if orders.expiries > begun.expiries {
                let refusal = Refusal::too_old(seen, oldest.max(seen + 1));
                return self.send(out, "ERROR", refusal.object()).await;
            }
            if orders.cuts > begun.cuts {
                return cut(out).await;
            }
            tokio::select! {
                changed = ticks.changed() => changed.map_err(drop)?,
                () = out.closed() => return Err(()),
                () = sleep_until(end) => {
                    // Shortly before the end, so that the next watch begins where this one ended.
                    if self.bookmarks {
                        self.send(out, "BOOKMARK", self.bookmark(seen)).await?;
                    }
                    return Ok(());
                }
            }
        }
    }

    /// A bookmark is an object of the kind with nothing in it but the version.
    fn bookmark(&self, version: u64) -> Value {
        let mut object = json!({
            "kind": self.kind.name(),
            "apiVersion": self.kind.version(),
            "metadata": {"resourceVersion": version.to_string(), "creationTimestamp": null},
            "spec": {},
            "status": {},
        });
        if self.kind == Kind::Pod {
            object["spec"]["containers"] = Value::Null;
        }
        object
    }

    fn line(&self, what: &str, object: Value) -> Bytes {
        let object = if self.partial && what != "ERROR" { as_metadata(object) } else { object };
        Bytes::from(format!("{}\n", json!({"type": what, "object": object})))
    }

    async fn send(&self, out: &mpsc::Sender<Part>, what: &str, object: Value) -> Result<(), ()> {
        out.send(Ok(Frame::data(self.line(what, object)))).await.map_err(drop)
    }
}

/// An object as one who asks for metadata only gets it
/// (`as=PartialObjectMetadata;g=meta.k8s.io;v=v1`).
#[must_use]
pub fn as_metadata(object: Value) -> Value {
    json!({
        "kind": "PartialObjectMetadata",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": object["metadata"],
    })
}

/// Ends the connection without an end of the body.
///
/// # Errors
///
/// Always: nothing can be said after it.
pub async fn cut(out: &mpsc::Sender<Part>) -> Result<(), ()> {
    sleep(FLUSH).await;
    let error = io::Error::new(io::ErrorKind::ConnectionAborted, "cut off by the test");
    let _gone_already = out.send(Err(error)).await;
    Err(())
}
