//! The guard of one connection: whatever happens to it, its sinks are told that it is closed exactly
//! once.

use std::{
    net::SocketAddr,
    os::fd::BorrowedFd,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use super::{
    ChosenEndpoint, CloseReason, ConnectionInfo, Telemetry,
    classify::Class,
    event::{Connection, Event, Found},
    lock,
    open::OpenConnection,
    sinks::{Sink, States},
    tap::Place,
};
use crate::{
    budget::Share,
    decision::{Detection, Direction},
    detect::TlsInfo,
    forward::{
        ByteCounters,
        http::{Exchange, ExchangeSink, Limit, Unpoolable, Untracked},
        retries::Retry,
        tcp::UpstreamClosing,
    },
    tcp_info::TcpInfo,
};

/// Owned by the task of a connection. Dropping it without [`ConnectionGuard::close`] records the
/// connection as aborted.
#[derive(Debug)]
pub struct ConnectionGuard {
    live: Arc<Live>,
    closed: bool,
}

/// What the guard, the exchange sink and a scrape share.
#[derive(Debug)]
pub(super) struct Live {
    connection: Connection,
    states: States,
    telemetry: Telemetry,
    settled: Mutex<Settled>,
}

/// How many bytes the sinks have been told of.
#[derive(Debug, Default)]
struct Settled {
    sent: u64,
    received: u64,
}

// === impl ConnectionGuard ===

impl ConnectionGuard {
    pub(super) fn new(live: Arc<Live>) -> Self {
        Self { live, closed: false }
    }

    /// The connection's number in the records.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.live.connection.id
    }

    /// The address that the client asked for.
    #[must_use]
    pub fn destination(&self) -> SocketAddr {
        self.live.connection.destination()
    }

    /// Seen from the workload.
    #[must_use]
    pub fn direction(&self) -> Direction {
        self.live.connection.info.direction
    }

    /// What the forwarder counts bytes in.
    #[must_use]
    pub fn counters(&self) -> Arc<ByteCounters> {
        Arc::clone(&self.live.connection.counters)
    }

    /// The upstream connection is established.
    pub fn upstream_connected(&self) {
        if self.live.connection.set_connected() {
            self.live.tell(Event::Connected);
        }
    }

    /// It is a connection to this endpoint, and not to the original destination. To be called before
    /// [`Self::upstream_connected`].
    pub fn chosen(&self, endpoint: ChosenEndpoint) {
        // There is one upstream connection.
        let _ = self.live.connection.endpoint.set(endpoint);
    }

    /// Who learns from the upstream connection at its end.
    #[must_use]
    pub fn at_close(&self) -> Arc<dyn UpstreamClosing> {
        Arc::<Live>::clone(&self.live)
    }

    /// What the connection is, and how long it took from accept to know that. The first call counts;
    /// later ones are ignored.
    pub fn detected(&self, detection: Detection, tls: Option<TlsInfo>, took: Duration) {
        self.live.detected(Found { detection: Some(detection), tls, took: Some(took) });
    }

    /// Where the HTTP engine reports exchanges to. May outlive the guard.
    #[must_use]
    pub fn sink(&self) -> Arc<dyn ExchangeSink> {
        Arc::<Live>::clone(&self.live)
    }

    /// How long ago that was; of a tapped connection, from then to what is being read.
    #[must_use]
    pub fn since(&self, then: Instant) -> Duration {
        let moment = self.live.connection.moment();
        moment.map_or_else(|| then.elapsed(), |moment| moment.saturating_duration_since(then))
    }

    /// Of a tapped connection: what it is shown from now on passed then.
    pub fn read_at(&self, moment: Instant) {
        self.live.connection.read_at(moment);
    }

    /// The connection is over.
    pub fn close(mut self, reason: CloseReason) {
        self.finish(&reason);
    }

    fn finish(&mut self, reason: &CloseReason) {
        if !std::mem::replace(&mut self.closed, true) {
            self.live.finish(reason);
        }
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.finish(&CloseReason::Aborted);
    }
}

// === impl Live ===

impl Live {
    pub(super) fn new(id: u64, info: ConnectionInfo, telemetry: Telemetry) -> Self {
        let connection = Connection::new(id, info);
        let states = telemetry.inner.sinks.opened(&connection);
        Self { connection, states, telemetry, settled: Mutex::default() }
    }

    pub(super) fn is_half_closed(&self) -> bool {
        self.connection.counters.is_half_closed()
    }

    /// The workload and the direction that it is counted for.
    pub(super) fn bound_to(&self) -> (Arc<str>, Direction) {
        let info = &self.connection.info;
        (Arc::clone(&info.workload), info.direction)
    }

    /// What filters look at.
    pub(super) fn place(&self) -> Place<'_> {
        let (connection, info) = (&self.connection, &self.connection.info);
        Place {
            direction: info.direction,
            client: Some(info.client),
            destination: info.destination,
            endpoint: connection.endpoint(),
            treatment: connection.detection().map(Detection::treatment),
            name: connection.name(),
            took: connection.age(),
        }
    }

    /// As it is now.
    pub(super) fn now(&self) -> OpenConnection {
        OpenConnection::new(&self.connection, self.states.records.requests())
    }

    /// The number, which grows with the time of the accept.
    pub(super) fn id(&self) -> u64 {
        self.connection.id
    }

    /// The name of the workload.
    pub(super) fn workload(&self) -> &str {
        &self.connection.info.workload
    }

    fn tell(&self, event: Event<'_>) {
        self.telemetry.inner.sinks.event(&self.connection, &self.states, event);
    }

    fn detected(&self, found: Found) {
        // A scrape must not tell of bytes before.
        let _settled = lock(&self.settled);
        let mut new = false;
        let found = self.connection.found.get_or_init(|| {
            new = true;
            found
        });
        if new {
            self.tell(Event::Detected(found));
        }
    }

    /// Tells of the bytes that have moved since the last time. Before detection is over nothing is
    /// told: there is no row of the statistics to add to.
    pub(super) fn settle(&self) {
        let mut settled = lock(&self.settled);
        if self.connection.found.get().is_none() {
            return;
        }
        let counters = &self.connection.counters;
        let now = Settled {
            sent: counters.client_to_upstream(),
            received: counters.upstream_to_client(),
        };
        let sent = now.sent.saturating_sub(settled.sent);
        let received = now.received.saturating_sub(settled.received);
        *settled = now;
        self.tell(Event::Moved { sent, received });
    }

    fn finish(&self, reason: &CloseReason) {
        self.detected(Found::default());
        self.settle();
        self.telemetry.forget(self.connection.id);
        self.tell(Event::Closed(reason));
    }
}

impl UpstreamClosing for Live {
    fn closing(&self, socket: BorrowedFd<'_>) {
        let Ok(info) = TcpInfo::of(&socket) else { return };
        if info.retransmits > 0 {
            self.tell(Event::Retransmitted(info.retransmits));
        }
        if let Some(endpoint) = self.connection.endpoint.get() {
            endpoint.listener.closing(&info);
        }
    }
}

impl ExchangeSink for Live {
    fn share(&self) -> Option<Share> {
        Some(self.connection.info.share.clone())
    }

    fn downgraded(&self, untracked: Untracked) {
        tracing::debug!(?untracked, "HTTP messages are no longer followed; forwarding bytes");
        self.tell(Event::Untracked(untracked));
    }

    fn unpoolable(&self, reason: Unpoolable) {
        self.tell(Event::Unpoolable(reason));
    }

    fn retried(&self, retry: Retry) {
        self.tell(Event::Retried(retry));
    }

    fn timed_out(&self, limit: Limit) {
        self.tell(Event::TimedOut(limit));
    }

    fn authority(&self, authority: &str) {
        self.connection.requested(authority);
    }

    fn request_started(&self) {
        self.tell(Event::RequestStarted);
    }

    fn moment(&self) -> Option<Instant> {
        self.connection.moment()
    }

    fn exchange(&self, exchange: Exchange) {
        let class = Class::of(&exchange);
        self.tell(Event::ExchangeEnded { exchange: &exchange, class });
    }
}
