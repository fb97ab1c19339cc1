//! One accepted connection, from accept to access record: policy → dial → detect → forward.

mod dial;
mod reset;

use std::{net::SocketAddr, sync::Arc, time::Instant};

use socket2::SockRef;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use self::{dial::Dial, reset::ResetHooks};
use crate::{
    capture::Captured,
    config::Config,
    decision::{Decision, Direction, PortState, Source, Treatment},
    detect::race::{self, Outcome, RaceError},
    forward::{
        Side,
        http::{self, EndCause, HttpContext, HttpLimits, HttpVersion},
        prefixed::Prefixed,
        tcp::{self, Endpoint, TcpEnd, TcpOptions},
    },
    telemetry::{CloseReason, ConnectionGuard, ConnectionInfo, Telemetry},
};

/// What all connections of a workload share.
pub struct Context {
    /// The workload's name.
    pub workload: Arc<str>,
    /// Where everything is counted.
    pub telemetry: Telemetry,
    /// The addresses of weir's own listeners: a destination among them is a loop.
    pub own: Vec<SocketAddr>,
    /// Cancelled when no new work is to be begun.
    pub drain: CancellationToken,
    /// Cancelled when time is up.
    pub abort: CancellationToken,
    /// Effective settings.
    pub config: Arc<Config>,
    /// Told of each destination that could not be reached, before its client is reset.
    pub on_unreachable: Box<dyn Fn(SocketAddr) + Send + Sync>,
}

// === impl Context ===

impl Context {
    /// Serves an outbound connection that the kernel redirected here. `captured` is `None` for one
    /// that somebody made to the listener's own address.
    pub async fn outbound(&self, client: TcpStream, peer: SocketAddr, captured: Option<Captured>) {
        let accepted = Instant::now();
        let Some(captured) = captured else {
            let destination = client.local_addr().unwrap_or(peer);
            let guard = self.open(peer, destination);
            return refuse(client, guard, CloseReason::NoOriginalDestination);
        };
        let guard = self.open(peer, captured.destination);
        if self.own.contains(&captured.destination) {
            return refuse(client, guard, CloseReason::Loop);
        }
        let _ = client.set_nodelay(true);
        dial::keep_alive(&SockRef::from(&client));
        let dial = Dial::new(&captured, self.config.forward.connect_timeout);
        let reason = match captured.state {
            PortState::Opaque => {
                guard.decided(opaque(captured.state_source), None, accepted.elapsed());
                self.opaque(client, dial, &guard).await
            }
            PortState::Detect | PortState::Skip => {
                self.detect(client, dial, &guard, accepted).await
            }
        };
        guard.close(reason);
    }

    /// Turns a connection away because there are too many.
    pub fn shed(&self, client: TcpStream, peer: SocketAddr, captured: Option<Captured>) {
        let destination = captured.map_or(peer, |captured| captured.destination);
        refuse(client, self.open(peer, destination), CloseReason::Shed);
    }

    fn open(&self, client: SocketAddr, destination: SocketAddr) -> ConnectionGuard {
        self.telemetry.open(ConnectionInfo {
            workload: Arc::clone(&self.workload),
            direction: Direction::Outbound,
            client,
            destination,
        })
    }

    async fn opaque(&self, client: TcpStream, dial: Dial, guard: &ConnectionGuard) -> CloseReason {
        let dialled = tokio::select! {
            dialled = dial.connect() => dialled,
            () = self.abort.cancelled() => {
                tcp::reset(client);
                return CloseReason::DrainDeadline;
            }
        };
        match dialled {
            Ok(upstream) => {
                guard.upstream_connected();
                self.tcp(client.into(), upstream.into(), guard).await
            }
            Err(error) => self.unreachable(client, guard, &error),
        }
    }

    async fn detect(
        &self,
        mut client: TcpStream,
        dial: Dial,
        guard: &ConnectionGuard,
        accepted: Instant,
    ) -> CloseReason {
        let options = race::Options {
            peek_limit: self.config.detect.peek_limit,
            prefix_timeout: self.config.detect.timeout,
        };
        let raced = tokio::select! {
            raced = race::race(&mut client, dial.connect(), &options) => raced,
            () = self.abort.cancelled() => {
                tcp::reset(client);
                return CloseReason::DrainDeadline;
            }
        };
        match raced {
            Ok(outcome) => {
                guard.upstream_connected();
                guard.decided(outcome.decision, outcome.tls.clone(), accepted.elapsed());
                self.forward(client, outcome, guard).await
            }
            Err(RaceError::Dial(error)) => self.unreachable(client, guard, &error),
            Err(RaceError::Client { upstream, .. }) => {
                if let Some(upstream) = upstream {
                    tcp::reset(upstream);
                }
                CloseReason::ClientReset
            }
            Err(RaceError::Upstream(_)) => {
                tcp::reset(client);
                CloseReason::UpstreamReset
            }
        }
    }

    /// The upstream could not be reached: the client is reset, the closest to its own error that a
    /// connection already accepted can come.
    fn unreachable(
        &self,
        client: TcpStream,
        guard: &ConnectionGuard,
        error: &std::io::Error,
    ) -> CloseReason {
        (self.on_unreachable)(guard.destination());
        tcp::reset(client);
        CloseReason::ConnectFailed(error.raw_os_error().unwrap_or(libc::EIO))
    }

    async fn forward(
        &self,
        client: TcpStream,
        outcome: Outcome<TcpStream>,
        guard: &ConnectionGuard,
    ) -> CloseReason {
        let version = match outcome.decision.treatment {
            Treatment::Http1 => HttpVersion::Http1,
            Treatment::Http2 => HttpVersion::Http2,
            _ => {
                let Outcome { client: seen, server, upstream, .. } = outcome;
                let client = Endpoint { stream: client, prefix: seen.prefix, eof: seen.eof };
                let upstream =
                    Endpoint { stream: upstream, prefix: server.prefix, eof: server.eof };
                return self.tcp(client, upstream, guard).await;
            }
        };
        self.http(version, client, outcome, guard).await
    }

    async fn tcp(
        &self,
        client: Endpoint,
        upstream: Endpoint,
        guard: &ConnectionGuard,
    ) -> CloseReason {
        let options = TcpOptions { half_closed_idle: self.config.forward.half_closed_idle };
        let counters = guard.counters();
        match tcp::forward(client, upstream, &options, &counters, &self.abort).await.end {
            TcpEnd::Finished => CloseReason::Finished,
            TcpEnd::ClientReset => CloseReason::ClientReset,
            TcpEnd::UpstreamReset => CloseReason::UpstreamReset,
            TcpEnd::HalfClosedTimeout => CloseReason::HalfClosedTimeout,
            TcpEnd::Cancelled => CloseReason::DrainDeadline,
            TcpEnd::Io(_, errno) => CloseReason::Error(errno),
        }
    }

    async fn http(
        &self,
        version: HttpVersion,
        client: TcpStream,
        outcome: Outcome<TcpStream>,
        guard: &ConnectionGuard,
    ) -> CloseReason {
        let hooks = ResetHooks::new(&client, &outcome.upstream);
        // One side counts: on both, every byte would count twice.
        let client =
            Prefixed::new(client, outcome.client.prefix).counting(guard.counters(), Side::Client);
        let upstream = Prefixed::new(outcome.upstream, outcome.server.prefix);
        let settings = &self.config.http;
        let context = HttpContext {
            sink: guard.sink(),
            drain: self.drain.clone(),
            limits: HttpLimits {
                max_head_bytes: settings.max_head_bytes,
                max_headers: settings.max_headers,
                max_streams: settings.max_concurrent_streams,
                half_closed_idle: self.config.forward.half_closed_idle,
                ..HttpLimits::default()
            },
            on_abort: Some(hooks.on_abort()),
        };
        let end = tokio::select! {
            end = http::serve(version, client, upstream, context) => end,
            () = self.abort.cancelled() => return CloseReason::DrainDeadline,
        };
        match end.cause {
            EndCause::Closed(_) | EndCause::Drained => CloseReason::Finished,
            EndCause::Reset(Side::Client) => CloseReason::ClientReset,
            EndCause::Reset(Side::Upstream) | EndCause::Truncated => CloseReason::UpstreamReset,
            EndCause::Idle => CloseReason::HalfClosedTimeout,
            EndCause::Answered(reason) => CloseReason::Http(reason.to_owned()),
            EndCause::Protocol { text, .. } => CloseReason::Http(text),
        }
    }
}

// === helpers ===

/// Turns a connection away with a reset.
fn refuse(client: TcpStream, guard: ConnectionGuard, reason: CloseReason) {
    tcp::reset(client);
    guard.close(reason);
}

fn opaque(source: Source) -> Decision {
    let why = match source {
        Source::Default => "port is opaque by default",
        Source::Learned => "destination was opaque before",
        Source::Config | Source::Annotation | Source::Cli | Source::Detected => "port is opaque",
    };
    Decision { treatment: Treatment::Opaque, source, why }
}
