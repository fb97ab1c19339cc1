//! Connections that the tap sees: they go direct, and what they carry is shown to the same observer as the
//! bytes of proxied ones, with the same records. What was not seen is said, and never guessed.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, Weak},
    time::Instant,
};

use weir_common::WorkloadId;

use super::{Context, detecting::Detecting};
use crate::{
    capture::{Captured, End, TapEnd, TapNews},
    decision::{Detection, PortState},
    forward::{ByteCounters, Side, http::ExchangeEnd, passthrough::Observer},
    sync::lock,
    telemetry::{CloseReason, ConnectionGuard, ConnectionInfo},
};

/// Bytes of a connection went past the tap before its end.
const UNREAD: &str = "bytes received and not read through the tap";

/// The workloads that are tapped, by number.
#[derive(Debug, Default)]
pub struct Tapped {
    contexts: Mutex<HashMap<WorkloadId, Weak<Context>>>,
}

/// The connections of all workloads that are tapped; used by the one task that reads the tap.
pub struct TappedConnections {
    tapped: Arc<Tapped>,
    open: HashMap<u64, Connection>,
}

/// One connection.
struct Connection {
    observer: Detecting<Arc<Context>, ConnectionGuard>,
    counters: Arc<ByteCounters>,
    /// Its bytes are not shown.
    is_opaque: bool,
    received: u64,
    client_ended: bool,
    is_lost: bool,
    end: Option<TapEnd>,
}

// === impl Tapped ===

impl Tapped {
    /// Counts a workload's connections from now on for this one.
    pub fn begin(&self, workload: WorkloadId, context: &Arc<Context>) {
        lock(&self.contexts).insert(workload, Arc::downgrade(context));
    }

    fn context(&self, workload: WorkloadId) -> Option<Arc<Context>> {
        lock(&self.contexts).get(&workload)?.upgrade()
    }
}

// === impl TappedConnections ===

impl TappedConnections {
    /// None yet.
    #[must_use]
    pub fn new(tapped: Arc<Tapped>) -> Self {
        Self { tapped, open: HashMap::new() }
    }

    /// Something has happened on the connection with this id.
    pub fn tell(&mut self, id: u64, moment: Instant, news: TapNews<'_>) {
        match news {
            TapNews::Opened { captured, client, lost } => {
                if let Some(context) = self.tapped.context(captured.workload) {
                    let mut connection = Connection::new(context, &captured, client, moment);
                    if let Some(why) = lost {
                        connection.lose(why);
                    }
                    self.open.insert(id, connection);
                }
            }
            TapNews::Ended(skipped) => {
                if let Some(connection) = self.open.remove(&id) {
                    connection.observer.guard().read_at(moment);
                    connection.ended(skipped);
                }
            }
            news => {
                if let Some(connection) = self.open.get_mut(&id) {
                    connection.observer.guard().read_at(moment);
                    connection.tell(news);
                }
            }
        }
    }

    /// Connections that the workload has closed, and whose end is to come.
    #[must_use]
    pub fn is_closing(&self) -> bool {
        self.open.values().any(|connection| connection.client_ended || connection.end.is_some())
    }

    /// Nothing is told any more: what is open goes on, unseen.
    pub fn leave(&mut self) {
        for (_, mut connection) in self.open.drain() {
            connection.observer.guard().read_at(Instant::now());
            connection.lose("the tap ended before the connection");
            connection.observer.finish(ExchangeEnd::Untracked);
            connection.observer.into_guard().close(CloseReason::TapEnded);
        }
    }
}

// === impl Connection ===

impl Connection {
    fn new(
        context: Arc<Context>,
        captured: &Captured,
        client: SocketAddr,
        moment: Instant,
    ) -> Self {
        let guard = context.telemetry.open(ConnectionInfo {
            workload: Arc::clone(&context.workload),
            share: context.share.clone(),
            direction: captured.direction,
            client,
            destination: captured.destination,
            process: captured.process,
            tapped: Some(moment),
        });
        guard.upstream_connected();
        let is_opaque = captured.state == PortState::Opaque;
        if is_opaque {
            guard.detected(Detection::Opaque(captured.state_source), None, guard.since(moment));
        }
        let counters = guard.counters();
        let observer = Detecting::new(context, guard, moment);
        Self {
            observer,
            counters,
            is_opaque,
            received: 0,
            client_ended: false,
            is_lost: false,
            end: None,
        }
    }

    fn tell(&mut self, news: TapNews<'_>) {
        match news {
            TapNews::Bytes { by_client, skipped, bytes, fin } => {
                let side = if by_client { Side::Client } else { Side::Upstream };
                self.passed(side, skipped);
                self.count(side, bytes.len() as u64);
                if self.is_seen() && !bytes.is_empty() {
                    self.observer.bytes(side, bytes);
                }
                self.client_ended |= fin && by_client;
                if fin && self.is_seen() {
                    self.observer.ended(side);
                }
            }
            TapNews::Lost(why) => self.lose(why),
            TapNews::Closed(end) => self.end = self.end.or(Some(end)),
            TapNews::Opened { .. } | TapNews::Ended(_) => {}
        }
    }

    fn ended(mut self, skipped: [u64; 2]) {
        self.passed(Side::Client, skipped[0]);
        self.passed(Side::Upstream, skipped[1]);
        let Some(end) = self.end else {
            self.lose("its end was not seen");
            self.observer.finish(ExchangeEnd::Untracked);
            return self.observer.into_guard().close(CloseReason::TapEnded);
        };
        if end.bytes_received != self.received && !self.is_opaque && !self.is_lost {
            self.lose(UNREAD);
        }
        // What the kernel has counted, where not all of it was seen.
        self.counters.set(end.bytes_sent, end.bytes_received);
        if self.is_seen() && end.peer_ended {
            self.observer.ended(Side::Upstream);
        }
        let (in_flight, reason) = endings(&end);
        self.observer.finish(if self.is_lost { ExchangeEnd::Untracked } else { in_flight });
        self.observer.into_guard().close(reason);
    }

    fn passed(&mut self, side: Side, skipped: u64) {
        self.count(side, skipped);
        if skipped > 0 && self.is_seen() {
            self.observer.passed(side, skipped);
        }
    }

    fn count(&mut self, side: Side, bytes: u64) {
        self.counters.add_from(side, bytes as usize);
        if side == Side::Upstream {
            self.received += bytes;
        }
    }

    fn lose(&mut self, why: &'static str) {
        if !self.is_lost && !self.is_opaque {
            self.is_lost = true;
            self.observer.lose(why);
        }
    }

    const fn is_seen(&self) -> bool {
        !self.is_lost && !self.is_opaque
    }
}

// === helpers ===

/// How exchanges end that are under way, and the connection.
fn endings(end: &TapEnd) -> (ExchangeEnd, CloseReason) {
    let client = ExchangeEnd::ClientReset(None);
    match end.end {
        End::Finished if end.peer_first => (ExchangeEnd::UpstreamClosed, CloseReason::Finished),
        End::Finished => (client, CloseReason::Finished),
        End::OwnReset => (client, CloseReason::ClientReset),
        End::PeerReset => (ExchangeEnd::UpstreamReset(None), CloseReason::UpstreamReset),
        End::Error(errno) | End::NotEstablished(errno) => {
            (ExchangeEnd::UpstreamReset(None), CloseReason::Error(errno))
        }
    }
}
