//! What both versions of HTTP have in common here: what is asked and answered.
//!
//! A request is `POST /ID/SEED/DOWN/HOW` with a body. The answer has `x-seen`, the client's address
//! as the server sees it, `x-body`, what the server thinks of the request, and a body of DOWN bytes.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use weir_tests::load::Outcome;

use crate::block;

/// What the server says of a request in which all was right.
pub(crate) const FINE: &str = "fine";

/// One request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wish {
    /// Unlike that of any other request.
    pub(crate) id: u64,
    /// Of the contents.
    pub(crate) seed: u32,
    /// Bytes of the request's body.
    pub(crate) up: usize,
    /// Bytes of the answer's body.
    pub(crate) down: usize,
    /// HTTP/1: in chunks, both ways.
    pub(crate) chunked: bool,
}

/// Requests that a connection left unanswered, to be asked again on the next.
#[derive(Clone, Debug, Default)]
pub(crate) struct Todo(Arc<Mutex<Vec<Wish>>>);

/// The requests that a server has answered.
#[derive(Debug, Default)]
pub(crate) struct Memory(Mutex<HashSet<u64>>);

/// What a request's or an answer's body has been so far.
pub(crate) struct Hearing {
    seed: u32,
    length: usize,
    heard: usize,
    right: bool,
}

// === impl Wish ===

impl Wish {
    fn random() -> Self {
        let (up, down) = (block::size() - 1, block::size() - 1);
        let (id, seed) = (fastrand::u64(..), fastrand::u32(..));
        Self { id, seed, up, down, chunked: fastrand::bool() }
    }

    /// The request's path.
    pub(crate) fn path(&self) -> String {
        let how = if self.chunked { "chunked" } else { "whole" };
        format!("/{}/{}/{}/{}/{how}", self.id, self.seed, self.up, self.down)
    }

    /// What a server was asked.
    pub(crate) fn from_path(path: &str) -> Option<Self> {
        let words: Vec<&str> = path.split('/').collect();
        let ["", id, seed, up, down, how] = words[..] else { return None };
        let (up, down) = (up.parse().ok()?, down.parse().ok()?);
        let (id, seed) = (id.parse().ok()?, seed.parse().ok()?);
        Some(Self { id, seed, up, down, chunked: how == "chunked" })
    }

    /// Of the answer's contents.
    pub(crate) const fn down_seed(&self) -> u32 {
        self.seed ^ u32::MAX
    }
}

// === impl Todo ===

impl Todo {
    /// What to ask next.
    pub(crate) fn next(&self) -> Wish {
        lock(&self.0).pop().unwrap_or_else(Wish::random)
    }

    /// It was not answered.
    pub(crate) fn again(&self, wish: Wish) {
        lock(&self.0).push(wish);
    }
}

// === impl Memory ===

impl Memory {
    /// What to say of a request that was received to its end.
    pub(crate) fn judge(&self, wish: &Wish, body: &Hearing) -> String {
        let new = lock(&self.0).insert(wish.id);
        match body.end() {
            Err(what) => what,
            Ok(()) if !new => "came twice".to_owned(),
            Ok(()) => FINE.to_owned(),
        }
    }
}

// === impl Hearing ===

impl Hearing {
    /// Nothing yet.
    pub(crate) const fn of(seed: u32, length: usize) -> Self {
        Self { seed, length, heard: 0, right: true }
    }

    /// The next bytes.
    pub(crate) fn hear(&mut self, bytes: &[u8]) {
        self.right &= block::is_part(self.seed, self.heard, bytes);
        self.heard += bytes.len();
    }

    /// Whether that was all, and as it should be.
    pub(crate) fn end(&self) -> Result<(), String> {
        match self {
            Self { right: false, .. } => Err("a body that is not the one sent".to_owned()),
            Self { heard, length, .. } if heard != length => {
                Err(format!("a body of {heard} bytes instead of {length}"))
            }
            _ => Ok(()),
        }
    }
}

// === helpers ===

/// Reads an answer's head: how the server sees the client.
pub(crate) fn read_head<B>(answer: &http::Response<B>) -> Result<SocketAddr, Outcome> {
    let field = |name| answer.headers().get(name).and_then(|value| value.to_str().ok());
    // weir's own answer, where the terminating engine has lost the upstream: told, not changed.
    if let Some(reason) = field("x-weir-error") {
        return Err(Outcome::Broken(format!("{} by weir: {reason}", answer.status())));
    }
    if answer.status() != 200 || field("x-body") != Some(FINE) {
        let head = format!("{} {:?}", answer.status(), answer.headers());
        return Err(Outcome::Changed(format!("answer {head}")));
    }
    let seen = field("x-seen").and_then(|text| text.parse().ok());
    seen.ok_or_else(|| Outcome::Changed("no address".to_owned()))
}

/// A poisoned lock guards a collection in which every change is one call.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
