//! One client's connection: its requests, one after the other.

use std::future::poll_fn;
use std::mem;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};
use weir_http::h1::Session;
use weir_http::{Connection, RouteTo};

use super::super::http::{DRAIN_IDLE, ExchangeEnd, ExchangeSink, Unpoolable};
use super::super::http1::pipe::Pipe;
use super::super::passthrough::HttpObserver;
use super::super::requests::{BoxedLease, Connected, Requests};
use super::super::retries::RetryOutcome;
use super::super::tcp::{self, Endpoint};
use super::super::{ByteCounters, Side};
use super::acquire::Fresh;
use super::again::Again;
use super::exchange::Step;
use super::idle::Pool;
use super::limits::Timer;
use super::member::Member;
use super::report::Report;
use super::upload::Upload;
use super::{End, Pinned, PoolContext, Served};
use crate::budget::{Charge, Taken};
use crate::stop::Cancelled;

/// A client's connection, with the request under way.
pub(super) struct Client {
    pub(super) pool: Arc<Pool>,
    pub(super) requests: Arc<dyn Requests>,
    pub(super) stream: TcpStream,
    /// Its end was read.
    pub(super) ended: bool,
    pub(super) up: Upload,
    /// From the upstream to the client.
    pub(super) down: Pipe,
    pub(super) session: Session<dyn ExchangeSink>,
    pub(super) report: Arc<Report>,
    pub(super) counters: Arc<ByteCounters>,
    pub(super) charge: Charge,
    pub(super) drain: Cancelled,
    pub(super) draining: bool,
    /// Runs while it is idle in a drain.
    leaving: Option<Pin<Box<Sleep>>>,
    /// The connection that was made for it, before its first request.
    first: Option<First>,
    /// Where its last request was, if it was not routed.
    last: Option<SocketAddr>,
    /// Where the route of the request under way leads.
    pub(super) to: Option<Box<RouteTo<BoxedLease>>>,
    /// The head of its response has been changed.
    pub(super) is_response_edited: bool,
    /// For its time limits.
    pub(super) timer: Timer,
    /// What it was sent to before.
    pub(super) again: Again,
}

/// An upstream connection of its own.
struct First {
    member: Member,
    /// What has come from it and was not sent to the client, so much of which has been read.
    prefix: BytesMut,
    read: usize,
    eof: bool,
}

/// What a client has come up with.
enum Next {
    /// A request that may share a connection.
    Request,
    /// Something that needs a connection of its own.
    Unpoolable(Unpoolable),
    /// The same, because nothing is to be balanced any more.
    NotBalanced,
    /// Its end, between two requests, or nothing in a drain.
    Nothing,
    Reset,
}

// === impl Client ===

impl Client {
    pub(super) fn new(
        pool: Arc<Pool>,
        client: Endpoint,
        upstream: Endpoint<(TcpStream, Option<Taken>)>,
        context: PoolContext,
    ) -> Self {
        let PoolContext { requests, sink, counters, head } = context;
        let charge = Charge::to(sink.share());
        let report = Arc::new(Report::new(sink));
        let (stream, descriptor) = upstream.stream;
        let first = stream.peer_addr().ok().map(|address| {
            let counted = requests.connected(address);
            let member = Member::new(address, Connected { stream, descriptor }, counted);
            First { member, prefix: upstream.prefix, read: 0, eof: upstream.eof }
        });
        Self {
            requests,
            stream: client.stream,
            ended: client.eof,
            up: Upload::new(client.prefix),
            down: Pipe::new(),
            session: Session::one_by_one(Arc::clone(&report) as Arc<dyn ExchangeSink>, head),
            report,
            counters,
            charge,
            drain: pool.drain.cancelled(),
            draining: false,
            leaving: None,
            first,
            last: None,
            to: None,
            is_response_edited: false,
            timer: Timer::default(),
            again: Again::default(),
            pool,
        }
    }

    pub(super) async fn serve(mut self) -> Served {
        if self.first.as_ref().is_none_or(|first| first.eof || !first.prefix.is_empty()) {
            // It has said something unasked.
            return self.pin_anew(Some(Unpoolable::Unfollowed)).await;
        }
        'requests: loop {
            match poll_fn(|cx| self.poll_next(cx)).await {
                Next::Request => {}
                Next::Unpoolable(reason) => return self.pin_anew(Some(reason)).await,
                Next::NotBalanced => return self.pin_anew(None).await,
                Next::Nothing => return self.finish().await,
                Next::Reset => return self.over(End::ClientReset).await,
            }
            if let Some(first) = self.first.take() {
                self.requests.shares();
                self.pool.give(first.member);
            }
            if let Some(answer) = self.route() {
                match self.answer(answer).await {
                    None => continue,
                    Some(end) => return self.over(end).await,
                }
            }
            let acquired = match self.delay().await {
                Ok(()) => self.acquire(Fresh::No).await,
                Err(end) => Err(end),
            };
            let mut member = match acquired {
                Ok(member) => member,
                Err(end) => match self.answer_instead(end).await {
                    None => continue,
                    Some(end) => return self.over(end).await,
                },
            };
            let step = loop {
                let (came, wait) = match self.exchange(&mut member).await {
                    Step::Repeat(came, wait) => (came, wait),
                    step => break step,
                };
                match self.repeat(member, came, wait).await {
                    Ok(other) => member = other,
                    Err(end) => match self.answer_instead(end).await {
                        None => continue 'requests,
                        Some(end) => return self.over(end).await,
                    },
                }
            };
            match step {
                // Those are above.
                Step::Repeat(..) => {}
                Step::Done => {
                    self.last = self.to.is_none().then_some(member.address);
                    self.pool.give(member);
                    if self.session.is_closing() {
                        return self.finish().await;
                    }
                }
                Step::Pin { eof } => {
                    let reason = self.session.unpoolable();
                    let down = mem::replace(&mut self.down, Pipe::new());
                    let prefix = down.into_rest();
                    let upstream = First { member, read: prefix.len(), prefix, eof };
                    return self.pin(upstream, reason);
                }
                Step::Over(end @ End::Unreachable(_)) => match self.answer_instead(end).await {
                    None => {}
                    Some(end) => return self.over(end).await,
                },
                Step::Late => {
                    // A reset, whatever the client takes.
                    drop(member);
                    match self.answer_instead(End::TimedOut).await {
                        None => {}
                        Some(end) => return self.over(end).await,
                    }
                }
                Step::Over(end) => return self.over(end).await,
            }
        }
    }

    /// Waits for a request, whose head is read to its end.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Next> {
        loop {
            self.draining = self.draining || Pin::new(&mut self.drain).poll(cx).is_ready();
            self.read_request();
            if let Some(reason) = self.session.unpoolable()
                && !reason.may_be_last()
            {
                return Poll::Ready(Next::Unpoolable(reason));
            }
            if self.session.has_request() {
                return Poll::Ready(match self.requests.is_current() {
                    true => Next::Request,
                    false => Next::NotBalanced,
                });
            }
            let is_idle = self.session.is_idle();
            if self.ended {
                return Poll::Ready(match is_idle {
                    true => Next::Nothing,
                    false => Next::Unpoolable(Unpoolable::Unfollowed),
                });
            }
            match self.up.poll_fill(&mut self.stream, cx) {
                Poll::Ready(Ok(0)) => self.ended = true,
                Poll::Ready(Ok(_)) => self.leaving = None,
                Poll::Ready(Err(_)) => return Poll::Ready(Next::Reset),
                Poll::Pending => {
                    self.up.rest();
                    ready!(self.poll_leave(cx, is_idle));
                    return Poll::Ready(Next::Nothing);
                }
            }
        }
    }

    /// Ready when a drain has found the connection idle for long enough.
    fn poll_leave(&mut self, cx: &mut Context<'_>, is_idle: bool) -> Poll<()> {
        if !self.draining || !is_idle {
            return Poll::Pending;
        }
        let timer = self.leaving.get_or_insert_with(|| Box::pin(sleep(DRAIN_IDLE)));
        timer.as_mut().poll(cx)
    }

    /// Reads on in what the client has sent, and lets go what may be sent.
    pub(super) fn read_request(&mut self) {
        let before = self.session.request_length();
        let unread = &self.up.uncleared()[before..];
        if unread.is_empty() {
            return;
        }
        let read = self.session.requests(unread);
        self.up.clear(before + read - self.session.request_length());
        self.settle();
    }

    /// Charges what is kept.
    pub(super) fn settle(&mut self) {
        let kept = self.session.memory() + self.up.excess() + self.down.excess();
        if !self.charge.keep(kept) {
            self.session.lose_track(Side::Client, weir_http::ParseError::OverBudget.reason());
        }
    }

    /// Goes on with a connection of its own, on which nothing has been sent.
    async fn pin_anew(mut self, reason: Option<Unpoolable>) -> Served {
        if let Some(answer) = self.route() {
            let end = self.answer(answer).await.unwrap_or(End::Finished);
            return self.over(end).await;
        }
        if let Some(first) = self.first.take_if(|_| self.to.is_some()) {
            self.requests.shares();
            self.pool.give(first.member);
        }
        if let Some(first) = self.first.take() {
            return self.pin(first, reason);
        }
        let last = self.last.filter(|_| reason.is_none());
        if let Some(member) = last.and_then(|address| self.pool.take(address)) {
            return self.pin(First::from(member), reason);
        }
        let acquired = match self.delay().await {
            Ok(()) => self.acquire(Fresh::Yes).await,
            Err(end) => Err(end),
        };
        match acquired {
            Ok(member) => self.pin(First::from(member), reason),
            Err(end) => {
                let end = self.answer_instead(end).await.unwrap_or(End::Finished);
                self.over(end).await
            }
        }
    }

    /// Hands everything on, in the middle of an exchange or between two.
    fn pin(mut self, upstream: First, reason: Option<Unpoolable>) -> Served {
        self.settle_again(RetryOutcome::Failure);
        if let Some(reason) = reason {
            self.report.unpoolable(reason);
        }
        self.report.stay();
        let partial = self.session.request_length();
        let (prefix, cleared) = self.up.into_unsent();
        let client = Endpoint { stream: self.stream, prefix, eof: self.ended };
        let First { member, prefix, read, eof } = upstream;
        let (stream, descriptor) = member.into_parts();
        let connection = Connection::following(self.report as Arc<dyn ExchangeSink>, self.session);
        let observer = HttpObserver::following(connection, self.charge, [cleared + partial, read]);
        let upstream = Endpoint { stream, prefix, eof };
        Served::Pinned(Box::new(Pinned { client, upstream, observer, descriptor }))
    }

    /// Ends the client's connection as that of the upstream has ended.
    async fn over(mut self, end: End) -> Served {
        self.settle_again(RetryOutcome::Failure);
        let exchange = match end {
            End::Finished | End::ClientReset => ExchangeEnd::ClientReset(None),
            End::UpstreamReset | End::Unreachable(_) => ExchangeEnd::UpstreamReset(None),
            End::TimedOut => ExchangeEnd::TimedOut,
        };
        self.session.finish(exchange.clone(), exchange);
        match end {
            End::Finished => tcp::end(self.stream).await,
            End::UpstreamReset | End::TimedOut => tcp::reset_behind(self.stream).await,
            _ => tcp::reset(self.stream),
        }
        Served::Over(end)
    }

    /// Ends it in order.
    async fn finish(self) -> Served {
        tcp::end(self.stream).await;
        Served::Over(End::Finished)
    }
}

// === impl First ===

impl From<Member> for First {
    fn from(member: Member) -> Self {
        Self { member, prefix: BytesMut::new(), read: 0, eof: false }
    }
}
