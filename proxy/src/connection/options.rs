//! Options that an application sets on its socket after connect(2) go onto the upstream socket too,
//! whatever comes first: the option, the accepted connection or the dial.
//!
//! An upstream socket belongs to the thread that serves the connection, and is set there: so nothing
//! of the way that its bytes take has to know of this.

use std::{
    collections::{HashMap, VecDeque},
    net::SocketAddr,
    os::fd::AsFd,
    sync::{Arc, Mutex, MutexGuard, RwLock, Weak},
};

use tokio::runtime::{Handle, RuntimeFlavor};
use weir_common::{WorkloadId, followed};

use super::properties;
use crate::{
    capture::{Captured, ConnectionId, SocketOption, sockopt::WeakSocket},
    decision::Direction,
    sync::{lock, read, write},
};

/// Connections of a workload whose options are kept although they are not known: they have not been
/// accepted yet, or are over. The oldest goes.
const EARLY: usize = 2048;

/// The options of all workloads' connections.
#[derive(Debug, Default)]
pub struct OptionsByWorkload(RwLock<HashMap<WorkloadId, Weak<Options>>>);

/// The options that one workload's connections were given.
#[derive(Debug, Default)]
pub struct Options(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    served: HashMap<ConnectionId, Served>,
    early: HashMap<ConnectionId, Latest>,
    /// Those of `early`, as they came, and some that are there no more.
    order: VecDeque<ConnectionId>,
}

/// A connection that this process serves.
#[derive(Debug, Default)]
struct Served {
    all: Latest,
    /// Those that the upstream socket does not have yet.
    fresh: Latest,
    upstream: Option<Upstream>,
}

/// The last value of each option, in the order in which they were set: some change others.
#[derive(Clone, Debug, Default)]
struct Latest(Vec<SocketOption>);

#[derive(Clone, Debug)]
struct Upstream {
    socket: WeakSocket,
    destination: SocketAddr,
    /// Of the thread that it belongs to.
    runtime: Handle,
}

/// The options of a connection, for as long as it is served.
#[derive(Debug)]
pub(super) struct Following {
    options: Arc<Options>,
    id: ConnectionId,
    /// It is not asked about again.
    settled: bool,
}

// === impl OptionsByWorkload ===

impl OptionsByWorkload {
    /// Those of a workload.
    #[must_use]
    pub fn of(&self, workload: WorkloadId) -> Arc<Options> {
        let mut all = write(&self.0);
        all.retain(|_, options| options.strong_count() > 0);
        if let Some(known) = all.get(&workload).and_then(Weak::upgrade) {
            return known;
        }
        let new = Arc::default();
        all.insert(workload, Arc::downgrade(&new));
        new
    }

    /// An application has set an option. Quick: it is called for one after the other.
    pub fn told(&self, id: ConnectionId, option: SocketOption) {
        let all = read(&self.0);
        // Else one that another process serves.
        if let Some(options) = all.get(&id.workload()).and_then(Weak::upgrade) {
            options.told(id, option);
        }
    }
}

// === impl Options ===

impl Options {
    fn told(self: &Arc<Self>, id: ConnectionId, option: SocketOption) {
        let mut known = self.lock();
        let Some(served) = known.served.get_mut(&id) else {
            return known.keep(id, |early| early.put(option));
        };
        served.all.put(option);
        let Some(upstream) = &served.upstream else { return };
        let is_set_already = !served.fresh.0.is_empty();
        served.fresh.put(option);
        if !is_set_already {
            let options = Arc::clone(self);
            upstream.runtime.spawn(async move { options.set_fresh(&id) });
        }
    }

    /// On the thread of the connection.
    fn set_fresh(&self, id: &ConnectionId) {
        let (fresh, upstream) = {
            let mut known = self.lock();
            let Some(served) = known.served.get_mut(id) else { return };
            (std::mem::take(&mut served.fresh), served.upstream.clone())
        };
        if let Some(upstream) = upstream {
            upstream.set(&fresh);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        // Each change of the maps is a single one.
        lock(&self.0)
    }
}

// === impl Known ===

impl Known {
    /// For a connection that is not served, or not yet.
    fn keep(&mut self, id: ConnectionId, change: impl FnOnce(&mut Latest)) {
        if !self.early.contains_key(&id) {
            if self.order.len() >= EARLY
                && let Some(oldest) = self.order.pop_front()
            {
                self.early.remove(&oldest);
            }
            self.order.push_back(id);
        }
        change(self.early.entry(id).or_default());
    }
}

// === impl Latest ===

impl Latest {
    fn put(&mut self, option: SocketOption) {
        self.0.retain(|other| !other.is_same(&option));
        // Others may tell too: no more than there are.
        if self.0.len() < followed::COUNT {
            self.0.push(option);
        }
    }
}

// === impl Upstream ===

impl Upstream {
    fn set(&self, options: &Latest) {
        for option in &options.0 {
            properties::change(&self.socket, self.destination, option);
        }
    }
}

// === impl Following ===

impl Following {
    /// Of a connection that is to be dialled for; `None` for an inbound one.
    pub(super) fn new(
        options: &Arc<Options>,
        captured: &Captured,
        peer: SocketAddr,
    ) -> Option<Self> {
        if captured.direction == Direction::Inbound {
            return None;
        }
        let id = ConnectionId::of(captured, peer);
        let mut known = options.lock();
        let all = known.early.remove(&id).unwrap_or_default();
        known.served.insert(id, Served { all, ..Served::default() });
        drop(known);
        Some(Self { options: Arc::clone(options), id, settled: false })
    }

    /// Sets what is known on the upstream socket, and what comes later too. To be called on the thread
    /// that the socket stays on.
    pub(super) fn goes_to(&self, socket: &impl AsFd, destination: SocketAddr) {
        let runtime = Handle::current();
        // Of several threads another one could close it, and open something under its descriptor.
        if runtime.runtime_flavor() != RuntimeFlavor::CurrentThread {
            return;
        }
        let Ok(socket) = WeakSocket::of(socket) else { return };
        let upstream = Upstream { socket, destination, runtime };
        let all = {
            let mut known = self.options.lock();
            let Some(served) = known.served.get_mut(&self.id) else { return };
            served.upstream = Some(upstream.clone());
            served.fresh = Latest::default();
            served.all.clone()
        };
        upstream.set(&all);
    }

    /// The upstream is connected.
    pub(super) fn settle(following: &mut Option<Self>) {
        if let Some(following) = following {
            following.settled = true;
        }
    }
}

impl Drop for Following {
    /// The kernel may ask again for a connection that has come to nothing here.
    fn drop(&mut self) {
        let mut known = self.options.lock();
        let Some(Served { all, .. }) = known.served.remove(&self.id) else { return };
        if !self.settled && !all.0.is_empty() {
            known.keep(self.id, |early| *early = all);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use socket2::{Domain, Socket, Type};
    use weir_common::OriginalDestination;

    use super::*;

    const ON: [u8; 4] = 1_i32.to_ne_bytes();

    fn captured(connected_ns: u64) -> Captured {
        Captured::from(&OriginalDestination {
            connected_ns,
            workload: 1,
            ..OriginalDestination::default()
        })
    }

    fn option(name: libc::c_int, value: i32) -> SocketOption {
        SocketOption::new(libc::SOL_TCP, name, &value.to_ne_bytes()).unwrap()
    }

    fn keepalive() -> SocketOption {
        SocketOption::new(libc::SOL_SOCKET, libc::SO_KEEPALIVE, &ON).unwrap()
    }

    fn peer() -> SocketAddr {
        (Ipv4Addr::LOCALHOST, 4711).into()
    }

    fn socket() -> Socket {
        Socket::new(Domain::IPV4, Type::STREAM, None).unwrap()
    }

    fn seconds(socket: &Socket) -> u64 {
        socket.tcp_keepalive_time().unwrap().as_secs()
    }

    #[tokio::test]
    async fn an_option_comes_to_the_upstream_socket_whenever_it_is_set() {
        let all = OptionsByWorkload::default();
        let options = all.of(1);
        let (captured, destination) = (captured(1), (Ipv4Addr::LOCALHOST, 80).into());
        let id = ConnectionId::of(&captured, peer());
        // Before it is accepted, before it is dialled, and when it is there.
        all.told(id, keepalive());
        let mut following = Following::new(&options, &captured, peer());
        all.told(id, option(libc::TCP_KEEPIDLE, 30));
        let upstream = socket();
        let live = following.as_ref().unwrap();
        live.goes_to(&upstream, destination);
        assert!(upstream.keepalive().unwrap());
        assert_eq!(seconds(&upstream), 30);
        for idle in [40, 50] {
            all.told(id, option(libc::TCP_KEEPIDLE, idle));
        }
        tokio::task::yield_now().await;
        assert_eq!(seconds(&upstream), 50);
        // A value that the kernel refuses changes nothing.
        all.told(id, option(libc::TCP_KEEPIDLE, -1));
        tokio::task::yield_now().await;
        assert_eq!(seconds(&upstream), 50);
        // The next attempt has what the last one had.
        all.told(id, option(libc::TCP_KEEPIDLE, 60));
        let again = socket();
        live.goes_to(&again, destination);
        assert_eq!(seconds(&again), 60);
        // Another one, and one that is over.
        all.told(ConnectionId::of(&super::tests::captured(2), peer()), keepalive());
        Following::settle(&mut following);
        drop(following);
        all.told(id, option(libc::TCP_KEEPIDLE, 70));
        tokio::task::yield_now().await;
        assert_eq!(seconds(&again), 60);
        assert!(options.lock().served.is_empty());
    }

    #[tokio::test]
    async fn a_connection_that_is_asked_about_again_has_its_options_still() {
        let all = OptionsByWorkload::default();
        let options = all.of(1);
        let captured = captured(1);
        all.told(ConnectionId::of(&captured, peer()), keepalive());
        drop(Following::new(&options, &captured, peer()));
        let following = Following::new(&options, &captured, peer()).unwrap();
        let upstream = socket();
        following.goes_to(&upstream, (Ipv4Addr::LOCALHOST, 80).into());
        assert!(upstream.keepalive().unwrap());
    }

    #[test]
    fn options_of_connections_that_are_not_known_are_no_more_than_so_many() {
        let all = OptionsByWorkload::default();
        let options = all.of(1);
        let id = |number| ConnectionId::of(&captured(number), peer());
        for number in 0..2 * EARLY as u64 {
            for _ in 0..3 {
                all.told(id(number), keepalive());
            }
            all.told(id(number), option(libc::TCP_KEEPCNT, 3));
        }
        let known = options.lock();
        assert_eq!((known.early.len(), known.order.len()), (EARLY, EARLY));
        assert_eq!(known.early[&id(2 * EARLY as u64 - 1)].0.len(), 2);
        assert!(!known.early.contains_key(&id(0)));
        drop(known);
        drop(options);
        all.told(id(0), keepalive());
        assert!(all.of(1).lock().early.is_empty(), "it is not served any more");
    }
}
