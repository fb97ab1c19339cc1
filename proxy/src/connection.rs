//! One accepted connection, from accept to access record: policy → dial → detect → forward.

mod dial;
mod dials;
mod http;
mod reset;

use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::net::TcpStream;

pub use self::dials::OwnDials;
use self::{dial::Dial, dials::OwnDial};
use crate::{
    budget::{Share, Taken},
    capture::{Captured, Netns},
    config::{Config, Switch},
    decision::{Decision, Direction, PortState, Source, Treatment},
    detect::race::{self, Outcome, Peeked, RaceError},
    forward::{
        http::HttpVersion,
        tcp::{self, Endpoint, TcpEnd, TcpOptions},
    },
    learn::{Change, Learn, Learning},
    stop::Stop,
    telemetry::{CloseReason, ConnectionGuard, ConnectionInfo, Telemetry},
};

/// What all connections of a workload share.
pub struct Context {
    /// The workload's name.
    pub workload: Arc<str>,
    /// Where everything is counted.
    pub telemetry: Telemetry,
    /// What the workload may take of what all share.
    pub share: Share,
    /// The addresses of the workload's listeners: a destination among them is a loop.
    pub own: Vec<SocketAddr>,
    /// Where the workload is, and its upstream connections are made.
    pub netns: Netns,
    /// The application is to see the client's own address.
    pub preserve_client_ip: bool,
    /// What weir has open to the workload.
    pub dials: Arc<OwnDials>,
    /// What is known of destinations.
    pub learning: Learning,
    /// Cancelled when no new work is to be begun.
    pub drain: Stop,
    /// Cancelled when time is up.
    pub abort: Stop,
    /// Effective settings.
    pub config: Arc<Config>,
    /// Told what connections find out.
    pub feedback: Box<dyn Feedback>,
}

/// Who wants to know what connections find out on their way. Called from the connections' tasks:
/// must be quick.
pub trait Feedback: Send + Sync {
    /// Whether an error means that the process is out of descriptors or memory. Then the kernel is
    /// told to let new connections go direct.
    fn is_exhaustion(&self, error: &std::io::Error) -> bool;
    /// A destination could not be reached; its client is about to be reset.
    fn unreachable(&self, direction: Direction, destination: SocketAddr);
    /// weir is about to connect to the application from a client's address, or has.
    ///
    /// # Errors
    /// Where the kernel cannot be told: the connection would come back.
    fn dialling_as(&self, source: SocketAddr, connecting: bool) -> io::Result<()>;
    /// A destination is to be bypassed for this time.
    fn learned(&self, direction: Direction, destination: SocketAddr, time: Duration);
    /// A destination that was learned speaks something else now.
    fn forgotten(&self, direction: Direction, destination: SocketAddr);
}

// === impl Context ===

impl Context {
    /// Serves a connection that the kernel sent here. `captured` is `None` for one that somebody
    /// made to the listener's own address. `dialling` is given back when the upstream has been
    /// dialled.
    pub async fn serve(
        &self,
        client: std::net::TcpStream,
        peer: SocketAddr,
        captured: Option<Captured>,
        dialling: Taken,
    ) {
        let accepted = Instant::now();
        let client = match TcpStream::from_std(client) {
            Ok(client) => client,
            // epoll_ctl(2) lacks memory. The socket is armed: its close is a reset.
            Err(error) => return tracing::error!(%error, "connection not registered"),
        };
        let Some(captured) = captured else {
            let destination = client.local_addr().unwrap_or(peer);
            let guard = self.open(Direction::Outbound, peer, destination);
            return refuse(client, guard, CloseReason::NoOriginalDestination);
        };
        let Captured { direction, destination, .. } = captured;
        let guard = self.open(direction, peer, destination);
        let comes_back = direction == Direction::Inbound && self.dials.contains(peer, destination);
        if comes_back || self.own.contains(&captured.destination) {
            return refuse(client, guard, CloseReason::Loop);
        }
        let own = OwnDial::new(&self.dials);
        let dial = Dial::new(self, &captured, peer, &own, dialling);
        let opaque = match captured.state {
            PortState::Opaque => Some(captured.state_source),
            PortState::Detect | PortState::Skip => {
                self.learning.known(direction, destination, accepted).then_some(Source::Learned)
            }
        };
        let reason = match opaque {
            Some(source) => {
                guard.decided(decision(source), None, accepted.elapsed());
                self.opaque(client, dial, &guard).await
            }
            None => self.detect(client, dial, &guard, accepted).await,
        };
        guard.close(reason);
    }

    fn open(
        &self,
        direction: Direction,
        client: SocketAddr,
        destination: SocketAddr,
    ) -> ConnectionGuard {
        self.telemetry.open(ConnectionInfo {
            workload: Arc::clone(&self.workload),
            direction,
            client,
            destination,
        })
    }

    async fn opaque(
        &self,
        client: TcpStream,
        dial: Dial<'_>,
        guard: &ConnectionGuard,
    ) -> CloseReason {
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
        dial: Dial<'_>,
        guard: &ConnectionGuard,
        accepted: Instant,
    ) -> CloseReason {
        let options = race::Options {
            peek_limit: self.config.detect.peek_limit,
            prefix_timeout: self.config.detect.timeout,
            memory: Some(self.share.clone()),
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
                self.learn(guard, outcome.decision.treatment);
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
        if error.raw_os_error() == Some(libc::ELOOP) {
            tcp::reset(client);
            return CloseReason::Loop;
        }
        if !self.feedback.is_exhaustion(error) {
            self.feedback.unreachable(guard.direction(), guard.destination());
        }
        tcp::reset(client);
        CloseReason::ConnectFailed(error.raw_os_error().unwrap_or(libc::EIO))
    }

    /// Remembers what a destination speaks, where its port leaves that open.
    fn learn(&self, guard: &ConnectionGuard, treatment: Treatment) {
        let (direction, destination) = (guard.direction(), guard.destination());
        let now = Instant::now();
        let raw = match treatment {
            Treatment::Tcp => true,
            Treatment::Http1 | Treatment::Http2 | Treatment::Tls => false,
            Treatment::Opaque | Treatment::Skip => return,
        };
        match self.learning.observe(direction, destination, raw, now) {
            Change::None => {}
            Change::Learned { until } => {
                // A successor may have been told not to.
                if self.learning.mode() == Learn::Bypass && !self.drain.is_cancelled() {
                    let time = until.saturating_duration_since(now);
                    self.feedback.learned(direction, destination, time);
                }
            }
            Change::Forgotten => self.feedback.forgotten(direction, destination),
        }
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
                let (client, upstream) = (endpoint(client, seen), endpoint(upstream, server));
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
        let (options, counters) = (self.tcp_options(), guard.counters());
        let forwarded = tcp::forward(client, upstream, &options, &counters, &self.abort).await;
        close_reason(forwarded.end)
    }

    fn tcp_options(&self) -> TcpOptions {
        TcpOptions {
            half_closed_idle: self.config.forward.half_closed_idle,
            splice: self.config.runtime.sk_msg == Switch::Off,
            memory: Some(self.share.clone()),
        }
    }
}

// === helpers ===

/// Turns a connection away with a reset.
fn refuse(client: TcpStream, guard: ConnectionGuard, reason: CloseReason) {
    tcp::reset(client);
    guard.close(reason);
}

fn endpoint(stream: TcpStream, Peeked { prefix, eof }: Peeked) -> Endpoint {
    Endpoint { stream, prefix, eof }
}

fn close_reason(end: TcpEnd) -> CloseReason {
    match end {
        TcpEnd::Finished | TcpEnd::Quiet => CloseReason::Finished,
        TcpEnd::ClientReset => CloseReason::ClientReset,
        TcpEnd::UpstreamReset => CloseReason::UpstreamReset,
        TcpEnd::HalfClosedTimeout => CloseReason::HalfClosedTimeout,
        TcpEnd::Cancelled => CloseReason::DrainDeadline,
        TcpEnd::Io(_, errno) => CloseReason::Error(errno),
    }
}

fn decision(source: Source) -> Decision {
    let why = match source {
        Source::Default => "port is opaque by default",
        Source::Learned => "destination was opaque before",
        Source::Config | Source::Annotation | Source::Cli | Source::Detected => "port is opaque",
    };
    Decision { treatment: Treatment::Opaque, source, why }
}

#[cfg(test)]
mod tests;
