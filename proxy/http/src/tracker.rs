//! Follows one exchange and reports it exactly once, also when it is dropped half-way.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crate::{Exchange, ExchangeEnd, ExchangeSink, RequestInfo, RouteName};

/// One exchange in flight.
pub struct Tracker<S: ExchangeSink + ?Sized> {
    sink: Arc<S>,
    since: Instant,
    /// `None` once reported.
    exchange: Option<Exchange>,
    /// How it ended is known: at the end of the response, which may come before that of the request.
    is_settled: bool,
}

/// True for `application/grpc`, `application/grpc+proto`, `application/grpc-web`, …
#[inline]
pub fn is_grpc(content_type: &[u8]) -> bool {
    const PREFIX: &[u8] = b"application/grpc";
    content_type.get(..PREFIX.len()).is_some_and(|head| head.eq_ignore_ascii_case(PREFIX))
}

/// The time of day that it was then.
fn at(moment: Instant) -> SystemTime {
    let now = SystemTime::now();
    now.checked_sub(moment.elapsed()).unwrap_or(now)
}

// === impl Tracker ===

impl<S: ExchangeSink + ?Sized> Tracker<S> {
    /// A request head is complete.
    pub fn start(sink: &Arc<S>, request: RequestInfo) -> Self {
        if let Some(authority) = &request.authority {
            sink.authority(authority);
        }
        sink.request_started();
        let moment = sink.moment();
        let exchange = Exchange {
            version: request.version,
            method: request.method,
            authority: request.authority,
            path: request.path,
            status: None,
            grpc_status: None,
            grpc: request.grpc,
            trace: request.trace,
            started: moment.map_or_else(SystemTime::now, at),
            time_to_head: None,
            duration: Duration::ZERO,
            request_bytes: 0,
            response_bytes: 0,
            end: ExchangeEnd::Cancelled,
            upstream: None,
            attempts: 1,
            route: None,
        };
        Self {
            sink: Arc::clone(sink),
            since: moment.unwrap_or_else(Instant::now),
            exchange: Some(exchange),
            is_settled: false,
        }
    }

    /// The final response head has arrived.
    pub fn head(&mut self, status: u16, grpc: bool) {
        let elapsed = self.elapsed();
        if let Some(exchange) = &mut self.exchange {
            exchange.status = Some(status);
            exchange.time_to_head = Some(elapsed);
            exchange.grpc |= grpc;
        }
    }

    /// The `grpc-status` of the response or its trailers, if there is one.
    pub fn grpc_status(&mut self, status: Option<u32>) {
        if let Some(exchange) = &mut self.exchange {
            exchange.grpc_status = status.or(exchange.grpc_status);
        }
    }

    /// Content of the request has passed.
    pub fn request_bytes(&mut self, bytes: u64) {
        if let Some(exchange) = &mut self.exchange {
            exchange.request_bytes += bytes;
        }
    }

    /// Content of the response has passed.
    pub fn response_bytes(&mut self, bytes: u64) {
        if let Some(exchange) = &mut self.exchange {
            exchange.response_bytes += bytes;
        }
    }

    /// Whether an answer of weir's own has to be in gRPC's form.
    #[inline]
    pub fn is_grpc(&self) -> bool {
        self.exchange.as_ref().is_some_and(|exchange| exchange.grpc)
    }

    /// The response has ended. Whatever becomes of the rest of the request, this is how the
    /// exchange ended; it is reported when the request's bytes are counted.
    pub fn response_ended(&mut self, end: ExchangeEnd) {
        if !self.is_settled {
            let took = self.elapsed();
            self.settle(took, end);
        }
    }

    /// The same for a response that came with its head, at one time.
    pub fn response_ended_at_once(&mut self, end: ExchangeEnd) {
        if !self.is_settled {
            let took = self.exchange.as_ref().and_then(|exchange| exchange.time_to_head);
            let took = took.unwrap_or_else(|| self.elapsed());
            self.settle(took, end);
        }
    }

    fn settle(&mut self, took: Duration, end: ExchangeEnd) {
        if let Some(exchange) = &mut self.exchange {
            (exchange.duration, exchange.end) = (took, end);
            self.is_settled = true;
        }
    }

    /// It was sent to this endpoint, once more if it was sent before.
    pub fn sent_to(&mut self, endpoint: SocketAddr, once_more: bool) {
        if let Some(exchange) = &mut self.exchange {
            exchange.upstream = Some(endpoint);
            exchange.attempts = exchange.attempts.saturating_add(u8::from(once_more));
        }
    }

    /// It takes this route.
    pub fn routed(&mut self, route: Option<Arc<RouteName>>) {
        if let Some(exchange) = &mut self.exchange {
            exchange.route = route;
        }
    }

    /// Since the request head.
    pub fn elapsed(&self) -> Duration {
        match self.sink.moment() {
            None => self.since.elapsed(),
            Some(moment) => moment.saturating_duration_since(self.since),
        }
    }

    /// Reports the exchange, ended like this unless its response has; later calls do nothing.
    pub fn finish(&mut self, end: ExchangeEnd) {
        self.finish_after(end, |_| {});
    }

    /// The same, and shows it to `tell` before.
    pub fn finish_after(&mut self, end: ExchangeEnd, tell: impl FnOnce(&Exchange)) {
        self.response_ended(end);
        if let Some(mut exchange) = self.exchange.take() {
            // To a client that waits for the rest of a response, an end in order is a reset.
            if exchange.end == ExchangeEnd::UpstreamClosed && exchange.status.is_some() {
                exchange.end = ExchangeEnd::UpstreamReset(None);
            }
            tell(&exchange);
            self.sink.exchange(exchange);
        }
    }
}

impl<S: ExchangeSink + ?Sized> Drop for Tracker<S> {
    fn drop(&mut self) {
        self.finish(ExchangeEnd::Cancelled);
    }
}
