//! Time limits of a request, where its route has any: one timer for all requests of a connection.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::time::{Instant, Sleep, sleep_until};
use weir_http::{Came, Deadlines, Limit, RouteTo};

use super::super::ByteCounters;
use super::super::http::ExchangeSink as _;
use super::super::requests::BoxedLease;
use super::End;
use super::client::Client;
use super::exchange::Step;

/// Wakes the client's task when a limit passes. Made when the first request has one.
#[derive(Default)]
pub(super) struct Timer(Option<Pin<Box<Sleep>>>);

type To = RouteTo<BoxedLease>;

// === impl Timer ===

impl Timer {
    /// Waits until a limit of the request has passed; for ever if there is none.
    pub(super) async fn limit(
        &mut self,
        mut to: Option<&mut To>,
        counters: &ByteCounters,
    ) -> Limit {
        poll_fn(|cx| self.poll(to.as_deref_mut(), counters, cx)).await
    }

    fn poll(
        &mut self,
        to: Option<&mut To>,
        counters: &ByteCounters,
        cx: &mut Context<'_>,
    ) -> Poll<Limit> {
        let Some(deadlines) = to.and_then(deadlines) else { return Poll::Pending };
        while let Some(next) = deadlines.next().map(Instant::from_std) {
            let sleep = self.0.get_or_insert_with(|| Box::pin(sleep_until(next)));
            if sleep.deadline() != next {
                sleep.as_mut().reset(next);
            }
            ready!(sleep.as_mut().poll(cx));
            let now = Instant::now().into_std();
            if let Some(limit) = deadlines.pass(now, moved(counters)) {
                return Poll::Ready(limit);
            }
        }
        Poll::Pending
    }
}

// === impl Client ===

impl Client {
    /// The head of a request has come, and it is known where it goes.
    pub(super) fn begin_limits(&mut self) {
        if let Some(plan) = self.to.as_mut().and_then(|to| to.plan.as_mut()) {
            plan.begin(Instant::now().into_std(), moved(&self.counters));
        }
    }

    /// It is sent to an endpoint.
    pub(super) fn begin_attempt(&mut self) {
        if let Some(plan) = self.to.as_mut().and_then(|to| to.plan.as_mut()) {
            plan.attempt(Instant::now().into_std());
        }
    }

    /// Ready when a limit has passed.
    pub(super) fn poll_limit(&mut self, cx: &mut Context<'_>) -> Poll<Limit> {
        match &mut self.to {
            Some(to) => self.timer.poll(Some(&mut **to), &self.counters, cx),
            None => Poll::Pending,
        }
    }

    /// A limit has passed while the request is at an endpoint.
    pub(super) fn late(&mut self, limit: Limit) -> Step {
        // Interim responses may be followed by any other.
        let answers = !self.session.is_answering() && self.session.response_length() == 0;
        // What the client has not sent, or does not take, is not the endpoint's fault.
        let has_all = self.session.has_whole_request();
        let takes_all = !self.down.has_cleared();
        let deadlines = self.to.as_deref_mut().and_then(deadlines);
        let blames = deadlines.is_some_and(|it| it.blames_endpoint(limit)) && has_all && takes_all;
        self.report.timed_out(limit);
        if answers
            && limit == Limit::Backend
            && let Some(wait) = self.repeats(Came::Late)
        {
            return Step::Repeat(Came::Late, wait);
        }
        self.report.is_late(blames, answers);
        if answers { Step::Late } else { Step::Over(End::TimedOut) }
    }
}

// === helpers ===

fn deadlines(to: &mut To) -> Option<&mut Deadlines> {
    to.plan.as_mut()?.deadlines.as_mut()
}

/// Bytes of the connection, in both directions.
fn moved(counters: &ByteCounters) -> u64 {
    use std::sync::atomic::Ordering::Relaxed;
    counters.client_to_upstream.load(Relaxed) + counters.upstream_to_client.load(Relaxed)
}
