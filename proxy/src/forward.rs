//! Moves bytes between a client and its upstream: raw TCP, and HTTP behind one interface. Knows
//! nothing of BPF, of ports or of where the two sockets came from.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

pub mod http;
mod http1;
mod http2;
pub mod prefixed;
pub mod tcp;

#[cfg(test)]
mod http_testing;

/// One of a connection's two peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// Whoever opened the connection.
    Client,
    /// Whoever was dialled for it.
    Upstream,
}

/// Bytes of one connection, readable while it runs. Each counter only grows.
#[derive(Debug, Default)]
pub struct ByteCounters {
    /// From the client to the upstream.
    pub client_to_upstream: AtomicU64,
    /// From the upstream to the client.
    pub upstream_to_client: AtomicU64,
}

// === impl Side ===

impl Side {
    /// The opposite side.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Client => Self::Upstream,
            Self::Upstream => Self::Client,
        }
    }

    /// The name used in records and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Upstream => "upstream",
        }
    }
}

// === impl ByteCounters ===

impl ByteCounters {
    /// Bytes from the client to the upstream so far.
    #[must_use]
    pub fn client_to_upstream(&self) -> u64 {
        self.client_to_upstream.load(Relaxed)
    }

    /// Bytes from the upstream to the client so far.
    #[must_use]
    pub fn upstream_to_client(&self) -> u64 {
        self.upstream_to_client.load(Relaxed)
    }

    /// Adds `n` bytes that came from `side`.
    pub fn add_from(&self, side: Side, n: usize) {
        let counter = match side {
            Side::Client => &self.client_to_upstream,
            Side::Upstream => &self.upstream_to_client,
        };
        counter.fetch_add(n as u64, Relaxed);
    }
}
