//! Which endpoints of a service's groups are used from here: as kube-proxy chooses them
//! (`pkg/proxy/topology.go`), so that weir sends nothing where the kernel would not.

use std::{
    collections::{HashMap, hash_map::Entry},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use super::{
    Conditions, Policy, SliceSpec, Use,
    names::{NameId, Names},
};

/// Where the clients are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The name of the node.
    pub node: Option<Arc<str>>,
    /// Its availability zone.
    pub zone: Option<Arc<str>>,
}

/// A group as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Slice {
    pub(super) name: Arc<str>,
    ports: Box<[(NameId, u16)]>,
    pub(super) addresses: Box<[Compact]>,
}

/// An endpoint as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Compact {
    ip: IpAddr,
    conditions: u8,
    tier: u8,
    weight: u16,
    pub(super) zone: NameId,
    pub(super) node: NameId,
    hints: HintId,
}

/// For whom an endpoint is meant; zero is for all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct HintId(u32);

/// All different hints.
#[derive(Debug, Default)]
pub(super) struct Hints {
    by_hint: HashMap<Arc<Hint>, HintId>,
    all: Vec<Arc<Hint>>,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Hint {
    zones: Box<[NameId]>,
    nodes: Box<[NameId]>,
}

/// An endpoint of one port, with how it is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Selected {
    pub(super) address: SocketAddr,
    pub(super) zone: NameId,
    pub(super) node: NameId,
    pub(super) weight: u16,
    pub(super) tier: u8,
    pub(super) used: Use,
}

const READY: u8 = 1;
const SERVING: u8 = 2;
const TERMINATING: u8 = 4;

// === impl Slice ===

impl Slice {
    pub(super) fn new(spec: &SliceSpec, names: &mut Names, hints: &mut Hints) -> Self {
        let ports = spec.ports.iter().map(|port| (names.id(&port.name), port.port)).collect();
        let compact = |address: &super::Address| Compact {
            ip: address.ip,
            conditions: bits(address.conditions),
            tier: address.tier,
            weight: address.weight,
            zone: names.optional(address.zone.as_ref()),
            node: names.optional(address.node.as_ref()),
            hints: hints.id(Hint {
                zones: address.for_zones.iter().map(|zone| names.id(zone)).collect(),
                nodes: address.for_nodes.iter().map(|node| names.id(node)).collect(),
            }),
        };
        let addresses = spec.addresses.iter().map(compact).collect();
        Self { name: Arc::clone(&spec.name), ports, addresses }
    }
}

// === impl Hints ===

impl Hints {
    fn id(&mut self, hint: Hint) -> HintId {
        if hint.zones.is_empty() && hint.nodes.is_empty() {
            return HintId::default();
        }
        if let Some(id) = self.by_hint.get(&hint) {
            return *id;
        }
        let hint = Arc::new(hint);
        self.all.push(Arc::clone(&hint));
        let id = HintId(u32::try_from(self.all.len()).unwrap_or(0));
        self.by_hint.insert(hint, id);
        id
    }

    fn get(&self, id: HintId) -> Option<&Hint> {
        self.all.get(usize::try_from(id.0).ok()?.checked_sub(1)?).map(|hint| &**hint)
    }
}

// === helpers ===

/// The endpoints of the port of this name whose addresses are of the family: preferred ones first,
/// then others that are used, then those that are not.
pub(super) fn select(
    slices: &[Slice],
    port: NameId,
    is_ipv6: bool,
    policy: &Policy,
    (names, hints, place): (&Names, &Hints, &Place),
) -> Vec<Selected> {
    let (node, zone) = (names.find(place.node.as_deref()), names.find(place.zone.as_deref()));
    let mut found = candidates(slices, port, is_ipv6);
    if policy.not_ready_too {
        found.iter_mut().for_each(|it| it.0.conditions |= READY);
    }
    let is_near = |it: &Compact| !policy.local_only || (!node.is_none() && it.node == node);
    let is_ready = |it: &Compact| it.conditions & READY != 0;
    let any_ready = found.iter().any(|(it, _)| is_near(it) && is_ready(it));
    let is_last_resort = |it: &Compact| {
        !any_ready && it.conditions & (SERVING | TERMINATING) == SERVING | TERMINATING
    };
    let is_usable = |it: &Compact| is_near(it) && (is_ready(it) || is_last_resort(it));
    let usable = || found.iter().map(|(it, _)| it).filter(|it| is_usable(it));
    // A hint counts where all have one, and one of them is for here: as in kube-proxy, else endpoints
    // would be left out while the lists are written.
    let hint = |it: &Compact| hints.get(it.hints);
    let all = |has: fn(&Hint) -> bool| any_ready && usable().all(|it| hint(it).is_some_and(has));
    let is_for = |wanted: NameId, of: fn(&Hint) -> &[NameId]| {
        move |it: &Compact| {
            !wanted.is_none() && hints.get(it.hints).is_some_and(|hint| of(hint).contains(&wanted))
        }
    };
    let (for_node, for_zone) = (is_for(node, |it| &it.nodes), is_for(zone, |it| &it.zones));
    let by_node = all(|hint| !hint.nodes.is_empty()) && usable().any(for_node);
    let by_zone = !by_node && all(|hint| !hint.zones.is_empty()) && usable().any(for_zone);
    let used = |it: &Compact| match it {
        _ if !is_near(it) => Use::OtherNode,
        _ if is_ready(it) => {
            if (by_node && for_node(it)) || (by_zone && for_zone(it)) {
                Use::Preferred
            } else {
                Use::Used
            }
        }
        _ if is_last_resort(it) => Use::Used,
        _ if it.conditions & TERMINATING != 0 => Use::Terminating,
        _ => Use::NotReady,
    };
    let mut selected: Vec<_> = found
        .iter()
        .map(|(it, port)| Selected {
            address: SocketAddr::new(it.ip, *port),
            zone: it.zone,
            node: it.node,
            weight: it.weight,
            tier: it.tier,
            used: used(it),
        })
        .collect();
    selected.sort_by_key(|it| it.used);
    selected
}

/// Each endpoint once: where several groups have it, the best of its states counts.
fn candidates(slices: &[Slice], port: NameId, is_ipv6: bool) -> Vec<(Compact, u16)> {
    let mut found: Vec<(Compact, u16)> = Vec::new();
    let mut places: HashMap<(IpAddr, u16), usize> = HashMap::new();
    for slice in slices {
        for (_, number) in slice.ports.iter().filter(|(name, _)| *name == port) {
            for address in slice.addresses.iter().filter(|it| it.ip.is_ipv6() == is_ipv6) {
                match places.entry((address.ip, *number)) {
                    Entry::Vacant(place) => {
                        place.insert(found.len());
                        found.push((address.clone(), *number));
                    }
                    Entry::Occupied(place) => {
                        let before = &mut found[*place.get()].0;
                        if rank(address.conditions) > rank(before.conditions) {
                            before.clone_from(address);
                        }
                    }
                }
            }
        }
    }
    found
}

const fn rank(conditions: u8) -> u8 {
    match (conditions & READY != 0, conditions & SERVING != 0) {
        (true, _) => 2,
        (false, true) => 1,
        (false, false) => 0,
    }
}

const fn bits(conditions: Conditions) -> u8 {
    let Conditions { ready, serving, terminating } = conditions;
    (if ready { READY } else { 0 })
        | (if serving { SERVING } else { 0 })
        | (if terminating { TERMINATING } else { 0 })
}
