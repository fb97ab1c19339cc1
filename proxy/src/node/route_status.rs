//! What weir says of routes in the cluster: conditions in `status.parents` (Gateway API, "Route status"), and
//! an Event for what is not in force.
//!
//! All nodes see the same, and one of them writes: each waits for a time by chance, and writes only
//! what is not there by then, on the version that it has seen. If another controller of weir's name, such
//! as another version of weir, keeps writing something else, the waits grow.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use k8s_openapi::api::core::v1::ObjectReference;
use kube::api::{Patch, PatchParams};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until},
};

use super::{
    cluster::{Server, full},
    events::{Reason, Reports},
};
use crate::{
    route::{RouteId, RouteKind},
    service::{
        Kind, Origin, RouteState, Services,
        kubernetes::{GrpcRouteObject, HttpRouteObject, RouteSeen},
    },
    sync::lock,
    units::rfc3339,
};

/// Who says it (`controllerName`).
const CONTROLLER: &str = "weir.dev/mesh";
/// As the Gateway API names the conditions.
const ACCEPTED: &str = "Accepted";
const RESOLVED_REFS: &str = "ResolvedRefs";
/// A first write waits for up to so long: one node of many is first, and the others see what it has written.
const SPREAD: Duration = Duration::from_secs(3);
/// From the first write of a text to the second; then twice as long each time.
const AGAIN: Duration = Duration::from_secs(4);
const LONGEST: Duration = Duration::from_secs(3600);
/// Changes come in bursts.
const BURST: Duration = Duration::from_millis(100);

/// The routes of the cluster, as they were seen last.
#[derive(Debug, Default)]
pub(super) struct Statuses {
    state: Mutex<State>,
    changed: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct State {
    routes: BTreeMap<RouteId, RouteSeen>,
    /// Those of which a list was complete: what is not known before is not missing.
    listed: HashSet<Kind>,
}

/// What is to be written of a route, and when.
#[derive(Debug)]
struct Plan {
    parents: Vec<Value>,
    due: Instant,
    written: u32,
}

// === impl Statuses ===

impl Statuses {
    /// Routes are as this says, and the model knows it.
    pub(super) fn seen(&self, routes: impl Iterator<Item = RouteSeen>) {
        let mut is_news = false;
        let mut state = lock(&self.state);
        for route in routes {
            is_news = true;
            // Routes of gateways are none of weir's.
            match route.parents.is_empty() && !route.said.iter().any(is_own) {
                true => _ = state.routes.remove(&route.id),
                false => _ = state.routes.insert(route.id.clone(), route),
            }
        }
        drop(state);
        if is_news {
            self.changed.send_replace(());
        }
    }

    pub(super) fn gone(&self, kind: Kind, name: Arc<str>) {
        if let Kind::Routes(kind) = kind {
            lock(&self.state).routes.remove(&RouteId { kind, name });
        }
    }

    /// A list is complete.
    pub(super) fn listed(&self, kind: Kind, names: &HashSet<Arc<str>>) {
        let mut state = lock(&self.state);
        if let Kind::Routes(kind) = kind {
            state.routes.retain(|id, _| id.kind != kind || names.contains(&id.name));
        }
        if state.listed.insert(kind) {
            drop(state);
            self.changed.send_replace(());
        }
    }

    fn all(&self) -> Vec<RouteSeen> {
        let state = lock(&self.state);
        let is_known = |it: &&RouteSeen| {
            state.listed.contains(&Kind::Services)
                && state.listed.contains(&Kind::Routes(it.id.kind))
        };
        state.routes.values().filter(is_known).cloned().collect()
    }
}

/// Writes for ever what is not said yet.
pub(super) async fn write(
    server: Server,
    services: Arc<Services>,
    statuses: Arc<Statuses>,
    reports: Reports,
) {
    let (mut linked, mut seen) = (services.linked(), statuses.changed.subscribe());
    let mut plans: BTreeMap<RouteId, Plan> = BTreeMap::new();
    let mut refused = None;
    loop {
        linked.borrow_and_update();
        seen.borrow_and_update();
        let now = Instant::now();
        let mut next = now + LONGEST;
        let all = statuses.all();
        plans.retain(|id, plan| plan.due > now || all.iter().any(|it| it.id == *id));
        for route in &all {
            let state = services.route_state(Origin::Cluster, &route.id);
            let parents = parents(route, state.as_ref());
            if is_said(&route.said, &parents) {
                // Not forgotten while another write of the same would be too soon.
                if plans.get(&route.id).is_some_and(|plan| plan.due <= now) {
                    plans.remove(&route.id);
                }
                continue;
            }
            let plan = plans.entry(route.id.clone()).or_insert_with(|| Plan::new(now));
            if plan.parents != parents {
                *plan = Plan { parents, ..Plan::new(now) };
            }
            if plan.due > now {
                next = next.min(plan.due);
                continue;
            }
            plan.wait(now);
            next = next.min(plan.due);
            match patch(&server, route, &plan.parents).await {
                Ok(written) => {
                    refused = None;
                    report(&reports, route, state.as_ref());
                    statuses.seen(written.into_iter());
                }
                Err(error) if refused.as_ref() != Some(&error) => {
                    let url = &server.url;
                    tracing::warn!(url, error, "cannot write the status of {}; retrying", route.id);
                    refused = Some(error);
                }
                Err(_) => {}
            }
        }
        tokio::select! {
            _ = linked.changed() => sleep(BURST).await,
            _ = seen.changed() => sleep(BURST).await,
            () = sleep_until(next) => {}
        }
    }
}

// === impl Plan ===

impl Plan {
    fn new(now: Instant) -> Self {
        let wait = SPREAD.mul_f64(fastrand::f64());
        Self { parents: Vec::new(), due: now + wait, written: 0 }
    }

    /// It is written now.
    fn wait(&mut self, now: Instant) {
        let wait = AGAIN.saturating_mul(1 << self.written.min(16)).min(LONGEST);
        self.written += 1;
        self.due = now + wait;
    }
}

// === helpers ===

/// The route as it is then; `None` where it has changed or is gone meanwhile.
async fn patch(
    server: &Server,
    route: &RouteSeen,
    parents: &[Value],
) -> Result<Option<RouteSeen>, String> {
    match route.id.kind {
        RouteKind::Http => patch_as(server, route, parents, HttpRouteObject::seen).await,
        RouteKind::Grpc => patch_as(server, route, parents, GrpcRouteObject::seen).await,
    }
}

async fn patch_as<K>(
    server: &Server,
    route: &RouteSeen,
    parents: &[Value],
    seen: fn(&K) -> RouteSeen,
) -> Result<Option<RouteSeen>, String>
where
    K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>,
    K: Clone + std::fmt::Debug + DeserializeOwned,
{
    let namespace = route.metadata.namespace.as_deref().unwrap_or("default");
    let name = route.metadata.name.as_deref().unwrap_or_default();
    let api = kube::Api::<K>::namespaced(server.client.clone(), namespace);
    let patch = json!({
        "metadata": {"resourceVersion": route.metadata.resource_version},
        "status": {"parents": with_times(&route.said, parents, &rfc3339(SystemTime::now()))},
    });
    match api.patch_status(name, &PatchParams::default(), &Patch::Merge(&patch)).await {
        Ok(object) => Ok(Some(seen(&object))),
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(None),
        Err(error) => Err(full(&error)),
    }
}

/// What is not in force, as Events.
fn report(reports: &Reports, route: &RouteSeen, state: Option<&RouteState>) {
    let Some(state) = state else { return };
    let metadata = &route.metadata;
    let of = || ObjectReference {
        api_version: Some("gateway.networking.k8s.io/v1".to_owned()),
        kind: Some(route.id.kind.name().to_owned()),
        namespace: metadata.namespace.clone(),
        name: metadata.name.clone(),
        uid: metadata.uid.clone(),
        ..ObjectReference::default()
    };
    if let Some(fault) = &state.refused {
        let why = format!("weir has refused this version of the route: {fault}");
        reports.route(of(), Reason::RouteRefused, &why);
    }
    for fault in state.parents.iter().flatten() {
        reports.route(of(), Reason::RouteRefused, &format!("the route is not in force: {fault}"));
    }
    for fault in &state.unresolved {
        reports.route(of(), Reason::BackendNotFound, fault);
    }
}

/// `status.parents` as far as it is weir's, without times.
fn parents(route: &RouteSeen, state: Option<&RouteState>) -> Vec<Value> {
    let Some(state) = state else { return Vec::new() };
    let generation = route.metadata.generation;
    let condition = |kind: &str, status: &str, reason: &str, message: &str| {
        let mut condition =
            json!({"type": kind, "status": status, "reason": reason, "message": message});
        if let Some(generation) = generation {
            condition["observedGeneration"] = json!(generation);
        }
        condition
    };
    let of_parent = |(place, parent): (usize, &Value)| {
        let fault = state.parents.get(place).and_then(Option::as_deref);
        let accepted = match (&state.refused, fault) {
            (Some(fault), _) => condition(ACCEPTED, "False", "UnsupportedValue", fault),
            (None, Some(fault)) => condition(ACCEPTED, "False", "NoMatchingParent", fault),
            (None, None) => condition(ACCEPTED, "True", "Accepted", ""),
        };
        let resolved = match state.unresolved.as_slice() {
            [] => condition(RESOLVED_REFS, "True", "ResolvedRefs", ""),
            faults => condition(RESOLVED_REFS, "False", "BackendNotFound", &faults.join("; ")),
        };
        let conditions = match state.refused {
            // Its backends are not known.
            Some(_) => vec![accepted],
            None => vec![accepted, resolved],
        };
        json!({"parentRef": parent, "controllerName": CONTROLLER, "conditions": conditions})
    };
    route.parents.iter().enumerate().map(of_parent).collect()
}

fn is_own(parent: &Value) -> bool {
    parent["controllerName"] == CONTROLLER
}

/// Whether this, and nothing else, is said of weir's.
fn is_said(said: &[Value], parents: &[Value]) -> bool {
    let own: Vec<_> = said.iter().filter(|it| is_own(it)).map(without_times).collect();
    own.len() == parents.len() && parents.iter().all(|it| own.contains(it))
}

fn without_times(parent: &Value) -> Value {
    let mut parent = parent.clone();
    for condition in parent["conditions"].as_array_mut().into_iter().flatten() {
        if let Some(fields) = condition.as_object_mut() {
            fields.remove("lastTransitionTime");
        }
    }
    parent
}

/// What is to be said then: of other controllers what they have said. A condition whose status stays keeps
/// the time of its last change.
fn with_times(said: &[Value], parents: &[Value], now: &str) -> Vec<Value> {
    let mut all: Vec<_> = said.iter().filter(|it| !is_own(it)).cloned().collect();
    for parent in parents {
        let before = said.iter().find(|it| is_own(it) && it["parentRef"] == parent["parentRef"]);
        let mut parent = parent.clone();
        for condition in parent["conditions"].as_array_mut().into_iter().flatten() {
            let is_same = |it: &&Value| {
                it["type"] == condition["type"] && it["status"] == condition["status"]
            };
            let conditions = before.and_then(|it| it["conditions"].as_array());
            let known = conditions.and_then(|all| all.iter().find(is_same));
            let time = known.map(|it| &it["lastTransitionTime"]).filter(|it| it.is_string());
            condition["lastTransitionTime"] = time.cloned().unwrap_or_else(|| json!(now));
        }
        all.push(parent);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::kubernetes::parse;

    const SERVICE: &str = "kind: Service\nmetadata: {name: a, namespace: shop}\nspec: {clusterIP: 10.96.0.1, \
                           ports: [{name: web, port: 80}]}\n";

    /// What is said of a route with these parents and rules, and what is then.
    fn said(refs: &Value, rules: &Value, before: &Value) -> Vec<Value> {
        let services = Services::default();
        services.apply(Origin::Cluster, parse(SERVICE).unwrap()).unwrap();
        let object: HttpRouteObject = serde_json::from_value(json!({
            "metadata": {"name": "r", "namespace": "shop", "generation": 3},
            "spec": {"parentRefs": refs, "rules": rules}, "status": {"parents": before},
        }))
        .unwrap();
        services.apply(Origin::Cluster, [object.delta(false)]).unwrap();
        let seen = object.seen();
        let state = services.route_state(Origin::Cluster, &seen.id);
        let wanted = parents(&seen, state.as_ref());
        let all = with_times(&seen.said, &wanted, "now");
        assert_eq!(is_said(&seen.said, &wanted), all == seen.said, "{all:?}");
        assert!(is_said(&all, &wanted));
        all
    }

    /// `PORT: TYPE STATUS REASON MESSAGE` of each condition.
    fn lines(said: &[Value]) -> Vec<String> {
        let mut lines = Vec::new();
        for parent in said {
            for it in parent["conditions"].as_array().unwrap() {
                assert_eq!(it["observedGeneration"], 3);
                let text = |name: &str| it[name].as_str().unwrap().to_owned();
                let [kind, status, reason, message] =
                    ["type", "status", "reason", "message"].map(text);
                let port = &parent["parentRef"]["port"];
                lines.push(format!("{port}: {kind} {status} {reason} {message}").trim().to_owned());
            }
        }
        lines
    }

    fn parent(port: u16) -> Value {
        json!({"group": "", "kind": "Service", "name": "a", "port": port})
    }

    #[test]
    fn each_parent_has_the_conditions_of_the_gateway_api() {
        let rules = json!([{"backendRefs": [{"name": "a", "port": 80}]}]);
        let all = said(&json!([parent(80), parent(81)]), &rules, &json!([]));
        let expected = [
            "80: Accepted True Accepted",
            "80: ResolvedRefs True ResolvedRefs",
            "81: Accepted False NoMatchingParent the parent shop/a:81 is no port of the service",
            "81: ResolvedRefs True ResolvedRefs",
        ];
        assert_eq!(lines(&all), expected);
        let named = |name: &str| {
            let mut parent = parent(80);
            parent["sectionName"] = json!(name);
            parent
        };
        let all = lines(&said(&json!([named("web"), named("admin")]), &rules, &json!([])));
        let expected = "80: Accepted False NoMatchingParent the parent shop/a:80 (admin) is no port of the \
                        service";
        assert_eq!((&*all[0], &*all[2]), ("80: Accepted True Accepted", expected));
        let rules = json!([{"backendRefs": [{"name": "b", "port": 80}]}]);
        let all = lines(&said(&json!([parent(80)]), &rules, &json!([])));
        assert!(all[1].starts_with("80: ResolvedRefs False BackendNotFound rule 0: the backend"));
        let rules = json!([{"backendRef": []}]);
        let all = lines(&said(&json!([parent(80)]), &rules, &json!([])));
        assert_eq!(all.len(), 1, "{all:?}");
        let expected = "80: Accepted False UnsupportedValue unknown field `backendRef`";
        assert!(all[0].starts_with(expected), "{all:?}");
    }

    #[test]
    fn what_others_say_stays_and_so_does_the_time_of_a_status() {
        let rules = json!([{"backendRefs": [{"name": "a", "port": 80}]}]);
        let other = json!({"parentRef": parent(80), "controllerName": "example.org/other",
            "conditions": [{"type": "Accepted", "status": "False"}]});
        let first = said(&json!([parent(80)]), &rules, &json!([other]));
        assert_eq!((first.len(), &first[0]), (2, &other));
        let mut before = first.clone();
        before[1]["conditions"][0]["lastTransitionTime"] = json!("then");
        before[1]["conditions"][1]["lastTransitionTime"] = json!("then");
        let again = said(&json!([parent(80)]), &rules, &json!(before));
        assert_eq!(again, before);
        before[1]["conditions"][0]["observedGeneration"] = json!(2);
        before[1]["conditions"][1]["status"] = json!("False");
        let next = said(&json!([parent(80)]), &rules, &json!(before));
        assert_eq!(next[1]["conditions"][0]["lastTransitionTime"], "then");
        assert_eq!(next[1]["conditions"][1]["lastTransitionTime"], "now");
        // Without a Service as parent there is nothing to say.
        assert_eq!(said(&json!([]), &rules, &json!(before)), [other]);
    }

    #[test]
    fn writes_of_the_same_become_rare() {
        let now = Instant::now();
        let mut plan = Plan::new(now);
        assert!(plan.due <= now + SPREAD);
        let waits: Vec<_> = (0..12)
            .map(|_| {
                plan.wait(now);
                (plan.due - now).as_secs()
            })
            .collect();
        assert_eq!(waits, [4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 3600, 3600]);
    }
}
