//! The mirror of the routes in network namespaces of their own; needs root.

use std::{io::Write as _, net::Ipv4Addr};

use super::*;
use crate::capture::{
    Instance, InstanceOptions, Listeners, local_addresses,
    netns::testing::{fresh, ip, pair},
    table::lock,
};

/// The kernel has no word for "done": what is waited for comes, or the test fails.
async fn until(what: &str, mut is: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(120);
    while !is() {
        assert!(Instant::now() < deadline, "{what}: not within two minutes");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn kernel() -> Arc<WorkloadMaps> {
    let instance = Instance::open(&InstanceOptions::default()).unwrap();
    Arc::new(WorkloadMaps::new(Arc::new(instance), 1, true))
}

async fn follow(kernel: &Arc<WorkloadMaps>, netns: &Netns) -> tokio::task::JoinHandle<()> {
    follow_with(kernel, netns, &watch::Sender::default()).await
}

async fn follow_with(
    kernel: &Arc<WorkloadMaps>,
    netns: &Netns,
    frontends: &watch::Sender<Arc<HashSet<IpAddr>>>,
) -> tokio::task::JoinHandle<()> {
    let frontends = frontends.subscribe();
    let watch = RouteWatch::start(Arc::clone(kernel), netns.clone(), frontends).await.unwrap();
    tokio::spawn(watch.run())
}

/// Guards against services on addresses without a route: without weir there is nothing, and the
/// hook would let the connection fail.
#[tokio::test(flavor = "multi_thread")]
async fn an_address_of_a_service_is_reachable_without_a_route() {
    let (kernel, netns) = (kernel(), fresh());
    let frontends = watch::Sender::default();
    let following = follow_with(&kernel, &netns, &frontends).await;
    let all: [IpAddr; 2] = ["10.96.0.1".parse().unwrap(), "fd00::1".parse().unwrap()];
    let reachable =
        |addr: IpAddr| kernel.routes.get(addr).unwrap().map(|(is_reachable, _)| is_reachable);
    assert_eq!(all.map(reachable), [Some(false); 2]);
    frontends.send_replace(Arc::new(HashSet::from(all)));
    until("reachable", || all.map(reachable) == [Some(true); 2]).await;
    assert_eq!(reachable("10.96.0.2".parse().unwrap()), Some(false));
    frontends.send_replace(Arc::default());
    until("unreachable again", || all.map(reachable) == [Some(false); 2]).await;
    following.abort();
}

/// The slots of both families, by kind: one for each, and those for outbound connections.
const BOTH: [u16; 7] = [0, 1, 2, 3, 3, 3, 3];

/// The kinds whose slots are filled.
fn slots(kernel: &WorkloadMaps) -> Vec<u16> {
    let map = lock(&kernel.entries.instance.listeners);
    let mut kinds: Vec<u16> = map.keys().map(|key| key.unwrap().kind).collect();
    kinds.sort_unstable();
    kinds
}

/// Guards against connections that are redirected to a loopback interface which carries nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_family_is_captured_while_its_loopback_works() {
    let (kernel, netns) = (kernel(), fresh());
    let mut listeners = Listeners::open(&kernel, &netns).unwrap();
    listeners.open_immediate(&kernel, &netns).unwrap();
    let following = follow(&kernel, &netns).await;
    listeners.offer().unwrap();
    assert_eq!(slots(&kernel), [0_u16; 0], "the interface is down");

    ip(&netns, "link set lo up");
    let filled = |kernel: &WorkloadMaps| {
        listeners.offer_where_empty().unwrap();
        slots(kernel)
    };
    until("both families", || filled(&kernel) == BOTH).await;
    ip(&netns, "addr del ::1/128 dev lo");
    until("IPv4 alone", || filled(&kernel) == [0, 2]).await;
    ip(&netns, "addr add ::1/128 dev lo");
    until("IPv6 again", || filled(&kernel) == BOTH).await;
    ip(&netns, "link set lo down");
    until("none", || filled(&kernel).is_empty()).await;
    following.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn routes_that_come_and_go_are_followed() {
    let kernel = kernel();
    let (netns, _other) = pair();
    let following = follow(&kernel, &netns).await;
    let addr: IpAddr = "10.250.0.1".parse().unwrap();
    let other: IpAddr = "10.251.0.1".parse().unwrap();
    let reachable = |addr| kernel.routes.get(addr).unwrap().map(|(reachable, _)| reachable);
    assert_eq!(reachable(addr), Some(false));
    for _ in 0..20 {
        ip(&netns, "route add 10.250.0.0/24 via 10.77.0.2");
        until("a route", || reachable(addr) == Some(true)).await;
        assert_eq!(reachable(other), Some(false));
        ip(&netns, "route del 10.250.0.0/24");
        until("no route", || reachable(addr) == Some(false)).await;
    }
    // The kernel does not say that these go: the link does, and takes them with it.
    ip(&netns, "route add 10.250.0.0/24 via 10.77.0.2");
    until("a route", || reachable(addr) == Some(true)).await;
    ip(&netns, "link set eth0 down");
    until("no link", || reachable(addr) == Some(false)).await;
    following.abort();
}

/// Runs many commands of `ip` in a namespace.
fn batch(netns: &Netns, commands: impl Iterator<Item = String>) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    for command in commands {
        writeln!(file, "{command}").unwrap();
    }
    ip(netns, &format!("-batch {}", file.path().display()));
}

/// Guards against a namespace that fills the table of own addresses: weir's own connections came
/// back to it.
#[tokio::test(flavor = "multi_thread")]
async fn more_own_addresses_than_can_be_noted_end_inbound_capture() {
    let (kernel, netns) = (kernel(), fresh());
    ip(&netns, "link set lo up");
    let following = follow(&kernel, &netns).await;
    assert!(!kernel.flags.is_inbound_off());
    let address = |n: usize| Ipv4Addr::from_bits(0xac10_0000 + n as u32);
    batch(
        &netns,
        (0..=local_addresses::MOST).map(|n| format!("route add local {}/32 dev lo", address(n))),
    );
    until("too many", || kernel.flags.is_inbound_off()).await;
    let noted = kernel.entries.instance.inside.keys().len();
    assert!(noted <= local_addresses::MOST, "{noted}");
    following.abort();
}

/// Guards against one namespace whose routes take all the room there is.
#[tokio::test(flavor = "multi_thread")]
async fn too_many_routes_are_not_mirrored_and_leave_the_map() {
    let kernel = kernel();
    let (netns, _other) = pair();
    let following = follow(&kernel, &netns).await;
    let addr: IpAddr = "10.77.0.2".parse().unwrap();
    assert!(kernel.routes.get(addr).unwrap().is_some());
    let route = |verb: &'static str| {
        (0..=MAX_PREFIXES).map(move |n| {
            let addr = Ipv4Addr::from_bits(0x0b00_0000 + 256 * n as u32);
            format!("route {verb} {addr}/24 via 10.77.0.2")
        })
    };
    batch(&netns, route("add"));
    until("too many", || kernel.routes.get(addr).unwrap().is_none()).await;
    until("an empty map", || kernel.entries.instance.routes.entries(|_| true).is_empty()).await;
    batch(&netns, route("del"));
    until("few again", || kernel.routes.get(addr).unwrap().is_some()).await;
    following.abort();
}
