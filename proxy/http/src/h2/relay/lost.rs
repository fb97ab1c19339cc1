//! Streams whose endpoint is gone, or takes no further part in them.

use super::peer::StreamKey;
use super::placing::Proof;
use super::{Code, Endpoints, Relay};
use crate::{Came, ExchangeEnd, ExchangeSink, OwnAnswer};

// === impl Relay ===

impl<S: ExchangeSink + ?Sized, E: Endpoints> Relay<S, E> {
    /// A stream cannot stay where it is: it goes to another endpoint if it may, or else ends with `lost`.
    pub(super) fn move_or_end(&mut self, key: StreamKey, proof: Option<Proof>, lost: ExchangeEnd) {
        let Some(stream) = self.streams.get(key) else { return };
        let may_move = stream.again.as_ref().is_some_and(|again| !again.is_repeated);
        match proof {
            Some(proof) if may_move => self.place_elsewhere(key, proof),
            _ if self.repeats(key, Came::Lost) => {}
            // It may be sent once more, by the client.
            Some(_) => self.lose(key, Code::REFUSED_STREAM, lost),
            None => self.lose(key, Code::INTERNAL_ERROR, lost),
        }
    }

    /// The endpoint is gone, with the request: for a client, as if it had been connected to it.
    fn lose(&mut self, key: StreamKey, code: Code, end: ExchangeEnd) {
        let Some(stream) = self.streams.get(key) else { return };
        if stream.response.is_ended {
            return self.release(key, Code::NO_ERROR);
        }
        if stream.is_grpc && !stream.is_answered && code != Code::REFUSED_STREAM {
            let reason = match end {
                ExchangeEnd::UpstreamClosed => "upstream-closed",
                _ => "upstream-reset",
            };
            return self.answer(key, &OwnAnswer::error(502, reason, None));
        }
        self.reset_at_client(key, code);
        self.finish(key, end);
    }

    /// The endpoint has sent its whole response, and takes no more of the request: what is held of the
    /// response reaches the client, and then `code`, if that has not ended the request.
    pub(super) fn release(&mut self, key: StreamKey, code: Code) {
        let Some(stream) = self.streams.get_mut(key) else { return };
        stream.unwanted = Some(code);
        let (client, held) = (stream.client, stream.request.discard());
        let place = stream.leave();
        self.detach(key, place);
        self.let_go(client, held);
        self.settle_stream(key);
    }
}
