//! Keeps the hooks' copy of the workload's routing table current: which prefixes are reachable,
//! and with which source address.
//!
//! The prefixes come from rtnetlink; what the kernel would do with each is not computed here but
//! asked of the kernel, by connecting a UDP socket (which sends nothing) to an address of the
//! prefix. Metrics, preferred sources, RFC 6724 and unreachable routes are thus the kernel's own.

use std::{
    collections::{BTreeMap, HashSet},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt, TryStreamExt, future, stream::BoxStream};
use rtnetlink::{
    Handle, IpVersion, MulticastGroup, RouteMessageBuilder, new_multicast_connection,
    packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType},
};
use weir_common::{DestinationKey, Direction, Route, flags};

use super::{
    CaptureError, ClientIp, Kernel, Netns,
    original::{to_ip, to_words},
};

/// Beyond this many prefixes (a router with a full table) the map is not kept, and a miss in it
/// says nothing.
const MAX_PREFIXES: usize = 8192;
/// An interface coming up changes a dozen routes within a few milliseconds.
const SETTLE: Duration = Duration::from_millis(20);
/// After a refresh that failed: descriptors may be back by then.
const RETRY: Duration = Duration::from_secs(1);
/// The rules that every namespace starts with: local and main, and for IPv4 default (ip-rule(8)).
const STOCK_RULES: usize = 3;

/// A prefix: its first address and its length in bits, both as of IPv6, so that IPv4 is below
/// `::ffff:0:0/96`.
type Prefix = (Ipv6Addr, u32);
/// Where IPv4 begins in a prefix.
const V4_BITS: u32 = 96;
/// `::ffff:0:0/96`: all of IPv4.
const V4_SPACE: Prefix = (Ipv4Addr::UNSPECIFIED.to_ipv6_mapped(), V4_BITS);
type Table = BTreeMap<Prefix, Route>;

/// A route map that follows the kernel's.
pub struct RouteWatch {
    kernel: Arc<Kernel>,
    netns: Netns,
    netlink: Handle,
    changes: BoxStream<'static, ()>,
    installed: Table,
    inside: HashSet<IpAddr>,
}

// === impl RouteWatch ===

impl RouteWatch {
    /// Subscribes to the changes of a namespace's routes and fills the map.
    ///
    /// # Errors
    /// Where netlink or the map fails.
    pub async fn start(kernel: Arc<Kernel>, netns: Netns) -> Result<Self, CaptureError> {
        let (connection, netlink, messages) = netns
            .run(|| {
                new_multicast_connection(&[
                    MulticastGroup::Link,
                    MulticastGroup::Ipv4Ifaddr,
                    MulticastGroup::Ipv6Ifaddr,
                    MulticastGroup::Ipv4Route,
                    MulticastGroup::Ipv6Route,
                    MulticastGroup::Ipv4Rule,
                    MulticastGroup::Ipv6Rule,
                ])
            })
            .await?
            .map_err(|error| CaptureError::Routes(error.to_string()))?;
        tokio::spawn(connection);
        let changes = messages.map(|_| ()).boxed();
        let installed = kernel.installed_routes();
        let inside = kernel.installed_inside();
        let mut watch = Self { kernel, netns, netlink, changes, installed, inside };
        watch.refresh().await?;
        Ok(watch)
    }

    /// Follows the changes until netlink closes.
    pub async fn run(mut self) {
        while self.changes.next().await.is_some() {
            tokio::time::sleep(SETTLE).await;
            while let Some(Some(())) = future::FutureExt::now_or_never(self.changes.next()) {}
            while let Err(error) = self.refresh().await {
                tracing::warn!(%error, "routes not refreshed: unreachable destinations are captured");
                let _ = self.kernel.set_flag(flags::ROUTES_COMPLETE, false);
                tokio::time::sleep(RETRY).await;
            }
        }
    }

    async fn refresh(&mut self) -> Result<(), CaptureError> {
        let routes = routes(&self.netlink).await?;
        self.refresh_inside(&routes)?;
        let mut prefixes: Vec<Prefix> = routes.iter().filter_map(prefix_of).collect();
        prefixes.sort_unstable();
        prefixes.dedup();
        if prefixes.len() > MAX_PREFIXES || !stock_rules(&self.netlink).await? {
            tracing::info!(prefixes = prefixes.len(), "routing too involved to mirror");
            return self.kernel.set_flag(flags::ROUTES_COMPLETE, false);
        }
        let table = self.netns.run(move || resolve(&prefixes)).await?;
        let table = table.map_err(|error| CaptureError::Routes(error.to_string()))?;
        for (prefix, route) in &table {
            if self.installed.get(prefix) != Some(route) {
                let key = self.kernel.prefix(prefix.0.into());
                self.kernel.instance.routes.insert(key, prefix.1, *route)?;
            }
        }
        for prefix in self.installed.keys().filter(|prefix| !table.contains_key(prefix)) {
            self.kernel.instance.routes.remove(self.kernel.prefix(prefix.0.into()), prefix.1)?;
        }
        self.installed = table;
        self.kernel.set_flag(flags::ROUTES_COMPLETE, true)
    }
}

impl RouteWatch {
    /// Keeps the list of the namespace's own addresses: what comes from one of them comes from
    /// inside.
    fn refresh_inside(&mut self, routes: &[RouteMessage]) -> Result<(), CaptureError> {
        let now: HashSet<IpAddr> = routes.iter().filter_map(own_address).collect();
        for added in now.difference(&self.inside) {
            self.kernel.instance.inside.insert(&self.kernel.inside_key(*added), &1)?;
        }
        for gone in self.inside.difference(&now) {
            self.kernel.instance.inside.remove(&self.kernel.inside_key(*gone))?;
        }
        self.inside = now;
        Ok(())
    }
}

impl Kernel {
    fn inside_key(&self, address: IpAddr) -> DestinationKey {
        self.key(Direction::Inbound, SocketAddr::new(address, 0))
    }

    /// The addresses that an earlier weir has put into the list.
    fn installed_inside(&self) -> HashSet<IpAddr> {
        let left = self.left(|left| &mut left.inside);
        left.iter().filter(|key| key.port == 0).map(|key| to_ip(key.addr)).collect()
    }

    /// Whether the connect hook takes an address for reachable, and the source address it would
    /// name; `None` while the route map is not complete.
    ///
    /// # Errors
    /// Where the map cannot be read.
    pub fn route(&self, addr: IpAddr) -> Result<Option<(bool, Option<IpAddr>)>, CaptureError> {
        let config = self.instance.workloads.get(&self.workload)?.unwrap_or_default();
        if config.flags & flags::ROUTES_COMPLETE == 0 {
            return Ok(None);
        }
        let route = self.instance.routes.longest(self.prefix(addr))?.unwrap_or_default();
        let source = (route.source != [0; 4]).then(|| to_ip(route.source));
        Ok(Some((route.reachable != 0, source)))
    }

    /// What an earlier weir has put into the map.
    fn installed_routes(&self) -> Table {
        self.left(|left| &mut left.routes)
            .into_iter()
            .map(|(key, bits, route)| match to_ip(key.addr) {
                IpAddr::V4(v4) => ((v4.to_ipv6_mapped(), bits), route),
                IpAddr::V6(v6) => ((v6, bits), route),
            })
            .collect()
    }
}

// === helpers ===

/// Every route of every table.
async fn routes(netlink: &Handle) -> Result<Vec<RouteMessage>, CaptureError> {
    let v4 = RouteMessageBuilder::<Ipv4Addr>::new().build();
    let v6 = RouteMessageBuilder::<Ipv6Addr>::new().build();
    let mut all = Vec::new();
    for request in [v4, v6] {
        let routes: Vec<RouteMessage> = netlink
            .route()
            .get(request)
            .execute()
            .try_collect()
            .await
            .map_err(|error| CaptureError::Routes(error.to_string()))?;
        all.extend(routes);
    }
    Ok(all)
}

/// The address of a route to the namespace itself; loopback needs no entry.
fn own_address(route: &RouteMessage) -> Option<IpAddr> {
    let (address, _) = prefix_of(route)
        .filter(|(_, bits)| *bits == 128 && route.header.kind == RouteType::Local)?;
    Some(IpAddr::V6(address).to_canonical())
}

/// True where routing is by destination alone, so that one answer holds for a whole prefix.
async fn stock_rules(netlink: &Handle) -> Result<bool, CaptureError> {
    for version in [IpVersion::V4, IpVersion::V6] {
        let rules: Vec<_> = netlink
            .rule()
            .get(version)
            .execute()
            .try_collect()
            .await
            .map_err(|error| CaptureError::Routes(error.to_string()))?;
        let foreign = rules.iter().filter(|rule| !ClientIp::is_own_rule(rule)).count();
        if foreign > STOCK_RULES {
            return Ok(false);
        }
    }
    Ok(true)
}

fn prefix_of(route: &RouteMessage) -> Option<Prefix> {
    let length = u32::from(route.header.destination_prefix_length);
    let v4 = route.header.address_family == rtnetlink::packet_route::AddressFamily::Inet;
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

/// Asks the kernel about each prefix. IPv4 space gets an entry in any case: without one, IPv4
/// addresses would fall through to an IPv6 default route.
///
/// # Errors
/// Where the kernel could not be asked: that is no answer.
fn resolve(prefixes: &[Prefix]) -> io::Result<Table> {
    let probed = prefixes.iter().map(|prefix| Ok((*prefix, probe(*prefix, prefixes)?)));
    let mut table: Table = probed.collect::<io::Result<_>>()?;
    table.entry(V4_SPACE).or_default();
    Ok(table)
}

fn probe(prefix: Prefix, all: &[Prefix]) -> io::Result<Route> {
    let address = representative(prefix, all);
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

/// True where the process or the kernel lacks something, which says nothing about a route.
fn is_shortage(error: &io::Error) -> bool {
    let shortages = [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM];
    error.raw_os_error().is_some_and(|errno| shortages.contains(&errno))
}

/// An address of the prefix that no more specific prefix covers, as far as one is found.
fn representative((network, bits): Prefix, all: &[Prefix]) -> Ipv6Addr {
    let covered = |addr: Ipv6Addr| {
        // An IPv4 address below ::/0 would ask the wrong family.
        (bits < V4_BITS && contains(V4_SPACE, addr))
            || all.iter().any(|other| other.1 > bits && contains(*other, addr))
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

fn contains((network, bits): Prefix, addr: Ipv6Addr) -> bool {
    let mask = if bits == 0 { 0 } else { u128::MAX << (128 - bits) };
    (network.to_bits() ^ addr.to_bits()) & mask == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str, bits: u32) -> Prefix {
        match text.parse().unwrap() {
            IpAddr::V4(v4) => (v4.to_ipv6_mapped(), V4_BITS + bits),
            IpAddr::V6(v6) => (v6, bits),
        }
    }

    #[test]
    fn the_representative_avoids_more_specific_routes() {
        let all = [prefix("0.0.0.0", 0), prefix("128.0.0.0", 1), prefix("64.0.0.0", 2)];
        let chosen = representative(all[0], &all);
        assert!(!contains(all[1], chosen) && !contains(all[2], chosen));
        assert!(chosen.to_ipv4_mapped().is_some());
        assert_eq!(representative(prefix("10.0.0.7", 32), &all), prefix("10.0.0.7", 32).0);
        assert!(representative(prefix("::", 0), &all).to_ipv4_mapped().is_none());
    }

    #[test]
    fn loopback_is_reachable_from_itself_and_unrouted_space_is_not_assumed() {
        let table = resolve(&[prefix("127.0.0.0", 8)]).unwrap();
        let loopback = table[&prefix("127.0.0.0", 8)];
        assert_eq!((loopback.reachable, to_ip(loopback.source)), (1, "127.0.0.1".parse().unwrap()));
        assert_eq!(table[&V4_SPACE].reachable, 0);
    }
}
