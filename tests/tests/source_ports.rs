//! Ports in the workload's namespace: weir's listeners take none that a server is likely to want,
//! captured connections need them for each destination as direct ones do, and weir's connections to
//! the application do not run out of them.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::ops::RangeInclusive;

use anyhow::{Context, Result, ensure};
use nix::libc;
use weir_tests::daemon::{Daemon, Run};
use weir_tests::fixture::PYTHON;
use weir_tests::netns::{Netns, ip};
use weir_tests::pods::{CLIENT, POD, Pods};
use weir_tests::process::{Process, run, wait_until};
use weir_tests::site::{PATIENCE, accept, join};
use weir_tests::wire::{Wire, reset};

const PORT: u16 = 9000;
/// So many ports the kernel may choose from.
const RANGE: RangeInclusive<u16> = 40_000..=40_003;

fn sysctl(netns: &Netns, setting: &str) -> Result<()> {
    let mut command = netns.command("sysctl");
    command.args(["-qw", setting]);
    run(&mut command, PATIENCE)?.ok().map(drop)
}

fn choose_from(netns: &Netns, range: &RangeInclusive<u16>) -> Result<()> {
    let range = format!("{} {}", range.start(), range.end());
    sysctl(netns, &format!("net.ipv4.ip_local_port_range={range}"))
}

fn captured(pods: &Pods, flags: &[&str]) -> Result<Daemon> {
    let run = Run::new(&pods.node, pods.dir()).flags(flags);
    run.workload("pod-a", pods.pod_a.cgroup(), Some(&pods.pod_a.netns)).start()
}

/// Servers outside of the pod, one on each port.
fn servers(pods: &Pods, host: &str, count: u16) -> Result<Vec<(SocketAddr, TcpListener)>> {
    let ip: IpAddr = host.parse()?;
    let one = |port| {
        let address = SocketAddr::new(ip, port);
        Ok((address, pods.client_a.listen(address)?))
    };
    (PORT..PORT + count).map(one).collect()
}

/// As many connections to each server as there are ports, and all of them open.
fn exhaust(pods: &Pods, servers: &[(SocketAddr, TcpListener)], ports: usize) -> Result<Vec<Wire>> {
    let mut wires = Vec::new();
    for _ in 0..ports {
        for (to, listener) in servers {
            wires.push(join(&pods.pod_a, *to, listener)?);
        }
    }
    // Bytes of one do not come out of another.
    for (number, wire) in wires.iter().enumerate() {
        wire.up(format!("ping {number}\n"))?;
        wire.down(format!("pong {number}\n"))?;
    }
    Ok(wires)
}

fn through_weir(wires: &[Wire]) -> Result<usize> {
    let through = wires.iter().map(Wire::went_through_weir).collect::<Result<Vec<_>, _>>()?;
    Ok(through.into_iter().filter(|through| *through).count())
}

fn errno(connected: std::io::Result<TcpStream>) -> Option<i32> {
    connected.err().and_then(|error| error.raw_os_error())
}

/// Each client has an address of its own and costs the workload no port; weir's connection does.
#[test]
fn more_inbound_connections_than_source_ports_are_served() -> Result<()> {
    let pods = Pods::new()?;
    let netns = &pods.pod_a.netns;
    choose_from(netns, &RANGE)?;
    let _daemon = captured(&pods, &[])?;
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
    choose_from(netns, &RANGE)?;
    sysctl(netns, "net.ipv4.ip_local_reserved_ports=40004-65000")?;
    let _daemon = captured(&pods, &[])?;
    let ports = netns.listening_ports()?;
    ensure!(!ports.is_empty() && ports.iter().all(|port| *port > 65_000), "{ports:?}");
    let servers = netns.enter(|| {
        RANGE.map(|port| TcpListener::bind(("0.0.0.0", port))).collect::<Result<Vec<_>, _>>()
    })?;
    ensure!(servers.is_ok(), "{servers:?}");
    Ok(())
}

/// With one port to choose from, every connection has the same source: what tells them apart is where
/// they were redirected to. Held or accepted at once, and by an IPv6 socket too.
#[test]
fn connections_to_different_servers_have_the_same_source_port_at_a_time() -> Result<()> {
    for (connect, by_v6) in [("hold", false), ("immediate", false), ("hold", true)] {
        let pods = Pods::new()?;
        choose_from(&pods.pod_a.netns, &(40_000..=40_000))?;
        let _daemon = captured(&pods, &["--connect", connect])?;
        let mut servers = servers(&pods, CLIENT[0], 5)?;
        for (to, _) in servers.iter_mut().filter(|_| by_v6) {
            let mapped = format!("::ffff:{}", CLIENT[0]);
            to.set_ip(mapped.parse()?);
        }
        let wires = exhaust(&pods, &servers, 1)?;
        ensure!(through_weir(&wires)? == servers.len(), "{connect}, by IPv6 socket: {by_v6}");
        wires.into_iter().try_for_each(Wire::finish)?;
    }
    Ok(())
}

/// Guards against connections that fail for want of a source port while other destinations have all
/// of them, and against those that do not fail where a direct one would.
#[test]
fn source_ports_are_needed_for_each_destination_as_they_are_directly() -> Result<()> {
    let pods = Pods::new()?;
    choose_from(&pods.pod_a.netns, &RANGE)?;
    let _daemon = captured(&pods, &[])?;
    let servers = servers(&pods, CLIENT[0], 3)?;
    let wires = exhaust(&pods, &servers, RANGE.len())?;
    ensure!(through_weir(&wires)? == wires.len());
    for (to, _) in &servers {
        assert_eq!(errno(pods.pod_a.connect(*to)), Some(libc::EADDRNOTAVAIL));
    }
    wires.into_iter().try_for_each(Wire::finish)
}

/// `::1` is one address, with a few listeners. What is too much for them goes direct, and is captured
/// again when there is room.
#[test]
fn ipv6_connections_beyond_the_source_ports_go_direct_and_say_why() -> Result<()> {
    let pods = Pods::new()?;
    choose_from(&pods.pod_a.netns, &RANGE)?;
    let daemon = captured(&pods, &[])?;
    let servers = servers(&pods, CLIENT[1], 5)?;
    let wires = exhaust(&pods, &servers, RANGE.len())?;
    // Three for each of four listeners: a port is left to others.
    ensure!(through_weir(&wires)? == 12, "{}", through_weir(&wires)?);
    let direct = wires.len() - 12;
    for wire in wires {
        reset(wire.client)?;
    }
    let mut short = 0;
    wait_until("reports of those that went direct", PATIENCE, || {
        let records = daemon.records()?;
        let reasons = (PORT..PORT + 5).flat_map(|port| records.connections(port));
        short = reasons.filter(|it| it.text("reason") == "short_of_ports").count();
        Ok(short == direct)
    })
    .with_context(|| format!("{short} of {direct}"))?;
    let (to, listener) = &servers[0];
    let wire = join(&pods.pod_a, *to, listener)?;
    ensure!(wire.went_through_weir()?);
    wire.finish()
}

/// The loopback interface was made smaller: one address is left for all connections.
#[test]
fn without_its_addresses_loopback_is_used_as_far_as_ports_go() -> Result<()> {
    let pods = Pods::new()?;
    choose_from(&pods.pod_a.netns, &RANGE)?;
    let name = pods.pod_a.netns.name();
    ip(&["-n", name, "addr", "add", "127.0.0.1/32", "dev", "lo"])?;
    ip(&["-n", name, "addr", "del", "127.0.0.1/8", "dev", "lo"])?;
    let _daemon = captured(&pods, &[])?;
    let servers = servers(&pods, CLIENT[0], 2)?;
    let wires = exhaust(&pods, &servers, RANGE.len())?;
    ensure!(through_weir(&wires)? == 3, "{}", through_weir(&wires)?);
    wires.into_iter().try_for_each(Wire::finish)
}

/// Others have taken the ports to a server after the application's connect(2) has found one: no
/// packet would tell it so. It waits, and is connected when there is a port; what comes after it goes
/// direct, and fails as it does without weir.
#[test]
fn a_dial_without_a_source_port_is_made_again() -> Result<()> {
    let pods = Pods::new()?;
    choose_from(&pods.pod_a.netns, &RANGE)?;
    let daemon = captured(&pods, &[])?;
    let servers = servers(&pods, CLIENT[0], 1)?;
    let (to, listener) = &servers[0];
    let others = pods
        .pod_a
        .netns
        .enter(|| RANGE.map(|_| TcpStream::connect(to)).collect::<Result<Vec<_>, _>>())??;
    for _ in &others {
        accept(listener)?;
    }
    let program = format!(
        "import socket\n\
         s = socket.create_connection(('{}', {PORT}), 60)\n\
         s.sendall(b'ping'); print(s.recv(4))",
        CLIENT[0],
    );
    let mut command = pods.pod_a.netns.command(PYTHON);
    command.args(["-u", "-c", &program]);
    let waiting = Process::start("waiting", command, pods.dir())?;
    let records = daemon.records_of(PORT, 1)?;
    let failed = records.connections(PORT);
    let said = (failed[0].text("close"), failed[0].text("error"));
    assert_eq!(said, ("connect_failed".to_owned(), "EADDRNOTAVAIL".to_owned()), "{failed:#?}");
    assert_eq!(errno(pods.pod_a.connect(*to)), Some(libc::EADDRNOTAVAIL));
    for other in others {
        reset(other)?;
    }
    let mut server = accept(listener)?;
    server.read_exact(&mut [0; 4])?;
    server.write_all(b"pong")?;
    wait_until("an answer", PATIENCE, || Ok(waiting.log().contains("pong")))
}
