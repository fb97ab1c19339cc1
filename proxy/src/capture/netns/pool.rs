//! Sockets made ahead: a visit to another namespace wakes two threads, which takes ten times as
//! long as socket(2) does (37 µs against 3 µs), so one visit makes several.

use std::{
    mem,
    sync::Mutex,
    time::{Duration, Instant},
};

use nix::sys::resource::{Resource, getrlimit};
use socket2::Socket;

use super::Owner;
use crate::sync::lock;

/// Sockets kept per namespace and family, from the first use of that family on. Each takes a
/// descriptor and some 4 KiB of kernel memory.
const FULL: usize = 8;
/// As many while they are used up fast, so that fewer visits are made.
const MOST: usize = 32;
/// But at most this part of the descriptors that the process may have: they are taken from connections.
const PART: u64 = 1024;
/// Less between two orders is fast.
const FAST: Duration = Duration::from_millis(50);
/// At how many sockets more are made, so that the next ones are there in time.
const LOW: usize = 4;

/// The ready sockets of one family.
#[derive(Default)]
pub(super) struct Pool(Mutex<Ready>);

struct Ready {
    /// Their owner: the last one that was asked for.
    owner: Option<Owner>,
    sockets: Vec<Socket>,
    /// More have been ordered.
    ordered: bool,
    /// When, and up to how many.
    since: Option<Instant>,
    full: usize,
}

// === impl Pool ===

impl Pool {
    /// A socket of this owner's, if there is one, and whether the caller has to order more.
    pub(super) fn take(&self, owner: Owner) -> (Option<Socket>, bool) {
        self.with(|ready| {
            if ready.owner != Some(owner) {
                ready.owner = Some(owner);
                ready.sockets.clear();
                // An order for the one before brings nothing.
                ready.ordered = false;
            }
            let socket = ready.sockets.pop();
            if ready.sockets.len() > FULL && !ready.is_fast() {
                ready.sockets.truncate(FULL);
            }
            let order = ready.sockets.len() < LOW && !mem::replace(&mut ready.ordered, true);
            if order {
                ready.full = if ready.is_fast() { (2 * ready.full).min(most()) } else { FULL };
                ready.since = Some(Instant::now());
            }
            (socket, order)
        })
    }

    /// Fills the pool; stops at the first error: the next caller will hit the same error and report it.
    /// Does nothing if the pool has another owner by now.
    pub(super) fn fill(&self, owner: Owner, make: impl Fn() -> std::io::Result<Socket>) {
        let is_his = |ready: &mut Ready| ready.owner == Some(owner);
        let room = |ready: &mut Ready| ready.full - ready.sockets.len().min(ready.full);
        let wanted = self.with(|ready| if is_his(ready) { room(ready) } else { 0 });
        let made: Vec<Socket> = (0..wanted).map_while(|_| make().ok()).collect();
        self.with(|ready| {
            if is_his(ready) {
                ready.sockets.extend(made);
                ready.ordered = false;
            }
        });
    }

    /// An order that will not be filled may be given again.
    pub(super) fn not_ordered(&self) {
        self.with(|ready| ready.ordered = false);
    }

    fn with<T>(&self, work: impl FnOnce(&mut Ready) -> T) -> T {
        // Every change is complete when the lock is let go.
        work(&mut lock(&self.0))
    }
}

// === impl Ready ===

impl Ready {
    /// The last order is not long ago: for so many the less.
    fn is_fast(&self) -> bool {
        let time = FAST * u32::try_from(self.full / FULL).unwrap_or(1);
        self.since.is_some_and(|since| since.elapsed() < time)
    }
}

impl Default for Ready {
    fn default() -> Self {
        Self { owner: None, sockets: Vec::new(), ordered: false, since: None, full: FULL }
    }
}

// === helpers ===

/// Up to how many sockets may be kept.
fn most() -> usize {
    let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft);
    usize::try_from(limit / PART).unwrap_or(MOST).clamp(FULL, MOST)
}

#[cfg(test)]
impl Pool {
    pub(super) fn is_full(&self) -> bool {
        self.with(|ready| ready.sockets.len() == ready.full)
    }
}
