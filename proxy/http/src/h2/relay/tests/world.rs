//! A relay, its peers, and what it reports.

use std::cell::Cell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::checks;
use super::wire::{Reader, Seen, settings};
use crate::h2::frames::PREFACE;
use crate::h2::relay::{Dial, End, Limits, PeerId, Relay as Core};
use crate::{
    Came, Choice, Endpoints, Exchange, ExchangeEnd, ExchangeSink, Lease, Limit, Plan, Repeat,
    RequestEdits, RequestView, Retries, RetryBudget, RetryPolicy, RouteName, RouteTo, Routed,
    TimeLimits, Untracked, Withheld,
};

pub(super) type Relay = Core<Record, Scripted>;

/// What an endpoint usually takes.
pub(super) const ESTIMATE: Duration = Duration::from_millis(500);

/// A value that several may change, on one thread.
#[derive(Debug, Default)]
pub(super) struct Shared<T>(Mutex<T>);

/// Has the endpoints in turn, or those that a test says.
#[derive(Clone, Default)]
pub(super) struct Scripted {
    addresses: Arc<Shared<Vec<SocketAddr>>>,
    next: Arc<Shared<usize>>,
    counts: Arc<Counts>,
    /// Of the route that all requests take, if there is one.
    limits: Option<TimeLimits>,
    retries: Option<(Arc<RetryPolicy>, Arc<RetryBudget>)>,
    delay: Option<Duration>,
}

/// Of leases.
#[derive(Default)]
pub(super) struct Counts {
    pub(super) chosen: Shared<usize>,
    pub(super) in_flight: Shared<usize>,
    pub(super) over: Shared<Vec<Exchange>>,
    pub(super) failed: Shared<Vec<SocketAddr>>,
    /// What came of requests that were sent elsewhere.
    pub(super) came: Shared<Vec<(Came, Duration)>>,
}

pub(super) struct Leased(Arc<Counts>);

/// Keeps what is reported.
#[derive(Default)]
pub(super) struct Record {
    pub(super) started: AtomicUsize,
    pub(super) exchanges: Mutex<Vec<Exchange>>,
    repeats: Mutex<Vec<(Repeat, bool)>>,
    timeouts: Mutex<Vec<Limit>>,
    withheld: Mutex<Vec<Withheld>>,
}

pub(super) struct World {
    pub(super) relay: Relay,
    pub(super) record: Arc<Record>,
    pub(super) counts: Arc<Counts>,
    readers: HashMap<PeerId, Reader>,
    /// Read but not asked for.
    seen: HashMap<PeerId, Vec<Seen>>,
    pub(super) dials: Vec<Dial>,
}

thread_local! {
    /// The time of a test. It stands still unless the test moves it.
    static NOW: Cell<Option<Instant>> = const { Cell::new(None) };
}

// === impl Shared ===

impl<T> Shared<T> {
    pub(super) fn borrow(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap()
    }

    pub(super) fn borrow_mut(&self) -> MutexGuard<'_, T> {
        self.borrow()
    }
}

impl Shared<usize> {
    pub(super) fn get(&self) -> usize {
        *self.borrow()
    }

    fn set(&self, value: usize) {
        *self.borrow() = value;
    }
}

// === impl Scripted ===

impl Scripted {
    pub(super) fn set(&self, addresses: &[SocketAddr]) {
        *self.addresses.borrow_mut() = addresses.to_vec();
        self.next.set(0);
    }
}

impl Endpoints for Scripted {
    type Lease = Leased;

    fn choose(&self, tried: &[SocketAddr]) -> Option<Choice<Leased>> {
        let addresses = self.addresses.borrow();
        let next = self.next.get();
        self.next.set(next + 1);
        let mut all = addresses.iter().cycle().skip(next % addresses.len().max(1));
        let address = *all.by_ref().take(addresses.len()).find(|it| !tried.contains(it))?;
        self.counts.chosen.set(self.counts.chosen.get() + 1);
        self.counts.in_flight.set(self.counts.in_flight.get() + 1);
        let lease = Leased(Arc::clone(&self.counts));
        Some(Choice { address, connect_timeout: None, lease })
    }

    fn failed(&self, address: SocketAddr) {
        self.counts.failed.borrow_mut().push(address);
    }

    fn is_routed(&self) -> bool {
        self.limits.is_some()
    }

    fn route(&self, request: &RequestView<'_>) -> Option<Routed<Leased>> {
        let retries = self.retries.clone();
        let retries = retries.map(|(policy, budget)| Retries::new(policy, budget, request));
        let name = RouteName { route: "route".into(), rule: "0".into(), backend: None };
        Some(Routed::To(Box::new(RouteTo {
            name: Arc::new(name),
            endpoints: Arc::new(self.clone()),
            request: RequestEdits::default(),
            response: Arc::default(),
            plan: self
                .limits
                .map(|limits| Box::new(Plan::new(limits, retries).with_delay(self.delay))),
        })))
    }
}

// === impl Leased ===

impl Lease for Leased {
    fn over(&mut self, exchange: &Exchange) {
        self.0.over.borrow_mut().push(exchange.clone());
    }

    fn failed(&mut self, came: Came, after: Duration) {
        self.0.came.borrow_mut().push((came, after));
    }

    fn estimate(&self) -> Option<Duration> {
        Some(ESTIMATE)
    }
}

impl Drop for Leased {
    fn drop(&mut self) {
        self.0.in_flight.set(self.0.in_flight.get() - 1);
    }
}

// === impl Record ===

impl ExchangeSink for Record {
    fn request_started(&self) {
        self.started.fetch_add(1, Relaxed);
    }
    fn exchange(&self, exchange: Exchange) {
        self.exchanges.lock().unwrap().push(exchange);
    }
    fn repeated(&self, why: Repeat, is_answered: bool) {
        self.repeats.lock().unwrap().push((why, is_answered));
    }
    fn not_repeated(&self, why: Withheld) {
        self.withheld.lock().unwrap().push(why);
    }
    fn timed_out(&self, limit: Limit) {
        self.timeouts.lock().unwrap().push(limit);
    }
    fn downgraded(&self, untracked: Untracked) {
        panic!("{untracked:?}");
    }
}

// === impl World ===

impl World {
    /// With so many endpoints.
    pub(super) fn new(endpoints: u16) -> Self {
        Self::with(endpoints, Limits::default())
    }

    pub(super) fn with(endpoints: u16, limits: Limits) -> Self {
        Self::of(Scripted::default(), endpoints, limits)
    }

    /// The requests to so many endpoints take a route with these limits.
    pub(super) fn limited(endpoints: u16, limits: TimeLimits) -> Self {
        let scripted = Scripted { limits: Some(limits), ..Scripted::default() };
        Self::of(scripted, endpoints, Limits::default())
    }

    /// The same with retries, within this budget.
    pub(super) fn repeating(
        endpoints: u16,
        limits: TimeLimits,
        (policy, budget): (RetryPolicy, Arc<RetryBudget>),
    ) -> Self {
        let retries = Some((Arc::new(policy), budget));
        let scripted = Scripted { limits: Some(limits), retries, ..Scripted::default() };
        Self::of(scripted, endpoints, Limits::default())
    }

    /// The same as [`Self::limited`] where all requests wait before they are sent.
    pub(super) fn delayed(endpoints: u16, limits: TimeLimits, delay: Duration) -> Self {
        let scripted = Scripted { limits: Some(limits), delay: Some(delay), ..Scripted::default() };
        Self::of(scripted, endpoints, Limits::default())
    }

    fn of(scripted: Scripted, endpoints: u16, limits: Limits) -> Self {
        scripted.set(&(0..endpoints).map(address).collect::<Vec<_>>());
        let counts = Arc::clone(&scripted.counts);
        Self {
            relay: Relay::new(scripted, limits).with_clock(now),
            record: Arc::default(),
            counts,
            readers: HashMap::new(),
            seen: HashMap::new(),
            dials: Vec::new(),
        }
    }

    /// A client that has not said anything.
    pub(super) fn silent_client(&mut self) -> PeerId {
        let which = PeerId::Client(self.relay.add_client(Arc::clone(&self.record)));
        self.readers.insert(which, Reader::of_client());
        self.seen.remove(&which);
        which
    }

    /// A client with these settings.
    pub(super) fn client(&mut self, of: &[(u16, u32)]) -> PeerId {
        let which = self.silent_client();
        self.send(which, &[PREFACE, &settings(of)].concat());
        self.see(which);
        which
    }

    /// Makes the connection that was asked for first, to an endpoint with these settings.
    pub(super) fn connect(&mut self, of: &[(u16, u32)]) -> PeerId {
        let which = self.connect_silent();
        self.send(which, &settings(of));
        which
    }

    /// The same, to one that has not said anything.
    pub(super) fn connect_silent(&mut self) -> PeerId {
        self.dialled();
        let Dial { upstream, .. } = self.dials.remove(0);
        self.relay.connected(upstream);
        self.accept(upstream)
    }

    /// Reads what is written on a connection to an endpoint.
    pub(super) fn accept(&mut self, upstream: usize) -> PeerId {
        let which = PeerId::Upstream(upstream);
        self.readers.insert(which, Reader::of_endpoint());
        self.seen.remove(&which);
        self.check();
        which
    }

    /// How many connections are to be made.
    pub(super) fn dialled(&mut self) -> usize {
        self.dials.extend(self.relay.take_dials());
        self.dials.len()
    }

    /// A client and a connection to the only endpoint, with these settings of each. The request on
    /// stream 1 that it was made for is answered.
    pub(super) fn pair(
        &mut self,
        client: &[(u16, u32)],
        endpoint: &[(u16, u32)],
    ) -> (PeerId, PeerId) {
        let client = self.client(client);
        self.send(client, &super::request(1, "/first", true));
        let endpoint = self.connect(endpoint);
        self.send(endpoint, &super::response(1, "204", true));
        self.see(client);
        self.see(endpoint);
        (client, endpoint)
    }

    /// A peer sends.
    pub(super) fn send(&mut self, from: PeerId, bytes: &[u8]) {
        self.relay.read(from, bytes);
        self.check();
    }

    /// The same, in pieces of one byte.
    pub(super) fn send_slowly(&mut self, from: PeerId, bytes: &[u8]) {
        bytes.chunks(1).for_each(|byte| self.send(from, byte));
    }

    /// All frames that are new for a peer.
    pub(super) fn see(&mut self, to: PeerId) -> Vec<Seen> {
        while !self.relay.output(to).is_empty() {
            self.write(to, usize::MAX);
        }
        self.seen.remove(&to).unwrap_or_default()
    }

    /// What is new in so many bytes at most.
    pub(super) fn see_some(&mut self, to: PeerId, most: usize) -> Vec<Seen> {
        let most = most.min(self.relay.output(to).len());
        let mut left = most;
        while left > 0 {
            let count = self.relay.output(to).len().min(left);
            self.write(to, count);
            left -= count;
        }
        self.seen.remove(&to).unwrap_or_default()
    }

    /// The same, without settings and windows.
    pub(super) fn frames(&mut self, to: PeerId) -> Vec<Seen> {
        let mut seen = self.see(to);
        seen.retain(|it| !it.is_aside());
        seen
    }

    /// Writes so many bytes at most to a peer.
    pub(super) fn write(&mut self, to: PeerId, most: usize) {
        let output = self.relay.output(to);
        let count = output.len().min(most);
        let seen = self.readers.get_mut(&to).expect("a reader").read(&output[..count]);
        self.seen.entry(to).or_default().extend(seen);
        self.relay.written(to, count);
        self.check();
    }

    pub(super) fn reader(&mut self, of: PeerId) -> &mut Reader {
        self.readers.get_mut(&of).expect("a reader")
    }

    pub(super) fn end(&mut self, which: PeerId, end: End) {
        self.relay.ended(which, end);
        self.check();
    }

    /// Removes a connection that is to be closed.
    pub(super) fn remove(&mut self, which: PeerId) {
        self.relay.remove(which, ExchangeEnd::Cancelled);
        self.check();
    }

    /// Looks inside.
    pub(super) fn check(&mut self) {
        checks::check(&self.relay);
        assert_eq!(self.counts.in_flight.get(), checks::leases(&self.relay), "leases");
    }

    /// What was reported so far, which is forgotten.
    pub(super) fn repeats(&self) -> Vec<(Repeat, bool)> {
        std::mem::take(&mut self.record.repeats.lock().unwrap())
    }

    /// The limits that have passed.
    pub(super) fn timeouts(&self) -> Vec<Limit> {
        std::mem::take(&mut self.record.timeouts.lock().unwrap())
    }

    /// Why requests were not sent once more.
    pub(super) fn withheld(&self) -> Vec<Withheld> {
        std::mem::take(&mut self.record.withheld.lock().unwrap())
    }

    /// The time passes, and the relay is called when it has asked for that.
    pub(super) fn wait(&mut self, time: Duration) {
        let end = now() + time;
        while let Some(next) = self.relay.next_deadline().filter(|next| *next <= end) {
            NOW.set(Some(next.max(now())));
            self.relay.expire();
            self.check();
        }
        NOW.set(Some(end));
    }

    pub(super) fn exchanges(&self) -> Vec<Exchange> {
        std::mem::take(&mut self.record.exchanges.lock().unwrap())
    }

    /// How the exchanges ended that were reported.
    pub(super) fn ends(&self) -> Vec<ExchangeEnd> {
        self.exchanges().into_iter().map(|it| it.end).collect()
    }
}

// === helpers ===

pub(super) fn now() -> Instant {
    let now = NOW.get().unwrap_or_else(Instant::now);
    NOW.set(Some(now));
    now
}

/// Of an endpoint.
pub(super) fn address(endpoint: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 8000 + endpoint))
}
