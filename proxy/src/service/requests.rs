//! Requests to services: each goes to an endpoint that is chosen for it (`upstream.rs` has the order of
//! calls).

use std::{fmt, net::SocketAddr, sync::Arc, time::Duration};

use fastrand::Rng;
use weir_http::{Choice, Lease};

use super::{
    Endpoints, Services, WorkloadMode,
    connections::{CONNECT, Current, MOST_TRIED, is_of_endpoint},
};
use crate::{
    balance::{InFlight, Mode, Moment},
    forward::{
        http::Exchange,
        requests::{BoxedLease, Counted, Requests},
    },
    sync::lock,
    telemetry::Answer,
    upstream::{Attempt, RequestUpstream},
};

/// Sends the requests of one workload to the endpoints behind one destination.
pub(super) struct ToEndpoint {
    services: Arc<Services>,
    mode: Arc<WorkloadMode>,
    destination: SocketAddr,
    /// Of the connection that was made first.
    first: Current,
}

/// A request at an endpoint.
struct AtEndpoint {
    endpoints: Arc<Endpoints>,
    member: usize,
    /// Counts it until it is over.
    _in_flight: InFlight,
}

/// A request at the original destination, of which nothing is learned.
struct AtOriginal;

// === impl ToEndpoint ===

impl ToEndpoint {
    pub(super) const fn new(
        services: Arc<Services>,
        mode: Arc<WorkloadMode>,
        destination: SocketAddr,
        first: Current,
    ) -> Self {
        Self { services, mode, destination, first }
    }

    /// As they are now. The service may be defined anew while its connections last.
    fn endpoints(&self) -> Option<Arc<Endpoints>> {
        let target = self.services.find(self.destination)?;
        Some(self.services.endpoints(&target))
    }

    fn pick(&self, tried: &[SocketAddr]) -> Option<Choice<BoxedLease>> {
        let target = self.services.find(self.destination)?;
        let endpoints = self.services.endpoints(&target);
        if tried.len() >= MOST_TRIED || endpoints.pool().is_hopeless(Moment::now()) {
            return None;
        }
        let tried: Vec<usize> = match tried.is_empty() {
            true => Vec::new(),
            false => {
                let of = |it: &(usize, &super::Endpoint)| tried.contains(&it.1.address);
                endpoints.members().filter(of).map(|it| it.0).collect()
            }
        };
        let choice = target.choose(&endpoints, &tried)?;
        let chosen = &endpoints.all()[choice.member];
        let (address, in_flight) = (chosen.address, chosen.stats.begin());
        let lease =
            Box::new(AtEndpoint { member: choice.member, _in_flight: in_flight, endpoints });
        Some(Choice { address, connect_timeout: Some(CONNECT), lease })
    }
}

impl weir_http::Endpoints for ToEndpoint {
    type Lease = BoxedLease;

    fn choose(&self, tried: &[SocketAddr]) -> Option<Choice<BoxedLease>> {
        if let Some(picked) = self.pick(tried) {
            return Some(picked);
        }
        if tried.contains(&self.destination) {
            return None;
        }
        if let Some(target) = self.services.find(self.destination) {
            target.fell_back();
        }
        let (address, lease) = (self.destination, Box::new(AtOriginal));
        Some(Choice { address, connect_timeout: None, lease })
    }

    fn failed(&self, address: SocketAddr) {
        let Some(endpoints) = self.endpoints() else { return };
        if let Some(member) = member_at(&endpoints, address) {
            endpoints.pool().failed(member, Duration::ZERO, Moment::now(), &mut Rng::new());
        }
    }
}

impl Requests for ToEndpoint {
    fn is_used(&self, address: SocketAddr) -> bool {
        let is_member = |it: Arc<Endpoints>| it.members().any(|(_, it)| it.address == address);
        address == self.destination || self.endpoints().is_some_and(is_member)
    }

    fn connected(&self, address: SocketAddr) -> Option<Counted> {
        let endpoints = self.endpoints()?;
        let stats = &endpoints.all()[member_at(&endpoints, address)?].stats;
        Some(Counted(Box::new(stats.share())))
    }

    fn shares(&self) {
        *lock(&self.first) = None;
    }

    fn is_current(&self) -> bool {
        self.services.find(self.destination).is_some_and(|target| {
            matches!(self.services.mode(&target, &self.mode), Mode::Requests | Mode::Auto)
        })
    }
}

impl RequestUpstream for ToEndpoint {
    fn attempted(&self, attempt: &Attempt<'_>) {
        let Some(endpoints) = self.endpoints() else { return };
        let pool = endpoints.pool();
        let Some(member) = member_at(&endpoints, attempt.address) else { return };
        match attempt.result {
            Ok(()) => {
                let round_trip = attempt.round_trip.unwrap_or(attempt.took);
                pool.stats(member).connected(round_trip, Moment::now());
            }
            Err(error) if is_of_endpoint(error) => {
                pool.refused(member, attempt.took, Moment::now(), &mut Rng::new());
            }
            Err(_) => {}
        }
    }
}

impl fmt::Debug for ToEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ToEndpoint").field("destination", &self.destination).finish_non_exhaustive()
    }
}

// === impl AtEndpoint ===

impl Lease for AtEndpoint {
    fn over(&mut self, exchange: &Exchange) {
        self.endpoints.learn(self.member, exchange.time_to_head, Answer::of(exchange));
    }
}

// === impl AtOriginal ===

impl Lease for AtOriginal {
    fn over(&mut self, _: &Exchange) {}
}

// === helpers ===

fn member_at(endpoints: &Endpoints, address: SocketAddr) -> Option<usize> {
    endpoints.members().find(|(_, it)| it.address == address).map(|(member, _)| member)
}

#[cfg(test)]
mod tests {
    use std::io;

    use weir_http::Endpoints as _;

    use super::*;
    use crate::{
        decision::Direction,
        service::{
            Origin, ToEndpoints,
            tests::{service, slice},
        },
        telemetry::exchange,
        upstream::{self, Upstream as _},
    };

    const FRONTEND: &str = "10.96.0.1:80";

    fn to(endpoints: &[&str]) -> (Arc<Services>, ToEndpoint) {
        let services = Arc::new(Services::default());
        let deltas = [service("s", &[FRONTEND]), slice("a", "s", 80, endpoints)];
        services.apply(Origin::Config, deltas).unwrap();
        let mode = Arc::new(WorkloadMode::new(Some(Mode::Requests)));
        (
            Arc::clone(&services),
            ToEndpoint::new(services, mode, FRONTEND.parse().unwrap(), Current::default()),
        )
    }

    #[test]
    fn each_endpoint_is_chosen_once_for_a_request_and_then_the_original_destination() {
        let (services, to) = to(&["10.1.0.1", "10.1.0.2", "10.1.0.3"]);
        let mut tried = Vec::new();
        while let Some(picked) = to.choose(&tried) {
            assert!(!tried.contains(&picked.address));
            tried.push(picked.address);
        }
        assert_eq!((tried.len(), tried[3]), (4, FRONTEND.parse().unwrap()));
        assert_eq!(services.find(tried[3]).unwrap().fallbacks(), 1);
    }

    #[test]
    fn requests_in_flight_are_spread_and_counted_until_their_leases_end() {
        let (services, to) = to(&["10.1.0.1", "10.1.0.2"]);
        let picked: Vec<_> = (0..10).map(|_| to.choose(&[]).unwrap()).collect();
        let target = services.find(FRONTEND.parse().unwrap()).unwrap();
        let endpoints = services.endpoints(&target);
        let in_flight =
            || endpoints.all().iter().map(|it| it.stats.in_flight()).collect::<Vec<_>>();
        assert_eq!(in_flight(), [5, 5]);
        drop(picked);
        assert_eq!(in_flight(), [0, 0]);
    }

    #[test]
    fn failures_and_refusals_move_requests_to_others() {
        let (_services, to) = to(&["10.1.0.1", "10.1.0.2"]);
        let bad: SocketAddr = "10.1.0.1:80".parse().unwrap();
        let mut chosen = 0;
        for _ in 0..40 {
            let mut picked = to.choose(&[]).unwrap();
            let is_bad = picked.address == bad;
            chosen += usize::from(is_bad);
            let status = Some(if is_bad { 503 } else { 200 });
            picked.lease.over(&Exchange { status, ..exchange() });
        }
        assert!(chosen <= 6, "{chosen}");
        let other = "10.1.0.2:80".parse().unwrap();
        let error = io::Error::from_raw_os_error(libc::ECONNREFUSED);
        let (took, round_trip) = (Duration::from_millis(1), None);
        to.attempted(&Attempt { address: other, result: Err(&error), took, round_trip });
        to.attempted(&Attempt { address: bad, result: Ok(()), took, round_trip });
        assert_eq!(to.choose(&[]).unwrap().address, bad);
    }

    #[test]
    fn an_endpoint_that_closes_connections_for_errors_of_its_own_gets_fewer_requests() {
        let (_services, to) = to(&["10.1.0.1", "10.1.0.2"]);
        let bad: SocketAddr = "10.1.0.1:80".parse().unwrap();
        for _ in 0..4 {
            to.choose(&[]).unwrap().lease.over(&exchange());
        }
        to.failed(bad);
        to.failed("10.9.9.9:80".parse().unwrap());
        let chosen: Vec<_> = (0..4).map(|_| to.choose(&[]).unwrap()).collect();
        assert!(chosen.iter().all(|it| it.address != bad));
    }

    #[test]
    fn an_endpoint_that_is_at_its_limit_is_left_alone_for_a_moment() {
        let (services, to) = to(&["10.1.0.1", "10.1.0.2"]);
        let mut picked = to.choose(&[]).unwrap();
        let limited = picked.address;
        picked.lease.over(&Exchange { status: Some(429), ..exchange() });
        drop(picked);
        // 40 ms for the other one: a second is more.
        let others: Vec<_> = (0..8).map(|_| to.choose(&[]).unwrap()).collect();
        assert!(others.iter().all(|it| it.address != limited));
        let target = services.find(FRONTEND.parse().unwrap()).unwrap();
        let endpoints = services.endpoints(&target);
        assert!(endpoints.all().iter().all(|it| it.stats.failed() == 0));
        let report = services.report(None);
        let shown = report.services[0].endpoints.iter().find(|it| it.address == limited).unwrap();
        assert_eq!(shown.state, "used");
        assert!(shown.why.as_ref().unwrap().contains("fewer requests"), "{shown:?}");
        assert!(to.choose(&[others[0].address]).is_some(), "it is not out");
    }

    #[test]
    fn a_connection_that_is_shared_counts_no_more() {
        let (services, _) = to(&["10.1.0.1", "10.1.0.2"]);
        let mode = Arc::new(WorkloadMode::new(Some(Mode::Requests)));
        let to = ToEndpoints::new(Arc::clone(&services), mode);
        let destination = FRONTEND.parse().unwrap();
        let target = upstream::Target { direction: Direction::Outbound, destination };
        let mut selection = to.select(&target).unwrap();
        let address = selection.next().unwrap().address;
        let took = Duration::from_millis(1);
        selection.attempted(&Attempt { address, result: Ok(()), took, round_trip: None });
        let endpoints = services.endpoints(&services.find(destination).unwrap());
        let in_flight = || endpoints.all().iter().map(|it| it.stats.in_flight()).sum::<u32>();
        assert_eq!(in_flight(), 1);
        selection.requests().unwrap().requests.shares();
        assert_eq!(in_flight(), 0);
    }

    #[test]
    fn connections_that_requests_share_are_counted_at_their_endpoint() {
        let (services, to) = to(&["10.1.0.1", "10.1.0.2"]);
        let counted: Vec<_> =
            (0..3).map(|_| to.connected("10.1.0.2:80".parse().unwrap())).collect();
        assert!(to.connected(FRONTEND.parse().unwrap()).is_none());
        let shared = || -> Vec<u32> {
            services.report(None).services[0].endpoints.iter().map(|it| it.connections).collect()
        };
        assert_eq!(shared(), [0, 3]);
        drop(counted);
        assert_eq!(shared(), [0, 0]);
    }

    #[test]
    fn what_the_service_lists_no_longer_is_not_used() {
        let (services, to) = to(&["10.1.0.1", "10.1.0.2"]);
        let gone = "10.1.0.2:80".parse().unwrap();
        assert!(to.is_used(gone) && to.is_current());
        services.apply(Origin::Config, [slice("a", "s", 80, &["10.1.0.1"])]).unwrap();
        assert!(!to.is_used(gone) && to.is_used("10.1.0.1:80".parse().unwrap()));
        to.mode.set(Some(Mode::Connections));
        assert!(!to.is_current());
    }
}
