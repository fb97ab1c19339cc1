//! One request on one upstream connection, and once more on another where that is safe.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use weir_http::Came;

use super::super::retries::RetryOutcome;
use super::super::{Side, http1};
use super::End;
use super::acquire::Fresh;
use super::client::Client;
use super::member::Member;
use super::retry::Ended;

/// The client's bytes behind the request under way: when there are so many, no more are read.
const MOST_PIPELINED: usize = 16 << 10;

/// What has become of an exchange.
pub(super) enum Step {
    /// It is over; nothing is under way on either side.
    Done,
    /// The upstream connection is the client's own from here on. `eof`: its end has been read.
    Pin { eof: bool },
    /// So is the client's connection.
    Over(End),
    /// It is to be sent once more after this time, because of what has come.
    Repeat(Came, Duration),
    /// A time limit has passed, and the client has got nothing of a response.
    Late,
}

/// A request on one connection.
#[derive(Default)]
struct Run {
    /// Something of the response has come.
    answered: bool,
    /// Its status decides whether the request is sent once more.
    watches: bool,
    /// It is on its second connection.
    again: bool,
    /// Writing to the upstream has failed; what it still has to say is read all the same.
    deaf: bool,
    /// The kernel has told of a reset: the end that is read behind it is none.
    reset: bool,
}

enum Event {
    Step(Step),
    /// The connection has ended before anything of the response.
    Ended(Ended),
}

impl From<Step> for Event {
    fn from(step: Step) -> Self {
        Self::Step(step)
    }
}

// === impl Client ===

impl Client {
    /// Sends the request that has begun, and forwards its response.
    pub(super) async fn exchange(&mut self, member: &mut Member) -> Step {
        let mut run = Run::default();
        loop {
            member.begin();
            self.begin_attempt();
            self.report.attempted();
            let may_repeat = self.begin_watch(&mut run.watches);
            if may_repeat || (member.is_reused() && !run.again) {
                self.up.keep();
            }
            let ended = match poll_fn(|cx| self.poll_exchange(member, &mut run, cx)).await {
                Event::Step(step) => return step,
                Event::Ended(ended) => ended,
            };
            if run.again {
                self.count_retry(RetryOutcome::Failure);
            } else if self.may_retry(member, ended).await {
                match self.acquire(Fresh::Yes).await {
                    // What the other has not acknowledged is not sent again: its drop is a reset.
                    Ok(other) => *member = other,
                    Err(end) => {
                        self.count_retry(RetryOutcome::Failure);
                        return Step::Over(end);
                    }
                }
                self.up.rewind();
                self.up.forget();
                run = Run { again: true, ..Run::default() };
                continue;
            }
            if let Some(wait) = self.repeats(Came::Lost) {
                return Step::Repeat(Came::Lost, wait);
            }
            return match ended {
                Ended::Closed => Step::Pin { eof: true },
                Ended::Reset | Ended::Unsent => Step::Over(End::UpstreamReset),
            };
        }
    }

    fn poll_exchange(
        &mut self,
        member: &mut Member,
        run: &mut Run,
        cx: &mut Context<'_>,
    ) -> Poll<Event> {
        self.draining = self.draining || Pin::new(&mut self.drain).poll(cx).is_ready();
        if let Poll::Ready(limit) = self.poll_limit(cx) {
            return Poll::Ready(self.late(limit).into());
        }
        match self.poll_up(member, run, cx) {
            Poll::Pending => self.poll_down(member, run, cx),
            event => event,
        }
    }

    /// Sends the request; then looks at the client for its end.
    fn poll_up(&mut self, member: &mut Member, run: &mut Run, cx: &mut Context<'_>) -> Poll<Event> {
        loop {
            if run.deaf {
                return Poll::Pending;
            }
            if let Err(error) = ready!(self.up.poll_send(member, cx, &self.counters)) {
                let is_new = !run.answered && !run.again;
                if is_new && member.is_unsent() && member.is_reused() && self.up.is_kept() {
                    return Poll::Ready(Event::Ended(Ended::Unsent));
                }
                run.deaf = true;
                // A reset behind the upstream's end is EPIPE (`tcp_reset`, net/ipv4/tcp_input.c).
                run.reset = error.kind() != io::ErrorKind::BrokenPipe;
                continue;
            }
            self.read_request();
            if self.session.unpoolable().is_some_and(|reason| !reason.may_be_last()) {
                return Poll::Ready(Step::Pin { eof: false }.into());
            }
            if self.up.is_unsent() {
                continue;
            }
            let waiting = self.up.uncleared().len();
            if self.ended && waiting == 0 {
                // The upstream is to learn of it.
                return Poll::Ready(Step::Pin { eof: false }.into());
            }
            if self.ended || waiting >= MOST_PIPELINED {
                return Poll::Pending;
            }
            match ready!(self.up.poll_fill(&mut self.stream, cx)) {
                Ok(0) => self.ended = true,
                Ok(_) => {}
                Err(_) => return Poll::Ready(Step::Over(End::ClientReset).into()),
            }
        }
    }

    /// Forwards the response.
    fn poll_down(
        &mut self,
        member: &mut Member,
        run: &mut Run,
        cx: &mut Context<'_>,
    ) -> Poll<Event> {
        loop {
            let before = self.down.len();
            let written = self.down.poll_write(&mut self.stream, cx);
            self.counters.add_from(Side::Upstream, before - self.down.len());
            if ready!(written).is_err() {
                return Poll::Ready(Step::Over(End::ClientReset).into());
            }
            if run.answered && self.session.is_idle() {
                self.down.rest();
                // The upstream has answered, and does not read to the end.
                let is_whole = !run.deaf && !self.up.is_unsent();
                let step = if is_whole { Step::Done } else { Step::Pin { eof: false } };
                return Poll::Ready(step.into());
            }
            let readable = member.stream.poll_read_ready(cx);
            if readable.is_pending() {
                self.down.rest();
                return Poll::Pending;
            }
            match ready!(self.down.poll_read(&mut member.stream, cx)) {
                Ok(1..) => {
                    if run.watches {
                        match self.poll_watch(&mut run.watches) {
                            Poll::Pending => continue,
                            Poll::Ready(Some((came, wait))) => {
                                return Poll::Ready(Step::Repeat(came, wait).into());
                            }
                            Poll::Ready(None) => {}
                        }
                    }
                    if let Some(event) = self.answered(run) {
                        return Poll::Ready(event);
                    }
                }
                Ok(0) if !run.reset => {
                    return Poll::Ready(match run.answered {
                        true => Step::Pin { eof: true }.into(),
                        false => Event::Ended(Ended::Closed),
                    });
                }
                Ok(0) | Err(_) => {
                    return Poll::Ready(match run.answered {
                        true => Step::Over(End::UpstreamReset).into(),
                        false => Event::Ended(Ended::Reset),
                    });
                }
            }
        }
    }

    /// Reads on in the response, and lets go what may be sent to the client.
    fn answered(&mut self, run: &mut Run) -> Option<Event> {
        if !run.answered {
            run.answered = true;
            self.up.forget();
            if run.again {
                self.count_retry(RetryOutcome::Success);
            }
        }
        if self.edits_response() {
            let read = self.session.response_length();
            self.session.responses(self.down.uncleared(), read);
            let complete = self.down.uncleared().len() - self.session.response_length();
            let left = self.edit_response(complete);
            self.down.clear(left);
        } else {
            http1::clear_responses(&mut self.session, &mut self.down, self.draining);
        }
        self.settle();
        let pins = self.session.unpoolable().is_some() && self.session.response_length() == 0;
        pins.then(|| Step::Pin { eof: false }.into())
    }
}
