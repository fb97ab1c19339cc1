//! What happens on a connection, as the sinks are told it.

use std::{
    net::SocketAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant, SystemTime},
};

use super::{
    ChosenEndpoint, CloseReason, ConnectionInfo, canonical, classify::Class, name::host_name,
};
use crate::{
    decision::Detection,
    detect::TlsInfo,
    forward::{
        ByteCounters,
        http::{Exchange, Limit, Unpoolable, Untracked},
        retries::Retry,
    },
};

/// What all sinks are told of a connection with each of its events.
#[derive(Debug)]
pub(super) struct Connection {
    /// Unique within one run of weir.
    pub(super) id: u64,
    pub(super) info: ConnectionInfo,
    pub(super) started: SystemTime,
    pub(super) opened: Instant,
    pub(super) counters: Arc<ByteCounters>,
    /// Set with [`Event::Detected`].
    pub(super) found: OnceLock<Found>,
    /// What it was made to in place of the original destination. Set before [`Event::Connected`].
    pub(super) endpoint: OnceLock<ChosenEndpoint>,
    /// Of its first request that names a host.
    requested: OnceLock<Arc<str>>,
    /// Whether there is an upstream connection: [`Event::Connected`].
    connected: AtomicBool,
    /// Of a tapped connection: when the bytes passed that are being read, in nanoseconds since
    /// `opened`.
    read_at: AtomicU64,
}

/// What detection has come to.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// `None` if the connection ended before.
    pub(super) detection: Option<Detection>,
    /// Of a `ClientHello`.
    pub(super) tls: Option<TlsInfo>,
    /// From accept.
    pub(super) took: Option<Duration>,
}

/// Something that has happened on a connection. The last one is [`Self::Closed`], except for exchanges:
/// an engine can end some behind it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Event<'a> {
    /// The upstream connection is established.
    Connected,
    /// It is known what the connection is, or that it never will be. Always before `Moved` and
    /// `Closed`, and once.
    Detected(&'a Found),
    /// Bytes since the last such event; not told as they pass.
    Moved {
        /// From the client to the upstream.
        sent: u64,
        /// From the upstream to the client.
        received: u64,
    },
    /// A request head has arrived.
    RequestStarted,
    /// An exchange is over. Its response head, if there was one, came `time_to_head` after the request's.
    ExchangeEnded {
        exchange: &'a Exchange,
        /// Success or failure, where there is something to judge.
        class: Option<Class>,
    },
    /// HTTP messages are not followed any more.
    Untracked(Untracked),
    /// It has got an upstream connection of its own, where others share theirs.
    Unpoolable(Unpoolable),
    /// A request was to be sent once more.
    Retried(Retry),
    /// A time limit of a request has passed.
    TimedOut(Limit),
    /// The upstream connection is at its end: so many segments to the server were sent again on it.
    Retransmitted(u32),
    /// The connection is over.
    Closed(&'a CloseReason),
}

// === impl Connection ===

impl Connection {
    pub(super) fn new(id: u64, mut info: ConnectionInfo) -> Self {
        info.destination = canonical(info.destination);
        info.client = canonical(info.client);
        let opened = info.tapped.unwrap_or_else(Instant::now);
        let now = SystemTime::now();
        Self {
            id,
            info,
            started: now.checked_sub(opened.elapsed()).unwrap_or(now),
            opened,
            counters: Arc::default(),
            found: OnceLock::new(),
            endpoint: OnceLock::new(),
            requested: OnceLock::new(),
            connected: AtomicBool::new(false),
            read_at: AtomicU64::new(0),
        }
    }

    /// When the bytes passed that are being read, where that is not now.
    pub(super) fn moment(&self) -> Option<Instant> {
        self.info.tapped?;
        Some(self.opened + Duration::from_nanos(self.read_at.load(Relaxed)))
    }

    /// What is read from now on passed then.
    pub(super) fn read_at(&self, moment: Instant) {
        let since = moment.saturating_duration_since(self.opened);
        self.read_at.store(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX), Relaxed);
    }

    /// The authority of a request on it.
    pub(super) fn requested(&self, authority: &str) {
        if self.requested.get().is_none()
            && let Some(name) = host_name(authority)
        {
            // Two requests can come at a time: the first one counts.
            let _ = self.requested.set(name.to_ascii_lowercase().into());
        }
    }

    /// The host name that the client has asked for: of the TLS `ClientHello`, or of the first request
    /// that names a host.
    pub(super) fn name(&self) -> Option<&str> {
        let tls = self.found.get().and_then(|found| found.tls.as_ref());
        let sni = tls.and_then(|tls| tls.sni.as_deref());
        sni.and_then(host_name).or_else(|| self.requested.get().map(|name| &**name))
    }

    /// Whether its first request, which is on the way, may name it.
    pub(super) fn awaits_name(&self) -> bool {
        let is_http = matches!(self.detection(), Some(Detection::Http1 | Detection::Http2));
        is_http && self.requested.get().is_none()
    }

    /// Of a TLS connection: from the ClientHello to the first bytes of the server, whose part of the
    /// handshake they are.
    pub(super) fn handshake(&self) -> Option<Duration> {
        let found = self.found.get()?;
        if !matches!(found.detection, Some(Detection::Tls { .. })) || self.info.tapped.is_some() {
            return None;
        }
        let hello = self.opened + found.took?;
        Some(self.counters.answered()?.saturating_duration_since(hello))
    }

    /// How long it has been open.
    pub(super) fn age(&self) -> Duration {
        let moment = self.moment().map(|moment| moment.saturating_duration_since(self.opened));
        moment.unwrap_or_else(|| self.opened.elapsed())
    }

    /// The original destination.
    pub(super) fn destination(&self) -> SocketAddr {
        self.info.destination
    }

    /// The endpoint that it was made to; `None` where that is the original destination.
    pub(super) fn endpoint(&self) -> Option<SocketAddr> {
        self.endpoint.get().map(|endpoint| canonical(endpoint.address))
    }

    /// The endpoint of one of its requests, which may have one of its own.
    pub(super) fn endpoint_of(&self, exchange: &Exchange) -> Option<SocketAddr> {
        match exchange.upstream.map(canonical) {
            Some(own) => Some(own).filter(|own| *own != self.destination()),
            None => self.endpoint(),
        }
    }

    pub(super) fn detection(&self) -> Option<Detection> {
        self.found.get().and_then(|found| found.detection)
    }

    pub(super) fn is_connected(&self) -> bool {
        self.connected.load(Relaxed)
    }

    /// True the first time.
    pub(super) fn set_connected(&self) -> bool {
        !self.connected.swap(true, Relaxed)
    }
}
