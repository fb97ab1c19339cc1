//! Connections whose requests are balanced: which of them share upstream connections, and how those are
//! made.

use std::{
    collections::HashMap,
    hash::{Hash, Hasher},
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, Weak},
    thread::{self, ThreadId},
    time::{Duration, Instant},
};

use weir_common::Properties;

use super::{Context, dial::Dial, dials::OwnDial};
use crate::{
    budget::{Resource, Taken},
    capture::Captured,
    forward::requests::{Connect, Connected, Connecting, Requests},
    sync::lock,
    tcp_info::TcpInfo,
    upstream::{Attempt, ByRequest, RequestUpstream},
};

/// What the engines keep for the connections of one workload: one `T` for each thread and [`Key`].
pub(super) struct Shared<T>(Mutex<HashMap<(ThreadId, Key), Weak<T>>>);

/// Clients share upstream connections if an upstream connection of their own would be the same: it goes
/// to the endpoints of one destination, and the network sees the same socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key {
    destination: SocketAddr,
    bound: Option<IpAddr>,
    mark: u32,
    properties: Properties,
}

/// A connection whose requests are balanced.
pub(super) struct Balancing {
    context: Arc<Context>,
    captured: Captured,
    by_request: ByRequest,
}

/// Dials for requests as the first upstream connection was dialled.
pub(super) struct Dialler {
    context: Arc<Context>,
    captured: Captured,
    requests: Arc<dyn RequestUpstream>,
}

// === impl Shared ===

impl<T> Shared<T> {
    /// The one of this thread for these connections, made where there is none.
    pub(super) fn get(&self, key: Key, make: impl FnOnce() -> Arc<T>) -> Arc<T> {
        let mut all = lock(&self.0);
        let key = (thread::current().id(), key);
        if let Some(found) = all.get(&key).and_then(Weak::upgrade) {
            return found;
        }
        all.retain(|_, it| it.strong_count() > 0);
        let made = make();
        all.insert(key, Arc::downgrade(&made));
        made
    }
}

impl<T> Default for Shared<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

// === impl Key ===

impl Hash for Key {
    /// Without the properties, which hardly ever differ.
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.destination, self.bound, self.mark).hash(state);
    }
}

impl Key {
    pub(super) const fn of(captured: &Captured) -> Self {
        let Captured { destination, bound, mark, properties, .. } = *captured;
        Self { destination, bound, mark, properties }
    }
}

// === impl Balancing ===

impl Balancing {
    pub(super) const fn new(
        context: Arc<Context>,
        captured: Captured,
        by_request: ByRequest,
    ) -> Self {
        Self { context, captured, by_request }
    }

    /// Whether requests of HTTP/1 are balanced.
    pub(super) const fn http1(&self) -> bool {
        self.by_request.http1
    }

    pub(super) const fn key(&self) -> Key {
        Key::of(&self.captured)
    }

    /// Who chooses endpoints for it.
    pub(super) fn requests(&self) -> Arc<dyn Requests> {
        Arc::<dyn RequestUpstream>::clone(&self.by_request.requests)
    }

    /// Who chooses endpoints, and who connects to them.
    pub(super) fn parts(self) -> (Arc<dyn Requests>, Arc<dyn Connect>) {
        let requests = self.requests();
        let Self { context, captured, by_request } = self;
        let connect = Dialler { context, captured, requests: by_request.requests };
        (requests, Arc::new(connect))
    }
}

// === impl Dialler ===

impl Dialler {
    async fn dial(&self, to: SocketAddr, limit: Option<Duration>) -> io::Result<Connected> {
        let context = &*self.context;
        if context.own.leads_back(to) {
            return Err(io::Error::from_raw_os_error(libc::ELOOP));
        }
        let exhausted = || io::Error::from_raw_os_error(libc::EMFILE);
        let take = |resource| context.share.take(resource, 1).ok_or_else(exhausted);
        let (descriptor, dialling): (Taken, Taken) =
            (take(Resource::Descriptors)?, take(Resource::Dialling)?);
        let own = OwnDial::new(&context.dials, None);
        let dial = Dial::new(context, &self.captured, self.captured.destination, &own, dialling);
        let stream = dial.connect(to, limit).await?.into_owned()?;
        Ok(Connected { stream, descriptor: Some(descriptor) })
    }
}

impl Connect for Dialler {
    fn connect(&self, to: SocketAddr, limit: Option<Duration>) -> Connecting<'_> {
        Box::pin(async move {
            let begun = Instant::now();
            let dialled = self.dial(to, limit).await;
            let is_of_endpoint =
                dialled.as_ref().err().is_none_or(|it| !self.context.feedback.is_exhaustion(it));
            if is_of_endpoint {
                let connected = dialled.as_ref().ok();
                let info = connected.and_then(|it| TcpInfo::of(&it.stream).ok());
                let round_trip = info.map(|it| it.round_trip);
                let (took, result) = (begun.elapsed(), dialled.as_ref().map(|_| ()));
                self.requests.attempted(&Attempt { address: to, result, took, round_trip });
            }
            dialled
        })
    }
}
