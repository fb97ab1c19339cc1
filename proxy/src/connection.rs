//! One accepted connection, from accept to access record: policy of its destination → upstream →
//! detection → L4 or L7.

mod attempts;
mod balanced;
mod detecting;
mod dial;
mod dials;
mod held;
mod http;
mod options;
mod policy;
mod properties;
mod requests;
mod stream;
mod tapped;
mod waiting;

use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use self::{
    attempts::Attempts,
    dial::Dial,
    dials::OwnDial,
    http::Engine,
    options::Following,
    policy::DestinationPolicy,
    requests::Balancing,
    stream::{Form, Stream},
};
pub use self::{
    balanced::Engines,
    dials::OwnDials,
    held::Held,
    options::{Options, OptionsByWorkload},
    tapped::{Tapped, TappedConnections},
};
use crate::{
    budget::{Share, Taken},
    capture::{Captured, Netns, OwnAddresses},
    config::{HttpEngine, Traffic},
    decision::{Detection, Direction},
    detect::dialogue::Lesson,
    forward::tcp::{self, Endpoint, Socket, TcpEnd, TcpOptions},
    learn::{Change, Learn, Learning},
    process::Process,
    stop::Stop,
    telemetry::{CloseReason, ConnectionGuard, ConnectionInfo, Telemetry},
    upstream::{Target, Upstream},
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
    pub own: OwnAddresses,
    /// Where the workload is, and its upstream connections are made.
    pub netns: Netns,
    /// The application is to see the client's own address.
    pub preserve_client_ip: bool,
    /// What weir has open to the workload.
    pub dials: Arc<OwnDials>,
    /// What applications set on its sockets after connect(2).
    pub options: Arc<Options>,
    /// Where upstream connections go.
    pub upstream: Arc<dyn Upstream>,
    /// The HTTP engine of its outbound connections, where it has its own.
    pub engine: Option<HttpEngine>,
    /// What balances its requests.
    pub engines: Engines,
    /// What is known of destinations.
    pub learning: Learning,
    /// Cancelled when no new work is to be begun.
    pub drain: Stop,
    /// The same for the clients of the workload: it is about to end, and goes on until then.
    pub leaving: Stop,
    /// Cancelled when time is up.
    pub abort: Stop,
    /// Whether payload may go through splice(2): not where `sk_msg` redirects it.
    pub splice: bool,
    /// The settings in force.
    pub config: Traffic,
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
    /// A destination could not be reached, and the application has been given the error. A direct
    /// connection may reach it all the same where it is treated otherwise than weir's.
    fn refused(&self, destination: SocketAddr);
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

/// What carries a connection.
enum Carrier {
    /// Bytes that are not looked at.
    Opaque,
    PassThrough,
    Terminate,
    Balance(Box<Balancing>),
}

// === impl Context ===

impl Context {
    /// Serves a connection that the kernel sent here. `captured` is `None` for one that a client
    /// made to the listener's own address. `dialling` is given back when the upstream has been
    /// dialled.
    pub async fn serve(
        self: &Arc<Self>,
        client: std::net::TcpStream,
        peer: SocketAddr,
        captured: Option<Captured>,
        dialling: Taken,
    ) {
        let accepted = Instant::now();
        let Some(captured) = captured else {
            let destination = client.local_addr().unwrap_or(peer);
            let guard = self.open(Direction::Outbound, peer, destination, None);
            return refuse(client, guard, CloseReason::NoOriginalDestination);
        };
        let Captured { direction, destination, .. } = captured;
        let guard = self.open(direction, peer, destination, captured.process);
        let comes_back = direction == Direction::Inbound && self.dials.contains(peer, destination);
        if comes_back || self.own.leads_back(destination) {
            return refuse(client, guard, CloseReason::Loop);
        }
        let held = (direction == Direction::Inbound).then_some((peer, destination));
        let own = OwnDial::new(&self.dials, held);
        let mut following = Following::new(&self.options, &captured, peer);
        let policy = self.policy(&captured, &guard, accepted);
        let mut attempts = Attempts::new(self, Target { direction, destination });
        let form = form(&policy, &attempts);
        let client = match Stream::accepted(client, form) {
            Ok(client) => client,
            Err(error) => {
                tracing::error!(%error, "cannot register the connection");
                return attempts.close(CloseReason::from_io(&error), guard);
            }
        };
        let dial =
            Dial::new(self, &captured, peer, &own, dialling).followed(following.as_ref()).to(form);
        let reason = match self.connect(&client, &mut attempts, dial, &guard).await {
            Ok(upstream) => {
                Following::settle(&mut following);
                let carrier = self.carrier(policy, &attempts, captured);
                self.forward(client, upstream, carrier, &guard, accepted).await
            }
            Err(reason) => {
                client.reset();
                reason
            }
        };
        attempts.close(reason, guard);
    }

    /// How the destination is served; notes what that decides.
    fn policy(
        &self,
        captured: &Captured,
        guard: &ConnectionGuard,
        accepted: Instant,
    ) -> DestinationPolicy {
        let policy = DestinationPolicy::of(
            captured,
            &self.config.now(),
            self.engine,
            &self.learning,
            accepted,
        );
        if let Some(source) = policy.opaque {
            guard.detected(Detection::Opaque(source), None, accepted.elapsed());
        }
        policy
    }

    /// What carries the connection, now that its upstream is there.
    fn carrier(
        self: &Arc<Self>,
        policy: DestinationPolicy,
        attempts: &Attempts<'_>,
        captured: Captured,
    ) -> Carrier {
        if policy.opaque.is_some() {
            return Carrier::Opaque;
        }
        match (attempts.requests(), policy.engine) {
            (Some(by_request), _) => {
                let context = Arc::clone(self);
                Carrier::Balance(Box::new(Balancing::new(context, captured, by_request)))
            }
            // What is not tapped comes here: inbound connections, and services.
            (None, HttpEngine::Passthrough | HttpEngine::Tap) => Carrier::PassThrough,
            (None, HttpEngine::Terminate) => Carrier::Terminate,
        }
    }

    /// Carries a connection whose both sides are there; returns why it has ended.
    async fn forward(
        &self,
        client: Stream,
        upstream: Stream,
        carrier: Carrier,
        guard: &ConnectionGuard,
        accepted: Instant,
    ) -> CloseReason {
        let engine = match carrier {
            Carrier::Opaque | Carrier::PassThrough => {
                let (client, upstream) = match (client.into_raw(), upstream.into_raw()) {
                    (Ok(client), Ok(upstream)) => (client.into(), upstream.into()),
                    (Err(error), _) | (_, Err(error)) => return CloseReason::from_io(&error),
                };
                return match carrier {
                    Carrier::Opaque => self.tcp(client, upstream, guard).await,
                    _ => self.pass_through(client, upstream, guard, accepted).await,
                };
            }
            Carrier::Terminate => Engine::Terminate,
            Carrier::Balance(balancing) => Engine::Balance(balancing),
        };
        let (client, upstream) = match (client.into_owned(), upstream.into_owned()) {
            (Ok(client), Ok(upstream)) => (client, upstream),
            (Err(error), _) | (_, Err(error)) => return CloseReason::from_io(&error),
        };
        Box::pin(self.hold(client, upstream, engine, guard, accepted)).await
    }

    fn open(
        &self,
        direction: Direction,
        client: SocketAddr,
        destination: SocketAddr,
        process: Option<Process>,
    ) -> ConnectionGuard {
        self.telemetry.open(ConnectionInfo {
            workload: Arc::clone(&self.workload),
            share: self.share.clone(),
            direction,
            client,
            destination,
            process,
            tapped: None,
        })
    }

    /// Dials for a client that waits. An error is why the connection ends: the client is to be reset,
    /// the closest to its own error that a connection already accepted can come.
    async fn connect(
        &self,
        client: &Stream,
        attempts: &mut Attempts<'_>,
        dial: Dial<'_>,
        guard: &ConnectionGuard,
    ) -> Result<Stream, CloseReason> {
        // Only the workload's own sockets can be looked for.
        let netns = (guard.direction() == Direction::Outbound).then_some(&self.netns);
        tokio::select! {
            dialled = attempts.connect(dial) => match dialled {
                Ok(upstream) => {
                    attempts.tell(guard);
                    guard.upstream_connected();
                    Ok(upstream)
                }
                Err(error) => Err(self.not_connected(guard, &error)),
            },
            gone = waiting::gone(client, netns) => Err(gone),
            () = self.abort.cancelled() => Err(CloseReason::DrainDeadline),
        }
    }

    fn not_connected(&self, guard: &ConnectionGuard, error: &std::io::Error) -> CloseReason {
        if error.raw_os_error() == Some(libc::ELOOP) {
            return CloseReason::Loop;
        }
        if waiting::was_reached(error) {
            guard.upstream_connected();
            return CloseReason::UpstreamReset;
        }
        if !self.feedback.is_exhaustion(error) {
            self.feedback.unreachable(guard.direction(), guard.destination());
        }
        CloseReason::ConnectFailed(error.raw_os_error().unwrap_or(libc::EIO))
    }

    /// Remembers what a destination speaks, where its port leaves that open. Any process can make
    /// an application answer something odd; what it says unasked is its own.
    fn learn(&self, guard: &ConnectionGuard, lesson: Lesson) {
        let (direction, destination) = (guard.direction(), guard.destination());
        let now = Instant::now();
        let raw = match (lesson, direction) {
            (Lesson::Known, _) => false,
            (Lesson::RawUnasked, _) | (Lesson::RawAnswer, Direction::Outbound) => true,
            (Lesson::RawAnswer, Direction::Inbound) => return,
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

    async fn tcp(
        &self,
        client: Endpoint<Socket>,
        upstream: Endpoint<Socket>,
        guard: &ConnectionGuard,
    ) -> CloseReason {
        let (options, counters) = (self.tcp_options(guard), guard.counters());
        let forwarded = tcp::forward(client, upstream, &options, &counters, &self.abort).await;
        close_reason(forwarded.end)
    }

    fn tcp_options(&self, guard: &ConnectionGuard) -> TcpOptions {
        TcpOptions {
            half_closed_idle: self.config.now().forward.half_closed_idle,
            splice: self.splice,
            memory: Some(self.share.clone()),
            at_close: Some(guard.at_close()),
        }
    }
}

// === helpers ===

/// The form that the engine takes which is to be expected.
fn form(policy: &DestinationPolicy, attempts: &Attempts<'_>) -> Form {
    let reads_messages = attempts.requests().is_some() || policy.engine == HttpEngine::Terminate;
    if policy.opaque.is_none() && reads_messages { Form::Owned } else { Form::Raw }
}

/// Turns a connection away with a reset.
fn refuse(client: std::net::TcpStream, guard: ConnectionGuard, reason: CloseReason) {
    tcp::arm(&client);
    drop(client);
    guard.close(reason);
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

#[cfg(test)]
mod tests;
