//! What may pass without being read.

use super::{Session, State};
use crate::{ExchangeSink, Side};

impl<S: ExchangeSink + ?Sized> Session<S> {
    /// Bytes of a side that have no meaning, whatever they are: content, or what is not followed.
    pub fn content_ahead(&self, from: Side) -> u64 {
        let state = match from {
            Side::Client => &self.requests,
            Side::Upstream => &self.responses,
        };
        match state {
            State::Body(body) => body.content_ahead(),
            State::Raw => u64::MAX,
            State::Head | State::Held => 0,
        }
    }
}
