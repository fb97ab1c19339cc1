//! The API server as a test holds it: it changes objects, breaks things, and reads what clients have
//! asked and sent.

use std::net::TcpListener;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tokio::runtime::{Builder, Runtime};
use tokio_util::sync::CancellationToken;

use super::server::{Asked, Call, Shared, Streaming, Trouble, serve};
use super::store::{Key, Kind};
use crate::process::wait_until;
use crate::site::PATIENCE;

/// What clients show instead of a service account's token.
pub const TOKEN: &str = "eyJhbGciOiJSUzI1NiJ9.of-a-test.no-secret";

/// A running server; stopped on drop.
#[derive(Debug)]
pub struct Api {
    shared: Arc<Shared>,
    port: u16,
    open: Mutex<CancellationToken>,
    /// `None` in drop only.
    runtime: Option<Runtime>,
}

// === impl Api ===

impl Api {
    /// Serves on a listener.
    ///
    /// # Errors
    ///
    /// Fails when its thread cannot be started.
    pub fn start(listener: TcpListener) -> Result<Self> {
        let port = listener.local_addr()?.port();
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let (shared, open) = (Arc::new(Shared::new(TOKEN)), Mutex::default());
        let api = Self { shared, port, open, runtime: Some(runtime) };
        api.come_back(listener);
        Ok(api)
    }

    /// The port that it listens on, of the loopback address.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Writes the file that tells a client of it.
    ///
    /// # Errors
    ///
    /// Fails when the file cannot be written.
    pub fn write_kubeconfig(&self, path: &Path) -> Result<()> {
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: test\n\
             clusters:\n- name: test\n  cluster:\n    server: http://127.0.0.1:{}\n\
             users:\n- name: weir\n  user:\n    token: {TOKEN}\n\
             contexts:\n- name: test\n  context:\n    cluster: test\n    user: weir\n",
            self.port
        );
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    // --- Objects

    /// Adds or changes a pod or a namespace.
    pub fn put(&self, object: &Value) {
        self.shared.change(|state| state.store.put(object.clone()));
    }

    /// Changes an object that is there.
    ///
    /// # Panics
    ///
    /// Panics when it is not: the test is wrong.
    pub fn change(&self, key: &Key, change: impl FnOnce(&mut Value)) {
        self.shared.change(|state| {
            let mut object = state.store.get(key).cloned().expect("the object is there");
            change(&mut object);
            state.store.put(object);
        });
    }

    /// Sets an annotation of an object, or takes it away.
    pub fn annotate(&self, key: &Key, name: &str, value: Option<&str>) {
        self.change(key, |object| super::object::annotate(object, name, value));
    }

    /// An object as it is now.
    #[must_use]
    pub fn object(&self, key: &Key) -> Option<Value> {
        self.shared.lock().store.get(key).cloned()
    }

    /// Deletes an object.
    ///
    /// # Panics
    ///
    /// Panics when it is not there: the test is wrong.
    pub fn remove(&self, key: &Key) {
        let removed = self.shared.change(|state| state.store.remove(key));
        assert!(removed, "there is no {key:?}");
    }

    /// Forgets all history: who watches from an older version is told so.
    pub fn compact(&self) {
        self.shared.change(|state| state.store.compact());
    }

    // --- What goes wrong

    /// Lets the next call of this sort go wrong, once.
    pub fn spoil(&self, call: Call, trouble: Trouble) {
        self.shared.lock().troubles.push_back((call, trouble));
    }

    /// How many calls are still to go wrong.
    #[must_use]
    pub fn spoiled(&self) -> usize {
        self.shared.lock().troubles.len()
    }

    /// No page of a list has more objects from now on.
    pub fn page(&self, most: usize) {
        self.shared.lock().page = Some(most);
    }

    /// No watch that begins from now on is longer.
    pub fn watch_limit(&self, limit: Duration) {
        self.shared.lock().watch_limit = Some(limit);
    }

    /// How `sendInitialEvents` is treated from now on.
    pub fn streaming(&self, streaming: Streaming) {
        self.shared.lock().streaming = streaming;
    }

    /// Whether a watch from a forgotten version is refused with an HTTP status.
    pub fn gone_as_status(&self, status: bool) {
        self.shared.lock().gone_as_status = status;
    }

    /// Clients must show another token from now on.
    pub fn change_token(&self, token: &str) {
        token.clone_into(&mut self.shared.lock().token);
    }

    /// Sends a bookmark on all watches that want them.
    pub fn bookmark(&self) {
        self.shared.change(|state| state.orders.bookmarks += 1);
    }

    /// Tells all watches that their version is too old.
    pub fn expire_watches(&self) {
        self.shared.change(|state| state.orders.expiries += 1);
    }

    /// Cuts the connections of all watches.
    pub fn cut_watches(&self) {
        self.shared.change(|state| state.orders.cuts += 1);
    }

    /// Cuts each open watch in the middle of the next line that it gets.
    pub fn tear_watches(&self) {
        self.shared.change(|state| state.orders.torn += 1);
    }

    /// How many watches were cut in the middle of a line so far.
    #[must_use]
    pub fn torn(&self) -> usize {
        self.shared.lock().torn
    }

    /// Closes the listener and all connections.
    pub fn go_away(&self) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).cancel();
    }

    /// Serves again, after [`Api::go_away`], on a listener of the same port.
    pub fn come_back(&self, listener: TcpListener) {
        let stop = CancellationToken::new();
        *self.open.lock().unwrap_or_else(PoisonError::into_inner) = stop.clone();
        if let Some(runtime) = &self.runtime {
            let shared = Arc::clone(&self.shared);
            runtime.spawn(async move {
                if let Err(error) = serve(shared, listener, stop).await {
                    eprintln!("API server: {error:#}");
                }
            });
        }
    }

    // --- What clients did

    /// The events that were sent.
    #[must_use]
    pub fn events(&self) -> Vec<Value> {
        self.shared.lock().events.all()
    }

    /// All requests so far.
    #[must_use]
    pub fn asked(&self) -> Vec<Asked> {
        self.shared.lock().asked.clone()
    }

    /// How many requests of a sort there were.
    #[must_use]
    pub fn count(&self, call: Call) -> usize {
        self.shared.lock().asked.iter().filter(|asked| asked.call == call).count()
    }

    /// Waits until a client watches both kinds.
    ///
    /// # Errors
    ///
    /// Fails with the requests when none does.
    pub fn wait_watched(&self) -> Result<()> {
        let watched = wait_until("a watch of each kind", PATIENCE, || {
            let state = self.shared.lock();
            Ok(Kind::ALL.iter().all(|kind| state.watches.contains(kind)))
        });
        watched.with_context(|| format!("requests: {:#?}", self.asked()))
    }

    /// weir has asked for nothing that it has no right to, and has got nothing but what is there.
    ///
    /// # Errors
    ///
    /// Fails with the requests that were refused as not allowed, unknown or malformed.
    pub fn nothing_forbidden(&self) -> Result<()> {
        let mut asked = self.asked();
        asked.retain(|asked| matches!(asked.status, 400 | 401 | 403 | 404 | 409 | 415 | 422));
        // A route that the test has changed meanwhile, or removed.
        asked.retain(|asked| {
            !(matches!(asked.call, Call::Status(_)) && matches!(asked.status, 404 | 409))
        });
        ensure!(asked.is_empty(), "refused: {asked:#?}");
        Ok(())
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        self.go_away();
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
