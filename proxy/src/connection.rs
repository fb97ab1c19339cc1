//! One accepted connection, from accept to access record: policy → dial → detect → forward.

mod dial;

use std::{net::SocketAddr, sync::Arc, time::Instant};

use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use self::dial::{Dial, reset_on_close};
use crate::{
    capture::Captured,
    config::Config,
    decision::{Decision, Direction, PortState, Source, Treatment},
    detect::race::{self, RaceError, RaceOptions, Raced},
    forward::{
        http::{self, EndCause, HttpContext, HttpLimits, HttpVersion, Side},
        prefixed::Prefixed,
        tcp::{self, TcpEnd, TcpOptions},
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
        let dial = Dial::new(&captured, self.config.forward.connect_timeout);
        let reason = tokio::select! {
            reason = self.forward(client, dial, &captured, &guard, accepted) => reason,
            () = self.abort.cancelled() => CloseReason::DrainDeadline,
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

    async fn forward(
        &self,
        client: TcpStream,
        dial: Dial,
        captured: &Captured,
        guard: &ConnectionGuard,
        accepted: Instant,
    ) -> CloseReason {
        if captured.state == PortState::Opaque {
            let decision = opaque(captured.state_source);
            guard.decided(decision, None, accepted.elapsed());
            return match dial.connect().await {
                Ok(upstream) => {
                    guard.upstream_connected();
                    self.tcp(Raced::opaque(client, upstream, decision), guard).await
                }
                Err(error) => unreachable(&client, &error),
            };
        }
        let options = RaceOptions {
            peek_limit: self.config.detect.peek_limit,
            prefix_timeout: self.config.detect.timeout,
        };
        match race::race(client, dial.connect(), options).await {
            Ok(raced) => {
                guard.upstream_connected();
                let treatment = raced.decision.treatment;
                guard.decided(raced.decision, raced.tls.clone(), accepted.elapsed());
                match treatment {
                    Treatment::Http1 => self.http(HttpVersion::Http1, raced, guard).await,
                    Treatment::Http2 => self.http(HttpVersion::Http2, raced, guard).await,
                    _ => self.tcp(raced, guard).await,
                }
            }
            Err(RaceError::Dial { client, error }) => unreachable(&client, &error),
            Err(RaceError::Client { .. }) => CloseReason::ClientReset,
        }
    }

    async fn tcp(&self, raced: Raced<TcpStream, TcpStream>, guard: &ConnectionGuard) -> CloseReason {
        let options = TcpOptions { half_closed_idle: self.config.forward.half_closed_idle };
        let end = tcp::copy(raced, &guard.counters(), options).await;
        match end {
            TcpEnd::Finished => CloseReason::Finished,
            TcpEnd::ClientReset => CloseReason::ClientReset,
            TcpEnd::UpstreamReset => CloseReason::UpstreamReset,
            TcpEnd::HalfClosedTimeout => CloseReason::HalfClosedTimeout,
            TcpEnd::Error(errno) => CloseReason::Error(errno),
        }
    }

    async fn http(
        &self,
        version: HttpVersion,
        raced: Raced<TcpStream, TcpStream>,
        guard: &ConnectionGuard,
    ) -> CloseReason {
        let counters = guard.counters();
        let client = Prefixed::client(raced.client, raced.client_prefix, Arc::clone(&counters));
        let upstream = Prefixed::upstream(raced.upstream, raced.server_prefix, counters);
        let context = HttpContext {
            sink: guard.sink(),
            drain: self.drain.clone(),
            limits: HttpLimits::default(),
            on_abort: None,
        };
        match http::serve(version, client, upstream, context).await.cause {
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
    reset_on_close(&client);
    drop(client);
    guard.close(reason);
}

/// The upstream could not be reached: the client is reset, the closest to its own error that a
/// connection already accepted can come.
fn unreachable(client: &TcpStream, error: &std::io::Error) -> CloseReason {
    reset_on_close(client);
    CloseReason::ConnectFailed(error.raw_os_error().unwrap_or(libc::EIO))
}

fn opaque(source: Source) -> Decision {
    let why = match source {
        Source::Default => "port is opaque by default",
        Source::Learned => "destination was opaque before",
        Source::Config | Source::Annotation | Source::Cli | Source::Detected => "port is opaque",
    };
    Decision { treatment: Treatment::Opaque, source, why }
}
