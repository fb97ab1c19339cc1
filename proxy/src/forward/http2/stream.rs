//! One HTTP/2 exchange: request and response between a stream of the client's connection and one
//! of the upstream's, resets with their reasons included.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version, header};

use super::pump::{Fault, Pump};
use crate::forward::http::{
    ERROR_HEADER, ExchangeEnd, ExchangeSink, GRPC_UNAVAILABLE, RequestInfo, TraceParent, Tracker,
    grpc_status, is_grpc,
};

/// Forwards one exchange to its end, whatever that is: true where the client has got a whole response.
/// Dropped, it ends by the client if that is gone.
pub(super) async fn forward(
    request: Request<RecvStream>,
    respond: SendResponse<Bytes>,
    upstream: SendRequest<Bytes>,
    sink: Arc<dyn ExchangeSink>,
    client_gone: Arc<AtomicBool>,
) -> bool {
    let (mut head, body) = request.into_parts();
    let tracker = Tracker::start(&sink, info(&head));
    let connect = head.method == Method::CONNECT;
    let mut exchange =
        Exchange { respond, tracker, connect, answered: false, cancelled: None, client_gone };
    if head.uri.authority().is_none() {
        // h2 wants to be told that a request without `:authority` is meant.
        head.version = Version::HTTP_11;
    }
    let ended = body.is_end_stream();
    let sent = match upstream.ready().await {
        Ok(mut upstream) => upstream.send_request(Request::from_parts(head, ()), ended),
        Err(error) => Err(error),
    };
    let (response, send) = match sent {
        Ok(sent) => sent,
        Err(error) => {
            exchange.upstream_failed(&error, true);
            return exchange.answered;
        }
    };
    let mut up = Pump::new(body, send, ended);
    if let Some(response) = exchange.response_head(response, &mut up).await {
        exchange.response_body(response, &mut up).await;
    }
    if let Some(reason) = exchange.cancelled {
        up.reset(reason).await;
    }
    exchange.answered
}

/// What is left of an exchange besides its request body.
struct Exchange {
    respond: SendResponse<Bytes>,
    tracker: Tracker,
    connect: bool,
    /// The client's response has ended as it should.
    answered: bool,
    /// The client wants no answer any more.
    cancelled: Option<Reason>,
    /// Its connection has ended: whatever ends now, ends because of that.
    client_gone: Arc<AtomicBool>,
}

/// How the bodies of an answered request ended.
enum BodyEnd {
    Complete,
    /// The client reset its stream or is gone.
    Client(Option<Reason>),
    /// The upstream did.
    Upstream(Option<Reason>),
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if self.client_gone.load(Relaxed) {
            self.tracker.finish(ExchangeEnd::ClientReset(None));
        }
    }
}

fn info(head: &http::request::Parts) -> RequestInfo {
    let host = || head.headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let authority = head.uri.authority().map(|authority| authority.as_str());
    RequestInfo {
        version: 20,
        method: head.method.as_str().into(),
        authority: authority.or_else(host).map(Arc::from),
        path: head.uri.path().into(),
        grpc: has_grpc(&head.headers),
        trace: trace(&head.headers),
    }
}

/// Several say nothing.
fn trace(headers: &HeaderMap) -> Option<Arc<TraceParent>> {
    let mut values = headers.get_all("traceparent").iter();
    let first = values.next()?;
    let parent = TraceParent::parse(first.as_bytes())?;
    values.next().is_none().then(|| Arc::new(parent))
}

fn has_grpc(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|value| is_grpc(value.as_bytes()))
}

// === impl Exchange ===

impl Exchange {
    /// Waits for the final response head, while the request's body and 1xx responses pass.
    async fn response_head(
        &mut self,
        mut response: ResponseFuture,
        up: &mut Pump,
    ) -> Option<Response<RecvStream>> {
        poll_fn(|cx| {
            // First, as a reset does not undo what the client said before. An upstream that wants
            // no more of it says so in place of the response as well.
            if let Poll::Ready(Err(Fault::Sender(error))) = self.poll_up(up, cx) {
                self.client_reset(error.reason());
                return Poll::Ready(None);
            }
            if let Poll::Ready(reset) = self.respond.poll_reset(cx) {
                self.client_reset(reset.ok());
                return Poll::Ready(None);
            }
            while let Poll::Ready(Some(Ok(interim))) = response.poll_informational(cx) {
                // Refused only if the stream is gone, which poll_reset tells.
                let _ = self.respond.send_informational(interim);
            }
            match Pin::new(&mut response).poll(cx) {
                Poll::Ready(Ok(response)) => Poll::Ready(Some(response)),
                Poll::Ready(Err(error)) => {
                    self.upstream_failed(&error, false);
                    Poll::Ready(None)
                }
                Poll::Pending => Poll::Pending,
            }
        })
        .await
    }

    /// Forwards the rest of both bodies.
    async fn response_body(&mut self, response: Response<RecvStream>, up: &mut Pump) {
        let (head, body) = response.into_parts();
        self.tracker.head(head.status.as_u16(), has_grpc(&head.headers));
        self.tracker.grpc_status(grpc_status(&head.headers));
        let complete = match self.connect && head.status.is_success() {
            true => ExchangeEnd::Tunnel,
            false => ExchangeEnd::Complete,
        };
        let ended = body.is_end_stream();
        let send = match self.respond.send_response(Response::from_parts(head, ()), ended) {
            Ok(send) => send,
            Err(error) => return self.client_reset(error.reason()),
        };
        let mut down = Pump::new(body, send, ended);
        match poll_fn(|cx| self.poll_bodies(up, &mut down, &complete, cx)).await {
            BodyEnd::Complete => self.answered = true,
            BodyEnd::Client(reason) => self.client_reset(reason),
            BodyEnd::Upstream(reason) => {
                down.reset(reason.unwrap_or(Reason::INTERNAL_ERROR)).await;
                self.tracker.finish(ExchangeEnd::UpstreamReset(reason.map(u32::from)));
            }
        }
    }

    fn poll_bodies(
        &mut self,
        up: &mut Pump,
        down: &mut Pump,
        complete: &ExchangeEnd,
        cx: &mut Context<'_>,
    ) -> Poll<BodyEnd> {
        let response = down.poll(cx);
        self.tracker.response_bytes(down.take_moved());
        let request = self.poll_up(up, cx);
        match response {
            Poll::Ready(Ok(())) => {
                self.tracker.grpc_status(down.grpc_status());
                self.tracker.response_ended(complete.clone());
            }
            Poll::Ready(Err(Fault::Sender(error))) => {
                return Poll::Ready(BodyEnd::Upstream(error.reason()));
            }
            Poll::Ready(Err(Fault::Receiver(reason))) => {
                return Poll::Ready(BodyEnd::Client(reason));
            }
            Poll::Pending => {
                if let Poll::Ready(reason) = down.poll_reset(cx) {
                    return Poll::Ready(BodyEnd::Client(reason));
                }
            }
        }
        let answered = response.is_ready();
        match request {
            Poll::Ready(Err(Fault::Sender(error))) => Poll::Ready(BodyEnd::Client(error.reason())),
            Poll::Ready(_) if answered => Poll::Ready(BodyEnd::Complete),
            // The upstream wants no more of the body. If it has answered, dropping the stream says
            // so too (h2 sends NO_ERROR, behind what is queued: a reset of ours would overtake the
            // response). If not, its response says the rest.
            _ if answered && up.poll_reset(cx).is_ready() => Poll::Ready(BodyEnd::Complete),
            _ => Poll::Pending,
        }
    }

    fn poll_up(&mut self, up: &mut Pump, cx: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        let result = up.poll(cx);
        self.tracker.request_bytes(up.take_moved());
        result
    }

    /// The client gave up, or is gone.
    fn client_reset(&mut self, reason: Option<Reason>) {
        self.cancelled = Some(reason.unwrap_or(Reason::CANCEL));
        self.tracker.finish(ExchangeEnd::ClientReset(reason.map(u32::from)));
    }

    /// There will be no response head. `unsent`: nor has there been a request.
    fn upstream_failed(&mut self, error: &h2::Error, unsent: bool) {
        let code = error.reason().map(u32::from);
        let end = ExchangeEnd::UpstreamReset(code);
        if error.is_go_away() {
            // Not processed, so the client may repeat it (RFC 9113 §8.7).
            self.respond.send_reset(Reason::REFUSED_STREAM);
            return self.tracker.finish(end);
        }
        match error.reason() {
            Some(reason) if error.is_reset() && error.is_remote() => {
                self.respond.send_reset(reason);
                self.tracker.finish(end);
            }
            // h2 refused it: malformed, or larger than the limits.
            Some(_) if error.is_reset() => self.answer("upstream-invalid-response"),
            _ if unsent => self.answer("upstream-closed"),
            _ => self.answer("upstream-reset"),
        }
    }

    fn answer(&mut self, reason: &'static str) {
        let mut answer = Response::new(());
        let headers = answer.headers_mut();
        headers.insert(ERROR_HEADER, HeaderValue::from_static(reason));
        if self.tracker.is_grpc() {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            headers.insert("grpc-status", HeaderValue::from(GRPC_UNAVAILABLE));
            headers.insert("grpc-message", HeaderValue::from_static(reason));
            self.tracker.grpc_status(Some(GRPC_UNAVAILABLE));
        } else {
            *answer.status_mut() = StatusCode::BAD_GATEWAY;
        }
        self.tracker.head(answer.status().as_u16(), false);
        let end = match self.respond.send_response(answer, true) {
            Ok(_) => {
                self.answered = true;
                ExchangeEnd::Answered(reason)
            }
            Err(error) => ExchangeEnd::ClientReset(error.reason().map(u32::from)),
        };
        self.tracker.finish(end);
    }
}
