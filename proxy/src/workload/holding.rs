//! Connections whose SYN is held: from what the kernel tells to who dials for them, and from the
//! accepted socket back to the upstream connection that is ready for it.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex, OnceLock, RwLock, Weak},
    time::{Duration, Instant},
};

use tokio::{
    sync::{
        Notify,
        mpsc::{self, UnboundedReceiver, UnboundedSender},
        oneshot,
    },
    time::sleep,
};
use tokio_util::sync::CancellationToken;
use weir_common::ConnectionKey;

use super::{
    Shared, Workload,
    accepting::{Elsewhere, accept},
    lock,
};
use crate::{
    accept::Admission,
    budget::{PER_CONNECTION, Resource},
    capture::{
        Captured, HeldSyn, Listening, RawSockets, Told,
        hold::{detach_filter, packet::Answer},
        is_v4, words,
    },
    connection,
};

/// How often it is looked whether an application still waits whose end was not reported: the kernel
/// lets the ring buffer overflow, and programs of before a restart report nothing. Each further
/// look comes twice as late.
const FIRST_LOOK: Duration = Duration::from_millis(50);
const LAST_LOOK: Duration = Duration::from_millis(500);
/// How often it is looked for a connection that has been let pass, and was not accepted.
const ACCEPTED_LOOK: Duration = Duration::from_secs(1);
/// Looks in a row that find it gone: longer than what is in a queue waits to be accepted.
const ACCEPTED_LOOKS: u32 = 8;
/// A connection that has been let pass and has not come by then is not coming any more: no SYN
/// comes later with the kernel's usual number of retries (tcp(7), `tcp_syn_retries`).
const PASSING: Duration = Duration::from_secs(120);

/// Which connections are held by listeners of this process, and by which.
#[derive(Default)]
pub struct Holdings(RwLock<HashMap<Listener, Weak<Holding>>>);

/// Cookie of a listener's network namespace, and its family and port.
type Listener = (u64, bool, u16);

/// The connections of one workload that are held.
pub(super) struct Holding {
    shared: Arc<Shared>,
    workload: OnceLock<Weak<Workload>>,
    raw: RawSockets,
    listeners: Mutex<Vec<Arc<TcpListener>>>,
    names: Vec<Listener>,
    held: Mutex<HashMap<ConnectionKey, Entry>>,
    /// Nothing is held any more.
    empty: Notify,
    /// Something is held.
    begun: Notify,
    /// What dials accept.
    pub(super) elsewhere: Arc<Elsewhere>,
    queue: UnboundedSender<Held>,
}

/// A connection that is held, or has been let pass and is not accepted yet.
struct Entry {
    syn: HeldSyn,
    destination: SocketAddr,
    /// The application has given up.
    gone: CancellationToken,
    accepted: oneshot::Sender<TcpStream>,
    /// `None` once it has been let pass: an entry that is gone from the kernel may have been accepted.
    look: Option<Look>,
}

/// When it is looked whether the application still waits, and how much later again.
struct Look {
    at: Instant,
    pause: Duration,
}

/// What was in a listener's queue.
enum AcceptedOne {
    /// The connection that was looked for.
    This(TcpStream),
    /// Another one, which is served now.
    Another,
    None,
}

/// The same for the dial. When it is dropped, the connection is held no more.
pub(super) struct Held {
    holding: Arc<Holding>,
    syn: HeldSyn,
    captured: Captured,
    gone: CancellationToken,
    accepted: Option<oneshot::Receiver<TcpStream>>,
    /// The kernel has been told what becomes of it.
    settled: bool,
}

// === impl Holdings ===

impl Holdings {
    /// Takes note of what the kernel has told. Quick: it is called for one after the other.
    pub fn told(&self, told: Told) {
        let key = match &told {
            Told::Syn(held) => &held.key,
            Told::GivenUp { key, .. } => key,
        };
        let holding = self.read().get(&listener_of(key)).and_then(Weak::upgrade);
        // Another process's, or one that has ended.
        let Some(holding) = holding else { return };
        match told {
            Told::Syn(held) => holding.hold(held),
            Told::GivenUp { key, connected_ns } => holding.given_up(&key, connected_ns),
        }
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, HashMap<Listener, Weak<Holding>>> {
        self.0.read().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, HashMap<Listener, Weak<Holding>>> {
        self.0.write().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

// === impl Holding ===

impl Holding {
    /// For the hold listeners of a network namespace; what is told of them comes here from now on, and
    /// goes to the queue.
    pub(super) fn new(
        shared: &Arc<Shared>,
        netns_cookie: u64,
        listeners: Vec<Listening>,
        raw: RawSockets,
    ) -> io::Result<(Arc<Self>, UnboundedReceiver<Held>)> {
        let listeners: Vec<_> = listeners.into_iter().map(|it| it.socket).collect();
        let name = |listener: &TcpListener| {
            let address = listener.local_addr()?;
            io::Result::Ok((netns_cookie, address.is_ipv6(), address.port()))
        };
        let names = listeners.iter().map(name).collect::<io::Result<Vec<_>>>()?;
        let (queue, queued) = mpsc::unbounded_channel();
        let holding = Arc::new(Self {
            shared: Arc::clone(shared),
            workload: OnceLock::new(),
            raw,
            listeners: Mutex::new(listeners.into_iter().map(Arc::new).collect()),
            names,
            held: Mutex::default(),
            empty: Notify::new(),
            begun: Notify::new(),
            elsewhere: Arc::default(),
            queue,
        });
        let mut all = shared.holdings.write();
        all.extend(holding.names.iter().map(|name| (*name, Arc::downgrade(&holding))));
        drop(all);
        Ok((holding, queued))
    }

    /// Waits until nothing is held.
    pub(super) async fn emptied(&self) {
        loop {
            let emptied = self.empty.notified();
            tokio::pin!(emptied);
            emptied.as_mut().enable();
            if lock(&self.held).is_empty() {
                return;
            }
            emptied.await;
        }
    }

    /// Accepts nothing any more, and lets go of the listeners.
    pub(super) fn close(&self) {
        lock(&self.listeners).clear();
        let mut all = self.shared.holdings.write();
        for name in &self.names {
            all.remove(name);
        }
    }

    fn hold(self: &Arc<Self>, syn: HeldSyn) {
        let Some(captured) = self.shared.originals.held(&syn) else { return };
        let (gone, (accepted, accepting)) = (CancellationToken::new(), oneshot::channel());
        let destination = captured.destination;
        let look = Some(Look { at: Instant::now() + FIRST_LOOK, pause: FIRST_LOOK });
        let entry = Entry { syn, destination, gone: gone.clone(), accepted, look };
        {
            let mut held = lock(&self.held);
            match held.get(&syn.key) {
                // Two processors have seen a SYN each before either had noted that it is told.
                Some(before) if before.syn.is_same(&syn) => return,
                // Its end was not told.
                Some(before) => before.gone.cancel(),
                None => {}
            }
            if held.is_empty() {
                self.begun.notify_one();
            }
            held.insert(syn.key, entry);
        }
        let held = Held {
            holding: Arc::clone(self),
            syn,
            captured,
            gone,
            accepted: Some(accepting),
            settled: false,
        };
        // Where it is not taken, it is dropped, which has the kernel ask again.
        let _ = self.queue.send(held);
    }

    /// Looks for ends that are not told. With a timer for each connection the runtime would be woken for
    /// each.
    pub(super) async fn look(&self) {
        loop {
            sleep(FIRST_LOOK).await;
            let now = Instant::now();
            let due: Vec<HeldSyn> = {
                let mut held = lock(&self.held);
                let due = |entry: &mut Entry| {
                    entry.look.as_mut().is_some_and(|look| look.due(now)).then_some(entry.syn)
                };
                held.values_mut().filter_map(due).collect()
            };
            for syn in due {
                if self.shared.originals.held(&syn).is_some() {
                    continue;
                }
                if let Some(entry) = lock(&self.held).get(&syn.key)
                    && entry.syn.is_same(&syn)
                    && entry.look.is_some()
                {
                    entry.gone.cancel();
                }
            }
            let begun = self.begun.notified();
            if lock(&self.held).is_empty() {
                begun.await;
            }
        }
    }

    fn given_up(&self, key: &ConnectionKey, connected_ns: u64) {
        if let Some(entry) = lock(&self.held).get(key)
            && entry.syn.connected_ns == connected_ns
        {
            entry.gone.cancel();
        }
    }

    /// It is about to be let pass.
    fn passes(&self, syn: &HeldSyn) {
        if let Some(entry) = lock(&self.held).get_mut(&syn.key)
            && entry.syn.is_same(syn)
        {
            entry.look = None;
        }
    }

    /// Takes a connection that is over out of the table, unless another has its place.
    fn forget(&self, syn: &HeldSyn) {
        let mut held = lock(&self.held);
        if held.get(&syn.key).is_some_and(|entry| entry.syn.is_same(syn)) {
            held.remove(&syn.key);
        }
        if held.is_empty() {
            self.empty.notify_waiters();
        }
    }

    /// Gives an accepted socket to the dial that was made for it; back where there is none.
    pub(super) fn deliver(
        &self,
        client: TcpStream,
        peer: SocketAddr,
        captured: &Captured,
    ) -> Result<(), TcpStream> {
        let Ok(local) = client.local_addr() else { return Err(client) };
        let is_name =
            |(_, is_ipv6, port): &&Listener| (*is_ipv6, *port) == (local.is_ipv6(), local.port());
        let Some((netns_cookie, ..)) = self.names.iter().find(is_name) else { return Err(client) };
        detach_filter(&client);
        let key = ConnectionKey {
            netns_cookie: *netns_cookie,
            addr: words(peer.ip()),
            listener_addr: words(local.ip()),
            workload: captured.workload,
            port: peer.port(),
            listener: local.port(),
        };
        let entry = {
            let mut held = lock(&self.held);
            match held.get(&key) {
                Some(entry) if entry.destination == captured.destination => held.remove(&key),
                _ => None,
            }
        };
        match entry {
            Some(entry) => entry.accepted.send(client),
            None => Err(client),
        }
    }

    /// Accepts a connection from the listener that this one was redirected to: this one, as a rule.
    fn accept_one(&self, syn: &HeldSyn) -> AcceptedOne {
        let wanted = listener_of(&syn.key);
        let at = self.names.iter().position(|name| *name == wanted);
        let listener = at.and_then(|at| lock(&self.listeners).get(at).map(Arc::clone));
        let workload = self.workload.get().and_then(Weak::upgrade);
        let (Some(listener), Some(workload)) = (listener, workload) else {
            return AcceptedOne::None;
        };
        // Where there are no descriptors left the accept loop sees to it.
        let Ok((client, peer)) = accept(&listener) else { return AcceptedOne::None };
        let captured = workload.redirected(&client, peer);
        if captured.is_some_and(|it| it.connected_ns == syn.connected_ns) && peer == syn.peer() {
            detach_filter(&client);
            return AcceptedOne::This(client);
        }
        workload.serve(client, peer, captured);
        AcceptedOne::Another
    }
}

// === impl Look ===

impl Look {
    /// Whether it is time; then the next time is later.
    fn due(&mut self, now: Instant) -> bool {
        if self.at > now {
            return false;
        }
        self.pause = (self.pause * 2).min(LAST_LOOK);
        self.at = now + self.pause;
        true
    }
}

// === impl Held ===

impl Held {
    fn send(&self, packet: &crate::capture::hold::packet::Packet) {
        if let Err(error) = self.holding.raw.send(packet) {
            // The application sends its SYN again.
            tracing::debug!(%error, client.addr = %self.syn.peer(), "cannot answer a held \
                 connection");
        }
    }

    /// Takes it out of the table before the kernel may tell it anew.
    fn settle(&mut self) {
        self.settled = true;
        self.holding.forget(&self.syn);
    }

    /// Completes when it has been let pass and has not come within the time that it would take.
    async fn missed(&self) {
        let (begun, mut without) = (Instant::now(), 0);
        while without < ACCEPTED_LOOKS && begun.elapsed() < PASSING {
            sleep(ACCEPTED_LOOK).await;
            let is_noted = self.holding.shared.originals.held(&self.syn).is_some();
            without = if is_noted { 0 } else { without + 1 };
        }
    }
}

impl connection::Held for Held {
    async fn gone(&self) {
        self.gone.cancelled().await;
    }

    async fn admit(mut self, source: Option<IpAddr>) -> Option<TcpStream> {
        let mut accepted = self.accepted.take()?;
        self.settled = true;
        self.holding.passes(&self.syn);
        // Before the SYN, which would be dropped.
        if !self.holding.shared.originals.let_pass(&self.syn, source) {
            return None;
        }
        let elsewhere = Arc::clone(&self.holding.elsewhere);
        let mut accepting = elsewhere.begin();
        self.send(&self.syn.syn.again());
        // The handshake is over by now, unless something is in its way.
        loop {
            if let Ok(client) = accepted.try_recv() {
                return Some(client);
            }
            match self.holding.accept_one(&self.syn) {
                AcceptedOne::This(client) => return Some(client),
                AcceptedOne::Another => {}
                AcceptedOne::None => break,
            }
        }
        accepting.waits();
        tokio::select! {
            biased;
            client = &mut accepted => client.ok(),
            () = self.gone.cancelled() => None,
            () = self.missed() => None,
        }
    }

    fn refuse(mut self, errno: i32) {
        self.settle();
        // An ICMP error that finds the application in connect(2) is only remembered
        // (`tcp_v4_err` in net/ipv4/tcp_ipv4.c): then it sends its SYN again, and is told again.
        if !self.holding.shared.originals.ask_again(&self.syn) {
            return;
        }
        let syn = &self.syn.syn;
        match Answer::to(errno, syn.is_ipv6()) {
            Answer::Silence => {}
            Answer::Reset => self.send(&syn.reset()),
            Answer::Error { kind, code } => self.send(&syn.error(kind, code)),
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let was_settled = self.settled;
        self.settle();
        if !was_settled && !self.gone.is_cancelled() {
            self.holding.shared.originals.ask_again(&self.syn);
        }
    }
}

// === impl Workload ===

impl Workload {
    /// Has the connections dialled for that are told, as far as the workload's budget has room. As
    /// with connections that are accepted first: where too many are being dialled, others wait.
    pub(super) async fn hold(self: Arc<Self>, mut queue: UnboundedReceiver<Held>) {
        if let Some(holding) = &self.holding {
            let _ = holding.workload.set(Arc::downgrade(&self));
        }
        let mut admission = Admission::default();
        let stop = self.stop_holding.clone();
        while let Some(Some(held)) = stop.run_until_cancelled(queue.recv()).await {
            let share = &self.slots.share;
            Admission::look(&*self.slots, share);
            if admission.is_full(share) {
                share.exceeded(Resource::Dialling);
                admission.wait(share, &stop).await;
                if stop.is_cancelled() {
                    return;
                }
            }
            let is_gone = held.gone.is_cancelled();
            admission.took(&*self.slots, is_gone);
            // Without room the kernel asks again with the next SYN.
            if share.has_room() && !is_gone {
                self.dial(held);
            }
        }
    }

    fn dial(&self, held: Held) {
        let share = &self.slots.share;
        let taken = [(Resource::Connections, 1), (Resource::Descriptors, PER_CONNECTION)]
            .map(|(resource, count)| share.occupy(resource, count));
        let dialling = share.occupy(Resource::Dialling, 1);
        let (context, peer, captured) = (Arc::clone(&self.context), held.syn.peer(), held.captured);
        let connection = async move {
            let _taken = taken;
            context.serve_held(held, peer, captured, dialling).await;
        };
        self.shared.workers.serve(&self.connections, connection);
    }
}

// === helpers ===

/// The listener that a connection was redirected to.
fn listener_of(key: &ConnectionKey) -> Listener {
    (key.netns_cookie, !is_v4(&key.listener_addr), key.listener)
}
