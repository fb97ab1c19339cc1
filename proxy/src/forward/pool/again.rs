//! Requests that are sent once more as their route says so, though they may have been processed (level 3 of
//! the retries in docs/SERVICES.md).

use std::net::SocketAddr;
use std::task::Poll;
use std::time::Duration;

use tokio::io::Interest;
use tokio::time::{Instant, sleep};
use weir_http::h1::{Body, HeadLimits, Kind, ResponseReader};
use weir_http::{Came, Plan, Verdict};

use super::super::http::ExchangeSink as _;
use super::super::retries::{Repeat, Retry, RetryOutcome};
use super::End;
use super::acquire::Fresh;
use super::client::Client;
use super::member::Member;

/// Up to the end of the status: `HTTP/1.1 200`.
const STATUS: usize = 12;

/// What the request under way was sent to before.
#[derive(Debug, Default)]
pub(super) struct Again {
    pub(super) tried: Vec<SocketAddr>,
    /// It is not known yet whether the last attempt has helped.
    is_open: bool,
}

// === impl Client ===

impl Client {
    /// Sets whether the status of its response is to be looked at; whether the request may be sent once more.
    pub(super) fn begin_watch(&self, watches: &mut bool) -> bool {
        let plan = self.to.as_ref().and_then(|to| to.plan.as_ref());
        *watches = plan.is_some_and(|plan| plan.watches());
        *watches && plan.is_some_and(|plan| plan.may_repeat())
    }

    /// Looks at what has come of a response, nothing of which has gone to the client. Pending while its
    /// status is not there; `Some` if the request is to be sent once more, after that time.
    pub(super) fn poll_watch(&mut self, watches: &mut bool) -> Poll<Option<(Came, Duration)>> {
        let bytes = self.down.uncleared();
        if bytes.len() < STATUS && b"HTTP/1.".starts_with(&bytes[..bytes.len().min(7)]) {
            return Poll::Pending;
        }
        *watches = false;
        let status =
            bytes.get(STATUS - 3..STATUS).and_then(|it| str::from_utf8(it).ok()?.parse().ok());
        let Some(status) = status.filter(|status| *status >= 200) else {
            // The client gets something.
            self.settle_again(RetryOutcome::Success);
            if let Some(plan) = self.plan() {
                plan.retries = None;
            }
            return Poll::Ready(None);
        };
        let came = Came::Status(status);
        if let Some(wait) = self.repeats(came) {
            return Poll::Ready(Some((came, wait)));
        }
        let has_failed = self.plan().is_some_and(|plan| plan.has_failed());
        self.settle_again(match has_failed {
            true => RetryOutcome::Failure,
            false => RetryOutcome::Success,
        });
        Poll::Ready(None)
    }

    /// Whether the request is to be sent once more, which counts then: after which time.
    pub(super) fn repeats(&mut self, came: Came) -> Option<Duration> {
        let is_kept = self.up.is_kept();
        let plan = self.to.as_mut()?.plan.as_mut()?;
        match plan.decide(came, Instant::now().into_std(), (self.report.estimate(), is_kept)) {
            Verdict::No => None,
            Verdict::Withheld(why) => {
                self.report.retried(Retry { why: Repeat::Route, outcome: why.into() });
                None
            }
            Verdict::After(wait) => Some(wait),
        }
    }

    /// Leaves an endpoint, and has the request sent once more.
    ///
    /// # Errors
    /// As [`Self::acquire`].
    pub(super) async fn repeat(
        &mut self,
        member: Member,
        came: Came,
        wait: Duration,
    ) -> Result<Member, End> {
        self.settle_again(RetryOutcome::Failure);
        self.again.is_open = true;
        self.again.tried.push(member.address);
        let now = Instant::now().into_std();
        let took = self.plan().map(|plan| plan.took(now)).unwrap_or_default();
        self.report.leaves(came, took);
        // What is to come of the response would have to be read; otherwise the drop is a reset.
        let is_whole = matches!(came, Came::Status(_)) && self.has_whole_response();
        self.down.discard();
        match is_whole {
            true => self.pool.give(member),
            false => drop(member),
        }
        self.up.rewind();
        self.up.forget();
        if let Some(plan) = self.plan() {
            plan.attempt_over();
        }
        self.wait(wait).await?;
        self.acquire(Fresh::No).await
    }

    /// Waits before the request is sent for the first time, where its route says so.
    ///
    /// # Errors
    /// As [`Self::wait`].
    pub(super) async fn delay(&mut self) -> Result<(), End> {
        match self.plan().and_then(Plan::take_delay) {
            Some(delay) => self.wait(delay).await,
            None => Ok(()),
        }
    }

    /// # Errors
    /// How the connection, or the request, ends meanwhile.
    async fn wait(&mut self, time: Duration) -> Result<(), End> {
        tokio::select! {
            () = sleep(time) => Ok(()),
            _ = self.stream.ready(Interest::ERROR) => Err(End::ClientReset),
            limit = self.timer.limit(self.to.as_deref_mut(), &self.counters) => {
                self.report.timed_out(limit);
                self.report.is_late(false, true);
                Err(End::TimedOut)
            }
        }
    }

    /// It is known what has come of the last attempt.
    pub(super) fn settle_again(&mut self, outcome: RetryOutcome) {
        if std::mem::take(&mut self.again.is_open) {
            self.report.retried(Retry { why: Repeat::Route, outcome });
        }
    }

    /// The endpoint has sent its response to the end and has the whole request: nothing is under way on its
    /// connection.
    fn has_whole_response(&self) -> bool {
        let kind = match self.up.all().starts_with(b"HEAD ") {
            true => Kind::Head,
            false => Kind::Other,
        };
        let bytes = self.down.uncleared();
        let head = ResponseReader::new(HeadLimits::NONE).read(bytes, kind);
        let Ok(Some((head, length))) = head else { return false };
        let (mut body, rest) = (Body::new(head.framing), &bytes[length..]);
        let is_read = match body.is_done() {
            true => rest.is_empty(),
            false => body.advance(rest).is_ok_and(|it| it.done && it.consumed == rest.len()),
        };
        let is_sent = self.session.has_whole_request() && !self.up.is_unsent();
        is_read && is_sent && head.unpoolable.is_none()
    }

    fn plan(&mut self) -> Option<&mut Plan> {
        self.to.as_mut()?.plan.as_deref_mut()
    }
}
