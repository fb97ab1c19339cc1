//! Requests that are sent once more because their route says so, though they may have been processed.

use std::time::Instant;

use super::peer::StreamKey;
use super::placing::Proof;
use super::{Code, Endpoints, Relay};
use crate::{Came, ExchangeSink, Lease as _, Repeat, Verdict};

// === impl Relay ===

impl<S: ExchangeSink + ?Sized, E: Endpoints> Relay<S, E> {
    /// The head of a response has come, which is in `list`, and is the `end`. Whether the request is sent
    /// once more instead; no byte of the response has gone to the client then.
    pub(super) fn repeats_after_head(&mut self, key: StreamKey, status: u16, end: bool) -> bool {
        let Some(stream) = self.streams.get_mut(key) else { return false };
        let grpc_status = self.list.head().grpc_status.flatten().filter(|_| end);
        let came = match grpc_status {
            Some(code) if status == 200 => Came::Grpc(code),
            _ => Came::Status(status),
        };
        // Nothing has to be reset where it is over.
        stream.response.is_ended = end;
        let repeats = self.repeats(key, came);
        if let Some(stream) = self.streams.get_mut(key) {
            stream.response.is_ended = !repeats && end;
        }
        repeats
    }

    /// Something has come in place of a response. Whether the request is sent once more.
    pub(super) fn repeats(&mut self, key: StreamKey, came: Came) -> bool {
        let now = (self.clock)();
        let Some(stream) = self.streams.get_mut(key) else { return false };
        let is_kept = stream.again.is_some();
        let estimate = stream.lease.as_ref().and_then(|lease| lease.estimate()).unwrap_or_default();
        let client = stream.client;
        if stream.is_answered {
            return false;
        }
        let Some(plan) = stream.plan() else { return false };
        match plan.decide(came, now, (estimate, is_kept)) {
            Verdict::No => false,
            Verdict::Withheld(why) => {
                if let Some(client) = self.clients.get(client) {
                    client.sink.not_repeated(why);
                }
                false
            }
            Verdict::After(wait) => {
                self.repeat(key, came, now + wait);
                true
            }
        }
    }

    /// Takes a request from its endpoint, and has it wait until then.
    #[cold]
    fn repeat(&mut self, key: StreamKey, came: Came, until: Instant) {
        if came != Came::Lost {
            self.reset_at_endpoint(key, Code::CANCEL);
        }
        let now = (self.clock)();
        let Some(stream) = self.streams.get_mut(key) else { return };
        let took = stream.plan().map(|plan| plan.took(now)).unwrap_or_default();
        if let Some(lease) = &mut stream.lease {
            lease.failed(came, took);
        }
        if stream.repeat == Some(Repeat::Route)
            && let Some(client) = self.clients.get(stream.client)
        {
            client.sink.repeated(Repeat::Route, false);
        }
        let upstream = self.withdraw(key, Proof::Processed);
        if let Some(plan) = self.streams.get_mut(key).and_then(|it| it.plan()) {
            plan.resumes = Some(until);
        }
        self.arm(key);
        if let Some(id) = upstream {
            self.settle_upstream(id);
        }
    }
}
