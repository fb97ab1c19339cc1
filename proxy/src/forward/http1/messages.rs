//! Follows the messages of both directions of a connection: which bytes may go on, which response
//! belongs to which request, where HTTP ends and a tunnel begins. Knows no sockets.

use std::sync::Arc;

use super::body::{Body, Framing};
use super::exchanges::{Answer, Exchanges};
use super::fields::RequestHead;
use super::head::{self, Parsed, Persistence, ResponseHead, TOO_LARGE};
use super::pipe::Pipe;
use crate::forward::http::{ExchangeEnd, ExchangeSink, HttpLimits, Side, Untracked};

/// Said to a client whose connection ends after this response, because weir drains (RFC 9112 §9.6):
/// it sends no more requests then.
const CLOSE: &[u8] = b"connection: close\r\n";
/// The same where the upstream has said something else. The field is between neighbours only
/// (RFC 9110 §7.6.1), and for this client the connection ends here.
const CLOSE_VALUE: &[u8] = b"close";

pub(super) struct Messages {
    limits: HttpLimits,
    exchanges: Exchanges,
    requests: State,
    responses: State,
    /// The client was told that no more requests are taken.
    close_said: bool,
    /// Bytes of the client that were held back may be looked at again.
    released: bool,
}

enum State {
    Head(Search),
    Body(Body),
    /// Requests only: the response decides what the next bytes are.
    Held,
    /// Everything passes: a tunnel, or messages that can't be followed.
    Raw,
}

/// Avoids parsing a head anew for each segment of it.
#[derive(Default)]
struct Search {
    scanned: usize,
    parsed: usize,
}

/// What the end of the upstream's bytes means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum UpstreamEnd {
    /// A request is waiting, and no response to it has begun.
    BeforeHead,
    /// Inside a response that should have been longer.
    Truncated,
    /// Between messages, or at the end of a body that ends that way.
    InOrder,
    /// After the end of HTTP on this connection.
    Raw,
}

// === impl Messages ===

impl Messages {
    pub(super) fn new(sink: Arc<dyn ExchangeSink>, limits: HttpLimits) -> Self {
        Self {
            limits,
            exchanges: Exchanges::new(sink),
            requests: State::head(),
            responses: State::head(),
            close_said: false,
            released: false,
        }
    }

    pub(super) fn untracked(&self) -> Option<Untracked> {
        self.exchanges.untracked()
    }

    pub(super) fn is_raw(&self) -> bool {
        matches!(self.requests, State::Raw)
    }

    /// The client's bytes have to wait for a response.
    pub(super) fn is_held(&self) -> bool {
        match self.requests {
            State::Held => true,
            State::Head(_) => self.exchanges.is_full(),
            State::Body(_) | State::Raw => false,
        }
    }

    /// Nothing is under way.
    pub(super) fn is_idle(&self) -> bool {
        self.exchanges.is_empty()
            && matches!((&self.requests, &self.responses), (State::Head(_), State::Head(_)))
    }

    /// The client knows that it must send no more requests.
    pub(super) fn is_close_said(&self) -> bool {
        self.close_said
    }

    /// No response has ended yet: the connection was not being reused.
    pub(super) fn is_fresh(&self) -> bool {
        self.exchanges.answered() == 0
    }

    /// True once after bytes that were held back may go on.
    pub(super) fn take_released(&mut self) -> bool {
        std::mem::take(&mut self.released)
    }

    /// Looks at the client's bytes and clears what may go to the upstream.
    pub(super) fn requests(&mut self, pipe: &mut Pipe) {
        while !pipe.uncleared().is_empty() {
            let input = pipe.uncleared();
            match &mut self.requests {
                State::Head(_) if self.close_said => pipe.discard(),
                State::Head(_) if self.exchanges.is_full() => return,
                State::Head(search) => {
                    if !search.is_worth_parsing(input) {
                        return self.check_size(Side::Client, input.len());
                    }
                    match head::request(input, &self.limits).bounded(&self.limits) {
                        Parsed::Complete(head, length) => {
                            pipe.clear(length);
                            self.request_started(head);
                        }
                        Parsed::Partial => return self.check_size(Side::Client, input.len()),
                        Parsed::Invalid(reason) => self.lose_track(Side::Client, reason),
                    }
                }
                State::Body(body) => match body.advance(input) {
                    Ok(progress) => {
                        pipe.clear(progress.consumed);
                        self.exchanges.request_bytes(progress.content);
                        if progress.done {
                            self.request_done();
                        }
                    }
                    Err(_) => self.lose_track(Side::Client, "invalid chunk"),
                },
                State::Held => return,
                State::Raw => {
                    let count = input.len();
                    pipe.clear(count);
                    self.exchanges.request_bytes(count as u64);
                }
            }
        }
    }

    /// Looks at the upstream's bytes and clears what may go to the client.
    pub(super) fn responses(&mut self, pipe: &mut Pipe, draining: bool) {
        while !pipe.uncleared().is_empty() {
            let input = pipe.uncleared();
            match &mut self.responses {
                State::Head(search) => {
                    let Some(request) = self.exchanges.waiting() else {
                        self.lose_track(Side::Upstream, "response without a request");
                        continue;
                    };
                    if !search.is_worth_parsing(input) {
                        return self.check_size(Side::Upstream, input.len());
                    }
                    match head::response(input, request.kind, &self.limits).bounded(&self.limits) {
                        Parsed::Complete(head, length) => {
                            self.response_started(head, length, pipe, draining);
                        }
                        Parsed::Partial => return self.check_size(Side::Upstream, input.len()),
                        Parsed::Invalid(reason) => self.lose_track(Side::Upstream, reason),
                    }
                }
                State::Body(body) => match body.advance(input) {
                    Ok(progress) => {
                        pipe.clear(progress.consumed);
                        self.exchanges.response_bytes(progress.content);
                        if progress.done {
                            self.response_done();
                        }
                    }
                    Err(_) => self.lose_track(Side::Upstream, "invalid chunk"),
                },
                State::Held | State::Raw => {
                    let count = input.len();
                    pipe.clear(count);
                    self.exchanges.response_bytes(count as u64);
                }
            }
        }
    }

    /// The upstream has said everything it will say: in order, or up to a `reset`, which ends no body.
    pub(super) fn upstream_ended(&mut self, reset: bool) -> UpstreamEnd {
        match &self.responses {
            State::Raw | State::Held => UpstreamEnd::Raw,
            State::Body(body) if body.is_until_eof() && !reset => {
                self.response_done();
                self.exchanges.settle_early_answer();
                UpstreamEnd::InOrder
            }
            State::Body(_) => UpstreamEnd::Truncated,
            State::Head(_) if self.exchanges.waiting().is_some() => UpstreamEnd::BeforeHead,
            State::Head(_) => {
                self.exchanges.settle_early_answer();
                UpstreamEnd::InOrder
            }
        }
    }

    /// See [`Exchanges::abandon`].
    pub(super) fn abandon(&mut self, first: ExchangeEnd, rest: ExchangeEnd) {
        self.exchanges.abandon(first, rest);
    }

    /// From here on both directions pass unread.
    pub(super) fn lose_track(&mut self, side: Side, reason: &'static str) {
        self.exchanges.lose_track(side, reason);
        self.pass_everything();
    }

    fn pass_everything(&mut self) {
        self.requests = State::Raw;
        self.responses = State::Raw;
        self.released = true;
    }

    fn check_size(&mut self, side: Side, head: usize) {
        if head > self.limits.max_head_bytes {
            self.lose_track(side, TOO_LARGE);
        }
    }

    fn request_started(&mut self, head: RequestHead) {
        let body = Body::new(head.framing);
        self.exchanges.start(head);
        let done = body.is_done();
        self.requests = State::Body(body);
        if done {
            self.request_done();
        }
    }

    fn request_done(&mut self) {
        let held = self.exchanges.request_done();
        self.requests = if held { State::Held } else { State::head() };
    }

    fn response_started(
        &mut self,
        head: ResponseHead,
        length: usize,
        pipe: &mut Pipe,
        draining: bool,
    ) {
        match self.exchanges.response_head(head.status, head.grpc) {
            Answer::Interim => {
                pipe.clear(length);
                self.responses = State::head();
            }
            Answer::Tunnel => {
                pipe.clear(length);
                self.pass_everything();
            }
            Answer::Final => {
                let only = self.exchanges.len() == 1;
                let said = match draining && only {
                    true => self.say_close(&head.persistence, length, pipe),
                    false => 0,
                };
                pipe.clear(length - said);
                if only && matches!(self.requests, State::Held) {
                    self.requests = State::head();
                    self.released = true;
                }
                let body = Body::new(head.framing);
                let done = body.is_done() && head.framing != Framing::UntilEof;
                self.responses = State::Body(body);
                if done {
                    self.response_done();
                }
            }
        }
    }

    /// Tells the client that this is the last response, where that can be said in a word. Returns
    /// how much of the head has been let go.
    fn say_close(&mut self, persistence: &Persistence, length: usize, pipe: &mut Pipe) -> usize {
        match persistence {
            Persistence::Unsaid if pipe.uncleared()[..length].ends_with(b"\r\n") => {
                self.close_said = true;
                pipe.clear(length - 2);
                pipe.replace(0, CLOSE);
                length - 2
            }
            Persistence::KeepAlive(value) => {
                self.close_said = true;
                pipe.clear(value.start);
                pipe.replace(value.len(), CLOSE_VALUE);
                value.end
            }
            // Bare line ends, or words that weir does not know: the client learns by the close.
            Persistence::Unsaid | Persistence::Said => 0,
        }
    }

    fn response_done(&mut self) {
        self.responses = State::head();
        self.released |= self.exchanges.response_done(false);
    }
}

// === impl State ===

impl State {
    fn head() -> Self {
        Self::Head(Search::default())
    }
}

// === impl Search ===

impl Search {
    /// True for the first bytes (they may not be HTTP at all), where an empty line came, and
    /// each time the bytes have doubled, so that the cost stays linear.
    fn is_worth_parsing(&mut self, input: &[u8]) -> bool {
        let from = self.scanned.saturating_sub(3);
        self.scanned = input.len();
        let fresh = &input[from.min(input.len())..];
        // One look that stops at the first end: others may be pipelined behind it, each to be looked
        // for in all that is here.
        let ends = fresh.windows(3).any(|bytes| bytes.starts_with(b"\n\n") || bytes == b"\n\r\n")
            || fresh.ends_with(b"\n\n");
        let due = ends || input.len() >= 2 * self.parsed;
        if due {
            self.parsed = input.len();
        }
        due
    }
}
