//! A door to the observers for benchmarks and fuzz targets, which are crates of their own.

use std::sync::Arc;

use super::Observer;
use super::http1::Http1Observer;
use crate::forward::Side;
use crate::forward::http::{ExchangeEnd, ExchangeSink, Untracked};

/// The HTTP/1 observer. No stable interface.
#[doc(hidden)]
pub struct Http1Probe(Http1Observer);

// === impl Http1Probe ===

impl Http1Probe {
    /// Starts at the first byte of both streams.
    #[must_use]
    pub fn new(sink: Arc<dyn ExchangeSink>) -> Self {
        Self(Http1Observer::new(sink))
    }

    /// Bytes that `from` has sent.
    pub fn bytes(&mut self, from: Side, bytes: &[u8]) {
        self.0.bytes(from, bytes);
    }

    /// The connection is over.
    pub fn finish(&mut self) {
        self.0.finish(ExchangeEnd::Cancelled);
    }

    /// Set once the observer has stopped interpreting.
    #[must_use]
    pub fn untracked(&self) -> Option<Untracked> {
        self.0.untracked()
    }
}
