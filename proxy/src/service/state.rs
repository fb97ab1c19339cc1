//! What sources have told, and how it changes. One writer at a time.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::SocketAddr,
    sync::Arc,
    time::Instant,
};

use super::{
    Delta, Endpoints, Kind, Origin, Place, PortSpec, Problem, ServiceSpec, SliceSpec, Target,
    error::Fault,
    known::Writable,
    names::Names,
    routes::{Budgets, RouteKey, Routes},
    selection::{Hints, Slice, select},
};
use crate::route::Route;

/// Services are apart by their origin.
type ServiceId = (Origin, Arc<str>);

/// What sources have told.
#[derive(Debug)]
pub(super) struct State {
    place: Place,
    names: Names,
    hints: Hints,
    services: HashMap<ServiceId, Entry>,
    /// The service of each group of endpoints.
    owners: HashMap<(Origin, Arc<str>), Arc<str>>,
    /// Definitions that were not taken over, with what is wrong.
    refused: BTreeMap<ServiceId, (ServiceSpec, Problem)>,
    feeds: BTreeMap<Origin, Feed>,
    routes: BTreeMap<RouteKey, Arc<Route>>,
    /// Of newer versions what is wrong.
    refused_routes: BTreeMap<RouteKey, String>,
    /// Routes have changed since they were linked.
    is_unlinked: bool,
    /// Of what may be sent once more.
    budgets: Budgets,
}

/// A service, or endpoints whose service is not known yet.
#[derive(Debug, Default)]
struct Entry {
    spec: Option<ServiceSpec>,
    slices: Vec<Slice>,
    targets: Vec<Arc<Target>>,
}

/// What was heard of an origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Feed {
    /// When it could be asked last.
    pub heard: Option<Instant>,
    /// Why it cannot be asked at present.
    pub problem: Option<String>,
}

// === impl State ===

impl State {
    pub(super) fn new(place: Place) -> Self {
        Self {
            place,
            names: Names::default(),
            hints: Hints::default(),
            services: HashMap::new(),
            owners: HashMap::new(),
            refused: BTreeMap::new(),
            feeds: BTreeMap::new(),
            routes: BTreeMap::new(),
            refused_routes: BTreeMap::new(),
            is_unlinked: false,
            budgets: Budgets::default(),
        }
    }

    pub(super) fn targets(&self) -> impl Iterator<Item = &Arc<Target>> {
        self.services.values().flat_map(|entry| &entry.targets)
    }

    pub(super) fn problems(&self, origin: Origin) -> Vec<Problem> {
        let refused = self.refused.iter().filter(|((of, _), _)| *of == origin);
        let services = refused.map(|(_, (_, problem))| problem.clone());
        let routes = self.refused_routes.iter().filter(|((of, _), _)| *of == origin);
        let routes = routes.map(|((_, id), fault)| {
            let fault = Fault::Other(fault.clone());
            Problem { place: id.to_string(), fault }
        });
        services.chain(routes).collect()
    }

    pub(super) fn heard(&mut self, origin: Origin, outcome: Result<(), String>) {
        let feed = self.feeds.entry(origin).or_insert(Feed { heard: None, problem: None });
        feed.problem = outcome.err();
        if feed.problem.is_none() {
            feed.heard = Some(Instant::now());
        }
    }

    pub(super) fn feed(&self, origin: Origin) -> Option<&Feed> {
        self.feeds.get(&origin)
    }

    pub(super) fn apply(
        &mut self,
        origin: Origin,
        delta: Delta,
        known: &mut Writable<'_>,
    ) -> Result<(), Problem> {
        match delta {
            Delta::Service(name, spec) => self.define((origin, name), spec, known)?,
            Delta::NoService(name) => self.undefine(&(origin, name), known),
            Delta::Slice(spec) => self.slice(origin, &spec),
            Delta::NoSlice(name) => self.no_slice(origin, &name),
            Delta::Route(route) => self.route((origin, route.id.clone()), Some(route)),
            Delta::NoRoute(id) => self.route((origin, id), None),
            Delta::RefusedRoute(id, fault) => _ = self.refused_routes.insert((origin, id), fault),
        }
        Ok(())
    }

    /// Forgets what is not among `names`.
    pub(super) fn retain(
        &mut self,
        origin: Origin,
        kind: Kind,
        names: &HashSet<Arc<str>>,
        known: &mut Writable<'_>,
    ) {
        let is_gone = |id: &&(Origin, Arc<str>)| id.0 == origin && !names.contains(&id.1);
        match kind {
            Kind::Services => {
                let defined = self.services.iter().filter(|(_, entry)| entry.spec.is_some());
                let ids = defined.map(|(id, _)| id).chain(self.refused.keys());
                let gone: Vec<_> = ids.filter(is_gone).cloned().collect();
                gone.iter().for_each(|id| self.undefine(id, known));
            }
            Kind::Slices => {
                let gone: Vec<_> = self.owners.keys().filter(is_gone).cloned().collect();
                gone.iter().for_each(|(_, name)| self.no_slice(origin, name));
            }
            Kind::Routes(kind) => {
                let is_gone = |(of, id): &&RouteKey| {
                    *of == origin && id.kind == kind && !names.contains(&id.name)
                };
                let all = self.routes.keys().chain(self.refused_routes.keys());
                let gone: Vec<_> = all.filter(is_gone).cloned().collect();
                gone.into_iter().for_each(|key| self.route(key, None));
            }
        }
    }

    /// One that was declared as such, and not by its service.
    #[cfg(feature = "node")]
    pub(super) fn declared_route(&self, key: &RouteKey) -> Option<&Arc<Route>> {
        self.routes.get(key)
    }

    pub(super) const fn refused_routes(&self) -> &BTreeMap<RouteKey, String> {
        &self.refused_routes
    }

    fn route(&mut self, key: RouteKey, route: Option<Route>) {
        self.refused_routes.remove(&key);
        if self.routes.get(&key).map(|it| &**it) == route.as_ref() {
            return;
        }
        self.is_unlinked = true;
        match route {
            Some(route) => _ = self.routes.insert(key, Arc::new(route)),
            None => _ = self.routes.remove(&key),
        }
    }

    /// All routes, linked with the services that there are; `None` if nothing has changed for them.
    pub(super) fn link(&mut self, services_changed: bool) -> Option<Routes> {
        let is_unlinked = std::mem::take(&mut self.is_unlinked);
        if !is_unlinked && !services_changed {
            return None;
        }
        let routes = self.routes();
        if !is_unlinked && routes.is_empty() {
            return None;
        }
        let mut budgets = std::mem::take(&mut self.budgets);
        let linked = Routes::link(&routes, self.targets(), &mut budgets);
        self.budgets = budgets;
        Some(linked)
    }

    /// All of them, with those that services have of their own.
    pub(super) fn routes(&self) -> BTreeMap<RouteKey, Arc<Route>> {
        let specs = self.services.iter().filter_map(|(id, it)| Some((id.0, it.spec.as_ref()?)));
        let of_services = specs.flat_map(|(origin, spec)| {
            spec.routes.iter().map(move |it| ((origin, it.id.clone()), Arc::clone(it)))
        });
        let own = self.routes.iter().map(|(key, it)| (key.clone(), Arc::clone(it)));
        of_services.chain(own).collect()
    }

    fn define(
        &mut self,
        id: ServiceId,
        spec: ServiceSpec,
        known: &mut Writable<'_>,
    ) -> Result<(), Problem> {
        if let Err(problem) = check(&id, &spec, known) {
            self.refused.insert(id, (spec, problem.clone()));
            return Err(problem);
        }
        self.refused.remove(&id);
        let entry = self.services.entry(id.clone()).or_default();
        if entry.spec.as_ref() == Some(&spec) {
            return Ok(());
        }
        let before = std::mem::take(&mut entry.targets);
        let frees = !before.is_empty();
        remove(&before, known);
        let wanted = spec.ports.iter().flat_map(by_family);
        entry.targets = wanted
            .map(|(is_ipv6, port)| {
                let of_port =
                    |it: &&Arc<Target>| it.port_name() == &*port.name && it.is_ipv6() == is_ipv6;
                match before.iter().find(of_port) {
                    Some(before) if before.is(&port, &spec.policy) => Arc::clone(before),
                    before => {
                        let target = Target::new(id.clone(), port, is_ipv6, spec.policy.clone());
                        if let Some(before) = before {
                            target.continue_from(before);
                            if let Some(endpoints) = before.instantiated() {
                                target.set_endpoints(endpoints);
                            }
                        }
                        Arc::new(target)
                    }
                }
            })
            .collect();
        for target in &entry.targets {
            for frontend in target.frontends() {
                known.write().insert(*frontend, Arc::clone(target));
            }
        }
        let before = entry.spec.as_ref().map_or(&[][..], |before| &before.routes);
        self.is_unlinked |= before != spec.routes;
        entry.spec = Some(spec);
        self.refresh(&id);
        if frees {
            self.retry(known);
        }
        Ok(())
    }

    fn undefine(&mut self, id: &ServiceId, known: &mut Writable<'_>) {
        self.refused.remove(id);
        let Some(entry) = self.services.get_mut(id) else { return };
        remove(&entry.targets, known);
        entry.targets.clear();
        let spec = entry.spec.take();
        self.is_unlinked |= spec.is_some_and(|spec| !spec.routes.is_empty());
        if entry.slices.is_empty() {
            self.services.remove(id);
        }
        self.retry(known);
    }

    /// Addresses are free again: those who were refused them may have them.
    fn retry(&mut self, known: &mut Writable<'_>) {
        for (id, (spec, _)) in std::mem::take(&mut self.refused) {
            // It is noted anew where it is refused again.
            let _ = self.define(id, spec, known);
        }
    }

    fn slice(&mut self, origin: Origin, spec: &SliceSpec) {
        self.learn_zone(spec);
        let slice = Slice::new(spec, &mut self.names, &mut self.hints);
        let key = (origin, Arc::clone(&spec.name));
        if self.owners.get(&key).is_some_and(|owner| *owner != spec.service) {
            self.no_slice(origin, &spec.name);
        }
        self.owners.insert(key, Arc::clone(&spec.service));
        let id = (origin, Arc::clone(&spec.service));
        let entry = self.services.entry(id.clone()).or_default();
        match entry.slices.iter_mut().find(|before| before.name == slice.name) {
            Some(before) if *before == slice => return,
            Some(before) => *before = slice,
            None => {
                entry.slices.reserve_exact(1);
                entry.slices.push(slice);
            }
        }
        self.refresh(&id);
    }

    fn no_slice(&mut self, origin: Origin, name: &Arc<str>) {
        let Some(service) = self.owners.remove(&(origin, Arc::clone(name))) else { return };
        let id = (origin, service);
        let Some(entry) = self.services.get_mut(&id) else { return };
        entry.slices.retain(|slice| slice.name != *name);
        if entry.slices.is_empty() && entry.spec.is_none() {
            self.services.remove(&id);
        } else {
            self.refresh(&id);
        }
    }

    /// Moves what is kept together.
    #[cfg(feature = "node")]
    pub(super) fn settle(&mut self) {
        let slices = self.services.values().flat_map(|entry| &entry.slices);
        // All of them before the first is freed: it would be the place of the next.
        let moved: Vec<_> = slices.map(|slice| slice.addresses.clone()).collect();
        let slices = self.services.values_mut().flat_map(|entry| &mut entry.slices);
        for (slice, addresses) in slices.zip(moved) {
            slice.addresses = addresses;
        }
    }

    /// The zone of an endpoint on this node is this node's.
    fn learn_zone(&mut self, spec: &SliceSpec) {
        if self.place.zone.is_some() || self.place.node.is_none() {
            return;
        }
        let here = |it: &&super::Address| it.node == self.place.node && it.zone.is_some();
        if let Some(address) = spec.addresses.iter().find(here) {
            self.place.zone.clone_from(&address.zone);
            self.place.zone.iter().for_each(|zone| _ = self.names.id(zone));
            let ids: Vec<_> = self.services.keys().cloned().collect();
            ids.iter().for_each(|id| self.refresh(id));
        }
    }

    /// Puts the endpoints of a service together again, where connections use them.
    fn refresh(&self, id: &ServiceId) {
        let Some(entry) = self.services.get(id) else { return };
        for target in entry.targets.iter().filter(|target| target.instantiated().is_some()) {
            target.set_endpoints(Arc::new(self.endpoints(&entry.slices, target)));
        }
    }

    pub(super) fn instantiate(&mut self, target: &Target) -> Arc<Endpoints> {
        // Another connection may have been first.
        if let Some(endpoints) = target.instantiated() {
            return endpoints;
        }
        let endpoints = Arc::new(self.look(target));
        target.set_endpoints(Arc::clone(&endpoints));
        endpoints
    }

    pub(super) fn look(&self, target: &Target) -> Endpoints {
        let id = (target.origin(), Arc::clone(target.service()));
        let slices = self.services.get(&id).map_or(&[][..], |entry| &entry.slices);
        self.endpoints(slices, target)
    }

    fn endpoints(&self, slices: &[Slice], target: &Target) -> Endpoints {
        let Self { names, hints, place, .. } = self;
        let port = names.find(Some(target.port_name()));
        let of = |is_ipv6| select(slices, port, is_ipv6, target.policy(), (names, hints, place));
        let mut selected = of(target.is_ipv6());
        // In a cluster an address of either family stands for the endpoints of that family.
        if selected.is_empty() && target.origin() == Origin::Config {
            selected = of(!target.is_ipv6());
        }
        let before = target.instantiated();
        Endpoints::new(&selected, before.as_deref(), target.policy(), (names, place))
    }
}

// === helpers ===

/// Whether no other service has one of its addresses.
fn check(id: &ServiceId, spec: &ServiceSpec, known: &Writable<'_>) -> Result<(), Problem> {
    let mut own = HashSet::new();
    for frontend in spec.ports.iter().flat_map(|port| &port.frontends) {
        let owner = known.get(frontend).filter(|it| (it.origin(), it.service()) != (id.0, &id.1));
        let owner = match owner {
            Some(owner) => Arc::clone(owner.service()),
            None if !own.insert(frontend) => Arc::clone(&id.1),
            None => continue,
        };
        let fault = Fault::Claimed { frontend: *frontend, owner };
        return Err(Problem { place: format!("service {}", id.1), fault });
    }
    Ok(())
}

fn remove(targets: &[Arc<Target>], known: &mut Writable<'_>) {
    for frontend in targets.iter().flat_map(|target| target.frontends()) {
        known.write().remove(frontend);
    }
}

/// A port once for each address family of its addresses.
fn by_family(port: &PortSpec) -> impl Iterator<Item = (bool, PortSpec)> {
    [false, true].into_iter().filter_map(move |is_ipv6| {
        let of_family = |it: &&SocketAddr| it.is_ipv6() == is_ipv6;
        let frontends: Vec<_> = port.frontends.iter().filter(of_family).copied().collect();
        (!frontends.is_empty()).then(|| (is_ipv6, PortSpec { frontends, ..port.clone() }))
    })
}
