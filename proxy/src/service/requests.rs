//! Requests to services: each goes to an endpoint that is chosen for it (`upstream.rs` has the order of
//! calls).

use std::{fmt, net::SocketAddr, sync::Arc, time::Duration};

use fastrand::Rng;
use weir_http::{Came, Choice, Lease, RequestView, RouteTo, Routed};

use super::{
    Endpoints, Services, Target, ToEndpoints,
    backend::ToBackend,
    connections::{CONNECT, Current, MOST_TRIED, is_of_endpoint},
    routes::{Decision, Routing},
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
    /// Of the workload.
    of: ToEndpoints,
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
pub(super) struct AtOriginal;

// === impl ToEndpoint ===

impl ToEndpoint {
    pub(super) const fn new(of: ToEndpoints, destination: SocketAddr, first: Current) -> Self {
        Self { of, destination, first }
    }

    fn target(&self) -> Option<Arc<Target>> {
        self.of.services.find(self.destination)
    }

    /// As they are now. The service may be defined anew while its connections last.
    fn endpoints(&self) -> Option<Arc<Endpoints>> {
        Some(self.of.services.endpoints(&*self.target()?))
    }

    /// The rules of the destination, unless the workload wants none.
    fn routing(&self) -> Option<Arc<Routing>> {
        self.of.routing(self.destination)
    }

    /// The endpoints of all services that requests can go to.
    fn all_endpoints(&self) -> impl Iterator<Item = Arc<Endpoints>> {
        let is_ipv6 = self.destination.is_ipv6();
        let routing = self.routing();
        let backends: Vec<_> = routing.iter().flat_map(|it| it.targets(is_ipv6)).collect();
        let backends = backends.into_iter().filter_map(|it| it.instantiated());
        self.endpoints().into_iter().chain(backends)
    }

    /// The endpoint with this address, and its place in the pool.
    fn member_at(&self, address: SocketAddr) -> Option<(Arc<Endpoints>, usize)> {
        self.all_endpoints().find_map(|endpoints| {
            let found = endpoints.members().find(|(_, it)| it.address == address);
            let member = found.map(|(member, _)| member)?;
            Some((endpoints, member))
        })
    }
}

impl weir_http::Endpoints for ToEndpoint {
    type Lease = BoxedLease;

    fn choose(&self, tried: &[SocketAddr]) -> Option<Choice<BoxedLease>> {
        let target = self.target();
        if let Some(picked) =
            target.and_then(|target| pick(&self.of.services, &target, tried, None))
        {
            return Some(picked);
        }
        if tried.contains(&self.destination) {
            return None;
        }
        if let Some(target) = self.target() {
            target.fell_back();
        }
        let (address, lease) = (self.destination, Box::new(AtOriginal));
        Some(Choice { address, connect_timeout: None, lease })
    }

    fn failed(&self, address: SocketAddr) {
        if let Some((endpoints, member)) = self.member_at(address) {
            endpoints.pool().failed(member, Duration::ZERO, Moment::now(), &mut Rng::new());
        }
    }

    fn is_routed(&self) -> bool {
        self.routing().is_some()
    }

    fn route(&self, request: &RequestView<'_>) -> Option<Routed<BoxedLease>> {
        let routing = self.routing()?;
        if !routing.concerns(request) {
            return None;
        }
        Some(match routing.decide(request, self.destination.is_ipv6()) {
            Decision::Answer(answer) => Routed::Answer(answer),
            Decision::To { backend, target, request: edits, response, delay, key } => {
                let name = Arc::clone(&backend.name);
                let services = Arc::clone(&self.of.services);
                let endpoints = Arc::new(ToBackend::new(services, target, self.destination, key));
                let plan = backend.plan(request, delay);
                Routed::To(Box::new(RouteTo { name, endpoints, request: edits, response, plan }))
            }
        })
    }
}

impl Requests for ToEndpoint {
    fn is_used(&self, address: SocketAddr) -> bool {
        address == self.destination || self.member_at(address).is_some()
    }

    fn connected(&self, address: SocketAddr) -> Option<Counted> {
        let (endpoints, member) = self.member_at(address)?;
        let stats = &endpoints.all()[member].stats;
        Some(Counted(Box::new(stats.share())))
    }

    fn shares(&self) {
        *lock(&self.first) = None;
    }

    fn is_current(&self) -> bool {
        self.routing().is_some()
            || self.target().is_some_and(|target| {
                let mode = self.of.services.mode(&target, &self.of.mode);
                matches!(mode, Mode::Requests | Mode::Auto)
            })
    }
}

impl RequestUpstream for ToEndpoint {
    fn attempted(&self, attempt: &Attempt<'_>) {
        let Some((endpoints, member)) = self.member_at(attempt.address) else { return };
        let pool = endpoints.pool();
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

    fn failed(&mut self, came: Came, after: Duration) {
        let answer = match came {
            Came::Status(status) => Answer::of_status(status, None),
            Came::Grpc(code) => Answer::of_status(200, Some(code)),
            Came::Lost | Came::Late => Answer::Failed,
        };
        self.endpoints.learn(self.member, Some(after), answer);
    }

    fn estimate(&self) -> Option<Duration> {
        Some(self.endpoints.pool().median(Moment::now()))
    }
}

// === impl AtOriginal ===

impl Lease for AtOriginal {
    fn over(&mut self, _: &Exchange) {}
}

// === helpers ===

/// An endpoint of a service that is not among `tried`.
pub(super) fn pick(
    services: &Services,
    target: &Target,
    tried: &[SocketAddr],
    key: Option<u64>,
) -> Option<Choice<BoxedLease>> {
    let endpoints = services.endpoints(target);
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
    let choice = match key {
        Some(key) => target.choose_for(&endpoints, key, &tried)?,
        None => target.choose(&endpoints, &tried)?,
    };
    let chosen = &endpoints.all()[choice.member];
    let (address, in_flight) = (chosen.address, chosen.stats.begin());
    let lease = Box::new(AtEndpoint { member: choice.member, _in_flight: in_flight, endpoints });
    Some(Choice { address, connect_timeout: Some(CONNECT), lease })
}

#[cfg(test)]
mod tests {
    use std::io;

    use weir_http::Endpoints as _;

    use super::*;
    use crate::{
        decision::Direction,
        route::{Backend, Filters, Parent, Route, RouteId, RouteKind, Rule},
        service::{
            Delta, Origin, ToEndpoints, WorkloadMode,
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
            ToEndpoint::new(
                ToEndpoints::new(services, mode, None),
                FRONTEND.parse().unwrap(),
                Current::default(),
            ),
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
        // Two at a time, so that each has an estimate: to one without any, the failures of the other are
        // all that is known.
        let mut both = [to.choose(&[]).unwrap(), to.choose(&[]).unwrap()];
        assert_ne!(both[0].address, both[1].address);
        both.iter_mut().for_each(|it| it.lease.over(&exchange()));
        drop(both);
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
        let to = ToEndpoints::new(Arc::clone(&services), mode, None);
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
        to.of.mode.set(Some(Mode::Connections));
        assert!(!to.is_current());
    }

    /// Of a route that leads to a service of this name, for clients in `namespace` alone.
    fn route(name: &str, namespace: &str, backend: &str) -> Delta {
        let backend =
            Backend { service: backend.into(), port: None, weight: 1, filters: Filters::default() };
        Delta::Route(Route {
            id: RouteId { kind: RouteKind::Http, name: name.into() },
            namespace: Some(namespace.into()),
            created: None,
            parents: vec![Parent { service: "shop/s".into(), port: Some(80), section: None }],
            rules: vec![Rule { backends: vec![backend], ..Rule::default() }],
            notes: Vec::new(),
            is_default: false,
        })
    }

    #[test]
    fn clients_follow_the_routes_of_their_namespace_and_others_those_of_the_service() {
        let services = Arc::new(Services::default());
        let mut deltas = vec![
            service("shop/s", &[FRONTEND]),
            service("shop/one", &["10.96.0.2:80"]),
            service("web/two", &["10.96.0.3:80"]),
            slice("a", "shop/one", 80, &["10.1.0.1"]),
            slice("b", "web/two", 80, &["10.1.0.2"]),
        ];
        deltas.push(route("shop/producer", "shop", "shop/one"));
        deltas.push(route("web/consumer", "web", "web/two"));
        services.apply(Origin::Config, deltas).unwrap();
        let to = |namespace: Option<&str>, mode| {
            let mode = Arc::new(WorkloadMode::new(mode));
            let (destination, namespace) = (FRONTEND.parse().unwrap(), namespace.map(Into::into));
            let of = ToEndpoints::new(Arc::clone(&services), mode, namespace);
            ToEndpoint::new(of, destination, Current::default())
        };
        let taken = |to: &ToEndpoint| match to.route(&RequestView::new("GET", None, "/", &[])) {
            Some(Routed::To(it)) => it.endpoints.choose(&[]).map(|it| it.address.to_string()),
            Some(Routed::Answer(answer)) => Some(answer.status.to_string()),
            None => None,
        };
        assert_eq!(taken(&to(None, None)).as_deref(), Some("10.1.0.1:80"));
        assert_eq!(taken(&to(Some("shop"), None)).as_deref(), Some("10.1.0.1:80"));
        assert_eq!(taken(&to(Some("web"), None)).as_deref(), Some("10.1.0.2:80"));
        assert!(!to(None, Some(Mode::Off)).is_routed());
        let web = to(Some("web"), None);
        assert!(web.is_used("10.1.0.2:80".parse().unwrap()) && web.is_current());
        services.apply(Origin::Config, [Delta::NoService("web/two".into())]).unwrap();
        assert_eq!(taken(&web).as_deref(), Some("500"));
        let id = RouteId { kind: RouteKind::Http, name: "web/consumer".into() };
        services.apply(Origin::Config, [Delta::NoRoute(id)]).unwrap();
        assert_eq!(taken(&web).as_deref(), Some("10.1.0.1:80"));
    }
}
