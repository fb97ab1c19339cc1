//! Moves bytes between a client and its upstream: raw TCP, and HTTP behind one interface. Knows
//! nothing of BPF, of ports or of where the two sockets came from.

use std::{
    sync::{
        LazyLock,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

pub use weir_http::Side;

pub mod http;
mod http1;
mod http2;
pub(crate) mod passthrough;
pub(crate) mod pool;
pub mod prefixed;
pub(crate) mod relay;
pub mod requests;
pub mod retries;
pub mod tcp;
pub(crate) mod transport;

#[cfg(test)]
mod http_testing;

/// What [`ByteCounters`] count times from.
static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Bytes of one connection, readable while it runs: each counter only grows. And whether it is
/// half-closed, for the gauge of those that are.
#[derive(Debug, Default)]
pub struct ByteCounters {
    /// From the client to the upstream.
    pub client_to_upstream: AtomicU64,
    /// From the upstream to the client.
    pub upstream_to_client: AtomicU64,
    half_closed: AtomicBool,
    /// When the first bytes of the upstream came: nanoseconds since the epoch and one; 0 before.
    answered: AtomicU64,
}

/// While it lives, its connection counts as half-closed: dropped with the future that forwards.
#[must_use = "dropping it ends the half-closed state"]
#[derive(Debug)]
pub(crate) struct HalfClosed<'a>(&'a ByteCounters);

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

    /// When the first bytes of the upstream came.
    #[must_use]
    pub fn answered(&self) -> Option<Instant> {
        let since = self.answered.load(Relaxed).checked_sub(1)?;
        Some(*EPOCH + Duration::from_nanos(since))
    }

    /// Whether one side has ended its stream and the other has not.
    #[must_use]
    pub fn is_half_closed(&self) -> bool {
        self.half_closed.load(Relaxed)
    }

    /// One side has ended its stream; the other has until the result is dropped.
    pub(crate) fn half_close(&self) -> HalfClosed<'_> {
        self.half_closed.store(true, Relaxed);
        HalfClosed(self)
    }

    /// Sets both, to what another has counted.
    pub(crate) fn set(&self, client_to_upstream: u64, upstream_to_client: u64) {
        self.client_to_upstream.store(client_to_upstream, Relaxed);
        self.upstream_to_client.store(upstream_to_client, Relaxed);
    }

    /// Adds `n` bytes that came from `side`.
    pub fn add_from(&self, side: Side, n: usize) {
        let counter = match side {
            Side::Client => &self.client_to_upstream,
            Side::Upstream => &self.upstream_to_client,
        };
        // Only the connection's own task writes: no need to lock the bus.
        let before = counter.load(Relaxed);
        counter.store(before + n as u64, Relaxed);
        if before == 0 && side == Side::Upstream {
            let since = EPOCH.elapsed().as_nanos();
            self.answered.store(u64::try_from(since).unwrap_or(u64::MAX - 1) + 1, Relaxed);
        }
    }
}

// === impl HalfClosed ===

impl Drop for HalfClosed<'_> {
    fn drop(&mut self) {
        self.0.half_closed.store(false, Relaxed);
    }
}
