//! A door to the observers for benchmarks and fuzz targets, which are crates of their own.

use std::sync::Arc;

use super::{Observer, observer};
use crate::forward::Side;
use crate::forward::http::{ExchangeEnd, ExchangeSink, HttpVersion, Untracked};

/// An observer of one connection. No stable interface.
#[doc(hidden)]
pub struct Probe(Box<dyn Observer>);

// === impl Probe ===

impl Probe {
    /// Starts at the first byte of both streams.
    #[must_use]
    pub fn new(version: HttpVersion, sink: Arc<dyn ExchangeSink>) -> Self {
        Self(observer(version, sink))
    }

    /// Bytes that `from` has sent.
    pub fn bytes(&mut self, from: Side, bytes: &[u8]) {
        self.0.bytes(from, bytes);
    }

    /// Asks what a draining connection is asked: is it idle, and what may be said to it.
    #[must_use]
    pub fn drain(&self) -> (bool, Option<&'static [u8]>) {
        (self.0.is_idle(), self.0.farewell())
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
