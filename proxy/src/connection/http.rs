//! HTTP: which engine carries a connection.

use std::{pin::pin, time::Instant};

use tokio::net::TcpStream;

use super::{Context, detecting::Detecting, requests::Balancing, stream::into_raw};
use crate::{
    decision::{Detection, Direction},
    detect::{
        dialogue::Conclusion,
        race::{self, Outcome, Peeked, RaceError},
    },
    forward::{
        Side,
        http::{self, EndCause, ExchangeEnd, HeadLimits, HttpContext, HttpLimits, HttpVersion},
        passthrough::Observer,
        prefixed::Prefixed,
        tcp::{self, Endpoint, Forwarded, Observed, Observing, Socket, TcpEnd},
        transport::AbortState,
    },
    stop::Stop,
    telemetry::{CloseReason, ConnectionGuard},
};

/// One side of a connection as detection leaves it.
pub(super) type Peer = (TcpStream, Peeked);

/// Carries messages, and so needs HTTP from its first byte on.
pub(super) enum Engine {
    /// Each connection for itself.
    Terminate,
    /// To several endpoints.
    Balance(Box<Balancing>),
}

impl Context {
    /// Holds the client's first bytes until it is known whether they are HTTP, for an engine that
    /// needs them all. What is not, or not soon, goes to the passthrough engine at once.
    pub(super) async fn hold(
        &self,
        mut client: TcpStream,
        mut upstream: TcpStream,
        engine: Engine,
        guard: &ConnectionGuard,
        accepted: Instant,
    ) -> CloseReason {
        let config = self.config.now();
        let options = race::Options {
            peek_limit: config.detect.peek_limit,
            hold: config.detect.timeout,
            memory: Some(self.share.clone()),
        };
        drop(config);
        let raced = tokio::select! {
            raced = race::race(&mut client, &mut upstream, &options) => raced,
            () = self.abort.cancelled() => {
                tcp::reset(client);
                tcp::reset(upstream);
                return CloseReason::DrainDeadline;
            }
        };
        let Outcome { conclusion, client: near, server: far } = match raced {
            Ok(outcome) => outcome,
            Err(error) => {
                tcp::reset(client);
                tcp::reset(upstream);
                return match error {
                    RaceError::Client(_) => CloseReason::ClientReset,
                    RaceError::Upstream(_) => CloseReason::UpstreamReset,
                };
            }
        };
        let version = match conclusion.as_ref().map(|conclusion| conclusion.detection) {
            Some(Detection::Http1) => Some(HttpVersion::Http1),
            Some(Detection::Http2) => Some(HttpVersion::Http2),
            _ => None,
        };
        let version = version.filter(|version| engine.carries(*version));
        let (Some(conclusion), Some(version)) = (&conclusion, version) else {
            let (client, upstream) = (endpoint(client, near), endpoint(upstream, far));
            return match (into_raw(client), into_raw(upstream)) {
                (Ok(client), Ok(upstream)) => {
                    self.pass_through(client, upstream, guard, accepted).await
                }
                (Err(error), _) | (_, Err(error)) => CloseReason::from_io(&error),
            };
        };
        self.decide(conclusion.clone(), guard, accepted);
        let (client, upstream) = ((client, near), (upstream, far));
        match (engine, version) {
            (Engine::Terminate, _) => self.terminate(version, client, upstream, guard).await,
            (Engine::Balance(balancing), HttpVersion::Http1) => {
                self.pool(*balancing, client, upstream, guard).await
            }
            (Engine::Balance(balancing), HttpVersion::Http2) => {
                self.relay(*balancing, client, upstream, guard).await
            }
        }
    }

    /// Takes note of a decision, and of what it teaches.
    pub(super) fn decide(
        &self,
        conclusion: Conclusion,
        guard: &ConnectionGuard,
        accepted: Instant,
    ) {
        if let Some(lesson) = conclusion.lesson() {
            self.learn(guard, lesson);
        }
        guard.detected(conclusion.detection, conclusion.tls, guard.since(accepted));
    }

    /// Passes everything as it comes, and looks on.
    pub(super) async fn pass_through(
        &self,
        client: Endpoint<Socket>,
        upstream: Endpoint<Socket>,
        guard: &ConnectionGuard,
        accepted: Instant,
    ) -> CloseReason {
        let mut observer = Detecting::new(self, guard, accepted);
        self.observe(client, upstream, guard, &mut observer).await
    }

    /// Passes everything as it comes, before the eyes of an observer.
    pub(super) async fn observe(
        &self,
        client: Endpoint<Socket>,
        upstream: Endpoint<Socket>,
        guard: &ConnectionGuard,
        observer: &mut dyn Observer,
    ) -> CloseReason {
        let drain = self.drain_of(guard.direction());
        let observing = Observing { observer: &mut *observer, drain };
        let options = self.tcp_options(guard);
        let counters = guard.counters();
        let passed =
            tcp::forward_observed(client, upstream, &options, &counters, &self.abort, observing);
        match passed.await {
            Observed::Over(forwarded) => {
                observer.finish(in_flight(&forwarded));
                super::close_reason(forwarded.end)
            }
            // The client has been told, or has been idle.
            Observed::Quiet(client, upstream) => {
                let closed = Box::pin(tcp::close(client, upstream));
                tokio::select! {
                    () = closed => {}
                    () = self.abort.cancelled() => {}
                }
                CloseReason::Finished
            }
        }
    }

    /// What asks a connection's client to leave.
    pub(super) const fn drain_of(&self, direction: Direction) -> &Stop {
        match direction {
            Direction::Inbound => &self.leaving,
            Direction::Outbound => &self.drain,
        }
    }

    /// Bounds of the heads of HTTP/1.
    pub(super) fn head_limits(&self) -> HeadLimits {
        let settings = &self.config.now().http;
        HeadLimits { bytes: settings.max_head_bytes, fields: settings.max_headers }
    }

    pub(super) async fn terminate(
        &self,
        version: HttpVersion,
        client: Peer,
        upstream: Peer,
        guard: &ConnectionGuard,
    ) -> CloseReason {
        let abort = AbortState::default();
        // One side counts: on both, every byte would count twice.
        let client = Prefixed::new(abort.bind(Side::Client, client.0), client.1.prefix)
            .counting(guard.counters(), Side::Client);
        let upstream = Prefixed::new(abort.bind(Side::Upstream, upstream.0), upstream.1.prefix);
        let config = self.config.now();
        let settings = &config.http;
        let context = HttpContext {
            sink: guard.sink(),
            drain: self.drain_of(guard.direction()).token().clone(),
            limits: HttpLimits {
                head: self.head_limits(),
                max_streams: settings.max_concurrent_streams,
                half_closed_idle: config.forward.half_closed_idle,
                ..HttpLimits::default()
            },
            on_abort: Some(abort.on_abort()),
        };
        let mut serving = pin!(http::serve(version, client, upstream, context));
        let _dropped_first = abort;
        let end = tokio::select! {
            end = &mut serving => end,
            () = self.abort.cancelled() => return CloseReason::DrainDeadline,
        };
        close_reason(end.cause)
    }
}

// === impl Engine ===

impl Engine {
    const fn carries(&self, version: HttpVersion) -> bool {
        match (self, version) {
            (Self::Terminate, _) | (Self::Balance(_), HttpVersion::Http2) => true,
            (Self::Balance(balancing), HttpVersion::Http1) => balancing.http1(),
        }
    }
}

// === helpers ===

/// How the end that an engine reports is recorded.
pub(super) fn close_reason(cause: EndCause) -> CloseReason {
    match cause {
        EndCause::Closed(_) | EndCause::Drained => CloseReason::Finished,
        EndCause::Reset(Side::Client) => CloseReason::ClientReset,
        EndCause::Reset(Side::Upstream) | EndCause::Truncated => CloseReason::UpstreamReset,
        EndCause::Idle => CloseReason::HalfClosedTimeout,
        EndCause::Answered(reason) => CloseReason::Http(reason.to_owned()),
        EndCause::Protocol { text, .. } => CloseReason::Http(text),
    }
}

pub(super) fn endpoint(stream: TcpStream, Peeked { prefix, eof }: Peeked) -> Endpoint {
    Endpoint { stream, prefix, eof }
}

/// How exchanges end that are under way when their connection ends like this: by the side that
/// ended first. What the other side did then, it did because of that.
fn in_flight(forwarded: &Forwarded) -> ExchangeEnd {
    match (forwarded.end, forwarded.closed_first) {
        (TcpEnd::Cancelled | TcpEnd::Quiet, _) => ExchangeEnd::Cancelled,
        (_, Some(Side::Client)) => ExchangeEnd::ClientReset(None),
        (TcpEnd::Finished | TcpEnd::HalfClosedTimeout, _) => ExchangeEnd::UpstreamClosed,
        _ => ExchangeEnd::UpstreamReset(None),
    }
}
