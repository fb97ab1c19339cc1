//! Connections to services: each goes to an endpoint that is chosen for it (`upstream.rs` has the order
//! of calls).

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU8, Ordering::Relaxed},
    },
    time::Duration,
};

use fastrand::Rng;

use super::{Endpoints, Services, Target, requests::ToEndpoint, routes::Routing};
use crate::{
    balance::{InFlight, Mode, Moment},
    decision::Direction,
    sync::lock,
    tcp_info::TcpInfo,
    telemetry::{Answer, ChosenEndpoint, CloseReason, EndpointListener},
    upstream::{self, Attempt, ByRequest, Endpoint, Outcome, Selection, Upstream},
};

/// How long an endpoint may take to accept: the kernel's first SYN retry comes after a second (tcp(7)),
/// and there are others.
pub(super) const CONNECT: Duration = Duration::from_secs(1);
/// So many endpoints are tried before the original destination.
pub(super) const MOST_TRIED: usize = 5;
/// So many of them may be silent: an application's own patience is a few seconds.
const MOST_SILENT: usize = 2;

/// Sends the connections of one workload to endpoints.
#[derive(Clone)]
pub struct ToEndpoints {
    pub(super) services: Arc<Services>,
    pub(super) mode: Arc<WorkloadMode>,
    /// Where the workload is: routes can be for the clients of one namespace.
    namespace: Option<Arc<str>>,
}

/// The mode that a workload asks for, which can change.
#[derive(Debug, Default)]
pub struct WorkloadMode(AtomicU8);

/// The endpoint that is dialled, or connected to, counted; `None` also once requests count in its place.
pub(super) type Current = Arc<Mutex<Option<(usize, InFlight)>>>;

/// The endpoints of one connection.
struct Chosen {
    by_request: Option<ByRequest>,
    target: Arc<Target>,
    endpoints: Arc<Endpoints>,
    tried: Vec<usize>,
    silent: usize,
    current: Current,
    /// Whether answers have said what the endpoint is like: then the end of the connection does not.
    judged: Arc<AtomicBool>,
}

/// Learns from the answers on one connection.
#[derive(Debug)]
struct Learning {
    endpoints: Arc<Endpoints>,
    member: usize,
    judged: Arc<AtomicBool>,
}

// === impl WorkloadMode ===

impl WorkloadMode {
    /// As a workload's settings say.
    #[must_use]
    pub fn new(mode: Option<Mode>) -> Self {
        let it = Self::default();
        it.set(mode);
        it
    }

    /// For connections from here on.
    pub fn set(&self, mode: Option<Mode>) {
        let value = match mode {
            None => 0,
            Some(mode) => mode as u8 + 1,
        };
        self.0.store(value, Relaxed);
    }

    pub(super) fn get(&self) -> Option<Mode> {
        Mode::ALL.into_iter().find(|mode| *mode as u8 + 1 == self.0.load(Relaxed))
    }
}

// === impl ToEndpoints ===

impl ToEndpoints {
    /// For a workload in a namespace that asks for this mode.
    #[must_use]
    pub const fn new(
        services: Arc<Services>,
        mode: Arc<WorkloadMode>,
        namespace: Option<Arc<str>>,
    ) -> Self {
        Self { services, mode, namespace }
    }

    /// The rules for requests to a destination that is a service, unless the workload wants none.
    pub(super) fn routing(&self, destination: SocketAddr) -> Option<Arc<Routing>> {
        if self.mode.get() == Some(Mode::Off) {
            return None;
        }
        self.services.routing(destination, self.namespace.as_deref())
    }

    /// The service whose endpoints are dialled before a request is known: that of the destination, or else
    /// one that its routes lead to.
    fn dialled(&self, target: Arc<Target>, routing: &Routing) -> (Arc<Target>, Arc<Endpoints>) {
        let endpoints = self.services.endpoints(&target);
        if endpoints.pool().is_empty() {
            for target in routing.targets(target.is_ipv6()) {
                let endpoints = self.services.endpoints(&target);
                if !endpoints.pool().is_empty() {
                    return (target, endpoints);
                }
            }
        }
        (target, endpoints)
    }
}

impl Upstream for ToEndpoints {
    fn select(&self, wanted: &upstream::Target) -> Option<Box<dyn Selection>> {
        if wanted.direction != Direction::Outbound {
            return None;
        }
        let target = self.services.find(wanted.destination)?;
        let routing = self.routing(wanted.destination);
        let mode = match routing {
            Some(_) => Mode::Requests,
            None => self.services.mode(&target, &self.mode),
        };
        if mode == Mode::Off {
            return None;
        }
        let (target, endpoints) = match &routing {
            Some(routing) => self.dialled(target, routing),
            None => {
                let endpoints = self.services.endpoints(&target);
                // With one or none there is nothing to choose.
                if endpoints.pool().len() < 2 {
                    return None;
                }
                (target, endpoints)
            }
        };
        let http1 = match mode {
            Mode::Off | Mode::Connections => None,
            Mode::Auto => Some(false),
            Mode::Requests => Some(true),
        };
        let current = Current::default();
        let by_request = http1.map(|http1| {
            let first = Arc::clone(&current);
            let requests = Arc::new(ToEndpoint::new(self.clone(), wanted.destination, first));
            ByRequest { http1, requests }
        });
        Some(Box::new(Chosen {
            by_request,
            target,
            endpoints,
            tried: Vec::new(),
            silent: 0,
            current,
            judged: Arc::default(),
        }))
    }
}

// === impl Chosen ===

impl Chosen {
    fn failed(&mut self, member: usize, error: &io::Error, took: Duration) {
        self.tried.push(member);
        let is_silent = error.kind() == io::ErrorKind::TimedOut;
        self.silent += usize::from(is_silent);
        if is_of_endpoint(error) {
            self.endpoints.pool().refused(member, took, Moment::now(), &mut Rng::new());
        }
    }
}

impl Selection for Chosen {
    fn next(&mut self) -> Option<Endpoint> {
        *lock(&self.current) = None;
        if self.tried.len() >= MOST_TRIED || self.silent >= MOST_SILENT {
            return None;
        }
        // A connection does not wait for endpoints that were silent before.
        if self.endpoints.pool().is_hopeless(Moment::now()) {
            return None;
        }
        let choice = self.target.choose(&self.endpoints, &self.tried)?;
        let endpoint = &self.endpoints.all()[choice.member];
        *lock(&self.current) = Some((choice.member, endpoint.stats.begin()));
        Some(Endpoint { address: endpoint.address, connect_timeout: Some(CONNECT) })
    }

    fn chosen(&self) -> Option<ChosenEndpoint> {
        let member = lock(&self.current).as_ref()?.0;
        let (endpoints, judged) = (Arc::clone(&self.endpoints), Arc::clone(&self.judged));
        Some(ChosenEndpoint {
            address: self.endpoints.all()[member].address,
            listener: Arc::new(Learning { endpoints, member, judged }),
        })
    }

    fn requests(&self) -> Option<ByRequest> {
        self.by_request.clone()
    }

    fn attempted(&mut self, attempt: &Attempt<'_>) {
        let current = lock(&self.current).take();
        let Some((member, in_flight)) = current else {
            // The original destination.
            return self.target.fell_back();
        };
        match attempt.result {
            Ok(()) => {
                let round_trip = attempt.round_trip.unwrap_or(attempt.took);
                in_flight.stats().connected(round_trip, Moment::now());
                *lock(&self.current) = Some((member, in_flight));
            }
            Err(error) => self.failed(member, error, attempt.took),
        }
    }

    fn closed(&mut self, outcome: &Outcome<'_>) {
        let current = lock(&self.current).take();
        let Some((member, in_flight)) = current else { return };
        if outcome.upstream.is_none() {
            return;
        }
        // One that resets a connection on which it has said nothing serves no client.
        let is_failure =
            matches!(outcome.reason, CloseReason::UpstreamReset) && outcome.bytes_received == 0;
        if is_failure {
            let now = Moment::now();
            self.endpoints.pool().failed(member, outcome.duration, now, &mut Rng::new());
        } else if outcome.bytes_received > 0 && !self.judged.load(Relaxed) {
            in_flight.stats().succeeded();
        }
    }
}

// === impl Learning ===

impl EndpointListener for Learning {
    fn exchange(&self, time_to_head: Option<Duration>, answer: Answer) {
        self.judged.store(true, Relaxed);
        self.endpoints.learn(self.member, time_to_head, answer);
    }

    fn closing(&self, info: &TcpInfo) {
        if self.judged.load(Relaxed) {
            return;
        }
        let resent = f64::from(info.retransmits) / f64::from(info.segments.max(1));
        self.endpoints.pool().stats(self.member).carried(info.round_trip, resent, Moment::now());
    }
}

// === helpers ===

/// Whether an endpoint is to blame. A workload's own firewall or policy is not for others, and neither
/// is its lack of ports.
pub(super) fn is_of_endpoint(error: &io::Error) -> bool {
    let errno = error.raw_os_error();
    !matches!(
        errno,
        Some(libc::EADDRNOTAVAIL | libc::ELOOP | libc::EPERM | libc::EACCES | libc::EMFILE)
    )
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::{
        balance::{Breaker, Standing},
        service::{
            Delta, Origin,
            tests::{service, slice},
        },
    };

    const FRONTEND: &str = "10.96.0.1:80";

    /// What is out stays out for as long as a test takes.
    fn services(endpoints: &[&str]) -> Arc<Services> {
        let services = Services::default();
        let mut service = service("s", &[FRONTEND]);
        if let Delta::Service(_, spec) = &mut service {
            let hour = Duration::from_secs(3600);
            spec.policy.breaker = Breaker { base: hour, max: hour, ..Breaker::default() };
        }
        services.apply(Origin::Config, [service, slice("a", "s", 80, endpoints)]).unwrap();
        Arc::new(services)
    }

    fn select(services: &Arc<Services>, mode: Option<Mode>) -> Option<Box<dyn Selection>> {
        let to = ToEndpoints::new(Arc::clone(services), Arc::new(WorkloadMode::new(mode)), None);
        let destination = FRONTEND.parse().unwrap();
        to.select(&upstream::Target { direction: Direction::Outbound, destination })
    }

    fn attempt(selection: &mut dyn Selection, address: SocketAddr, errno: Option<i32>) {
        let error = errno.map(io::Error::from_raw_os_error);
        let result = error.as_ref().map_or(Ok(()), Err);
        let took = Duration::from_millis(1);
        selection.attempted(&Attempt { address, result, took, round_trip: None });
    }

    fn close(mut selection: Box<dyn Selection>, reason: CloseReason, received: u64) {
        selection.closed(&Outcome {
            upstream: Some(FRONTEND.parse().unwrap()),
            reason: &reason,
            bytes_sent: 1,
            bytes_received: received,
            duration: Duration::from_millis(5),
        });
    }

    fn out(services: &Services) -> usize {
        let target = services.find(FRONTEND.parse().unwrap()).unwrap();
        let all = services.endpoints(&target);
        all.all().iter().filter(|it| it.stats.standing(Moment::now()) != Standing::In).count()
    }

    #[test]
    fn nothing_is_chosen_without_a_choice() {
        assert!(select(&services(&[]), None).is_none());
        assert!(select(&services(&["10.1.0.1"]), None).is_none());
        let two = services(&["10.1.0.1", "10.1.0.2"]);
        assert!(select(&two, None).is_some());
        assert!(select(&two, Some(Mode::Off)).is_none());
    }

    #[test]
    fn each_endpoint_is_tried_once_and_then_the_original_destination() {
        let services = services(&["10.1.0.1", "10.1.0.2", "10.1.0.3", "10.1.0.4"]);
        let mut selection = select(&services, None).unwrap();
        let mut addresses = std::collections::HashSet::new();
        while let Some(endpoint) = selection.next() {
            assert!(addresses.insert(endpoint.address));
            attempt(&mut *selection, endpoint.address, Some(libc::ECONNREFUSED));
        }
        assert_eq!(addresses.len(), 4);
        attempt(&mut *selection, FRONTEND.parse().unwrap(), None);
        let target = services.find(FRONTEND.parse().unwrap()).unwrap();
        assert_eq!((target.fallbacks(), out(&services)), (1, 2), "half of them at most is out");
        close(selection, CloseReason::Finished, 1);
    }

    #[test]
    fn silence_is_borne_twice() {
        let services = services(&["10.1.0.1", "10.1.0.2", "10.1.0.3", "10.1.0.4"]);
        let mut selection = select(&services, None).unwrap();
        for _ in 0..MOST_SILENT {
            let endpoint = selection.next().unwrap();
            assert_eq!(endpoint.connect_timeout, Some(CONNECT));
            attempt(&mut *selection, endpoint.address, Some(libc::ETIMEDOUT));
        }
        assert_eq!(selection.next(), None);
    }

    #[test]
    fn endpoints_that_are_all_silent_are_not_waited_for_again() {
        // Two of them are out, and two were kept in.
        for recovered in 0..4 {
            let services = services(&["10.1.0.1", "10.1.0.2", "10.1.0.3", "10.1.0.4"]);
            for _ in 0..2 {
                let mut selection = select(&services, None).unwrap();
                while let Some(endpoint) = selection.next() {
                    attempt(&mut *selection, endpoint.address, Some(libc::ETIMEDOUT));
                }
            }
            assert_eq!(select(&services, None).unwrap().next(), None);
            let target = services.find(FRONTEND.parse().unwrap()).unwrap();
            let endpoints = services.endpoints(&target);
            let recovered = &endpoints.all()[recovered];
            recovered.stats.connected(Duration::from_millis(1), Moment::now());
            let next = select(&services, None).unwrap().next().unwrap();
            assert_eq!(next.address, recovered.address, "what it was like before does not count");
        }
    }

    #[test]
    fn what_is_the_workloads_own_fault_is_no_endpoints() {
        let services = services(&["10.1.0.1", "10.1.0.2"]);
        for errno in [libc::EADDRNOTAVAIL, libc::EPERM, libc::ELOOP] {
            let mut selection = select(&services, None).unwrap();
            let endpoint = selection.next().unwrap();
            attempt(&mut *selection, endpoint.address, Some(errno));
        }
        assert_eq!(out(&services), 0);
    }

    #[test]
    fn a_connection_is_in_flight_until_it_is_over_however_it_ends() {
        let services = services(&["10.1.0.1", "10.1.0.2"]);
        let target = services.find(FRONTEND.parse().unwrap()).unwrap();
        let in_flight = || -> u32 {
            services.endpoints(&target).all().iter().map(|it| it.stats.in_flight()).sum()
        };
        let mut closed = select(&services, None).unwrap();
        let first = closed.next().unwrap();
        attempt(&mut *closed, first.address, None);
        let mut dropped = select(&services, None).unwrap();
        let second = dropped.next().unwrap();
        assert_ne!(first.address, second.address);
        assert_eq!(in_flight(), 2);
        drop(dropped);
        close(closed, CloseReason::Finished, 1);
        assert_eq!(in_flight(), 0);
    }

    #[test]
    fn a_raw_connection_is_sampled_at_its_end_and_one_with_answers_is_not() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        for is_judged in [false, true] {
            let services = services(&["10.1.0.1", "10.1.0.2"]);
            let mut selection = select(&services, None).unwrap();
            let address = selection.next().unwrap().address;
            let chosen = selection.chosen().unwrap().listener;
            if is_judged {
                chosen.exchange(None, Answer::Served);
            }
            chosen.closing(&TcpInfo::of(&socket).unwrap());
            let target = services.find(FRONTEND.parse().unwrap()).unwrap();
            let endpoints = services.endpoints(&target);
            let endpoint = endpoints.all().iter().find(|it| it.address == address).unwrap();
            assert_eq!(endpoint.stats.estimate(Moment::now()).is_none(), is_judged);
        }
    }

    #[test]
    fn an_endpoint_that_accepts_and_resets_is_taken_out() {
        let services = services(&["10.1.0.1", "10.1.0.2"]);
        let bad = "10.1.0.1:80".parse().unwrap();
        for _ in 0..40 {
            let mut selection = select(&services, None).unwrap();
            let endpoint = selection.next().unwrap();
            attempt(&mut *selection, endpoint.address, None);
            if endpoint.address == bad {
                close(selection, CloseReason::UpstreamReset, 0);
            } else {
                close(selection, CloseReason::Finished, 1);
            }
        }
        let target = services.find(FRONTEND.parse().unwrap()).unwrap();
        let endpoints = services.endpoints(&target);
        let stats = &endpoints.all().iter().find(|it| it.address == bad).unwrap().stats;
        assert!(stats.chosen() <= 6, "{}", stats.chosen());
    }
}
