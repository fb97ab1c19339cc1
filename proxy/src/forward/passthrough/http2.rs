//! Follows HTTP/2 beside bytes that pass as they came. What the bytes mean is [`weir_http::h2`]'s.

#[cfg(test)]
mod tests;

use std::sync::Arc;

use weir_http::ParseError;
use weir_http::h2::{SHUTDOWN_NOTICE, Session};

use super::{OVER_BUDGET, Observer};
use crate::budget::Charge;
use crate::forward::Side;
use crate::forward::http::{ExchangeEnd, ExchangeSink, Tracker, Untracked};

/// Follows both directions of an HTTP/2 connection.
pub(crate) struct Http2Observer {
    sink: Arc<dyn ExchangeSink>,
    /// `None` once nothing is followed any more.
    session: Option<Box<Session<dyn ExchangeSink>>>,
    /// For what is kept there.
    charge: Charge,
    untracked: Option<Untracked>,
}

// === impl Http2Observer ===

impl Http2Observer {
    /// Starts at the client's connection preface (prior knowledge, RFC 9113 §3.3).
    pub(crate) fn new(sink: Arc<dyn ExchangeSink>) -> Self {
        let session = Session::new(Arc::clone(&sink));
        Self::of(session, sink)
    }

    /// See [`Session::after_upgrade`].
    pub(crate) fn after_upgrade(sink: Arc<dyn ExchangeSink>, request: Tracker) -> Self {
        let session = Session::after_upgrade(Arc::clone(&sink), request);
        Self::of(session, sink)
    }

    fn of(session: Session<dyn ExchangeSink>, sink: Arc<dyn ExchangeSink>) -> Self {
        let charge = Charge::to(sink.share());
        Self { sink, session: Some(Box::new(session)), charge, untracked: None }
    }

    #[cold]
    fn lose(&mut self, side: Side, error: Option<ParseError>) {
        let reason = error.map_or(OVER_BUDGET, ParseError::reason);
        let untracked = Untracked { side, reason };
        self.untracked = Some(untracked);
        self.sink.downgraded(untracked);
        self.finish(ExchangeEnd::Untracked);
    }
}

impl Observer for Http2Observer {
    fn bytes(&mut self, from: Side, bytes: &[u8]) {
        if let Some(session) = &mut self.session
            && let Err(error) = session.read(from, bytes, |kept| self.charge.keep(kept))
        {
            self.lose(from, error);
        }
    }

    fn ended(&mut self, from: Side) {
        if let Some(session) = &mut self.session {
            session.ended(from);
        }
    }

    fn is_idle(&self) -> bool {
        self.session.as_ref().is_some_and(|session| session.is_idle())
    }

    fn farewell(&self) -> Option<&'static [u8]> {
        self.session.as_ref()?.may_insert().then_some(SHUTDOWN_NOTICE)
    }

    fn untracked(&self) -> Option<Untracked> {
        self.untracked
    }

    fn finish(&mut self, end: ExchangeEnd) {
        if let Some(session) = self.session.take() {
            session.finish(end);
            let _ = self.charge.keep(0);
        }
    }
}
