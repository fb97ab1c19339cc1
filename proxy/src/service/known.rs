//! All services, for those who look them up and those who tell of them.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard},
};

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::sync::watch;

use super::{
    Delta, Endpoints, Kind, Origin, Place, Problem, Target, WorkloadMode,
    error::Fault,
    routes::{RouteKey, Routes, Routing},
    state::{Feed, State},
};
use crate::{balance::Mode, route::Route, sync::lock};

/// All services that are known.
#[derive(Debug)]
pub struct Services {
    known: ArcSwap<Known>,
    state: Mutex<State>,
    default_mode: Mode,
    /// `None` while there are none.
    routes: ArcSwapOption<Routes>,
    /// Told whenever routes are linked anew.
    linked: watch::Sender<()>,
    /// Frontends of services that no cluster routes.
    unrouted: watch::Sender<Arc<HashSet<IpAddr>>>,
}

/// What destinations are looked up in.
#[derive(Clone, Debug, Default)]
pub struct Known {
    pub(super) by_address: HashMap<SocketAddr, Arc<Target>>,
}

// === impl Services ===

impl Default for Services {
    fn default() -> Self {
        Self::new(Mode::default(), Place::default())
    }
}

impl Services {
    /// None yet. `default_mode` is for services and workloads that ask for nothing.
    #[must_use]
    pub fn new(default_mode: Mode, place: Place) -> Self {
        Self {
            known: ArcSwap::default(),
            state: Mutex::new(State::new(place)),
            default_mode,
            routes: ArcSwapOption::empty(),
            linked: watch::Sender::default(),
            unrouted: watch::Sender::default(),
        }
    }

    /// The mode of services and workloads that ask for nothing.
    #[must_use]
    pub const fn default_mode(&self) -> Mode {
        self.default_mode
    }

    /// The mode in effect for connections of a workload to a service.
    pub(super) fn mode(&self, target: &Target, workload: &WorkloadMode) -> Mode {
        target.policy().mode(workload.get(), self.default_mode)
    }

    /// The service that a destination belongs to. One look-up, without a lock.
    #[must_use]
    pub fn find(&self, destination: SocketAddr) -> Option<Arc<Target>> {
        let known = self.known.load();
        if known.by_address.is_empty() {
            return None;
        }
        let plain = SocketAddr::new(destination.ip().to_canonical(), destination.port());
        known.by_address.get(&plain).cloned()
    }

    /// The rules for requests of clients in a namespace to a destination, if it is a service with routes.
    /// Costs next to nothing where there are no routes at all.
    pub(super) fn routing(
        &self,
        destination: SocketAddr,
        namespace: Option<&str>,
    ) -> Option<Arc<Routing>> {
        let routes = self.routes.load();
        let target = routes.as_ref().and_then(|_| self.find(destination))?;
        routes.as_ref()?.of(&target, destination.port(), namespace).cloned()
    }

    /// All routes.
    pub(super) fn all_routes(&self) -> BTreeMap<RouteKey, Arc<Route>> {
        self.lock().routes()
    }

    /// Routes of which the newest version was not taken over, and why.
    pub(super) fn refused_routes(&self) -> BTreeMap<RouteKey, String> {
        self.lock().refused_routes().clone()
    }

    /// A route, why its newest version was not taken over, and how all are linked, at one moment.
    #[cfg(feature = "node")]
    pub(super) fn route(
        &self,
        key: &RouteKey,
    ) -> (Option<Arc<Route>>, Option<String>, Option<Arc<Routes>>) {
        let state = self.lock();
        let (route, refused) = (state.declared_route(key), state.refused_routes().get(key));
        (route.cloned(), refused.cloned(), self.routes())
    }

    /// Changes of what is in force of routes.
    #[cfg(feature = "node")]
    pub(crate) fn linked(&self) -> watch::Receiver<()> {
        self.linked.subscribe()
    }

    /// All routes, as they are linked.
    pub(super) fn routes(&self) -> Option<Arc<Routes>> {
        self.routes.load_full()
    }

    /// The addresses of all services.
    #[must_use]
    pub fn addresses(&self) -> HashSet<SocketAddr> {
        self.known.load().by_address.keys().copied().collect()
    }

    /// The endpoints of a service. The first connection to it has them put together.
    #[must_use]
    pub fn endpoints(&self, target: &Target) -> Arc<Endpoints> {
        target.instantiated().unwrap_or_else(|| self.lock().instantiate(target))
    }

    /// The same for those who only look: nothing is put together for connections to come.
    pub(super) fn look(&self, target: &Target) -> Arc<Endpoints> {
        target.instantiated().unwrap_or_else(|| Arc::new(self.lock().look(target)))
    }

    /// All targets, in no order.
    #[must_use]
    pub fn targets(&self) -> Vec<Arc<Target>> {
        self.lock().targets().cloned().collect()
    }

    /// Changes what is known of an origin.
    ///
    /// # Errors
    /// What was not taken over, each with its object. Everything else was.
    pub fn apply(
        &self,
        origin: Origin,
        deltas: impl IntoIterator<Item = Delta>,
    ) -> Result<(), Vec<Problem>> {
        self.change(|state, known| {
            deltas.into_iter().filter_map(|delta| state.apply(origin, delta, known).err()).collect()
        })
    }

    /// Replaces all that is known of an origin.
    ///
    /// # Errors
    /// As for [`Self::apply`].
    pub fn replace(&self, origin: Origin, deltas: Vec<Delta>) -> Result<(), Vec<Problem>> {
        self.change(|state, known| {
            let mut there: HashMap<Kind, HashSet<Arc<str>>> = HashMap::new();
            for (kind, name) in deltas.iter().filter_map(Delta::object) {
                there.entry(kind).or_default().insert(Arc::clone(name));
            }
            // What is gone first: what comes may have its addresses.
            for kind in Kind::ALL {
                state.retain(origin, kind, &there.remove(&kind).unwrap_or_default(), known);
            }
            deltas.into_iter().filter_map(|delta| state.apply(origin, delta, known).err()).collect()
        })
    }

    /// Forgets what a complete list of an origin does not have.
    pub fn retain(&self, origin: Origin, kind: Kind, names: &HashSet<Arc<str>>) {
        // Nothing can be refused.
        let _ = self.change(|state, known| {
            state.retain(origin, kind, names, known);
            Vec::new()
        });
    }

    /// Gives memory back to the kernel after a large change: what is parsed takes ten times what is kept
    /// of it, and what is kept lies scattered in between.
    #[cfg(feature = "node")]
    pub(crate) fn settle(&self) {
        self.lock().settle();
        crate::capture::Instance::trim_memory();
    }

    /// Notes whether an origin can be asked at present.
    pub fn heard(&self, origin: Origin, outcome: Result<(), String>) {
        self.lock().heard(origin, outcome);
    }

    /// What was heard of an origin.
    #[must_use]
    pub fn feed(&self, origin: Origin) -> Option<Feed> {
        self.lock().feed(origin).cloned()
    }

    /// What is refused of an origin at present.
    #[must_use]
    pub fn problems(&self, origin: Origin) -> Vec<Problem> {
        let mut problems = self.lock().problems(origin);
        if let Some(routes) = self.routes() {
            let of_origin = routes.problems.iter().filter(|it| it.0.0 == origin);
            problems.extend(of_origin.map(|(key, _, fault)| Problem {
                place: key.1.to_string(),
                fault: Fault::Other(fault.clone()),
            }));
        }
        problems
    }

    /// The addresses of services that only weir may have a route to, and their changes.
    #[must_use]
    pub fn unrouted(&self) -> watch::Receiver<Arc<HashSet<IpAddr>>> {
        self.unrouted.subscribe()
    }

    fn change(
        &self,
        change: impl FnOnce(&mut State, &mut Writable<'_>) -> Vec<Problem>,
    ) -> Result<(), Vec<Problem>> {
        let mut state = self.lock();
        let before = self.known.load_full();
        let mut known = Writable { before: &before, changed: None };
        let problems = change(&mut state, &mut known);
        if let Some(routes) = state.link(known.changed.is_some()) {
            self.routes.store((!routes.is_empty()).then(|| Arc::new(routes)));
            self.linked.send_replace(());
        }
        if let Some(changed) = known.changed {
            let of_weir = |target: &&Arc<Target>| target.origin() != Origin::Cluster;
            let targets = changed.by_address.values().filter(of_weir);
            let unrouted: HashSet<_> =
                targets.flat_map(|target| target.frontends()).map(SocketAddr::ip).collect();
            self.known.store(Arc::new(changed));
            self.unrouted.send_if_modified(|known| {
                let is_new = **known != unrouted;
                if is_new {
                    *known = Arc::new(unrouted);
                }
                is_new
            });
        }
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

/// The index, copied before its first change.
pub(super) struct Writable<'a> {
    before: &'a Known,
    changed: Option<Known>,
}

// === impl Writable ===

impl Writable<'_> {
    pub(super) fn get(&self, frontend: &SocketAddr) -> Option<&Arc<Target>> {
        self.changed.as_ref().unwrap_or(self.before).by_address.get(frontend)
    }

    pub(super) fn write(&mut self) -> &mut HashMap<SocketAddr, Arc<Target>> {
        &mut self.changed.get_or_insert_with(|| self.before.clone()).by_address
    }
}
