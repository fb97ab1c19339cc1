//! Ports in the workload's namespace: weir's listeners take none that a server is likely to want, and
//! its connections to the application do not run out of them.

use std::net::{SocketAddr, TcpListener};

use anyhow::{Result, ensure};
use weir_tests::netns::Netns;
use weir_tests::pods::{POD, Pods};
use weir_tests::process::run;
use weir_tests::site::{PATIENCE, join};
use weir_tests::weir::Run;
use weir_tests::wire::Wire;

const PORT: u16 = 9000;
/// So many ports the kernel may choose from.
const RANGE: std::ops::RangeInclusive<u16> = 40_000..=40_003;

fn sysctl(netns: &Netns, setting: &str) -> Result<()> {
    let mut command = netns.command("sysctl");
    command.args(["-qw", setting]);
    run(&mut command, PATIENCE)?.ok().map(drop)
}

/// Each client has an address of its own and costs the workload no port; weir's connection does.
#[test]
fn more_inbound_connections_than_source_ports_are_served() -> Result<()> {
    let pods = Pods::new()?;
    let netns = &pods.pod_a.netns;
    let range = format!("{} {}", RANGE.start(), RANGE.end());
    sysctl(netns, &format!("net.ipv4.ip_local_port_range={range}"))?;
    let _daemon = Run::new(&pods.node, pods.dir())
        .workload("pod-a", pods.pod_a.cgroup(), Some(netns))
        .start()?;
    let listener = pods.pod_a.listen(SocketAddr::new("0.0.0.0".parse()?, PORT))?;
    let to = SocketAddr::new(POD[0].parse()?, PORT);
    let many = 3 * RANGE.len();
    let wires: Vec<Wire> =
        (0..many).map(|_| join(&pods.client_a, to, &listener)).collect::<Result<_>>()?;
    for wire in &wires {
        ensure!(wire.went_through_weir()?, "{:?}", wire.server.peer_addr());
        wire.up("ping\n")?;
        wire.down("pong\n")?;
    }
    wires.into_iter().try_for_each(Wire::finish)
}

/// Guards against a server with a fixed port of that range that cannot start, by chance.
#[test]
fn weirs_listeners_leave_the_kernels_ports_to_servers() -> Result<()> {
    let pods = Pods::new()?;
    let netns = &pods.pod_a.netns;
    let range = format!("{} {}", RANGE.start(), RANGE.end());
    sysctl(netns, &format!("net.ipv4.ip_local_port_range={range}"))?;
    sysctl(netns, "net.ipv4.ip_local_reserved_ports=40004-65000")?;
    let _daemon = Run::new(&pods.node, pods.dir())
        .workload("pod-a", pods.pod_a.cgroup(), Some(netns))
        .start()?;
    let ports = netns.listening_ports()?;
    ensure!(!ports.is_empty() && ports.iter().all(|port| *port > 65_000), "{ports:?}");
    let servers = netns.enter(|| {
        RANGE.map(|port| TcpListener::bind(("0.0.0.0", port))).collect::<Result<Vec<_>, _>>()
    })?;
    ensure!(servers.is_ok(), "{servers:?}");
    Ok(())
}
