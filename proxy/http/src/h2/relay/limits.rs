//! Time limits of streams, where their route has any. All of a relay's are in one queue.

use std::time::Instant;

use super::peer::StreamKey;
use super::{Code, Endpoints, Relay};
use crate::{Came, ExchangeEnd, ExchangeSink, Limit, OwnAnswer, TIMEOUT};

// === impl Relay ===

impl<S: ExchangeSink + ?Sized, E: Endpoints> Relay<S, E> {
    /// Has it ask this clock for the time.
    #[must_use]
    pub fn with_clock(self, clock: fn() -> Instant) -> Self {
        Self { clock, ..self }
    }

    /// When [`Self::expire`] is to be called.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|first| first.0)
    }

    /// [`Self::next_deadline`] has become sooner since the last call.
    #[inline]
    pub fn take_sooner(&mut self) -> bool {
        std::mem::take(&mut self.is_sooner)
    }

    /// Ends the streams whose time is up.
    pub fn expire(&mut self) {
        let now = (self.clock)();
        while let Some((at, key)) = self.deadlines.first().copied()
            && at <= now
        {
            self.deadlines.pop_first();
            let Some(stream) = self.streams.get_mut(key) else { continue };
            let (moved, is_tunnel) = (stream.moved(), stream.is_tunnel);
            let Some(plan) = stream.plan() else { continue };
            plan.armed = None;
            let is_due = plan.resumes.take_if(|at| *at <= now).is_some();
            if is_tunnel {
                // What is in it is no request.
                plan.deadlines = None;
            }
            let passed = plan.deadlines.as_mut().and_then(|it| it.pass(now, moved));
            match passed {
                Some(limit) => self.timed_out(key, limit),
                None => {
                    self.arm(key);
                    if is_due {
                        self.place(key);
                    }
                }
            }
        }
    }

    /// The head of a request has come.
    pub(super) fn begin_limits(&mut self, key: StreamKey) {
        let clock = self.clock;
        if let Some(plan) = self.streams.get_mut(key).and_then(|it| it.plan()) {
            plan.begin(clock(), 0);
            self.arm(key);
        }
    }

    /// It is sent to an endpoint.
    pub(super) fn begin_attempt(&mut self, key: StreamKey) {
        let clock = self.clock;
        if let Some(plan) = self.streams.get_mut(key).and_then(|it| it.plan()) {
            plan.attempt(clock());
            self.arm(key);
        }
    }

    /// Puts a stream in the queue.
    pub(super) fn arm(&mut self, key: StreamKey) {
        let Some(plan) = self.streams.get_mut(key).and_then(|it| it.plan()) else { return };
        let next = plan.next();
        let before = std::mem::replace(&mut plan.armed, next);
        if next == before {
            return;
        }
        if let Some(before) = before {
            self.deadlines.remove(&(before, key));
        }
        if let Some(next) = next {
            self.is_sooner |= self.next_deadline().is_none_or(|first| next < first);
            self.deadlines.insert((next, key));
        }
    }

    /// A limit has passed. A client without a response gets an answer; otherwise both sides get a reset.
    #[cold]
    fn timed_out(&mut self, key: StreamKey, limit: Limit) {
        let Some(stream) = self.streams.get_mut(key) else { return };
        if limit == Limit::Backend && stream.response.is_ended {
            // The client is the slow one.
            return self.arm(key);
        }
        // What the client has not sent, or does not take, is not the endpoint's fault. A request that is
        // sent once more was there as a whole.
        let has_all = stream.request.is_ended && stream.upstream_id != 0;
        let is_ahead = stream.response.held() > 0;
        let blames = |it: &crate::Deadlines| it.blames_endpoint(limit);
        let deadlines = stream.plan().and_then(|plan| plan.deadlines.as_ref());
        if !has_all || is_ahead || !deadlines.is_some_and(blames) {
            stream.lease = None;
        }
        let is_answered = stream.is_answered;
        if let Some(client) = self.clients.get(stream.client) {
            client.sink.timed_out(limit);
        }
        if limit == Limit::Backend && self.repeats(key, Came::Late) {
            return;
        }
        self.reset_at_endpoint(key, Code::CANCEL);
        if is_answered {
            self.reset_at_client(key, Code::INTERNAL_ERROR);
            self.finish(key, ExchangeEnd::TimedOut);
        } else {
            self.answer(key, &OwnAnswer::error(504, TIMEOUT, None));
        }
    }
}
