//! Routes as they are in force: which rules requests to a port of a service follow, and which services
//! those lead to. Put together anew when routes or services change.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use weir_http::{
    FieldEdit, OwnAnswer, Plan, REDIRECT, RequestEdits, RequestView, Retries, RetryBudget,
    RetryPolicy, RouteName, TimeLimits,
};

use super::{Origin, Target};
use crate::route::{Backend, Count, Filters, Match, Parent, Route, RouteId, Rule, Table, Weights};

/// A route and where it is from.
pub(super) type RouteKey = (Origin, RouteId);

/// What requests to all services follow.
#[derive(Debug, Default)]
pub(super) struct Routes {
    by_port: HashMap<(Origin, Arc<str>, u16), OfPort>,
    /// What of the routes is not in force.
    pub(super) problems: Vec<(RouteKey, Unlinked, String)>,
    /// The ports that each route is in force for.
    pub(super) attached: BTreeMap<RouteKey, Vec<(Arc<str>, u16)>>,
    /// The rules of each route, for reports.
    rules: BTreeMap<RouteKey, Vec<InForce>>,
}

/// Which part of a route leads nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unlinked {
    /// One of its parents, by its place.
    Parent(usize),
    /// A backend.
    Backend,
}

/// The rules for requests to one port of a service.
#[derive(Debug, Default)]
struct OfPort {
    producer: Option<Arc<Routing>>,
    /// By the namespace of the clients.
    consumers: HashMap<Arc<str>, Arc<Routing>>,
}

/// The rules for some clients of one port of a service.
#[derive(Debug)]
pub(super) struct Routing {
    table: Table,
    /// By route and place.
    rules: Vec<Vec<InForce>>,
    port: u16,
}

/// A rule.
#[derive(Debug)]
pub(super) struct InForce {
    pub(super) route: Arc<Route>,
    pub(super) place: usize,
    /// For what weir answers itself.
    name: Arc<RouteName>,
    weights: Weights,
    backends: Vec<Linked>,
    response: Arc<[FieldEdit]>,
}

/// A backend of a rule.
#[derive(Debug)]
pub(super) struct Linked {
    pub(super) name: Arc<RouteName>,
    /// For clients of IPv4 and IPv6; none where there is no such service.
    targets: [Option<Arc<Target>>; 2],
    request: Arc<[FieldEdit]>,
    response: Arc<[FieldEdit]>,
    limits: TimeLimits,
    /// With the budget of the service.
    retry: Option<(Arc<RetryPolicy>, Arc<RetryBudget>)>,
}

/// What may be sent once more to the services of routes, by their names. Outlives changes of routes.
#[derive(Debug, Default)]
pub(super) struct Budgets(HashMap<Arc<str>, Arc<RetryBudget>>);

/// What becomes of a request.
pub(super) enum Decision<'a> {
    /// It goes to this backend.
    To {
        backend: &'a Linked,
        target: Arc<Target>,
        request: RequestEdits,
        response: Arc<[FieldEdit]>,
        /// It waits so long before.
        delay: Option<Duration>,
        /// What it has in common with others of its client.
        key: Option<u64>,
    },
    /// weir answers.
    Answer(OwnAnswer),
}

/// All ports of services by their names.
struct Index<'a>(HashMap<&'a str, Vec<&'a Arc<Target>>>);

// === impl Routes ===

impl Routes {
    /// Links routes with the services that there are.
    pub(super) fn link<'a>(
        routes: &BTreeMap<RouteKey, Arc<Route>>,
        targets: impl Iterator<Item = &'a Arc<Target>>,
        budgets: &mut Budgets,
    ) -> Self {
        let index = Index::new(targets);
        let mut all = Self::default();
        let mut by_port: BTreeMap<_, Vec<&RouteKey>> = BTreeMap::new();
        let (defaults, others): (Vec<_>, Vec<_>) = routes.iter().partition(|it| it.1.is_default);
        for (key, route) in others.into_iter().chain(defaults) {
            for (place, parent) in route.parents.iter().enumerate() {
                let ports = index.ports_of(key.0, parent);
                if ports.is_empty() {
                    let is_known = !index.ports(key.0, &parent.service, None).is_empty();
                    let fault = match is_known {
                        true => format!("the parent {parent} is no port of the service"),
                        false => format!("the parent {parent} is no known service"),
                    };
                    all.problem(key, Unlinked::Parent(place), fault);
                }
                for (origin, port) in ports {
                    let id = (origin, Arc::clone(&parent.service), port);
                    let of_port = by_port.entry(id).or_default();
                    let is_of_all = |it: &&RouteKey| {
                        let other = &routes[*it];
                        !other.is_default && other.consumers_of(&parent.service).is_none()
                    };
                    if route.is_default && of_port.iter().any(is_of_all) {
                        continue;
                    }
                    if !of_port.contains(&key) {
                        of_port.push(key);
                        let attached = all.attached.entry(key.clone()).or_default();
                        attached.push((Arc::clone(&parent.service), port));
                    }
                }
            }
            all.check(key, route, &index);
            let port = route.parents.first().and_then(|it| it.port).unwrap_or_default();
            all.rules.insert(key.clone(), rules_of((key.0, route), port, (&index, budgets)));
        }
        for ((origin, service, port), keys) in by_port {
            let mut of_port = OfPort::default();
            let mut groups: BTreeMap<_, Vec<_>> = BTreeMap::new();
            for key in keys {
                let route = &routes[key];
                groups
                    .entry(route.consumers_of(&service))
                    .or_default()
                    .push((key.0, Arc::clone(route)));
            }
            for (consumer, routes) in groups {
                let routing = Arc::new(Routing::new(&routes, port, (&index, budgets)));
                match consumer {
                    Some(namespace) => {
                        of_port.consumers.insert(Arc::clone(namespace), routing);
                    }
                    None => of_port.producer = Some(routing),
                }
            }
            all.by_port.insert((origin, service, port), of_port);
        }
        budgets.tidy();
        all
    }

    /// The rules for clients in `namespace` of a port of a service: its routes for them, or else those
    /// of the service's own namespace.
    pub(super) fn of(
        &self,
        target: &Target,
        port: u16,
        namespace: Option<&str>,
    ) -> Option<&Arc<Routing>> {
        let key = (target.origin(), Arc::clone(target.service()), port);
        let of_port = self.by_port.get(&key)?;
        let consumer = namespace.and_then(|namespace| of_port.consumers.get(namespace));
        consumer.or(of_port.producer.as_ref())
    }

    /// The rules of a route.
    pub(super) fn rules_of(&self, key: &RouteKey) -> Option<&[InForce]> {
        self.rules.get(key).map(Vec::as_slice)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    fn problem(&mut self, key: &RouteKey, of: Unlinked, fault: String) {
        self.problems.push((key.clone(), of, fault));
    }

    /// Notes which backends there are not.
    fn check(&mut self, key: &RouteKey, route: &Route, index: &Index<'_>) {
        for (place, rule) in route.rules.iter().enumerate() {
            for backend in &rule.backends {
                if !index.ports(key.0, &backend.service, backend.port).is_empty() {
                    continue;
                }
                let (rule, service) = (rule.label(place), &backend.service);
                let port = backend.port.map(|it| format!(" with port {it}")).unwrap_or_default();
                let fault = format!(
                    "rule {rule}: the backend {service} is no known service{port}; requests for it are \
                     answered with 500"
                );
                self.problem(key, Unlinked::Backend, fault);
            }
        }
    }
}

// === impl Routing ===

impl Routing {
    fn new(
        routes: &[(Origin, Arc<Route>)],
        port: u16,
        (index, budgets): (&Index<'_>, &mut Budgets),
    ) -> Self {
        let all: Vec<_> = routes.iter().map(|it| Arc::clone(&it.1)).collect();
        let rules = routes
            .iter()
            .map(|(origin, route)| rules_of((*origin, route), port, (index, &mut *budgets)));
        Self { table: Table::new(&all), rules: rules.collect(), port }
    }

    /// Whether the rules say something of a request.
    pub(super) fn concerns(&self, request: &RequestView<'_>) -> bool {
        self.table.concerns(request)
    }

    /// The rule for a request, and what of it has matched.
    pub(super) fn find(&self, request: &RequestView<'_>) -> Option<(&InForce, &Match)> {
        let found = self.table.find(request)?;
        Some((&self.rules[found.route][found.rule], found.by))
    }

    /// What becomes of a request of a client of IPv4 or IPv6.
    pub(super) fn decide(&self, request: &RequestView<'_>, is_ipv6: bool) -> Decision<'_> {
        match self.find(request) {
            Some((rule, by)) => rule.decide(request, by, self.port, is_ipv6),
            None => Decision::Answer(OwnAnswer::error(404, "no-route", None)),
        }
    }

    /// The services that requests can go to, without those that are not known.
    pub(super) fn targets(&self, is_ipv6: bool) -> impl Iterator<Item = Arc<Target>> {
        let backends = self.rules.iter().flatten().flat_map(|rule| &rule.backends);
        backends.filter_map(move |backend| backend.target(is_ipv6))
    }
}

// === impl InForce ===

impl InForce {
    fn new(
        (origin, route): (Origin, &Arc<Route>),
        (place, rule): (usize, &Rule),
        port: u16,
        (index, budgets): (&Index<'_>, &mut Budgets),
    ) -> Self {
        let name = |backend: Option<&Arc<str>>| {
            let route = Arc::clone(&route.id.name);
            let backend = backend.map(Arc::clone);
            Arc::new(RouteName { route, rule: rule.label(place), backend })
        };
        let linked = |backend: &Backend| {
            let named = name(Some(&backend.service));
            let targets = index.find(origin, &backend.service, backend.port, port);
            let joined = |of: fn(&Filters) -> &Vec<FieldEdit>| {
                of(&rule.filters).iter().chain(of(&backend.filters)).cloned().collect()
            };
            let (request, response) = (joined(|it| &it.request), joined(|it| &it.response));
            let retry = rule.retry.as_ref();
            let retry = retry.map(|it| (Arc::clone(it), budgets.of(&backend.service)));
            Linked { name: named, targets, request, response, limits: rule.limits, retry }
        };
        Self {
            route: Arc::clone(route),
            place,
            name: name(None),
            weights: Weights::new(rule.backends.iter().map(|it| it.weight)),
            backends: rule.backends.iter().map(linked).collect(),
            response: rule.filters.response.as_slice().into(),
        }
    }

    pub(super) fn rule(&self) -> &Rule {
        &self.route.rules[self.place]
    }

    fn decide(
        &self,
        request: &RequestView<'_>,
        by: &Match,
        port: u16,
        is_ipv6: bool,
    ) -> Decision<'_> {
        let rule = self.rule();
        let error = |status, reason, why| {
            rule.tally.add(why);
            let mut answer = OwnAnswer::error(status, reason, Some(Arc::clone(&self.name)));
            answer.fields = Arc::clone(&self.response);
            Decision::Answer(answer)
        };
        if rule.rate.as_ref().is_some_and(|rate| !rate.take(Instant::now())) {
            return error(429, "rate-limit", Count::Limited);
        }
        if let Some(status) = rule.faults.as_ref().and_then(|it| it.aborts()) {
            return error(status, "fault", Count::Aborted);
        }
        if let Some(redirect) = &rule.filters.redirect {
            let Some(location) = redirect.location(request, by, port) else {
                return error(400, "no-host", Count::Refused);
            };
            rule.tally.add(Count::Redirected);
            return Decision::Answer(OwnAnswer {
                name: Some(Arc::clone(&self.name)),
                status: redirect.status,
                reason: REDIRECT,
                location: Some(location),
                fields: Arc::clone(&self.response),
            });
        }
        let key = rule.affinity.as_ref().and_then(|it| it.key(request));
        let place = match key {
            Some(key) => self.weights.choose_for(key),
            None => self.weights.choose(),
        };
        let Some(backend) = place.map(|place| &self.backends[place]) else {
            return error(500, "no-backend", Count::Refused);
        };
        let Some(target) = backend.target(is_ipv6) else {
            return error(500, "unknown-backend", Count::Refused);
        };
        rule.tally.add(Count::Forwarded);
        let delay = rule.faults.as_ref().and_then(|it| it.delays());
        if delay.is_some() {
            rule.tally.add(Count::Delayed);
        }
        let rewrite = rule.filters.rewrite.as_ref();
        let request = RequestEdits {
            fields: Arc::clone(&backend.request),
            authority: rewrite.and_then(|it| it.hostname.as_deref()).map(Into::into),
            path_and_query: rewrite
                .and_then(|it| it.path.as_ref())
                .map(|path| path.apply(request, by)),
        };
        let response = Arc::clone(&backend.response);
        Decision::To { backend, target, request, response, delay, key }
    }

    /// The backends with their shares, from 0 to 1.
    pub(super) fn shares(&self) -> impl Iterator<Item = (&Linked, f64)> {
        self.backends.iter().zip(self.weights.shares())
    }
}

// === impl Budgets ===

impl Budgets {
    fn of(&mut self, service: &Arc<str>) -> Arc<RetryBudget> {
        let budget = || Arc::new(RetryBudget::new(Instant::now()));
        Arc::clone(self.0.entry(Arc::clone(service)).or_insert_with(budget))
    }

    /// Forgets those that nothing has a use for.
    fn tidy(&mut self) {
        self.0.retain(|_, budget| Arc::strong_count(budget) > 1);
    }
}

// === impl Linked ===

impl Linked {
    /// What holds for a request to it besides.
    pub(super) fn plan(
        &self,
        request: &RequestView<'_>,
        delay: Option<Duration>,
    ) -> Option<Box<Plan>> {
        if self.limits.is_none() && self.retry.is_none() && delay.is_none() {
            return None;
        }
        let retries = self
            .retry
            .as_ref()
            .map(|(policy, budget)| Retries::new(Arc::clone(policy), Arc::clone(budget), request));
        Some(Box::new(Plan::new(self.limits, retries).with_delay(delay)))
    }

    /// The service for clients of a family, or else of the other.
    pub(super) fn target(&self, is_ipv6: bool) -> Option<Arc<Target>> {
        let [ipv4, ipv6] = &self.targets;
        let (first, second) = if is_ipv6 { (ipv6, ipv4) } else { (ipv4, ipv6) };
        first.as_ref().or(second.as_ref()).cloned()
    }
}

// === impl Index ===

impl<'a> Index<'a> {
    fn new(targets: impl Iterator<Item = &'a Arc<Target>>) -> Self {
        let mut all: HashMap<_, Vec<_>> = HashMap::new();
        for target in targets {
            all.entry(&**target.service()).or_default().push(target);
        }
        Self(all)
    }

    /// The targets of a service: of this origin, or else of another.
    fn of(&self, origin: Origin, service: &str) -> impl Iterator<Item = &'a Arc<Target>> {
        let all = self.0.get(service).map_or(&[][..], Vec::as_slice);
        let is_there = |origin: &Origin| all.iter().any(|it| it.origin() == *origin);
        let order = [origin, Origin::Directory, Origin::Cluster, Origin::Config];
        let origin = order.into_iter().find(is_there);
        all.iter().copied().filter(move |it| Some(it.origin()) == origin)
    }

    /// The ports of a service that clients connect to.
    fn ports(&self, origin: Origin, service: &str, port: Option<u16>) -> Vec<(Origin, u16)> {
        Self::ports_among(self.of(origin, service), port)
    }

    /// Those of a parent.
    fn ports_of(&self, origin: Origin, parent: &Parent) -> Vec<(Origin, u16)> {
        let is_meant =
            |it: &&Arc<Target>| parent.section.as_deref().is_none_or(|name| it.port_name() == name);
        Self::ports_among(self.of(origin, &parent.service).filter(is_meant), parent.port)
    }

    fn ports_among(
        targets: impl Iterator<Item = &'a Arc<Target>>,
        port: Option<u16>,
    ) -> Vec<(Origin, u16)> {
        let ports = |it: &'a Arc<Target>| {
            it.frontends().iter().map(|frontend| (it.origin(), frontend.port()))
        };
        let mut ports: Vec<_> = targets.flat_map(ports).collect();
        ports.retain(|it| port.is_none_or(|port| it.1 == port));
        ports.sort_unstable();
        ports.dedup();
        ports
    }

    /// The port of a backend for each family; without a number the one that the client asked for, or the
    /// only one.
    fn find(
        &self,
        origin: Origin,
        service: &str,
        port: Option<u16>,
        asked: u16,
    ) -> [Option<Arc<Target>>; 2] {
        let ports = self.ports(origin, service, None);
        let is_there = |port: u16| ports.iter().any(|it| it.1 == port);
        let port = match (port, ports.as_slice()) {
            (Some(port), _) => port,
            (None, _) if is_there(asked) => asked,
            (None, [(_, only)]) => *only,
            (None, _) => return [None, None],
        };
        [false, true].map(|is_ipv6| {
            let is_it = |it: &&Arc<Target>| {
                it.is_ipv6() == is_ipv6 && it.frontends().iter().any(|at| at.port() == port)
            };
            self.of(origin, service).find(is_it).map(Arc::clone)
        })
    }
}

// === helpers ===

fn rules_of(
    (origin, route): (Origin, &Arc<Route>),
    port: u16,
    (index, budgets): (&Index<'_>, &mut Budgets),
) -> Vec<InForce> {
    let rules = route.rules.iter().enumerate();
    let in_force =
        |it: (usize, &Rule)| InForce::new((origin, route), it, port, (index, &mut *budgets));
    rules.map(in_force).collect()
}
