//! The connections that weir itself has open to a workload. One that comes in from an end of theirs
//! is weir's own, which the kernel has sent back because it was not told of an address: to serve it
//! would open the next, which came back as well.

use crate::sync::lock;
use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

/// From where to where a connection goes.
type Ends = (SocketAddr, SocketAddr);

/// Those of one workload.
#[derive(Debug, Default)]
pub struct OwnDials {
    open: Mutex<HashMap<Ends, usize>>,
    /// The connections that they are made for: from the client to where it wants to go.
    held: Mutex<HashMap<Ends, usize>>,
}

/// Those of one served connection, for as long as it lasts.
#[derive(Debug)]
pub(super) struct OwnDial {
    all: Arc<OwnDials>,
    mine: Mutex<Vec<Ends>>,
    held: Option<Ends>,
}

// === impl OwnDials ===

impl OwnDials {
    /// Whether a connection between these ends is weir's own.
    pub(super) fn contains(&self, from: SocketAddr, to: SocketAddr) -> bool {
        lock(&self.open).contains_key(&ends(from, to))
    }
}

// === impl OwnDial ===

impl OwnDial {
    /// For a client's connection; `held` are its ends where it comes in from outside.
    pub(super) fn new(all: &Arc<OwnDials>, held: Option<(SocketAddr, SocketAddr)>) -> Self {
        let held = held.map(|(client, to)| ends(client, to));
        if let Some(held) = held {
            *lock(&all.held).entry(held).or_default() += 1;
        }
        Self { all: Arc::clone(all), mine: Mutex::default(), held }
    }

    /// Whether a client has a connection between these ends: weir's own between them would be taken
    /// for it.
    pub(super) fn is_held(&self, from: SocketAddr, to: SocketAddr) -> bool {
        lock(&self.all.held).contains_key(&ends(from, to))
    }

    /// A connection between these ends is opened.
    pub(super) fn opens(&self, from: SocketAddr, to: SocketAddr) {
        let ends = ends(from, to);
        lock(&self.mine).push(ends);
        *lock(&self.all.open).entry(ends).or_default() += 1;
    }

    /// Whether a connection between these ends is one that weir has opened for another.
    pub(super) fn is_anothers(&self, from: SocketAddr, to: SocketAddr) -> bool {
        self.all.contains(from, to)
    }
}

impl Drop for OwnDial {
    fn drop(&mut self) {
        let mut open = lock(&self.all.open);
        for ends in lock(&self.mine).drain(..) {
            one_less(&mut open, &ends);
        }
        if let Some(held) = &self.held {
            one_less(&mut lock(&self.all.held), held);
        }
    }
}

// === helpers ===

fn one_less(counts: &mut HashMap<Ends, usize>, ends: &Ends) {
    if let Some(count) = counts.get_mut(ends) {
        *count -= 1;
        if *count == 0 {
            counts.remove(ends);
        }
    }
}

/// Without what only one side knows, the scope of a link-local address.
fn ends(from: SocketAddr, to: SocketAddr) -> Ends {
    let plain = |end: SocketAddr| SocketAddr::new(end.ip().to_canonical(), end.port());
    (plain(from), plain(to))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_known_for_as_long_as_any_connection_has_them() {
        let all = Arc::new(OwnDials::default());
        let (from, to) = ("10.0.0.1:5".parse().unwrap(), "10.0.0.2:80".parse().unwrap());
        let mapped = "[::ffff:10.0.0.1]:5".parse().unwrap();
        let client = "10.0.0.1:7".parse().unwrap();
        let held = Some((client, to));
        let (first, second) = (OwnDial::new(&all, held), OwnDial::new(&all, held));
        assert!(second.is_held(client, to) && !second.is_held(from, to));
        assert!(!all.contains(from, to));
        first.opens(from, to);
        second.opens(mapped, to);
        assert!(second.is_anothers(mapped, to) && all.contains(from, to));
        assert!(!all.contains(to, from));
        drop(first);
        assert!(all.contains(from, to));
        drop(second);
        assert!(!all.contains(from, to));
        assert!(all.open.lock().unwrap().is_empty() && all.held.lock().unwrap().is_empty());
    }
}
