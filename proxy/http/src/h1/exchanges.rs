//! The exchanges of one HTTP/1 connection: which response belongs to which request, and how each
//! is reported. Independent of the wire format.

use std::collections::VecDeque;
use std::sync::Arc;

use super::fields::{Kind, RequestHead};
use crate::{ExchangeEnd, ExchangeSink, Side, Tracker, Untracked};

/// Requests that may wait for their responses: what a pipelining client can make weir hold.
pub const MAX_PIPELINED: usize = 1024;

/// What the records of requests that wait may take together, in bytes of their texts.
const MAX_TEXT: usize = 1 << 20;

/// Room that a connection without requests keeps for them.
const USUALLY_PENDING: usize = 8;

/// The exchanges in flight.
pub(super) struct Exchanges<S: ExchangeSink + ?Sized> {
    pub(super) sink: Arc<S>,
    /// Requests whose response has not ended, and possibly one whose body has not.
    pending: VecDeque<Pending<S>>,
    tunnel: Option<Tracker<S>>,
    /// Set once the messages are not followed any more.
    pub(super) untracked: Option<Untracked>,
    /// Responses that ended.
    pub(super) answered: u64,
    /// Bytes of the texts of requests in flight.
    text_bytes: usize,
}

struct Pending<S: ExchangeSink + ?Sized> {
    tracker: Tracker<S>,
    kind: Kind,
    may_tunnel: bool,
    h2c: bool,
    request_done: bool,
    /// Its final response has begun.
    answering: bool,
    response_done: bool,
    text_bytes: usize,
}

/// What a request is that waits for its response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Waiting {
    /// What its framing depends on.
    pub(super) kind: Kind,
    /// Its response may switch to HTTP/2.
    pub(super) h2c: bool,
}

/// What follows a response head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Another head, for the same request.
    Interim,
    /// Bytes that are not HTTP, in both directions.
    Tunnel,
    /// The body. The client's bytes behind the request, if they were kept for this decision, are
    /// the next request.
    Final,
}

// === impl Exchanges ===

impl<S: ExchangeSink + ?Sized> Exchanges<S> {
    /// None yet.
    pub(super) fn new(sink: Arc<S>) -> Self {
        Self {
            sink,
            pending: VecDeque::new(),
            tunnel: None,
            untracked: None,
            answered: 0,
            text_bytes: 0,
        }
    }

    /// No exchange is in flight, and no tunnel.
    pub(super) fn is_empty(&self) -> bool {
        self.pending.is_empty() && self.tunnel.is_none()
    }

    /// How many exchanges are in flight.
    pub(super) fn len(&self) -> usize {
        self.pending.len()
    }

    /// No more requests can be taken until a response has ended.
    pub(super) fn is_full(&self) -> bool {
        self.pending.len() >= MAX_PIPELINED || self.text_bytes > MAX_TEXT
    }

    /// Bytes of the heap that exchanges in flight take.
    pub(super) fn memory(&self) -> usize {
        self.text_bytes + self.pending.capacity() * size_of::<Pending<S>>()
    }

    /// The final response to the first of them has begun.
    pub(super) fn is_answering(&self) -> bool {
        self.pending.front().is_some_and(|front| front.answering)
    }

    /// The request that the next response belongs to.
    pub(super) fn waiting(&self) -> Option<Waiting> {
        let front = self.pending.front().filter(|front| !front.response_done)?;
        Some(Waiting { kind: front.kind, h2c: front.h2c })
    }

    /// A request head has come.
    pub(super) fn start(&mut self, head: RequestHead) {
        let text_bytes = head.info.text_bytes();
        self.text_bytes += text_bytes;
        self.pending.push_back(Pending {
            tracker: Tracker::start(&self.sink, head.info),
            kind: head.kind,
            may_tunnel: head.may_tunnel,
            h2c: head.h2c,
            request_done: false,
            answering: false,
            response_done: false,
            text_bytes,
        });
    }

    /// Content of the last request, or the client's bytes in the tunnel.
    pub(super) fn request_bytes(&mut self, bytes: u64) {
        let request = self.pending.back_mut().map(|request| &mut request.tracker);
        if let Some(tracker) = self.tunnel.as_mut().or(request) {
            tracker.request_bytes(bytes);
        }
    }

    /// Content of the first response, or the upstream's bytes in the tunnel.
    pub(super) fn response_bytes(&mut self, bytes: u64) {
        let request = self.pending.front_mut().map(|request| &mut request.tracker);
        if let Some(tracker) = self.tunnel.as_mut().or(request) {
            tracker.response_bytes(bytes);
        }
    }

    /// The last request is complete. True if its response decides what the client's next bytes
    /// are: answered early, it can no longer become a tunnel.
    #[must_use]
    pub(super) fn request_done(&mut self) -> bool {
        let Some(request) = self.pending.back_mut() else { return false };
        request.request_done = true;
        let held = request.may_tunnel && !request.answering;
        self.settle();
        held
    }

    /// A response head has come.
    pub(super) fn response_head(&mut self, status: u16, grpc: bool) -> Answer {
        let Some(request) = self.pending.front_mut() else { return Answer::Final };
        let connected = request.kind == Kind::Connect && (200..=299).contains(&status);
        if (100..=199).contains(&status) && status != 101 {
            return Answer::Interim;
        }
        request.tracker.head(status, grpc);
        request.answering = true;
        if status != 101 && !connected {
            return Answer::Final;
        }
        self.tunnel = self.pending.pop_front().map(|request| request.tracker);
        self.forget_the_rest();
        Answer::Tunnel
    }

    /// The connection goes on as HTTP/2, whose first stream is the exchange that is returned.
    pub(super) fn switch(&mut self) -> Option<Tracker<S>> {
        let request = self.pending.pop_front();
        self.forget_the_rest();
        request.map(|request| request.tracker)
    }

    /// Pipelined behind a request that took the connection over: never to be answered.
    fn forget_the_rest(&mut self) {
        for mut request in std::mem::take(&mut self.pending) {
            request.tracker.finish(ExchangeEnd::Untracked);
        }
        self.text_bytes = 0;
    }

    /// The response is complete; `at_once`: head and end came in one segment.
    pub(super) fn response_done(&mut self, at_once: bool) {
        self.answered += 1;
        if let Some(request) = self.pending.front_mut() {
            request.response_done = true;
            match at_once {
                true => request.tracker.response_ended_at_once(ExchangeEnd::Complete),
                false => request.tracker.response_ended(ExchangeEnd::Complete),
            }
        }
        self.settle();
    }

    /// The upstream has ended: what it has answered is over, even if the client has not sent the
    /// rest of the request.
    pub(super) fn settle_early_answer(&mut self) {
        if let Some(request) = self.pending.front_mut() {
            request.request_done |= request.response_done;
        }
        self.settle();
    }

    fn settle(&mut self) {
        while let Some(mut request) =
            self.pending.pop_front_if(|front| front.response_done && front.request_done)
        {
            request.tracker.finish(ExchangeEnd::Complete);
            self.text_bytes -= request.text_bytes;
        }
        if self.pending.is_empty() && self.pending.capacity() > USUALLY_PENDING {
            self.pending = VecDeque::new();
        }
    }

    /// Reports what is in flight: the first as `first`, the others as `rest`.
    pub(super) fn abandon(&mut self, first: ExchangeEnd, rest: ExchangeEnd) {
        let mut end = first;
        for mut request in std::mem::take(&mut self.pending) {
            request.tracker.finish(end);
            end = rest.clone();
        }
        self.text_bytes = 0;
        if let Some(mut tracker) = self.tunnel.take() {
            tracker.finish(ExchangeEnd::Tunnel);
        }
    }

    /// The messages can't be followed from here on; said once.
    pub(super) fn lose_track(&mut self, side: Side, reason: &'static str) {
        if self.untracked.is_none() {
            let untracked = Untracked { side, reason };
            self.untracked = Some(untracked);
            self.sink.downgraded(untracked);
        }
        self.abandon(ExchangeEnd::Untracked, ExchangeEnd::Untracked);
    }
}
