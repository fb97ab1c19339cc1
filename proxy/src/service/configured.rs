//! The services of the configuration, with what the DNS says of the names in them.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{mpsc, watch},
    task::{AbortHandle, JoinSet},
};

use super::{
    Address, Delta, Origin, Policy, PortSpec, Problem, ServiceSpec, Services, SlicePort, SliceSpec,
    dns,
};
use crate::{
    balance::Breaker,
    config::{HostPort, ProcessConfig, RouteConfig, ServiceConfig},
};

/// What is asked of the DNS.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Query {
    /// The addresses of a name.
    Host(String),
    /// The SRV records of a name.
    Srv(String),
}

/// An endpoint that the DNS knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its address.
    pub ip: IpAddr,
    /// Its port, where the DNS says one.
    pub port: u16,
    /// 1 is usual.
    pub weight: u16,
    /// Those of a higher tier are used when those of lower ones fail.
    pub tier: u8,
}

/// What has come of a query: the answer, and how long it holds.
pub(super) type Answer = Result<(Vec<Found>, Duration), String>;

/// What a configuration says of services.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Declared {
    /// The services.
    pub services: Vec<ServiceConfig>,
    /// The rules for requests to them.
    pub routes: Vec<RouteConfig>,
}

/// The services of a configuration.
struct Configured {
    services: Arc<Services>,
    config: Arc<Declared>,
    /// What is wrong, as it was logged last.
    said: Vec<Problem>,
    /// The last good answers.
    answers: HashMap<Query, Vec<Found>>,
    failures: BTreeMap<Query, String>,
    asking: HashMap<Query, AbortHandle>,
}

/// What a configuration says without the DNS takes effect at once.
///
/// # Errors
/// What is not taken over, of which there is nothing in a configuration that was read.
pub fn configure(services: &Services, config: &Declared) -> Result<(), Vec<Problem>> {
    services.replace(Origin::Config, deltas(config, &HashMap::new()))
}

/// Follows the configuration and the DNS for ever.
pub async fn follow(services: Arc<Services>, mut configs: watch::Receiver<Arc<Declared>>) {
    let (sender, mut answers) = mpsc::unbounded_channel();
    let mut tasks = JoinSet::new();
    let config = Arc::clone(&configs.borrow_and_update());
    let mut configured = Configured {
        services,
        config,
        said: Vec::new(),
        answers: HashMap::new(),
        failures: BTreeMap::new(),
        asking: HashMap::new(),
    };
    loop {
        configured.ask(&mut tasks, &sender);
        configured.apply();
        tokio::select! {
            Some((query, answer)) = answers.recv() => configured.answered(query, answer),
            changed = configs.changed() => {
                if changed.is_err() {
                    return std::future::pending().await;
                }
                configured.config = Arc::clone(&configs.borrow_and_update());
            }
            Some(_) = tasks.join_next() => {}
        }
    }
}

// === impl Declared ===

impl Declared {
    /// Of a configuration.
    #[must_use]
    pub fn of(config: &ProcessConfig) -> Self {
        Self { services: config.service.clone(), routes: config.route.clone() }
    }
}

// === impl Configured ===

impl Configured {
    /// Has the DNS asked for the names that there are, and for no others.
    fn ask(&mut self, tasks: &mut JoinSet<()>, sender: &mpsc::UnboundedSender<(Query, Answer)>) {
        let wanted: HashSet<_> = self.config.services.iter().flat_map(queries).collect();
        self.asking.retain(|query, task| {
            wanted.contains(query) || {
                task.abort();
                false
            }
        });
        self.answers.retain(|query, _| wanted.contains(query));
        self.failures.retain(|query, _| wanted.contains(query));
        for query in wanted {
            self.asking
                .entry(query.clone())
                .or_insert_with(|| tasks.spawn(dns::follow(query, sender.clone())));
        }
    }

    fn answered(&mut self, query: Query, answer: Answer) {
        if !self.asking.contains_key(&query) {
            return;
        }
        match answer {
            Ok((found, _)) => {
                self.failures.remove(&query);
                self.answers.insert(query, found);
            }
            // The last good answer stays.
            Err(error) => {
                if self.failures.get(&query) != Some(&error) {
                    let name = query.name();
                    tracing::warn!(name, error, "cannot look up the endpoints of a service");
                }
                self.failures.insert(query, error);
            }
        }
    }

    fn apply(&mut self) {
        let applied = self.services.replace(Origin::Config, deltas(&self.config, &self.answers));
        // Of routes too, which other sources can make whole.
        let mut wrong = self.services.problems(Origin::Config);
        wrong.extend(applied.err().into_iter().flatten());
        wrong.dedup();
        for problem in wrong.iter().filter(|it| !self.said.contains(it)) {
            tracing::warn!("{problem}");
        }
        let refused = wrong.iter().map(ToString::to_string);
        let failed =
            self.failures.iter().map(|(query, error)| format!("{}: {error}", query.name()));
        let problems: Vec<_> = refused.chain(failed).collect();
        let outcome = if problems.is_empty() { Ok(()) } else { Err(problems.join("; ")) };
        self.services.heard(Origin::Config, outcome);
        self.said = wrong;
    }
}

// === impl Query ===

impl Query {
    fn name(&self) -> &str {
        match self {
            Self::Host(name) | Self::Srv(name) => name,
        }
    }
}

// === helpers ===

fn queries(service: &ServiceConfig) -> impl Iterator<Item = Query> {
    let hosts = service.addresses.iter().chain(&service.dns).filter_map(|it| match it {
        HostPort::Name(name, _) => Some(Query::Host(name.clone())),
        HostPort::Address(_) => None,
    });
    hosts.chain(service.srv.clone().map(Query::Srv))
}

fn deltas(config: &Declared, answers: &HashMap<Query, Vec<Found>>) -> Vec<Delta> {
    let host = |name: &str| answers.get(&Query::Host(name.to_owned())).into_iter().flatten();
    let mut deltas = Vec::new();
    for service in &config.services {
        let mut frontends: Vec<SocketAddr> = Vec::new();
        for address in &service.addresses {
            match address {
                HostPort::Address(address) => frontends.push(*address),
                HostPort::Name(name, port) => {
                    frontends.extend(host(name).map(|it| SocketAddr::new(it.ip, *port)));
                }
            }
        }
        frontends.sort_unstable();
        frontends.dedup();
        let policy = Policy {
            mode: service.balance,
            breaker: Breaker {
                consecutive_failures: service.breaker.consecutive_failures,
                ..Breaker::default()
            },
            slow_start: service.slow_start,
            ..Policy::default()
        };
        let port = PortSpec { name: "".into(), frontends, app_protocol: None };
        let name: Arc<str> = service.name.as_str().into();
        let spec = ServiceSpec { ports: vec![port], policy, routes: Vec::new() };
        deltas.push(Delta::Service(Arc::clone(&name), spec));
        let mut by_port: BTreeMap<u16, Vec<Address>> = BTreeMap::new();
        for endpoint in &service.endpoints {
            by_port.entry(endpoint.address.port()).or_default().push(Address {
                zone: endpoint.zone.as_deref().map(Into::into),
                weight: endpoint.weight,
                ..Address::new(endpoint.address.ip())
            });
        }
        let dns = service.dns.iter().flat_map(|it| match it {
            HostPort::Name(name, port) => host(name).map(|found| (*port, *found)).collect(),
            HostPort::Address(_) => Vec::new(),
        });
        let srv = service.srv.iter().flat_map(|name| {
            answers.get(&Query::Srv(name.clone())).into_iter().flatten().map(|it| (it.port, *it))
        });
        for (port, Found { ip, weight, tier, .. }) in dns.chain(srv) {
            by_port.entry(port).or_default().push(Address { weight, tier, ..Address::new(ip) });
        }
        deltas.extend(by_port.into_iter().map(|(port, addresses)| {
            Delta::Slice(SliceSpec {
                name: format!("{name}:{port}").into(),
                service: Arc::clone(&name),
                ports: vec![SlicePort { name: "".into(), port }],
                addresses,
            })
        }));
    }
    deltas.extend(config.routes.iter().map(|route| Delta::Route((**route.route()).clone())));
    deltas
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Declared {
        Declared::of(&toml::from_str::<crate::config::Config>(text).unwrap().process)
    }

    fn used(services: &Services, frontend: &str) -> Vec<String> {
        let target = services.find(frontend.parse().unwrap()).unwrap();
        services.endpoints(&target).all().iter().map(|it| it.address.to_string()).collect()
    }

    #[test]
    fn endpoints_are_those_that_are_written() {
        let config = config(
            "[[service]]\nname = \"shop\"\naddresses = [\"10.96.0.1:80\", \"[fd00::1]:80\"]\n\
             endpoints = [\"10.1.0.5:8080\", { address = \"10.1.0.6:9090\", weight = 2 }]\n",
        );
        let services = Services::default();
        configure(&services, &config).unwrap();
        assert_eq!(used(&services, "10.96.0.1:80"), ["10.1.0.5:8080", "10.1.0.6:9090"]);
        assert_eq!(used(&services, "[fd00::1]:80").len(), 2, "of the other family");
        configure(&services, &Declared::default()).unwrap();
        assert!(services.targets().is_empty());
    }

    #[test]
    fn names_get_their_addresses_from_the_dns() {
        let config = config(
            "[[service]]\nname = \"shop\"\naddresses = [\"shop.test:80\"]\ndns = \"pods.test:8080\"\n\
             [[service]]\nname = \"mail\"\naddresses = [\"10.96.0.2:25\"]\nsrv = \"_smtp._tcp.test\"\n",
        );
        let found = |ip: &str, port, tier| Found { ip: ip.parse().unwrap(), port, weight: 1, tier };
        let answers = HashMap::from([
            (Query::Host("shop.test".into()), vec![found("10.96.0.1", 0, 0)]),
            (
                Query::Host("pods.test".into()),
                vec![found("10.1.0.1", 0, 0), found("10.1.0.2", 0, 0)],
            ),
            (
                Query::Srv("_smtp._tcp.test".into()),
                vec![found("10.1.0.3", 2525, 0), found("10.1.0.4", 2526, 1)],
            ),
        ]);
        let services = Services::default();
        services.replace(Origin::Config, deltas(&config, &answers)).unwrap();
        assert_eq!(used(&services, "10.96.0.1:80"), ["10.1.0.1:8080", "10.1.0.2:8080"]);
        assert_eq!(used(&services, "10.96.0.2:25"), ["10.1.0.3:2525", "10.1.0.4:2526"]);
        let target = services.find("10.96.0.2:25".parse().unwrap()).unwrap();
        let pool = services.endpoints(&target);
        let now = crate::balance::Moment::now();
        assert!(pool.pool().cost(1, now) > 500.0 * pool.pool().cost(0, now), "the second tier");
    }

    #[tokio::test]
    async fn without_an_answer_the_last_good_one_stays() {
        let query = || Query::Host("pods.test".into());
        let config = config(
            "[[service]]\nname = \"s\"\naddresses = [\"10.96.0.1:80\"]\ndns = \"pods.test:8080\"\n",
        );
        let mut configured = Configured {
            services: Arc::default(),
            config: config.into(),
            said: Vec::new(),
            answers: HashMap::new(),
            failures: BTreeMap::new(),
            asking: HashMap::from([(query(), tokio::spawn(async {}).abort_handle())]),
        };
        let ip = "10.1.0.1".parse().unwrap();
        let found = vec![Found { ip, port: 0, weight: 1, tier: 0 }];
        configured.answered(query(), Ok((found, Duration::from_secs(1))));
        configured.answered(query(), Err("no answer".to_owned()));
        configured.apply();
        assert_eq!(used(&configured.services, "10.96.0.1:80"), ["10.1.0.1:8080"]);
        let feed = configured.services.feed(Origin::Config).unwrap();
        assert_eq!(feed.problem.as_deref(), Some("pods.test: no answer"));
        configured.answered(query(), Ok((Vec::new(), Duration::from_secs(1))));
        configured.apply();
        assert!(used(&configured.services, "10.96.0.1:80").is_empty(), "an empty answer is one");
        assert_eq!(configured.services.feed(Origin::Config).unwrap().problem, None);
    }
}
