//! Follows HTTP/2 frames (RFC 9113) and their header compression (RFC 7541).

use std::sync::Arc;

use super::Observer;
use crate::forward::Side;
use crate::forward::http::{ExchangeEnd, ExchangeSink, HttpVersion, Tracker, Untracked};

/// Follows both directions of an HTTP/2 connection.
pub(crate) struct Http2Observer {
    _sink: Arc<dyn ExchangeSink>,
}

impl Http2Observer {
    /// Starts at the client's connection preface (prior knowledge, RFC 9113 §3.3).
    pub(crate) fn new(sink: Arc<dyn ExchangeSink>) -> Self {
        Self { _sink: sink }
    }

    /// Starts right behind the 101 response to an `Upgrade: h2c` request (RFC 7540 §3.2): the
    /// client's preface and the upstream's SETTINGS follow, and the response to that request
    /// comes on stream 1, which is half-closed by the client.
    pub(crate) fn after_upgrade(sink: Arc<dyn ExchangeSink>, _request: Tracker) -> Self {
        Self { _sink: sink }
    }
}

impl Observer for Http2Observer {
    fn bytes(&mut self, _from: Side, _bytes: &[u8]) {}
    fn ended(&mut self, _from: Side) {}
    fn is_idle(&self) -> bool {
        false
    }
    fn farewell(&self) -> Option<&'static [u8]> {
        None
    }
    fn version(&self) -> HttpVersion {
        HttpVersion::Http2
    }
    fn untracked(&self) -> Option<Untracked> {
        None
    }
    fn finish(&mut self, _end: ExchangeEnd) {}
}
