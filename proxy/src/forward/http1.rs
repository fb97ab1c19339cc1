//! HTTP/1 over one client and one upstream connection: reads whole heads, follows bodies, and
//! forwards both as they came, so that no peer can tell from the bytes that weir is there. What the
//! bytes mean is [`weir_http::h1`]'s; here is what waits, what ends and what weir answers itself.
//!
//! hyper is not used here. Version 1.12 cannot pass on a 1xx, a trailer that `Trailer` does not
//! announce or `TE: trailers` does not invite (`h1/conn.rs`, `write_trailers`), a body that ends
//! with an HTTP/1.1 connection, the version of an answer to HTTP/1.0, or the order of fields, and
//! adds `connection` fields of its own (`h1/conn.rs`, `enforce_version`).

pub(super) mod pipe;
#[cfg(test)]
mod tests;

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Sleep, sleep};
use tokio_util::sync::WaitForCancellationFutureOwned;
use weir_http::h1::{Session, UpstreamEnd};

use self::pipe::Pipe;
use super::http::{EndCause, ExchangeEnd, ExchangeSink, HttpContext, HttpEnd, Side, bad_gateway};

/// The client's bytes behind a request that may take the connection over, kept until the response
/// decides what they are.
const HELD_BYTES: usize = 64 << 10;

/// How often a client that is not read from is looked at: a reset is told only to who reads or writes.
const LOOK: Duration = Duration::from_secs(1);

/// See [`super::http::serve`].
pub(super) async fn serve<C, U>(client: C, upstream: U, context: HttpContext) -> HttpEnd
where
    C: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    let mut connection = Connection {
        client,
        upstream,
        up: Pipe::new(),
        down: Pipe::new(),
        session: Session::holding(context.sink.clone(), context.limits.head),
        released: false,
        drain: Box::pin(context.drain.clone().cancelled_owned()),
        draining: false,
        upstream_deaf: false,
        first: None,
        last_word: None,
        timer: None,
        context,
    };
    let cause = poll_fn(|cx| connection.poll(cx)).await;
    connection.end(cause)
}

struct Connection<C, U> {
    client: C,
    upstream: U,
    /// From the client to the upstream.
    up: Pipe,
    /// From the upstream to the client.
    down: Pipe,
    session: Session<dyn ExchangeSink>,
    /// Bytes of the client that waited may be looked at again.
    released: bool,
    context: HttpContext,
    drain: Pin<Box<WaitForCancellationFutureOwned>>,
    draining: bool,
    /// Writing to the upstream failed; what it still has to say is read all the same.
    upstream_deaf: bool,
    /// Who closed first.
    first: Option<Side>,
    /// Set when nothing more will be said to the client than what is on its way: the outcome.
    last_word: Option<EndCause>,
    timer: Option<(Bound, Pin<Box<Sleep>>)>,
}

/// Why and since when (in terms of bytes moved) a deadline runs.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Bound {
    after: Duration,
    moved: u64,
}

// === impl Connection ===

impl<C, U> Connection<C, U>
where
    C: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<EndCause> {
        loop {
            self.draining = self.draining || self.drain.as_mut().poll(cx).is_ready();
            let up = self.poll_up(cx);
            let down = self.poll_down(cx);
            for direction in [up, down] {
                if let Poll::Ready(Err(cause)) = direction {
                    return Poll::Ready(cause);
                }
            }
            if std::mem::take(&mut self.released) || self.may_stop() {
                continue;
            }
            if let Some(cause) = self.finished() {
                return Poll::Ready(cause);
            }
            if let Some(cause) = ready!(self.poll_timer(cx)) {
                return Poll::Ready(cause);
            }
        }
    }

    fn poll_up(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), EndCause>> {
        loop {
            if self.last_word.is_some() || self.upstream_deaf {
                return self.poll_discard(cx);
            }
            if ready!(self.up.poll_write(&mut self.upstream, cx)).is_err() {
                self.upstream_deaf = true;
                continue;
            }
            self.read_requests();
            if self.up.has_cleared() {
                continue;
            }
            if self.up.is_eof() {
                if self.up.is_empty() {
                    return self.up.poll_shutdown(&mut self.upstream, cx).map(|_| Ok(()));
                }
                if self.session.is_waiting() {
                    return Poll::Pending;
                }
                self.session.client_ended();
                continue;
            }
            if self.is_client_held() {
                return Poll::Pending;
            }
            match ready!(self.up.poll_read(&mut self.client, cx)) {
                Ok(0) => {
                    self.first.get_or_insert(Side::Client);
                }
                Ok(_) => {}
                Err(_) => return Poll::Ready(Err(EndCause::Reset(Side::Client))),
            }
        }
    }

    /// The client has sent so much behind a request that no more is read until that is answered.
    fn is_client_held(&self) -> bool {
        self.session.is_waiting() && self.up.len() >= HELD_BYTES
    }

    /// Neither reading nor writing would tell that the client is gone.
    fn is_client_unwatched(&self) -> bool {
        let unread = self.up.is_eof() && !self.up.is_empty() && self.session.is_waiting();
        self.last_word.is_none() && (self.is_client_held() || unread)
    }

    /// Reads what no peer will get, so that closing does not become a reset too early, and so that
    /// a client that goes away is noticed.
    fn poll_discard(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), EndCause>> {
        self.up = if self.up.is_eof() { return Poll::Ready(Ok(())) } else { Pipe::new() };
        loop {
            match ready!(self.up.poll_read(&mut self.client, cx)) {
                Ok(0) => return Poll::Ready(Ok(())),
                Ok(_) => self.up.discard(),
                Err(_) => return Poll::Ready(Err(EndCause::Reset(Side::Client))),
            }
        }
    }

    fn poll_down(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), EndCause>> {
        loop {
            if ready!(self.down.poll_write(&mut self.client, cx)).is_err() {
                return Poll::Ready(Err(EndCause::Reset(Side::Client)));
            }
            if self.last_word.is_some() {
                return self.down.poll_shutdown(&mut self.client, cx).map(|_| Ok(()));
            }
            self.read_responses();
            if self.down.has_cleared() {
                continue;
            }
            if self.down.is_eof() {
                return self.down.poll_shutdown(&mut self.client, cx).map(|_| Ok(()));
            }
            let read = ready!(self.down.poll_read(&mut self.upstream, cx));
            if !matches!(read, Ok(1..)) {
                self.upstream_ended(read.is_err())?;
            }
        }
    }

    /// Clears what of the client's bytes may go to the upstream.
    fn read_requests(&mut self) {
        let before = self.session.request_length();
        let read = self.session.requests(&self.up.uncleared()[before..]);
        self.up.clear(before + read - self.session.request_length());
        if self.session.refuses_requests() {
            self.up.discard();
        }
    }

    /// Clears what of the upstream's bytes may go to the client.
    fn read_responses(&mut self) {
        let was_waiting = self.session.is_waiting();
        let was_raw = self.session.is_raw();
        clear_responses(&mut self.session, &mut self.down, self.draining);
        let (is_waiting, is_raw) = (self.session.is_waiting(), self.session.is_raw());
        self.released |= was_waiting && !is_waiting || is_raw && !was_raw;
    }

    fn upstream_ended(&mut self, reset: bool) -> Result<(), EndCause> {
        let first = *self.first.get_or_insert(Side::Upstream);
        match self.session.upstream_ended(reset) {
            // It ended because the client had.
            UpstreamEnd::BeforeHead | UpstreamEnd::Truncated if first == Side::Client => {
                let end = ExchangeEnd::ClientReset(None);
                self.session.finish(end.clone(), end);
                if reset {
                    return Err(EndCause::Reset(Side::Upstream));
                }
                self.down.discard();
                self.last_word = Some(EndCause::Closed(first));
                Ok(())
            }
            UpstreamEnd::BeforeHead if self.session.is_fresh() => {
                match reset {
                    true => self.answer("upstream-reset", ExchangeEnd::UpstreamReset(None)),
                    false => self.answer("upstream-closed", ExchangeEnd::UpstreamClosed),
                }
                Ok(())
            }
            _ if reset => Err(EndCause::Reset(Side::Upstream)),
            // The client notices: its framing is incomplete. It sees the very close that the
            // upstream made.
            UpstreamEnd::Truncated => {
                let end = ExchangeEnd::UpstreamClosed;
                self.session.finish(end.clone(), end);
                self.last_word = Some(EndCause::Truncated);
                Ok(())
            }
            // A connection that had been idle: clients know that this happens, and try again where
            // that is safe. An answer of weir's own would keep them from it.
            UpstreamEnd::BeforeHead | UpstreamEnd::InOrder => {
                self.down.discard();
                self.last_word = Some(EndCause::Closed(first));
                Ok(())
            }
            UpstreamEnd::Raw => Ok(()),
        }
    }

    /// The first request in flight gets weir's own answer; the others end as the upstream did.
    fn answer(&mut self, reason: &'static str, others: ExchangeEnd) {
        self.session.finish(ExchangeEnd::Answered(reason), others);
        self.down.say(bad_gateway(reason).as_bytes());
        self.last_word = Some(EndCause::Answered(reason));
    }

    /// True once, when a drain has found the connection with nothing under way, and the client
    /// knows that it ends.
    fn may_stop(&mut self) -> bool {
        let stop = self.is_waiting_to_stop() && self.session.is_closing();
        if stop {
            self.last_word = Some(EndCause::Drained);
        }
        stop
    }

    /// Draining, and not a byte of a request is here.
    fn is_waiting_to_stop(&self) -> bool {
        self.draining
            && self.last_word.is_none()
            && self.session.is_idle()
            && self.up.is_empty()
            && self.down.is_empty()
    }

    fn finished(&self) -> Option<EndCause> {
        if let Some(cause) = &self.last_word {
            return (self.down.is_shut() && self.up.is_eof()).then(|| cause.clone());
        }
        ((self.up.is_shut() || self.upstream_deaf) && self.down.is_shut())
            .then(|| EndCause::Closed(self.first.unwrap_or(Side::Client)))
    }

    /// Ready with `None` if the timer has just been set anew.
    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<Option<EndCause>> {
        let Some(bound) = self.bound() else {
            self.timer = None;
            return Poll::Pending;
        };
        match &mut self.timer {
            Some((running, timer)) if *running == bound => {
                ready!(timer.as_mut().poll(cx));
                if self.is_client_unwatched() {
                    self.timer = None;
                    let gone = Pin::new(&mut self.client).poll_write(cx, &[]);
                    let gone = matches!(gone, Poll::Ready(Err(_)));
                    return Poll::Ready(gone.then_some(EndCause::Reset(Side::Client)));
                }
                if self.is_waiting_to_stop() && !self.up.is_shut() {
                    self.last_word = Some(EndCause::Drained);
                    return Poll::Ready(None);
                }
                let lingered = bound.after == self.context.limits.linger;
                Poll::Ready(Some(match &self.last_word {
                    Some(cause) => cause.clone(),
                    None if lingered => EndCause::Closed(Side::Client),
                    None => EndCause::Idle,
                }))
            }
            timer => {
                *timer = Some((bound, Box::pin(sleep(bound.after))));
                Poll::Ready(None)
            }
        }
    }

    /// How long the present state may last.
    fn bound(&self) -> Option<Bound> {
        let limits = &self.context.limits;
        let raw = self.session.is_raw();
        let moved = self.up.moved() + self.down.moved();
        if self.last_word.is_some() {
            return Some(match self.down.is_shut() {
                true => Bound { after: limits.linger, moved: 0 },
                false => Bound { after: limits.half_closed_idle, moved: self.down.moved() },
            });
        }
        if self.up.is_shut() && self.session.is_idle() {
            return Some(Bound { after: limits.linger, moved: 0 });
        }
        if self.is_waiting_to_stop() {
            return Some(Bound { after: limits.drain_idle, moved });
        }
        if self.is_client_unwatched() {
            return Some(Bound { after: LOOK, moved });
        }
        let half_closed = raw && self.up.is_shut() != self.down.is_shut();
        half_closed.then_some(Bound { after: limits.half_closed_idle, moved })
    }

    fn end(mut self, cause: EndCause) -> HttpEnd {
        let untracked = self.session.untracked();
        if let EndCause::Reset(side) = cause {
            self.context.abort(side.other());
        }
        // The side that ended first.
        let in_flight = match (self.first, &cause) {
            (Some(Side::Client), _) | (_, EndCause::Reset(Side::Client)) => {
                ExchangeEnd::ClientReset(None)
            }
            (_, EndCause::Reset(Side::Upstream)) => ExchangeEnd::UpstreamReset(None),
            _ => ExchangeEnd::UpstreamClosed,
        };
        self.session.finish(in_flight.clone(), in_flight);
        HttpEnd { cause, untracked }
    }
}

// === helpers ===

/// Reads on in what the upstream has sent, and lets go what may be sent to the client; in a drain the
/// response says that the connection ends behind it.
pub(super) fn clear_responses(
    session: &mut Session<dyn ExchangeSink>,
    down: &mut Pipe,
    draining: bool,
) {
    let read = session.response_length();
    session.responses(down.uncleared(), read);
    let mut complete = down.uncleared().len() - session.response_length();
    if draining && let Some(edit) = session.say_close() {
        down.clear(edit.start);
        down.replace(edit.end - edit.start, edit.text);
        complete -= edit.end;
    }
    down.clear(complete);
}
