//! One port of a service: what a destination is looked up to.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use arc_swap::ArcSwapOption;
use fastrand::Rng;

use super::{Endpoints, Origin, Policy, PortSpec};
use crate::{
    balance::{Choice, Moment, Why},
    sync::lock,
};

/// A port of a service for clients of one address family.
#[derive(Debug)]
pub struct Target {
    service: Arc<str>,
    origin: Origin,
    port: PortSpec,
    is_ipv6: bool,
    policy: Policy,
    /// `None` until a connection asks for them.
    endpoints: ArcSwapOption<Endpoints>,
    choices: [AtomicU64; Why::ALL.len()],
    fallbacks: AtomicU64,
    last: Mutex<Option<Last>>,
}

/// The last choice.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Last {
    /// The endpoint.
    pub endpoint: SocketAddr,
    /// Why it was chosen.
    pub why: Why,
    /// What it cost, in seconds.
    pub cost: f64,
    /// How many had failed for the same connection before.
    pub tried: usize,
    /// When.
    pub at: Moment,
}

// === impl Target ===

impl Target {
    pub(super) fn new(
        (origin, service): (Origin, Arc<str>),
        port: PortSpec,
        is_ipv6: bool,
        policy: Policy,
    ) -> Self {
        Self {
            service,
            origin,
            port,
            is_ipv6,
            policy,
            endpoints: ArcSwapOption::empty(),
            choices: Default::default(),
            fallbacks: AtomicU64::new(0),
            last: Mutex::default(),
        }
    }

    /// The service's name.
    #[must_use]
    pub const fn service(&self) -> &Arc<str> {
        &self.service
    }

    /// Where it is defined.
    #[must_use]
    pub const fn origin(&self) -> Origin {
        self.origin
    }

    /// The addresses that clients connect to, all of one family.
    #[must_use]
    pub fn frontends(&self) -> &[SocketAddr] {
        &self.port.frontends
    }

    /// The port's name; may be empty.
    #[must_use]
    pub const fn port_name(&self) -> &str {
        &self.port.name
    }

    /// The protocol that the service says it speaks.
    #[must_use]
    pub fn app_protocol(&self) -> Option<&str> {
        self.port.app_protocol.as_deref()
    }

    /// How its connections are balanced.
    #[must_use]
    pub const fn policy(&self) -> &Policy {
        &self.policy
    }

    pub(super) const fn is_ipv6(&self) -> bool {
        self.is_ipv6
    }

    /// Whether it is the same port with the same policy.
    pub(super) fn is(&self, port: &PortSpec, policy: &Policy) -> bool {
        self.port == *port && self.policy == *policy
    }

    /// Its endpoints, if any connection has asked for them.
    #[must_use]
    pub fn instantiated(&self) -> Option<Arc<Endpoints>> {
        self.endpoints.load_full()
    }

    pub(super) fn set_endpoints(&self, endpoints: Arc<Endpoints>) {
        self.endpoints.store(Some(endpoints));
    }

    /// Takes over what another one for the same port has counted.
    pub(super) fn continue_from(&self, before: &Self) {
        for (to, from) in self.choices.iter().zip(&before.choices) {
            to.store(from.load(Relaxed), Relaxed);
        }
        self.fallbacks.store(before.fallbacks.load(Relaxed), Relaxed);
        *lock(&self.last) = before.last();
    }

    /// Chooses an endpoint that is not among `tried`, and notes the choice.
    pub fn choose(&self, endpoints: &Endpoints, tried: &[usize]) -> Option<Choice> {
        let now = Moment::now();
        let choice = endpoints.pool().choose(tried, now, &mut Rng::new())?;
        Some(self.note(endpoints, tried, choice, now))
    }

    /// The same for requests with a key, which go to one endpoint as far as that can be.
    pub fn choose_for(&self, endpoints: &Endpoints, key: u64, tried: &[usize]) -> Option<Choice> {
        let name = |member: usize| number_of(endpoints.all()[member].address);
        let now = Moment::now();
        let choice = endpoints.pool().choose_for(key, name, tried, now)?;
        Some(self.note(endpoints, tried, choice, now))
    }

    fn note(&self, endpoints: &Endpoints, tried: &[usize], choice: Choice, now: Moment) -> Choice {
        self.choices[choice.why as usize].fetch_add(1, Relaxed);
        *lock(&self.last) = Some(Last {
            endpoint: endpoints.all()[choice.member].address,
            why: choice.why,
            cost: choice.cost,
            tried: tried.len(),
            at: now,
        });
        choice
    }

    /// A connection had to go to the address that the application asked for.
    pub fn fell_back(&self) {
        self.fallbacks.fetch_add(1, Relaxed);
    }

    /// How many connections had to.
    #[must_use]
    pub fn fallbacks(&self) -> u64 {
        self.fallbacks.load(Relaxed)
    }

    /// The choices so far, by reason.
    pub fn choices(&self) -> impl Iterator<Item = (Why, u64)> {
        Why::ALL.into_iter().zip(self.choices.iter().map(|count| count.load(Relaxed)))
    }

    /// The last choice.
    #[must_use]
    pub fn last(&self) -> Option<Last> {
        *lock(&self.last)
    }
}

// === helpers ===

/// The same for one address in each weir.
fn number_of(address: SocketAddr) -> u64 {
    let ip = match address.ip() {
        std::net::IpAddr::V4(ip) => u64::from(ip.to_bits()),
        std::net::IpAddr::V6(ip) => {
            let [high, low] = [ip.to_bits() >> 64, ip.to_bits()].map(|it| it as u64);
            high.rotate_left(32) ^ low
        }
    };
    ip.rotate_left(16) ^ u64::from(address.port())
}
