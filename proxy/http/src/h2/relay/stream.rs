//! A request and its response on their way through the relay.

use std::net::SocketAddr;
use std::time::Instant;

use bytes::{Buf as _, BytesMut};

use super::super::fields::{FieldList, Malformed};
use super::super::hpack::Head;
use super::violation::Code;
use crate::{ExchangeEnd, ExchangeSink, Plan, Repeat, RouteTo, Side, Tracker};

/// What a sender may send on a stream before any of it has gone on.
pub(super) const FIRST_WINDOW: i64 = 128 << 10;
/// What it may always send: all that it may while too much is held, or may come, for a receiver.
pub(super) const LEAST_WINDOW: i64 = 4 << 10;
/// The same of a stream that flows: what one slow reader makes the relay hold.
const WINDOW: i64 = 256 << 10;
/// From then on a stream flows.
const FLOWS: u64 = 64 << 10;
/// Content of a request that is kept so that it can be sent once more.
const KEPT: usize = 64 << 10;

/// One exchange.
pub(super) struct Stream<S: ExchangeSink + ?Sized, L> {
    pub(super) client: usize,
    /// As the client numbers it.
    pub(super) client_id: u32,
    /// Where it is; `None` while an endpoint is chosen.
    pub(super) upstream: Option<usize>,
    /// As the endpoint numbers it; 0 while it waits for a connection.
    pub(super) upstream_id: u32,
    pub(super) request: Half,
    pub(super) response: Half,
    /// Where its route leads; `None` where all requests go.
    pub(super) to: Option<Box<RouteTo<L>>>,
    /// `None` once a part of the response has come, or too much of the request has been sent.
    pub(super) again: Option<Box<Again>>,
    pub(super) tracker: Tracker<S>,
    pub(super) lease: Option<L>,
    /// The endpoint takes no more of the request, and its response is whole: what the client is told
    /// behind that, if it has not ended the request.
    pub(super) unwanted: Option<Code>,
    /// Why it was sent once more.
    pub(super) repeat: Option<Repeat>,
    /// The final head of the response has come.
    pub(super) is_answered: bool,
    /// CONNECT, which a successful answer makes a tunnel.
    pub(super) is_connect: bool,
    pub(super) is_tunnel: bool,
    pub(super) is_head: bool,
    pub(super) is_grpc: bool,
}

/// One direction: what its sender has sent and its receiver may not be sent yet.
#[derive(Debug, Default)]
pub(super) struct Half {
    bytes: BytesMut,
    /// Behind the content.
    trailers: Option<Box<FieldList>>,
    /// What may be sent to the receiver.
    pub(super) window: i64,
    /// What the sender may still send.
    credit: i64,
    /// Content that has gone on.
    passed: u64,
    /// What is to come by `content-length`; `None` if that says nothing.
    pub(super) expected: Option<u64>,
    /// The sender has ended it.
    pub(super) is_ended: bool,
    /// So has the relay, to the receiver.
    pub(super) is_sent: bool,
    /// In the receiver's list of streams that have something for it.
    pub(super) is_ready: bool,
}

/// Where a stream was.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) upstream: usize,
    /// 0 if it has waited there.
    pub(super) number: u32,
}

/// What it takes to send a request once more.
#[derive(Debug, Default)]
pub(super) struct Again {
    pub(super) head: FieldList,
    /// Content that was sent.
    pub(super) content: BytesMut,
    /// Trailers that were sent.
    pub(super) trailers: Option<Box<FieldList>>,
    /// Endpoints that it was sent to, or could not be.
    pub(super) tried: Vec<SocketAddr>,
    /// Those of them that could not be connected to.
    pub(super) unreachable: Vec<SocketAddr>,
    /// Where it begins in the bytes to the endpoint.
    pub(super) position: u64,
    /// It was sent again already, though it was not to be processed twice: the last time.
    pub(super) is_repeated: bool,
    /// It is sent once more when it is sent next.
    pub(super) is_next: bool,
    /// It may be processed twice: any endpoint is better than none.
    pub(super) is_repeatable: bool,
}

/// The next thing to be sent of a half.
pub(super) enum Next<'a> {
    /// So many bytes, and whether they are the end.
    Content(usize, bool),
    /// The end.
    Trailers(&'a FieldList),
    Nothing,
}

// === impl Stream ===

impl<S: ExchangeSink + ?Sized, L> Stream<S, L> {
    /// What `from` sends.
    #[inline]
    pub(super) const fn half(&mut self, from: Side) -> &mut Half {
        match from {
            Side::Client => &mut self.request,
            Side::Upstream => &mut self.response,
        }
    }

    /// Takes it from its endpoint's connection, which is to know that.
    pub(super) fn leave(&mut self) -> Option<Place> {
        let number = std::mem::replace(&mut self.upstream_id, 0);
        self.upstream.take().map(|upstream| Place { upstream, number })
    }

    /// Keeps content of the request that was sent, for the case that it has to be sent once more.
    #[inline]
    pub(super) fn keep(&mut self, content: &[u8]) {
        if self.again.as_mut().is_some_and(|again| !again.keep(content)) {
            self.again = None;
        }
    }

    /// The same of content that was held.
    pub(super) fn keep_held(&mut self, count: usize) {
        let Self { again, request, .. } = self;
        if again.as_mut().is_some_and(|again| !again.keep(request.first(count))) {
            self.again = None;
        }
    }

    /// How the exchange ends when both directions have.
    pub(super) const fn complete(&self) -> ExchangeEnd {
        if self.is_tunnel { ExchangeEnd::Tunnel } else { ExchangeEnd::Complete }
    }

    /// The length of the content of a response with this status, if it is to be checked.
    ///
    /// # Errors
    /// Where the head says none that can be.
    pub(super) fn expected_of_response(
        &self,
        status: u16,
        length: Result<Option<u64>, Malformed>,
    ) -> Result<Option<u64>, Malformed> {
        match status {
            100..200 => Ok(None),
            200..300 if self.is_connect => Ok(None),
            204 | 304 => Ok(Some(0)),
            _ if self.is_head => Ok(Some(0)),
            _ => length,
        }
    }

    /// Both directions have been sent to their ends.
    pub(super) const fn is_over(&self) -> bool {
        self.request.is_sent && self.response.is_sent
    }

    /// What holds for it by its route, if that says anything.
    #[inline]
    pub(super) fn plan(&mut self) -> Option<&mut Plan> {
        self.to.as_mut()?.plan.as_deref_mut()
    }

    /// When it is to be looked at.
    #[inline]
    pub(super) fn armed(&self) -> Option<Instant> {
        self.to.as_ref()?.plan.as_ref()?.armed
    }

    /// Grows whenever something has gone on.
    pub(super) fn moved(&self) -> u64 {
        self.request.passed + self.response.passed + u64::from(self.is_answered)
    }

    /// Bytes of the heap that it holds.
    pub(super) fn memory(&self) -> usize {
        let again = self
            .again
            .as_ref()
            .map_or(0, |again| size_of::<Again>() + again.head.memory() + again.content.capacity());
        again + self.request.bytes.capacity() + self.response.bytes.capacity()
    }
}

// === impl Half ===

impl Half {
    /// `window`: what may be sent to the receiver; `credit`: what the sender may send.
    pub(super) fn new(window: i64, credit: i64) -> Self {
        Self { window, credit, ..Self::default() }
    }

    /// What is held, and what may still come.
    #[inline]
    pub(super) fn owed(&self) -> i64 {
        self.bytes.len() as i64 + self.credit
    }

    /// Content that is held.
    #[inline]
    pub(super) fn held(&self) -> usize {
        self.bytes.len()
    }

    /// Content has come, which takes so much of the window; false if that is more than there is.
    #[inline]
    pub(super) const fn received(&mut self, flow: u32) -> bool {
        self.credit -= flow as i64;
        self.credit >= 0
    }

    /// Whether so much content is what the head has announced so far.
    #[inline]
    pub(super) const fn is_expected(&mut self, count: usize, end: bool) -> bool {
        let Some(left) = self.expected else { return true };
        match left.checked_sub(count as u64) {
            Some(rest) if rest == 0 || !end => {
                self.expected = Some(rest);
                true
            }
            _ => false,
        }
    }

    #[inline]
    pub(super) fn hold(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Puts content in front of what is held: it is sent once more.
    pub(super) fn hold_first(&mut self, mut content: BytesMut) {
        content.extend_from_slice(&self.bytes);
        self.bytes = content;
    }

    /// Forgets what is held, and takes no more; how much it was.
    pub(super) fn discard(&mut self) -> usize {
        self.trailers = None;
        self.is_sent = true;
        std::mem::take(&mut self.bytes).len()
    }

    /// The sender is another one, which may send so much; by how much that is more.
    pub(super) const fn restart(&mut self, credit: i64) -> i64 {
        let more = credit - self.credit;
        self.credit = credit;
        more
    }

    pub(super) fn end_with(&mut self, trailers: Option<Box<FieldList>>) {
        self.is_ended = true;
        self.trailers = trailers;
    }

    /// Nothing stands before what comes next.
    #[inline]
    pub(super) fn is_clear(&self) -> bool {
        self.bytes.is_empty() && self.trailers.is_none()
    }

    /// What may be sent, within the connection's window and one frame.
    #[inline]
    pub(super) fn next(&self, most: usize) -> Next<'_> {
        let count = self.bytes.len().min(usize::try_from(self.window).unwrap_or(0)).min(most);
        let is_all = count == self.bytes.len();
        if self.is_sent {
            return Next::Nothing;
        }
        let is_last = is_all && self.is_ended;
        match &self.trailers {
            Some(trailers) if self.bytes.is_empty() => Next::Trailers(trailers),
            Some(_) if count > 0 => Next::Content(count, false),
            None if count > 0 || (is_last && self.bytes.is_empty()) => {
                Next::Content(count, is_last)
            }
            _ => Next::Nothing,
        }
    }

    /// The first bytes of what is held.
    #[inline]
    pub(super) fn first(&self, count: usize) -> &[u8] {
        &self.bytes[..count]
    }

    /// Content has gone on; it was held.
    #[inline]
    pub(super) fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
        if self.bytes.is_empty() {
            self.bytes = BytesMut::new();
        }
        self.sent(count);
    }

    /// Content has gone on.
    #[inline]
    pub(super) const fn sent(&mut self, count: usize) {
        self.window -= count as i64;
        self.passed += count as u64;
    }

    pub(super) fn trailers_head(&self) -> Option<&Head> {
        self.trailers.as_ref().map(|trailers| trailers.head())
    }

    pub(super) fn take_trailers(&mut self) -> Option<Box<FieldList>> {
        self.trailers.take()
    }

    /// By how much the sender's window is to grow; zero while that is little. No more is let come than
    /// the receiver would take.
    #[inline]
    pub(super) fn grant(&mut self, is_crowded: bool) -> u32 {
        if self.is_ended || self.is_sent {
            return 0;
        }
        let most = match is_crowded {
            true => LEAST_WINDOW,
            false if self.passed >= FLOWS => WINDOW,
            false => FIRST_WINDOW,
        };
        let window = most.min(self.window).max(LEAST_WINDOW.min(most));
        let by = window - self.owed();
        if by <= 0 || by < window / 2 {
            return 0;
        }
        self.credit += by;
        by as u32
    }
}

// === impl Again ===

impl Again {
    pub(super) fn clear(&mut self) {
        self.head.clear();
        self.content = BytesMut::new();
        self.trailers = None;
        self.tried.clear();
        self.unreachable.clear();
        self.position = 0;
        self.is_repeated = false;
        self.is_next = false;
        self.is_repeatable = false;
    }

    /// Content was sent; false if it is too much to be kept.
    #[inline]
    pub(super) fn keep(&mut self, content: &[u8]) -> bool {
        let fits = self.content.len() + content.len() <= KEPT;
        if fits {
            self.content.extend_from_slice(content);
        }
        fits
    }
}
