//! HTTP/2 over one client and one upstream connection: h2 ends both, [`stream`] joins each stream
//! of one to a stream of the other, and this file joins what belongs to the connections: settings,
//! GOAWAY, the end.
//!
//! Everything of a connection runs in one task, so that h2's locks are never contended.

mod linger;
mod pump;
mod stream;
#[cfg(test)]
mod tests;

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, StreamExt};
use h2::client::SendRequest;
use h2::{Reason, client, server};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Sleep, sleep, timeout};
use tokio_util::sync::WaitForCancellationFutureOwned;

use self::linger::Lingering;
use super::http::{EndCause, ExchangeSink, HttpContext, HttpEnd, HttpLimits, Side};

/// See [`super::http::serve`].
pub(super) async fn serve<C, U>(client: C, upstream: U, context: HttpContext) -> HttpEnd
where
    C: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    U: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let limits = &context.limits;
    let (requests, mut upstream) = match connect(upstream, limits).await {
        Ok(connected) => connected,
        Err(cause) => {
            if cause != EndCause::Closed(Side::Upstream) {
                context.abort(Side::Client);
            }
            return cause.into();
        }
    };
    let going_away = Arc::new(AtomicBool::new(false));
    let client = Lingering::new(client, Arc::clone(&going_away), limits.half_closed_idle);
    let blocked = client.blocked();
    let accepted = with_upstream(pin!(accept(client, limits, &requests)), &mut upstream).await;
    let client = match accepted {
        Ok(client) => client,
        Err(error) => {
            context.abort(Side::Upstream);
            return failure(Side::Client, &error).into();
        }
    };
    let connection = Connection {
        client,
        upstream,
        requests: Some(requests),
        client_end: None,
        upstream_end: None,
        going_away,
        blocked,
        unsent: false,
        drain: Box::pin(context.drain.clone().cancelled_owned()),
        drained: false,
        linger: None,
        context: context.clone(),
    };
    connection.run().await.into()
}

/// Greets the upstream and waits for its SETTINGS, which decide what the client is told.
async fn connect<U>(
    upstream: U,
    limits: &HttpLimits,
) -> Result<(SendRequest<Bytes>, client::Connection<U, Bytes>), EndCause>
where
    U: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (requests, mut connection) = client::Builder::new()
        .initial_window_size(limits.stream_window)
        .initial_connection_window_size(limits.connection_window)
        .max_frame_size(limits.max_frame)
        .max_header_list_size(header_list(limits))
        .max_send_buffer_size(limits.send_buffer)
        .data_frame_budget(limits.frame_overhead)
        .max_concurrent_reset_streams(limits.max_pending_resets)
        // Not yet told; the first SETTINGS say how many, or lift the bound.
        .initial_max_send_streams(0)
        .enable_push(false)
        .handshake(upstream)
        .await
        .map_err(|error| failure(Side::Upstream, &error))?;
    let settings = poll_fn(|cx| match Pin::new(&mut connection).poll(cx) {
        Poll::Ready(end) => Poll::Ready(end),
        Poll::Pending if requests.current_max_send_streams() > 0 => Poll::Ready(Ok(())),
        Poll::Pending => Poll::Pending,
    });
    match timeout(limits.settings_wait, settings).await {
        Ok(Err(error)) => Err(failure(Side::Upstream, &error)),
        Ok(Ok(())) if requests.current_max_send_streams() == 0 => {
            Err(EndCause::Closed(Side::Upstream))
        }
        Ok(Ok(())) | Err(_) => Ok((requests, connection)),
    }
}

/// Greets the client with the upstream's limits.
async fn accept<C>(
    client: C,
    limits: &HttpLimits,
    requests: &SendRequest<Bytes>,
) -> Result<server::Connection<C, Bytes>, h2::Error>
where
    C: AsyncRead + AsyncWrite + Unpin,
{
    let offered = u32::try_from(requests.current_max_send_streams()).unwrap_or(u32::MAX);
    let mut builder = server::Builder::new();
    builder
        .initial_window_size(limits.stream_window)
        .initial_connection_window_size(limits.connection_window)
        .max_frame_size(limits.max_frame)
        .max_header_list_size(header_list(limits))
        .max_send_buffer_size(limits.send_buffer)
        .data_frame_budget(limits.frame_overhead)
        .max_pending_accept_reset_streams(limits.max_pending_resets)
        .max_concurrent_streams(match offered {
            0 => limits.max_streams,
            offered => offered.min(limits.max_streams),
        });
    if requests.is_extended_connect_protocol_enabled() {
        builder.enable_connect_protocol();
    }
    builder.handshake(client).await
}

/// Drives the upstream's connection while waiting for something else. Its end is found later.
async fn with_upstream<F, U>(
    mut future: Pin<&mut F>,
    upstream: &mut client::Connection<U, Bytes>,
) -> F::Output
where
    F: Future,
    U: AsyncRead + AsyncWrite + Unpin,
{
    let mut ended = false;
    poll_fn(|cx| {
        ended = ended || Pin::new(&mut *upstream).poll(cx).is_ready();
        future.as_mut().poll(cx)
    })
    .await
}

fn header_list(limits: &HttpLimits) -> u32 {
    u32::try_from(limits.head.bytes).unwrap_or(u32::MAX)
}

fn failure(side: Side, error: &h2::Error) -> EndCause {
    if error.is_io() {
        return EndCause::Reset(side);
    }
    EndCause::Protocol { side, text: error.to_string() }
}

struct Connection<C, U>
where
    C: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    client: server::Connection<Lingering<C>, Bytes>,
    upstream: client::Connection<U, Bytes>,
    /// Dropped to let the upstream's connection end.
    requests: Option<SendRequest<Bytes>>,
    client_end: Option<Result<(), h2::Error>>,
    upstream_end: Option<Result<(), h2::Error>>,
    /// The client has been told to open no more streams.
    going_away: Arc<AtomicBool>,
    /// What streams have sent to the client waits for its socket.
    blocked: Arc<AtomicBool>,
    /// A response has ended since the client's connection was driven.
    unsent: bool,
    drain: Pin<Box<WaitForCancellationFutureOwned>>,
    drained: bool,
    linger: Option<Pin<Box<Sleep>>>,
    context: HttpContext,
}

// === impl Connection ===

impl<C, U> Connection<C, U>
where
    C: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    U: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    async fn run(mut self) -> EndCause {
        let sink = Arc::clone(&self.context.sink);
        let client_gone = Arc::new(AtomicBool::new(false));
        let forward = {
            let client_gone = Arc::clone(&client_gone);
            move |request, respond, requests| {
                let sink = Arc::clone(&sink) as Arc<dyn ExchangeSink>;
                stream::forward(request, respond, requests, sink, Arc::clone(&client_gone))
            }
        };
        let mut streams = FuturesUnordered::new();
        poll_fn(|cx| {
            loop {
                self.poll_drain(cx);
                let accepted = self.poll_accept(cx);
                if let Some((request, respond)) = accepted {
                    if let Some(requests) = &self.requests {
                        streams.push(forward(request, respond, requests.clone()));
                    }
                    continue;
                }
                self.unsent = false;
                // What h2 tells the streams of a client that is gone looks like another end.
                client_gone.store(self.is_client_gone(), Relaxed);
                while let Poll::Ready(Some(answered)) = streams.poll_next_unpin(cx) {
                    self.unsent |= answered;
                }
                self.poll_upstream(cx);
                if self.client_end.is_some() {
                    // Whatever is still here has no one to answer to.
                    streams.clear();
                }
                return self.poll_end(streams.is_empty(), cx);
            }
        })
        .await
    }

    /// The client's connection has ended, and not because the upstream's has or weir drains.
    fn is_client_gone(&self) -> bool {
        self.client_end.is_some() && self.upstream_end.is_none() && !self.drained
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>) {
        if !self.drained && self.drain.as_mut().poll(cx).is_ready() {
            self.drained = true;
            self.go_away();
        }
    }

    fn go_away(&mut self) {
        if !self.going_away.swap(true, Relaxed) {
            self.client.graceful_shutdown();
        }
    }

    fn poll_accept(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Option<(http::Request<h2::RecvStream>, server::SendResponse<Bytes>)> {
        if self.client_end.is_some() {
            return None;
        }
        match self.client.poll_accept(cx) {
            Poll::Ready(Some(Ok(accepted))) => return Some(accepted),
            Poll::Ready(Some(Err(error))) => self.client_end = Some(Err(error)),
            Poll::Ready(None) => self.client_end = Some(Ok(())),
            Poll::Pending => {}
        }
        None
    }

    /// Drives the upstream's connection, and tells the client if it takes no more streams.
    fn poll_upstream(&mut self, cx: &mut Context<'_>) {
        self.poll_upstream_end(cx);
        let refused = self
            .requests
            .as_mut()
            .is_some_and(|requests| matches!(requests.poll_ready(cx), Poll::Ready(Err(_))));
        if self.upstream_reason().is_some() {
            // It is said once the streams have ended, and not another one before it.
            self.going_away.store(true, Relaxed);
        } else if self.upstream_end.is_some() || refused {
            self.go_away();
        }
    }

    fn poll_upstream_end(&mut self, cx: &mut Context<'_>) {
        if self.upstream_end.is_none()
            && let Poll::Ready(end) = Pin::new(&mut self.upstream).poll(cx)
        {
            self.upstream_end = Some(end);
        }
    }

    fn poll_end(&mut self, no_streams: bool, cx: &mut Context<'_>) -> Poll<EndCause> {
        if self.client_end.is_some() {
            // Without handles the upstream's connection flushes its resets, says GOAWAY and ends.
            self.requests = None;
            self.poll_upstream_end(cx);
            if self.upstream_end.is_none() {
                ready!(self.poll_linger(cx));
            }
            return Poll::Ready(self.cause());
        }
        if self.upstream_end.is_some() && no_streams {
            if let Some(reason) = self.upstream_reason() {
                // h2 drops what is queued when there is a reason: responses go first.
                if self.unsent {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                if self.blocked.load(Relaxed) {
                    return Poll::Pending;
                }
                self.client.abrupt_shutdown(reason);
                self.upstream_end = Some(Ok(()));
                cx.waker().wake_by_ref();
            }
            ready!(self.poll_linger(cx));
            return Poll::Ready(self.cause());
        }
        Poll::Pending
    }

    /// The upstream's complaint, to be passed on.
    fn upstream_reason(&self) -> Option<Reason> {
        let error = self.upstream_end.as_ref()?.as_ref().err()?;
        error.reason().filter(|reason| *reason != Reason::NO_ERROR)
    }

    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let after = self.context.limits.linger;
        self.linger.get_or_insert_with(|| Box::pin(sleep(after))).as_mut().poll(cx)
    }

    fn cause(&self) -> EndCause {
        let going_away = self.going_away.load(Relaxed);
        match (&self.client_end, &self.upstream_end) {
            _ if self.drained => EndCause::Drained,
            (_, Some(Err(error))) if going_away => failure(Side::Upstream, error),
            (Some(Err(error)), _) => failure(Side::Client, error),
            _ if going_away => EndCause::Closed(Side::Upstream),
            _ => EndCause::Closed(Side::Client),
        }
    }
}
