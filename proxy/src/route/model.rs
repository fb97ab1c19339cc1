//! Routes as their sources tell of them.

use std::{
    fmt, slice,
    sync::{Arc, LazyLock},
};

use weir_http::{RetryPolicy, TimeLimits};

use super::{Affinity, Faults, Filters, Match, Rate, Tally};

/// Which requests a route is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RouteKind {
    /// All requests.
    Http,
    /// Calls of gRPC.
    Grpc,
}

/// What is unique of a route within its source.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RouteId {
    /// Which requests it is about.
    pub kind: RouteKind,
    /// Namespace and name: `shop/checkout`.
    pub name: Arc<str>,
}

/// A route: rules for requests to services.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Its kind and name.
    pub id: RouteId,
    /// The clients in it that a route for a service elsewhere is for; `None`: for all clients.
    pub namespace: Option<Arc<str>>,
    /// When it was made, in the form of RFC 3339: the older of two equal routes counts.
    pub created: Option<Box<str>>,
    /// The services whose clients it is for.
    pub parents: Vec<Parent>,
    /// The rules, each with its matches.
    pub rules: Vec<Rule>,
    /// What is in it and has no effect, for people.
    pub notes: Vec<String>,
    /// Only where the clients of its parent have no other route.
    pub is_default: bool,
}

/// A service whose clients a route is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parent {
    /// Namespace and name.
    pub service: Arc<str>,
    /// Only this port.
    pub port: Option<u16>,
    /// Only the port of this name.
    pub section: Option<Box<str>>,
}

/// What is done with some of the requests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// For records; absent for its place among the rules.
    pub name: Option<Box<str>>,
    /// As they are written: without any, all requests match ([`Self::alternatives`]).
    pub matches: Vec<Match>,
    /// What is changed.
    pub filters: Filters,
    /// Where they go.
    pub backends: Vec<Backend>,
    /// How long they may take.
    pub limits: TimeLimits,
    /// Which of them are sent once more.
    pub retry: Option<Arc<RetryPolicy>>,
    /// How many of them pass.
    pub rate: Option<Arc<Rate>>,
    /// Which of them are made to fail or to wait.
    pub faults: Option<Arc<Faults>>,
    /// Which of them go to one endpoint.
    pub affinity: Option<Affinity>,
    /// What has come of them.
    pub tally: Arc<Tally>,
}

/// A service that requests go to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Namespace and name.
    pub service: Arc<str>,
    /// Its port; absent for the one that the client asked for, or the only one.
    pub port: Option<u16>,
    /// Its share of the requests, among the weights of all.
    pub weight: u32,
    /// What is changed besides.
    pub filters: Filters,
}

// === impl RouteKind ===

impl RouteKind {
    /// As Kubernetes names the objects.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Http => "HTTPRoute",
            Self::Grpc => "GRPCRoute",
        }
    }
}

// === impl RouteId ===

impl fmt::Display for RouteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind.name(), self.name)
    }
}

// === impl Parent ===

/// With what it says of the port: `shop/checkout:80`, `shop/checkout:web`.
impl fmt::Display for Parent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.service)?;
        match (self.port, &self.section) {
            (Some(port), Some(section)) => write!(f, ":{port} ({section})"),
            (Some(port), None) => write!(f, ":{port}"),
            (None, Some(section)) => write!(f, ":{section}"),
            (None, None) => Ok(()),
        }
    }
}

// === impl Route ===

impl Route {
    /// The namespace whose clients alone it is for, as routes to a service; `None` where it is for those of
    /// all namespaces: it is in the service's own.
    #[must_use]
    pub fn consumers_of(&self, service: &str) -> Option<&Arc<str>> {
        let own = service.split_once('/').map(|it| it.0);
        self.namespace.as_ref().filter(|it| Some(&***it) != own)
    }
}

// === impl Rule ===

impl Rule {
    /// One of these is to match.
    #[must_use]
    pub fn alternatives(&self) -> &[Match] {
        static ANY: LazyLock<Match> = LazyLock::new(Match::default);
        if self.matches.is_empty() { slice::from_ref(&*ANY) } else { &self.matches }
    }

    /// As records name it.
    #[must_use]
    pub fn label(&self, place: usize) -> Arc<str> {
        self.name.as_deref().map_or_else(|| place.to_string().into(), Into::into)
    }
}
