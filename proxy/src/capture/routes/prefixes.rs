//! Prefixes of a routing table, and what the kernel would do with an address of each. Nothing is
//! computed here but which address to ask about.

use std::{
    collections::{BTreeMap, HashSet},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
};

use rtnetlink::packet_route::{
    AddressFamily,
    route::{RouteAddress, RouteAttribute, RouteMessage, RouteType},
};
use weir_common::Route;

use crate::capture::original::to_words;

/// A prefix: its first address and its length in bits, both as of IPv6, so that IPv4 is below
/// `::ffff:0:0/96`.
pub(super) type Prefix = (Ipv6Addr, u32);
/// Where IPv4 begins in a prefix.
const V4_BITS: u32 = 96;
/// `::ffff:0:0/96`: all of IPv4.
pub(super) const V4_SPACE: Prefix = (Ipv4Addr::UNSPECIFIED.to_ipv6_mapped(), V4_BITS);

/// The prefixes of a namespace's routes. IPv4 space is always among them: without an entry, IPv4
/// addresses would fall through to an IPv6 default route.
#[derive(Debug, Default)]
pub(super) struct Prefixes {
    all: HashSet<Prefix>,
    /// How many have each length.
    lengths: BTreeMap<u32, usize>,
    /// Addresses that weir itself connects to something else: reachable without a route too.
    frontends: HashSet<Ipv6Addr>,
}

/// What the kernel answered for a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    /// The address that it was asked about.
    pub(super) asked: Ipv6Addr,
    /// What it does with that one.
    pub(super) route: Route,
}

pub(super) type Answers = BTreeMap<Prefix, Answer>;

// === impl Prefixes ===

impl Prefixes {
    pub(super) fn new(prefixes: impl IntoIterator<Item = Prefix>) -> Self {
        let mut this = Self::default();
        for prefix in prefixes.into_iter().chain([V4_SPACE]) {
            this.insert(prefix);
        }
        this
    }

    /// The same with addresses that are reachable without a route too.
    pub(super) fn with_frontends(mut self, frontends: &HashSet<IpAddr>) -> Self {
        for frontend in frontends {
            let address = match frontend {
                IpAddr::V4(v4) => v4.to_ipv6_mapped(),
                IpAddr::V6(v6) => *v6,
            };
            self.insert((address, Ipv6Addr::BITS));
            self.frontends.insert(address);
        }
        self
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    /// Whether one of them holds the address and is longer than `bits`.
    fn has_longer(&self, bits: u32, addr: Ipv6Addr) -> bool {
        let mut lengths = self.lengths.range(bits + 1..);
        lengths.any(|(bits, _)| self.all.contains(&(first(addr, *bits), *bits)))
    }

    pub(super) fn insert(&mut self, prefix: Prefix) {
        if self.all.insert(prefix) {
            *self.lengths.entry(prefix.1).or_default() += 1;
        }
    }

    /// Asks the kernel about each prefix.
    ///
    /// # Errors
    /// Where the kernel could not be asked: that is no answer.
    pub(super) fn resolve(&self) -> io::Result<Answers> {
        self.all.iter().map(|prefix| Ok((*prefix, self.probe(*prefix)?))).collect()
    }

    /// Asks anew where routes to a prefix have come or gone: about that one, and about those of which
    /// the address that was asked about is in it. The kernel routes no other address otherwise.
    ///
    /// # Errors
    /// As [`Self::resolve`].
    pub(super) fn resolve_around(
        &self,
        changed: &[Prefix],
        answers: &Answers,
    ) -> io::Result<Answers> {
        let concerned = |(prefix, answer): &(&Prefix, &Answer)| {
            changed.iter().any(|it| it == *prefix || contains(*it, answer.asked))
        };
        let known = answers.iter().filter(concerned).map(|(prefix, _)| *prefix);
        let new = changed.iter().filter(|it| !answers.contains_key(*it)).copied();
        known.chain(new).map(|prefix| Ok((prefix, self.probe(prefix)?))).collect()
    }

    fn probe(&self, prefix: Prefix) -> io::Result<Answer> {
        let asked = self.representative(prefix);
        let mut route = probe(asked)?;
        if prefix.1 == Ipv6Addr::BITS && self.frontends.contains(&asked) {
            route.reachable = 1;
        }
        Ok(Answer { asked, route })
    }

    /// An address of the prefix that no more specific prefix covers, as far as one is found.
    fn representative(&self, (network, bits): Prefix) -> Ipv6Addr {
        let covered = |addr: Ipv6Addr| {
            // An IPv4 address below ::/0 would ask the wrong family.
            (bits < V4_BITS && contains(V4_SPACE, addr)) || self.has_longer(bits, addr)
        };
        let base = network.to_bits();
        (0..128 - bits)
            .rev()
            .flat_map(|shift| [base | 1 << shift, base | 1 << shift | 1])
            .chain([base])
            .map(Ipv6Addr::from_bits)
            .find(|addr| !covered(*addr))
            .unwrap_or(network)
    }
}

/// What the kernel does with an address, asked by connecting a UDP socket, which sends nothing.
///
/// # Errors
/// Where the process or the kernel lacks something, which says nothing about a route.
pub(super) fn probe(address: Ipv6Addr) -> io::Result<Route> {
    let (ip, any): (IpAddr, IpAddr) = match address.to_ipv4_mapped() {
        Some(v4) => (v4.into(), Ipv4Addr::UNSPECIFIED.into()),
        None => (address.into(), Ipv6Addr::UNSPECIFIED.into()),
    };
    let source = UdpSocket::bind((any, 0)).and_then(|socket| {
        // The port is never used: connecting a UDP socket only looks up the route.
        socket.connect(SocketAddr::new(ip, 9))?;
        socket.local_addr()
    });
    match source {
        Ok(source) => Ok(Route { source: to_words(source.ip()), reachable: 1 }),
        Err(error) if is_shortage(&error) => Err(error),
        Err(_) => Ok(Route::default()),
    }
}

/// The prefix of a route.
pub(super) fn prefix_of(route: &RouteMessage) -> Option<Prefix> {
    let length = u32::from(route.header.destination_prefix_length);
    let v4 = route.header.address_family == AddressFamily::Inet;
    let destination = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(addr)) => Some(IpAddr::V4(*addr)),
        RouteAttribute::Destination(RouteAddress::Inet6(addr)) => Some(IpAddr::V6(*addr)),
        _ => None,
    });
    match destination {
        None if length > 0 => None,
        None if v4 => Some(V4_SPACE),
        None => Some((Ipv6Addr::UNSPECIFIED, 0)),
        Some(IpAddr::V4(addr)) => Some((addr.to_ipv6_mapped(), V4_BITS + length)),
        Some(IpAddr::V6(addr)) => Some((addr, length)),
    }
}

/// The address of a route to the namespace itself; loopback needs no entry.
pub(super) fn own_address(route: &RouteMessage) -> Option<IpAddr> {
    let (address, _) = prefix_of(route)
        .filter(|(_, bits)| *bits == 128 && route.header.kind == RouteType::Local)?;
    Some(IpAddr::V6(address).to_canonical())
}

// === helpers ===

fn is_shortage(error: &io::Error) -> bool {
    let shortages = [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM];
    error.raw_os_error().is_some_and(|errno| shortages.contains(&errno))
}

fn contains((network, bits): Prefix, addr: Ipv6Addr) -> bool {
    first(addr, bits) == first(network, bits)
}

/// The first address of the prefix of so many bits that an address is in.
fn first(addr: Ipv6Addr, bits: u32) -> Ipv6Addr {
    let mask = if bits == 0 { 0 } else { u128::MAX << (128 - bits) };
    Ipv6Addr::from_bits(addr.to_bits() & mask)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::{
        netns::testing::{fresh, ip, pair},
        original::to_ip,
    };

    fn prefix(text: &str, bits: u32) -> Prefix {
        match text.parse().unwrap() {
            IpAddr::V4(v4) => (v4.to_ipv6_mapped(), V4_BITS + bits),
            IpAddr::V6(v6) => (v6, bits),
        }
    }

    #[test]
    fn the_representative_avoids_more_specific_routes() {
        let all = [prefix("0.0.0.0", 0), prefix("128.0.0.0", 1), prefix("64.0.0.0", 2)];
        let prefixes = Prefixes::new(all);
        let chosen = prefixes.representative(all[0]);
        assert!(!contains(all[1], chosen) && !contains(all[2], chosen));
        assert!(chosen.to_ipv4_mapped().is_some());
        let host = prefix("10.0.0.7", 32);
        assert_eq!(prefixes.representative(host), host.0);
        assert!(prefixes.representative(prefix("::", 0)).to_ipv4_mapped().is_none());
    }

    #[test]
    fn loopback_is_reachable_from_itself_and_unrouted_space_is_not_assumed() {
        let netns = fresh();
        ip(&netns, "link set lo up");
        let work = || Prefixes::new([prefix("127.0.0.0", 8)]).resolve().unwrap();
        let answers = netns.enter(work).unwrap();
        let loopback = answers[&prefix("127.0.0.0", 8)].route;
        assert_eq!((loopback.reachable, to_ip(loopback.source)), (1, "127.0.0.1".parse().unwrap()));
        assert_eq!(answers[&V4_SPACE].route.reachable, 0);
    }

    /// Guards against a look at everything, or at too little, where one route has changed.
    #[test]
    fn what_a_changed_route_concerns_is_asked_again_and_nothing_else() {
        let (netns, _other) = pair();
        let work = {
            let netns = netns.clone();
            move || {
                let of = |all: &[Prefix]| Prefixes::new(all.iter().copied());
                let (wide, narrow) = (prefix("10.0.0.0", 8), prefix("10.128.0.0", 9));
                let link = prefix("10.77.0.0", 24);
                ip(&netns, "route add 10.0.0.0/8 via 10.77.0.2");
                let before = of(&[wide, link]).resolve().unwrap();
                assert_eq!(before[&wide].route.reachable, 1);

                ip(&netns, "route add unreachable 10.128.0.0/9");
                let with = of(&[wide, link, narrow]);
                let changed = with.resolve_around(&[narrow], &before).unwrap();
                // The wide prefix was asked about by an address that the new route has.
                assert!(contains(narrow, before[&wide].asked));
                assert_eq!(changed.keys().copied().collect::<Vec<_>>(), [wide, narrow]);
                assert_eq!(changed[&wide].route, before[&wide].route);
                assert_eq!(changed[&narrow].route.reachable, 0);
                assert!(!contains(narrow, changed[&wide].asked));

                let mut after = before.clone();
                after.extend(changed);
                ip(&netns, "route del unreachable 10.128.0.0/9");
                let again = with.resolve_around(&[narrow], &after).unwrap();
                assert_eq!(again.keys().copied().collect::<Vec<_>>(), [narrow]);
                // It is kept until all is looked at, with what the kernel does now.
                assert_eq!(again[&narrow].route, before[&wide].route);
            }
        };
        // `ip` itself works in the namespace by the helper thread: this is another.
        let done = std::thread::spawn(move || {
            nix::sched::setns(netns.as_fd(), nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            work();
        });
        done.join().unwrap();
    }
}
