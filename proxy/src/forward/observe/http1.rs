//! Follows HTTP/1 messages (RFC 9112).

use std::sync::Arc;

use super::Observer;
use crate::forward::Side;
use crate::forward::http::{ExchangeEnd, ExchangeSink, HttpVersion, Untracked};

/// Follows both directions of an HTTP/1 connection.
pub(crate) struct Http1Observer {
    _sink: Arc<dyn ExchangeSink>,
}

impl Http1Observer {
    /// Starts at the first byte of both streams.
    pub(crate) fn new(sink: Arc<dyn ExchangeSink>) -> Self {
        Self { _sink: sink }
    }
}

impl Observer for Http1Observer {
    fn bytes(&mut self, _from: Side, _bytes: &[u8]) {}
    fn ended(&mut self, _from: Side) {}
    fn is_idle(&self) -> bool {
        false
    }
    fn farewell(&self) -> Option<&'static [u8]> {
        None
    }
    fn version(&self) -> HttpVersion {
        HttpVersion::Http1
    }
    fn untracked(&self) -> Option<Untracked> {
        None
    }
    fn finish(&mut self, _end: ExchangeEnd) {}
}
