//! What is known of services, for people and programs.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use super::{
    Endpoint, Endpoints, Origin, Services, Target,
    spread::{balanced_skew, skew},
};
use crate::{
    balance::{Mode, Moment, Standing},
    telemetry::ServiceFacts,
};

/// All services, or some.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ServicesReport {
    /// Where services are told from.
    pub sources: Vec<SourceReport>,
    /// By name.
    pub services: Vec<ServiceReport>,
}

/// Where services are told from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SourceReport {
    /// `cluster`, `directory` or `config`.
    pub source: String,
    /// Since it could be asked last; absent if it never could.
    pub age_ms: Option<u64>,
    /// Why it cannot be asked, or what in it is wrong.
    pub problem: Option<String>,
}

/// One port of a service, for one address family.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServiceReport {
    /// Its name.
    pub service: String,
    /// Where it is defined.
    pub source: String,
    /// The port's name; may be empty.
    pub port: String,
    /// What clients connect to.
    pub addresses: Vec<SocketAddr>,
    /// What the service or the default asks for.
    pub mode: Mode,
    /// Why the mode is what it is.
    pub why: String,
    /// The protocol that the service says it speaks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app_protocol: Option<String>,
    /// Connections by the reason of their choice.
    pub choices: BTreeMap<String, u64>,
    /// Connections that went to the service's own address, because endpoints failed.
    pub fallbacks: u64,
    /// Of connections: the most that an endpoint got by the mean; absent without any.
    pub skew: Option<f64>,
    /// The same of requests that were seen: what the endpoints really have to do.
    pub request_skew: Option<f64>,
    /// What it would be if each request had been balanced by itself.
    pub balanced_request_skew: Option<f64>,
    /// The last choice.
    pub last: Option<LastReport>,
    /// Used ones first.
    pub endpoints: Vec<EndpointReport>,
}

/// The last choice.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LastReport {
    /// The endpoint.
    pub endpoint: SocketAddr,
    /// `cheapest`, `failover` and so on.
    pub why: String,
    /// What it cost.
    pub cost_ms: f64,
    /// Endpoints that had failed for the same connection.
    pub failed_before: usize,
    /// How long ago.
    pub age_ms: u64,
}

/// An endpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EndpointReport {
    /// Where it is.
    pub address: SocketAddr,
    /// Its availability zone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// Its node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// `used`, `preferred`, `out`, `probing`, `terminating`, `not_ready` or `other_node`.
    pub state: String,
    /// Why, where it is not simply used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// What it costs now; absent where it is not used.
    pub cost_ms: Option<f64>,
    /// The estimated latency; absent where nothing is known.
    pub latency_ms: Option<f64>,
    /// Connections that are open or being opened; requests and streams where these are balanced.
    pub in_flight: u32,
    /// Connections that balanced requests share.
    #[serde(default)]
    pub connections: u32,
    /// Connections that it was chosen for.
    pub chosen: u64,
    /// Requests that were seen on them.
    pub requests: u64,
    /// Its part of the connections, of 1.
    pub share: f64,
    /// Failures.
    pub failed: u64,
    /// 1 is usual.
    pub weight: u16,
}

/// No more services are in metrics.
const MOST_FACTS: usize = 512;

// === impl Services ===

impl Services {
    /// What metrics call the service at an address, if there is one.
    #[must_use]
    pub fn name_of(&self, address: SocketAddr) -> Option<Arc<str>> {
        Some(name_of(&*self.find(address)?))
    }

    /// The services that connections were made to, for metrics: the first ones by name where they are
    /// too many.
    #[must_use]
    pub fn facts(&self) -> Vec<ServiceFacts> {
        let now = Moment::now();
        let used = |it: &Arc<Target>| it.choices().any(|(_, count)| count > 0);
        let mut targets: Vec<_> = self.targets().into_iter().filter(used).collect();
        targets.sort_by(|a, b| (a.service(), a.port_name()).cmp(&(b.service(), b.port_name())));
        targets.truncate(MOST_FACTS);
        targets.iter().filter_map(|target| facts_of(target, now)).collect()
    }

    /// The services whose name is `only`, or all of them.
    #[must_use]
    pub fn report(&self, only: Option<&str>) -> ServicesReport {
        self.report_where(|it| only.is_none_or(|name| is_named(it.service(), name)))
    }

    /// Those that connections were made to.
    #[must_use]
    pub fn report_used(&self) -> ServicesReport {
        self.report_where(|it| it.instantiated().is_some())
    }

    fn report_where(&self, is_wanted: impl Fn(&Target) -> bool) -> ServicesReport {
        let targets = self.targets();
        let wanted = targets.iter().filter(|it| is_wanted(it));
        let mut services: Vec<_> = wanted.map(|it| self.report_of(it)).collect();
        services.sort_by(|a, b| (&a.service, &a.addresses).cmp(&(&b.service, &b.addresses)));
        ServicesReport { sources: self.report_sources(), services }
    }

    /// Where services and routes are told from.
    pub(super) fn report_sources(&self) -> Vec<SourceReport> {
        let source = |origin: Origin| {
            let feed = self.feed(origin)?;
            let age = feed.heard.map(|heard: Instant| millis(heard.elapsed()));
            let source = origin.name().to_owned();
            Some(SourceReport { source, age_ms: age, problem: feed.problem })
        };
        let origins = [Origin::Cluster, Origin::Directory, Origin::Config];
        origins.into_iter().filter_map(source).collect()
    }

    /// The service that a destination belongs to.
    #[must_use]
    pub fn report_at(&self, destination: SocketAddr) -> Option<ServiceReport> {
        self.find(destination).map(|target| self.report_of(&target))
    }

    fn report_of(&self, target: &Target) -> ServiceReport {
        let policy = target.policy();
        let endpoints = self.look(target);
        let mode = policy.mode(None, self.default_mode());
        let why = match (policy.sticky, policy.mode) {
            (true, _) => "sessionAffinity is ClientIP",
            (false, Some(_)) => "the service asks for it",
            (false, None) => "default",
        };
        let first = target.frontends().first();
        let is_routed = first.is_some_and(|it| self.routing(*it, None).is_some());
        let mode = if is_routed { Mode::Requests } else { mode };
        let why = if is_routed {
            "it has routes"
        } else if mode != Mode::Off && endpoints.pool().len() < 2 {
            "fewer than two endpoints can be used: connections go to the service's own address"
        } else {
            why
        };
        let now = Moment::now();
        let last = target.last().map(|last| LastReport {
            endpoint: last.endpoint,
            why: last.why.name().to_owned(),
            cost_ms: last.cost * 1000.0,
            failed_before: last.tried,
            age_ms: millis(now.since(last.at)),
        });
        let choices = target.choices().filter(|(_, count)| *count > 0);
        let used = || endpoints.all().iter().filter(|it| it.used.is_used());
        ServiceReport {
            service: target.service().to_string(),
            source: target.origin().name().to_owned(),
            port: target.port_name().to_owned(),
            addresses: target.frontends().to_vec(),
            mode,
            why: why.to_owned(),
            app_protocol: target.app_protocol().map(str::to_owned),
            choices: choices.map(|(why, count)| (why.name().to_owned(), count)).collect(),
            fallbacks: target.fallbacks(),
            skew: skew(used().map(|it| it.stats.chosen())),
            request_skew: skew(used().map(|it| it.stats.requests())),
            balanced_request_skew: balanced_skew(used().map(|it| it.stats.requests())),
            last,
            endpoints: report_all(&endpoints, now),
        }
    }
}

// === impl ServiceReport ===

impl ServiceReport {
    /// Its name, with the port if that has one, as in metrics.
    #[must_use]
    pub fn label(&self) -> String {
        label(&self.service, &self.port, self.is_ipv6())
    }

    /// Whether the other one is about the same port, at another time.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        (&self.source, self.label()) == (&other.source, other.label())
    }

    fn is_ipv6(&self) -> bool {
        self.addresses.first().is_some_and(SocketAddr::is_ipv6)
    }
}

// === impl EndpointReport ===

impl EndpointReport {
    /// Whether it is one of those among which is chosen, even if it is out at present.
    #[must_use]
    pub fn is_used(&self) -> bool {
        matches!(&*self.state, "used" | "preferred" | "out" | "probing")
    }
}

// === helpers ===

/// What metrics call a service at an address.
fn name_of(target: &Target) -> Arc<str> {
    label(target.service(), target.port_name(), target.is_ipv6()).into()
}

/// A port's name in metrics and tables.
fn label(service: &str, port: &str, is_ipv6: bool) -> String {
    let colon = if port.is_empty() { "" } else { ":" };
    let family = if is_ipv6 { "/v6" } else { "" };
    format!("{service}{colon}{port}{family}")
}

fn facts_of(target: &Target, now: Moment) -> Option<ServiceFacts> {
    let endpoints = target.instantiated()?;
    let count =
        |is: &dyn Fn(&Endpoint) -> bool| endpoints.all().iter().filter(|it| is(it)).count() as u64;
    let is_out = |it: &Endpoint| it.stats.standing(now) != Standing::In;
    let choices = target.choices().map(|(why, count)| (why.name(), count));
    Some(ServiceFacts {
        service: name_of(target),
        endpoints: vec![
            ("used", count(&|it| it.used.is_used() && !is_out(it))),
            ("out", count(&|it| it.used.is_used() && is_out(it))),
            ("unused", count(&|it| !it.used.is_used())),
        ],
        connections: endpoints.all().iter().map(|it| u64::from(it.stats.shared())).sum(),
        choices: choices.chain([("original", target.fallbacks())]).collect(),
    })
}

/// A name without its namespace is enough.
fn is_named(service: &str, name: &str) -> bool {
    service == name || service.rsplit_once('/').is_some_and(|(_, short)| short == name)
}

fn report_all(endpoints: &Endpoints, now: Moment) -> Vec<EndpointReport> {
    let total: u64 = endpoints.all().iter().map(|it| it.stats.chosen()).sum();
    let report = |(at, it): (usize, &Endpoint)| {
        let stats = &it.stats;
        let in_pool = it.used.is_used();
        let (state, why) = match (in_pool, stats.standing(now)) {
            (false, _) => (it.used.name(), None),
            (true, Standing::In) => (it.used.name(), paused(stats.pause(now))),
            (true, Standing::Out(until)) => {
                let left = until.since(now).as_secs_f64();
                let failed = stats.failed_in_a_row();
                ("out", Some(format!("{failed} failures in a row; for another {left:.1}s")))
            }
            (true, Standing::Due) => ("out", Some("the next connection tries it".to_owned())),
            (true, Standing::Probing) => ("probing", Some("one connection tries it".to_owned())),
        };
        EndpointReport {
            address: it.address,
            zone: it.zone.as_deref().map(str::to_owned),
            node: it.node.as_deref().map(str::to_owned),
            state: state.to_owned(),
            why,
            cost_ms: in_pool.then(|| endpoints.pool().cost(at, now) * 1000.0),
            latency_ms: stats.estimate(now).map(|it| it.as_secs_f64() * 1000.0),
            in_flight: stats.in_flight(),
            connections: stats.shared(),
            chosen: stats.chosen(),
            requests: stats.requests(),
            share: if total == 0 { 0.0 } else { stats.chosen() as f64 / total as f64 },
            failed: stats.failed(),
            weight: it.weight,
        }
    };
    endpoints.all().iter().enumerate().map(report).collect()
}

fn paused(left: Duration) -> Option<String> {
    let left = left.as_secs_f64();
    (left > 0.0).then(|| format!("it asked for fewer requests; costs more for another {left:.1}s"))
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
