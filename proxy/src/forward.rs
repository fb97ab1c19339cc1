//! Moves bytes between a client and its upstream: raw TCP, and HTTP behind one interface. Knows
//! nothing of BPF, of ports or of where the two sockets came from.

pub mod http;
mod http1;
mod http2;

#[cfg(test)]
mod http_testing;

use std::sync::atomic::AtomicU64;

/// Bytes moved so far, counted as they are written, so that a reader sees them while the
/// connection lives.
#[derive(Debug, Default)]
pub struct ByteCounters {
    /// From the client to the upstream.
    pub client_to_upstream: AtomicU64,
    /// From the upstream to the client.
    pub upstream_to_client: AtomicU64,
}
