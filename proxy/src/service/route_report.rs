//! What is in force of routes, for people and programs.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use serde::{Deserialize, Serialize};
use weir_http::{FieldEdit, RequestView, RetryPolicy, TimeLimits};

#[cfg(feature = "node")]
use super::{Origin, routes::Unlinked};
use super::{
    Services, SourceReport,
    routes::{InForce, RouteKey, Routes},
};
#[cfg(feature = "node")]
use crate::route::RouteId;
use crate::{
    route::{Count, Filters, PathChange, Route, retry_codes},
    telemetry::RouteFacts,
};

/// No more rules are in metrics.
const MOST_FACTS: usize = 512;

/// What of a route is in force.
#[cfg(feature = "node")]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RouteState {
    /// Why its newest version was not taken over, if it was not.
    pub(crate) refused: Option<String>,
    /// Why each of its parents that are services is none, if it is none.
    pub(crate) parents: Vec<Option<String>>,
    /// Backends that there are not.
    pub(crate) unresolved: Vec<String>,
}

/// All routes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RoutesReport {
    /// Where they are told from.
    pub sources: Vec<SourceReport>,
    /// By name.
    pub routes: Vec<RouteReport>,
}

/// A route.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RouteReport {
    /// `HTTPRoute` or `GRPCRoute`.
    pub kind: String,
    /// Its name.
    pub route: String,
    /// Where it is defined.
    pub source: String,
    /// When it was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// The ports of services that it is in force for, as `SERVICE:PORT`.
    pub in_force: Vec<String>,
    /// For the clients of its namespace alone.
    pub consumer: bool,
    /// What is not in force, and why.
    pub problems: Vec<String>,
    /// What has no effect.
    pub notes: Vec<String>,
    /// The rules.
    pub rules: Vec<RuleReport>,
}

/// A rule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RuleReport {
    /// The name, or the place among the rules, which counts from zero.
    pub rule: String,
    /// One of these is to match.
    pub matches: Vec<String>,
    /// What it changes.
    pub filters: Vec<String>,
    /// How long a request may take.
    #[serde(default)]
    pub timeouts: TimeoutsReport,
    /// Which requests are sent once more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<RetryReport>,
    /// How many requests pass, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<String>,
    /// Which requests are made to fail or to wait, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
    /// What requests to one endpoint have in common.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<String>,
    /// Where requests go.
    pub backends: Vec<BackendReport>,
}

/// The time limits of a rule, in seconds. What is absent has none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TimeoutsReport {
    /// Of a request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<f64>,
    /// Of a request at one endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<f64>,
    /// Without a byte.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle: Option<f64>,
}

/// The retries of a rule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RetryReport {
    /// Answers that are failures; a lost connection and an endpoint that is late always are.
    pub codes: Vec<String>,
    /// How often a request is sent once more, at most.
    pub attempts: u8,
    /// How long is waited before, at least, in seconds.
    pub backoff: f64,
}

/// A backend of a rule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BackendReport {
    /// The service.
    pub service: String,
    /// Its port, if the route says one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// As it is written.
    pub weight: u32,
    /// Its part of the requests, of 1.
    pub share: f64,
    /// Endpoints that are used; absent where it is not known how many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoints: Option<usize>,
}

/// What becomes of a request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RequestReport {
    /// The route, where a rule matches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
    /// What of the rule has matched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// The rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<RuleReport>,
    /// In words.
    pub outcome: String,
}

// === impl Services ===

impl Services {
    /// All routes, and what of them is in force.
    #[must_use]
    pub fn report_routes(&self) -> RoutesReport {
        let (linked, refused) = (self.routes(), self.refused_routes());
        let all = self.all_routes();
        let mut routes = BTreeMap::new();
        for (key, route) in &all {
            let report = report_of(self, (key, route), linked.as_deref(), refused.get(key));
            routes.insert(key, report);
        }
        for (key, fault) in refused.iter().filter(|it| !all.contains_key(it.0)) {
            routes.insert(key, RouteReport::refused(key, fault));
        }
        RoutesReport { sources: self.report_sources(), routes: routes.into_values().collect() }
    }

    /// What has come of the requests of each rule, for metrics: of the first ones by name where they are too
    /// many.
    #[must_use]
    pub fn route_facts(&self) -> Vec<RouteFacts> {
        let mut all: BTreeMap<_, BTreeMap<&'static str, u64>> = BTreeMap::new();
        for ((_, id), route) in self.all_routes() {
            for (place, rule) in route.rules.iter().enumerate() {
                // Two sources may have a route of one name.
                let of_rule = all
                    .entry((id.kind.name(), id.name.to_string(), rule.label(place).to_string()))
                    .or_default();
                for count in Count::ALL {
                    *of_rule.entry(count.name()).or_default() += rule.tally.get(count);
                }
            }
        }
        let facts = |((kind, route, rule), counts): (_, BTreeMap<_, _>)| {
            let requests = counts.into_iter().filter(|(_, count)| *count > 0).collect();
            RouteFacts { kind, route, rule, requests }
        };
        all.into_iter().map(facts).filter(|it| !it.requests.is_empty()).take(MOST_FACTS).collect()
    }

    /// What of a route is in force, and what is not; `None` for one that is not known.
    #[cfg(feature = "node")]
    pub(crate) fn route_state(&self, origin: Origin, id: &RouteId) -> Option<RouteState> {
        let key = (origin, id.clone());
        let (route, refused, linked) = self.route(&key);
        if refused.is_none() && route.is_none() {
            return None;
        }
        let mut parents = vec![None; route.map_or(0, |route| route.parents.len())];
        let mut unresolved = Vec::new();
        let problems = linked.iter().flat_map(|it| &it.problems).filter(|it| it.0 == key);
        for (_, of, fault) in problems {
            match of {
                Unlinked::Parent(place) => parents[*place] = Some(fault.clone()),
                Unlinked::Backend => unresolved.push(fault.clone()),
            }
        }
        Some(RouteState { refused, parents, unresolved })
    }

    /// What becomes of a request of a client in a namespace to a destination; `None` where the destination
    /// has no routes.
    #[must_use]
    pub fn report_request(
        &self,
        destination: SocketAddr,
        namespace: Option<&str>,
        request: &RequestView<'_>,
    ) -> Option<RequestReport> {
        let routing = self.routing(destination, namespace)?;
        let plain = |outcome: &str| {
            let outcome = outcome.to_owned();
            Some(RequestReport { route: None, by: None, rule: None, outcome })
        };
        if !routing.concerns(request) {
            return plain("the routes are for calls of gRPC alone: it goes to the service");
        }
        let Some((rule, by)) = routing.find(request) else {
            return plain("no rule matches: weir answers with 404");
        };
        let filters = &rule.rule().filters;
        let outcome = match &filters.redirect {
            Some(redirect) => {
                let location = redirect.location(request, by, destination.port());
                let location = location.unwrap_or_else(|| "a host that it has to name".to_owned());
                format!("weir answers with {} to {location}", redirect.status)
            }
            None if rule.shares().all(|(_, share)| share <= 0.0) => {
                "the rule has no backend: weir answers with 500".to_owned()
            }
            None => "it goes to one of the backends".to_owned(),
        };
        Some(RequestReport {
            route: Some(rule.route.id.to_string()),
            by: Some(by.to_string()),
            rule: Some(rule_report(self, rule, destination.is_ipv6())),
            outcome,
        })
    }
}

// === impl RouteReport ===

impl RouteReport {
    /// One of which nothing is in force.
    fn refused(key: &RouteKey, fault: &str) -> Self {
        Self {
            kind: key.1.kind.name().to_owned(),
            route: key.1.name.to_string(),
            source: key.0.name().to_owned(),
            created: None,
            in_force: Vec::new(),
            consumer: false,
            problems: vec![fault.to_owned()],
            notes: Vec::new(),
            rules: Vec::new(),
        }
    }
}

// === impl TimeoutsReport ===

impl From<TimeLimits> for TimeoutsReport {
    fn from(TimeLimits { request, backend, idle }: TimeLimits) -> Self {
        let seconds = |it: Option<Duration>| it.map(|it| it.as_secs_f64());
        Self { request: seconds(request), backend: seconds(backend), idle: seconds(idle) }
    }
}

// === impl RetryReport ===

impl From<&RetryPolicy> for RetryReport {
    fn from(RetryPolicy { on, attempts, backoff }: &RetryPolicy) -> Self {
        Self { codes: retry_codes(on), attempts: *attempts, backoff: backoff.as_secs_f64() }
    }
}

// === helpers ===

fn report_of(
    services: &Services,
    (key, route): (&RouteKey, &Route),
    linked: Option<&Routes>,
    refused: Option<&String>,
) -> RouteReport {
    let attached = linked.and_then(|it| it.attached.get(key));
    let in_force: Vec<_> =
        attached.into_iter().flatten().map(|(service, port)| format!("{service}:{port}")).collect();
    let problems = linked.iter().flat_map(|it| &it.problems).filter(|it| it.0 == *key);
    let mut problems: Vec<_> = problems.map(|it| it.2.clone()).collect();
    problems.extend(refused.cloned());
    RouteReport {
        kind: key.1.kind.name().to_owned(),
        route: key.1.name.to_string(),
        source: key.0.name().to_owned(),
        created: route.created.as_deref().map(str::to_owned),
        in_force,
        consumer: route.parents.iter().any(|it| route.consumers_of(&it.service).is_some()),
        problems,
        notes: route.notes.clone(),
        rules: linked
            .and_then(|it| it.rules_of(key))
            .map(|rules| rules.iter().map(|rule| rule_report(services, rule, false)).collect())
            .unwrap_or_default(),
    }
}

fn rule_report(services: &Services, in_force: &InForce, is_ipv6: bool) -> RuleReport {
    let rule = in_force.rule();
    let backends = in_force.shares().zip(&rule.backends).map(|((linked, share), backend)| {
        let target = linked.target(is_ipv6);
        BackendReport {
            service: backend.service.to_string(),
            port: backend.port,
            weight: backend.weight,
            share,
            endpoints: target.map(|target| services.look(&target).pool().len()),
        }
    });
    RuleReport {
        rule: rule.label(in_force.place).to_string(),
        matches: rule.alternatives().iter().map(ToString::to_string).collect(),
        filters: filters(&rule.filters),
        timeouts: TimeoutsReport::from(rule.limits),
        retry: rule.retry.as_deref().map(RetryReport::from),
        rate_limit: rule.rate.as_ref().map(|rate| rate.limit().to_string()),
        fault: rule.faults.as_ref().map(ToString::to_string),
        affinity: rule.affinity.as_ref().map(ToString::to_string),
        backends: backends.collect(),
    }
}

fn filters(it: &Filters) -> Vec<String> {
    let edit = |of: &'static str| {
        move |edit: &FieldEdit| match edit {
            FieldEdit::Set(name, value) => format!("{of}: set {name}: {value}"),
            FieldEdit::Add(name, value) => format!("{of}: add {name}: {value}"),
            FieldEdit::Remove(name) => format!("{of}: remove {name}"),
        }
    };
    let mut all: Vec<_> = it.request.iter().map(edit("request")).collect();
    all.extend(it.response.iter().map(edit("response")));
    let path = |change: &PathChange| match change {
        PathChange::Full(path) => format!("path {path}"),
        PathChange::Prefix(path) => format!("prefix {path}"),
    };
    if let Some(rewrite) = &it.rewrite {
        let host = rewrite.hostname.as_ref().map(|host| format!("host {host}"));
        let parts: Vec<_> = host.into_iter().chain(rewrite.path.as_ref().map(path)).collect();
        all.push(format!("rewrite: {}", parts.join(", ")));
    }
    if let Some(redirect) = &it.redirect {
        let parts = [
            Some(redirect.status.to_string()),
            redirect.scheme.as_ref().map(|it| format!("scheme {it}")),
            redirect.hostname.as_ref().map(|it| format!("host {it}")),
            redirect.port.map(|it| format!("port {it}")),
            redirect.path.as_ref().map(path),
        ];
        let parts: Vec<_> = parts.into_iter().flatten().collect();
        all.push(format!("redirect: {}", parts.join(", ")));
    }
    all
}
