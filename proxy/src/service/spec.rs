//! What sources tell: services, and groups of their endpoints.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use super::Policy;
use crate::route::{Route, RouteId, RouteKind};

/// Where a service is defined. Names are unique within one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Origin {
    /// An API server.
    Cluster,
    /// A directory of Kubernetes objects.
    Directory,
    /// The configuration.
    Config,
}

/// Of what a source tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Services.
    Services,
    /// Groups of endpoints.
    Slices,
    /// Routes of one kind.
    Routes(RouteKind),
}

/// A change. It replaces what the same name stood for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delta {
    /// A service is there.
    Service(Arc<str>, ServiceSpec),
    /// A service is gone.
    NoService(Arc<str>),
    /// A group of endpoints is there.
    Slice(SliceSpec),
    /// A group of endpoints is gone.
    NoSlice(Arc<str>),
    /// A route is there.
    Route(Route),
    /// A newer version of a route is not to be taken over, for this reason: the one before stays in force.
    RefusedRoute(RouteId, String),
    /// A route is gone.
    NoRoute(RouteId),
}

// === impl Kind ===

impl Kind {
    /// All of them, in the order in which what is gone is forgotten.
    pub(super) const ALL: [Self; 4] = [
        Self::Services,
        Self::Slices,
        Self::Routes(RouteKind::Http),
        Self::Routes(RouteKind::Grpc),
    ];

    /// As Kubernetes names the objects.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Services => "Service",
            Self::Slices => "EndpointSlice",
            Self::Routes(kind) => kind.name(),
        }
    }

    /// The object of this name is gone.
    #[must_use]
    pub const fn gone(self, name: Arc<str>) -> Delta {
        match self {
            Self::Services => Delta::NoService(name),
            Self::Slices => Delta::NoSlice(name),
            Self::Routes(kind) => Delta::NoRoute(RouteId { kind, name }),
        }
    }
}

// === impl Delta ===

impl Delta {
    /// The object that it says is there; `None` of one that is gone.
    #[must_use]
    pub const fn object(&self) -> Option<(Kind, &Arc<str>)> {
        match self {
            Self::Service(name, _) => Some((Kind::Services, name)),
            Self::Slice(slice) => Some((Kind::Slices, &slice.name)),
            Self::Route(Route { id, .. }) | Self::RefusedRoute(id, _) => {
                Some((Kind::Routes(id.kind), &id.name))
            }
            Self::NoService(_) | Self::NoSlice(_) | Self::NoRoute(_) => None,
        }
    }
}

/// A service: what clients connect to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceSpec {
    /// Its ports; without frontends none is ever looked up.
    pub ports: Vec<PortSpec>,
    /// How its connections are balanced.
    pub policy: Policy,
    /// What its requests follow where it has no routes.
    pub routes: Vec<Arc<Route>>,
}

/// A port of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortSpec {
    /// The name by which groups of endpoints say their number; may be empty.
    pub name: Box<str>,
    /// The addresses that clients connect to.
    pub frontends: Vec<SocketAddr>,
    /// The protocol that the service says it speaks.
    pub app_protocol: Option<Box<str>>,
}

/// A group of endpoints of one service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SliceSpec {
    /// Unique within the source.
    pub name: Arc<str>,
    /// The service.
    pub service: Arc<str>,
    /// Which number each named port has here.
    pub ports: Vec<SlicePort>,
    /// The endpoints.
    pub addresses: Vec<Address>,
}

/// A port of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlicePort {
    /// As in [`PortSpec::name`].
    pub name: Box<str>,
    /// Its number.
    pub port: u16,
}

/// An endpoint of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// Where it is.
    pub ip: IpAddr,
    /// Whether it can be used.
    pub conditions: Conditions,
    /// Its availability zone.
    pub zone: Option<Arc<str>>,
    /// The name of its node.
    pub node: Option<Arc<str>>,
    /// The zones whose clients it is meant for.
    pub for_zones: Vec<Arc<str>>,
    /// The nodes whose clients it is meant for.
    pub for_nodes: Vec<Arc<str>>,
    /// 1 is usual.
    pub weight: u16,
    /// Endpoints of a higher tier are used when those of lower ones fail.
    pub tier: u8,
}

/// Whether an endpoint can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conditions {
    /// It accepts connections and is not about to end.
    pub ready: bool,
    /// It accepts connections.
    pub serving: bool,
    /// It is about to end.
    pub terminating: bool,
}

// === impl Origin ===

impl Origin {
    /// As in tables and JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cluster => "cluster",
            Self::Directory => "directory",
            Self::Config => "config",
        }
    }
}

// === impl Conditions ===

impl Conditions {
    /// Of an endpoint that is simply there.
    pub const READY: Self = Self { ready: true, serving: true, terminating: false };
}

// === impl Address ===

impl Address {
    /// An endpoint of which only the address is known.
    #[must_use]
    pub const fn new(ip: IpAddr) -> Self {
        Self {
            ip,
            conditions: Conditions::READY,
            zone: None,
            node: None,
            for_zones: Vec::new(),
            for_nodes: Vec::new(),
            weight: 1,
            tier: 0,
        }
    }
}
