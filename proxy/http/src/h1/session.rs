//! Both directions of an HTTP/1 connection: which response belongs to which request, where a message
//! ends, and where HTTP ends and a tunnel begins.

mod unseen;

use std::sync::Arc;

use super::{
    Answer, Body, Edit, Exchanges, Framing, HeadLimits, RequestHead, RequestReader, ResponseHead,
    ResponseReader, Unpoolable,
};
use crate::{ExchangeEnd, ExchangeSink, ParseError, Side, Tracker, Untracked};

/// The client's bytes behind a request that may take the connection over, kept for reading until
/// the response decides what they are. Clients wait for it, or say little.
pub const MAX_HELD: usize = 16 << 10;

/// Follows an HTTP/1 connection.
pub struct Session<S: ExchangeSink + ?Sized> {
    mode: Mode,
    limits: HeadLimits,
    exchanges: Exchanges<S>,
    requests: State,
    responses: State,
    request: RequestReader,
    response: ResponseReader,
    /// See [`MAX_HELD`].
    held: Vec<u8>,
    client_ended: bool,
    /// Where `connection: close` can be put into the bytes of the upstream that were read last.
    close: Option<Edit>,
    /// The client was told that no more requests are taken.
    closing: bool,
    /// Why the connection to the upstream is not to be shared, from here on.
    unpoolable: Option<Unpoolable>,
}

/// What becomes of the bytes that are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// They pass on as they come: what cannot be followed at once is not followed at all.
    Passing,
    /// They pass on when their meaning is known, and may be made to wait.
    Holding,
    /// The same, and a request waits for the response to the one before.
    OneByOne,
}

#[derive(Debug)]
enum State {
    Head,
    Body(Body),
    /// Requests only: the response decides what the next bytes are.
    Held,
    /// A tunnel, or messages that are not followed.
    Raw,
}

/// What the end of the upstream's bytes means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpstreamEnd {
    /// A request is waiting, and no response to it has begun.
    BeforeHead,
    /// Inside a response that should have been longer.
    Truncated,
    /// Between messages, or at the end of a body that ends that way.
    InOrder,
    /// After the end of HTTP on this connection.
    Raw,
}

// === impl Session ===

impl<S: ExchangeSink + ?Sized> Session<S> {
    /// Starts at the first byte of both streams, whose bytes pass on as they come.
    #[must_use]
    pub fn passing(sink: Arc<S>) -> Self {
        Self::new(Mode::Passing, sink, HeadLimits::NONE)
    }

    /// The same; bytes behind those that have been read wait, and so do incomplete heads.
    #[must_use]
    pub fn holding(sink: Arc<S>, limits: HeadLimits) -> Self {
        Self::new(Mode::Holding, sink, limits)
    }

    /// The same, and each request waits until the one before is answered to its end.
    #[must_use]
    pub fn one_by_one(sink: Arc<S>, limits: HeadLimits) -> Self {
        Self::new(Mode::OneByOne, sink, limits)
    }

    fn new(mode: Mode, sink: Arc<S>, limits: HeadLimits) -> Self {
        Self {
            mode,
            limits,
            exchanges: Exchanges::new(sink),
            requests: State::Head,
            responses: State::Head,
            request: RequestReader::new(limits),
            response: ResponseReader::new(limits),
            held: Vec::new(),
            client_ended: false,
            close: None,
            closing: false,
            unpoolable: None,
        }
    }

    /// Set once the messages are not followed any more.
    pub fn untracked(&self) -> Option<Untracked> {
        self.exchanges.untracked
    }

    /// From here on bytes pass on as they come: nothing waits.
    pub fn pass(&mut self) {
        self.mode = Mode::Passing;
    }

    /// Why the upstream's connection is not to be shared from here on: the first reason that came up.
    pub fn unpoolable(&self) -> Option<Unpoolable> {
        self.unpoolable
    }

    /// HTTP has ended: every byte is read at once.
    pub fn is_raw(&self) -> bool {
        matches!(self.requests, State::Raw)
    }

    /// The client's bytes wait for a response.
    pub fn is_waiting(&self) -> bool {
        match self.requests {
            State::Held => true,
            State::Head => self.exchanges.is_full() && self.request.length() == 0,
            State::Body(_) | State::Raw => false,
        }
    }

    /// The client knows that no more requests are taken.
    pub fn is_closing(&self) -> bool {
        self.closing
    }

    /// The client's bytes are requests that are not taken any more.
    pub fn refuses_requests(&self) -> bool {
        self.closing && matches!(self.requests, State::Head)
    }

    /// A request has begun, and its exchange has not ended.
    pub fn has_request(&self) -> bool {
        !self.exchanges.is_empty()
    }

    /// The final response to the first request that waits has begun.
    pub fn is_answering(&self) -> bool {
        self.exchanges.is_answering()
    }

    /// Nothing more of the request that has begun is to come.
    pub fn has_whole_request(&self) -> bool {
        !matches!(self.requests, State::Body(_))
    }

    /// No response has ended yet: the connection was not being reused.
    pub fn is_fresh(&self) -> bool {
        self.exchanges.answered == 0
    }

    /// Both streams are between messages, and every request has got its response.
    pub fn is_idle(&self) -> bool {
        self.exchanges.is_empty()
            && matches!((&self.requests, &self.responses), (State::Head, State::Head))
            && self.request.is_between()
            && self.response.is_between()
    }

    /// Bytes of an incomplete request head that have been read.
    pub fn request_length(&self) -> usize {
        self.request.length()
    }

    /// Bytes of an incomplete response head that have been read.
    pub fn response_length(&self) -> usize {
        self.response.length()
    }

    /// Bytes of the heap that are held: bounded, whatever the peers send.
    pub fn memory(&self) -> usize {
        self.held.capacity()
            + self.request.memory()
            + self.response.memory()
            + self.exchanges.memory()
    }

    /// Reads the client's next bytes. Returns how many; the others wait for a response, or are
    /// requests that are not taken any more ([`Self::is_closing`]).
    pub fn requests(&mut self, input: &[u8]) -> usize {
        let mut at = 0;
        while at < input.len() {
            let rest = &input[at..];
            match &mut self.requests {
                State::Head => {
                    if self.is_stopped() {
                        return at;
                    }
                    match self.request.read(rest) {
                        Ok(Some((head, length))) => {
                            at += length;
                            self.request_started(head);
                        }
                        Ok(None) => at = input.len(),
                        Err(error) => {
                            self.lose_track(Side::Client, error.reason());
                            at = input.len();
                        }
                    }
                }
                State::Body(body) => match body.advance(rest) {
                    Ok(progress) => {
                        at += progress.consumed;
                        self.exchanges.request_bytes(progress.content);
                        let loose = body.is_loose();
                        self.note(loose.then_some(Unpoolable::Framing));
                        if progress.done {
                            self.request_done();
                        }
                    }
                    Err(_) => {
                        self.lose_track(Side::Client, ParseError::Chunk.reason());
                        at = input.len();
                    }
                },
                State::Held if self.mode != Mode::Passing => return at,
                State::Held => {
                    self.hold(rest);
                    at = input.len();
                }
                State::Raw => {
                    self.exchanges.request_bytes(rest.len() as u64);
                    at = input.len();
                }
            }
        }
        at
    }

    /// Reads the upstream's next bytes: those of `buffer` from `at` on. `Some` where the connection
    /// becomes HTTP/2 with the byte there.
    pub fn responses(&mut self, buffer: &[u8], mut at: usize) -> Option<usize> {
        self.close = None;
        let mut began = false;
        while at < buffer.len() {
            let rest = &buffer[at..];
            match &mut self.responses {
                State::Head => {
                    let Some(request) = self.exchanges.waiting() else {
                        self.lose_track(Side::Upstream, ParseError::NoRequest.reason());
                        break;
                    };
                    match self.response.read(rest, request.kind) {
                        Ok(Some((head, length))) => {
                            at += length;
                            began = true;
                            if request.h2c && self.switches(&head) {
                                return Some(at);
                            }
                            self.response_started(&head, at);
                        }
                        Ok(None) => break,
                        Err(error) => {
                            self.lose_track(Side::Upstream, error.reason());
                            break;
                        }
                    }
                }
                State::Body(body) => match body.advance(rest) {
                    Ok(progress) => {
                        at += progress.consumed;
                        self.exchanges.response_bytes(progress.content);
                        let loose = body.is_loose();
                        self.note(loose.then_some(Unpoolable::Framing));
                        if progress.done {
                            self.response_done(began);
                        }
                    }
                    Err(_) => {
                        self.lose_track(Side::Upstream, ParseError::Chunk.reason());
                        break;
                    }
                },
                State::Held | State::Raw => {
                    self.exchanges.response_bytes(rest.len() as u64);
                    break;
                }
            }
        }
        None
    }

    /// How to tell the client, within the buffer that was read last, that the connection ends behind
    /// the response that began there. From then on no requests are taken, so that it has to be done.
    #[must_use]
    pub fn say_close(&mut self) -> Option<Edit> {
        let edit = self.close.take()?;
        self.closing = true;
        Some(edit)
    }

    /// The client has ended its stream.
    pub fn client_ended(&mut self) {
        self.client_ended = true;
        if matches!(self.requests, State::Head) && !self.request.is_between() {
            self.lose_track(Side::Client, ParseError::ClosedInHead.reason());
        }
    }

    /// The upstream has ended its stream: in order, or by a `reset`, which ends no body.
    pub fn upstream_ended(&mut self, reset: bool) -> UpstreamEnd {
        let end = match &self.responses {
            State::Raw | State::Held => return UpstreamEnd::Raw,
            State::Body(body) if body.is_until_eof() && !reset => {
                self.response_done(false);
                UpstreamEnd::InOrder
            }
            State::Body(_) => UpstreamEnd::Truncated,
            State::Head if self.exchanges.waiting().is_some() => UpstreamEnd::BeforeHead,
            State::Head => UpstreamEnd::InOrder,
        };
        self.exchanges.settle_early_answer();
        end
    }

    /// What the upstream has not answered it never will.
    pub fn close_unanswered(&mut self) {
        let end = match self.client_ended {
            true => ExchangeEnd::ClientReset(None),
            false => ExchangeEnd::UpstreamClosed,
        };
        self.finish(end.clone(), end);
    }

    /// Nothing is read any more: exchanges in flight are reported, the first as `first`, the others
    /// as `rest`.
    pub fn finish(&mut self, first: ExchangeEnd, rest: ExchangeEnd) {
        self.exchanges.abandon(first, rest);
        self.pass_everything();
    }

    /// From here on both directions pass unread.
    #[cold]
    pub fn lose_track(&mut self, side: Side, reason: &'static str) {
        self.exchanges.lose_track(side, reason);
        self.note(Some(Unpoolable::Unfollowed));
        self.pass_everything();
    }

    /// The connection goes on as HTTP/2: its first exchange, and the client's bytes that were read
    /// already. Nothing is read here any more.
    pub fn switch(&mut self) -> Option<(Tracker<S>, Vec<u8>)> {
        let tracker = self.exchanges.switch();
        let held = std::mem::take(&mut self.held);
        self.pass_everything();
        tracker.map(|tracker| (tracker, held))
    }

    /// The client has ended its stream.
    pub fn has_client_ended(&self) -> bool {
        self.client_ended
    }

    /// No request head may begin.
    #[inline]
    fn is_stopped(&self) -> bool {
        let full = match self.mode {
            Mode::Passing => false,
            Mode::Holding => self.exchanges.is_full(),
            Mode::OneByOne => !self.exchanges.is_empty(),
        };
        (self.closing || full) && self.request.length() == 0
    }

    fn request_started(&mut self, head: RequestHead) {
        if self.exchanges.is_full() {
            return self.lose_track(Side::Client, ParseError::TooManyRequests.reason());
        }
        let body = Body::new(head.framing);
        self.note(head.unpoolable);
        self.exchanges.start(head);
        if body.is_done() {
            self.request_done();
        } else {
            self.requests = State::Body(body);
        }
    }

    fn request_done(&mut self) {
        let held = self.exchanges.request_done();
        self.requests = if held { State::Held } else { State::Head };
    }

    /// The head ends at `end` of the buffer.
    fn response_started(&mut self, head: &ResponseHead, end: usize) {
        self.note(head.unpoolable);
        match self.exchanges.response_head(head.status, head.grpc) {
            Answer::Interim => {}
            Answer::Tunnel => self.become_tunnel(),
            Answer::Final => {
                let last = self.exchanges.len() == 1;
                // A request behind it would have to be answered.
                if last && self.held.is_empty() && self.request.length() == 0 {
                    self.close = head.close.and_then(|close| close.within(end));
                }
                let releases = last && matches!(self.requests, State::Held);
                let body = Body::new(head.framing);
                if body.is_done() && head.framing != Framing::UntilEof {
                    self.response_done(true);
                } else {
                    self.responses = State::Body(body);
                }
                if releases {
                    self.release();
                }
            }
        }
    }

    /// `at_once`: in the segment in which its head ended.
    fn response_done(&mut self, at_once: bool) {
        self.responses = State::Head;
        if matches!(self.requests, State::Body(_)) {
            self.note(Some(Unpoolable::EarlyAnswer));
        }
        self.exchanges.response_done(at_once);
    }

    /// One that lets a message go by stands only until there is another.
    #[inline]
    fn note(&mut self, reason: Option<Unpoolable>) {
        if self.unpoolable.is_none_or(Unpoolable::may_be_last) && reason.is_some() {
            self.unpoolable = reason;
        }
    }

    fn hold(&mut self, bytes: &[u8]) {
        if self.held.len() + bytes.len() > MAX_HELD {
            return self.lose_track(Side::Client, ParseError::LargeUpgrade.reason());
        }
        self.held.extend_from_slice(bytes);
    }

    /// The request did not take the connection over: what came behind it is HTTP.
    fn release(&mut self) {
        self.requests = State::Head;
        let held = std::mem::take(&mut self.held);
        self.requests(&held);
        if self.client_ended {
            self.client_ended();
        }
    }

    fn become_tunnel(&mut self) {
        if self.mode == Mode::Passing {
            let read = self.request.length() + self.held.len();
            self.exchanges.request_bytes(read as u64);
        }
        self.pass_everything();
    }

    /// Only the request that the switch is about is in flight, and it is complete.
    fn switches(&self, head: &ResponseHead) -> bool {
        self.mode == Mode::Passing
            && head.status == 101
            && head.h2c
            && self.exchanges.len() == 1
            && matches!(self.requests, State::Held)
    }

    /// Nothing is read any more, and nothing kept.
    fn pass_everything(&mut self) {
        self.requests = State::Raw;
        self.responses = State::Raw;
        self.request = RequestReader::new(self.limits);
        self.response = ResponseReader::new(self.limits);
        self.held = Vec::new();
    }
}
