//! Connections that the workload accepts: what is captured, what is not, and what both sides see.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpListener};

use anyhow::{Context, Result, ensure};
use weir_tests::fixture;
use weir_tests::left::{leavings, nothing_left};
use weir_tests::peer::plain;
use weir_tests::pods::{CLIENT, POD, POD_B, Pods};
use weir_tests::process::{Process, wait_until};
use weir_tests::record::{Record, Records};
use weir_tests::site::{PATIENCE, Site, accept, is_captured, join, read_all, stop};
use weir_tests::weir::{Daemon, Run};
use weir_tests::wire::Wire;

const PORT: u16 = 9000;

fn at(ip: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip.parse().expect("an address of this harness"), port)
}

/// weir on the node, for pod A.
fn capture(pods: &Pods, flags: &[&str]) -> Result<Daemon> {
    let (pod, run) = (&pods.pod_a, Run::new(&pods.node, pods.dir()));
    run.workload("pod-a", pod.cgroup(), Some(&pod.netns)).flags(flags).start()
}

/// A server for both families in a pod.
fn server(pod: &Site, port: u16) -> Result<TcpListener> {
    Ok(pod.listen(at("::", port))?)
}

/// One exchange, whose first line can be no HTTP and needs no timer, and both ends; the address that the server saw.
fn exchange(wire: Wire) -> Result<SocketAddr> {
    let seen = plain(wire.server.peer_addr()?);
    wire.up("ping\n")?;
    wire.down("pong\n")?;
    wire.finish()?;
    Ok(seen)
}

/// Connects, talks, and tells the client's own address and the one that the server saw.
fn visit(from: &Site, to: SocketAddr, listener: &TcpListener) -> Result<(SocketAddr, SocketAddr)> {
    let wire = join(from, to, listener)?;
    let own = wire.client.local_addr()?;
    Ok((own, exchange(wire)?))
}

fn refused(from: &Site, to: SocketAddr) -> Result<()> {
    let kind = from.connect(to).map(drop).map_err(|error| error.kind());
    ensure!(kind == Err(ErrorKind::ConnectionRefused), "{to}: {kind:?}");
    Ok(())
}

/// Refused sooner or later, and never answered: of a server that was there before weir the kernel
/// does not say when it goes, and weir has to look.
fn refused_soon(from: &Site, to: SocketAddr) -> Result<()> {
    wait_until(&format!("{to} to be refused"), PATIENCE, || match from.connect(to) {
        Ok(stream) => {
            let kind = read_all(&stream).map_err(|error| error.kind());
            ensure!(kind == Err(ErrorKind::ConnectionReset), "{to}: {kind:?}");
            Ok(false)
        }
        Err(error) => Ok(error.kind() == ErrorKind::ConnectionRefused),
    })
}

/// The records of a port for connections that were captured on their way in.
fn inbound(records: &Records, port: u16) -> Vec<&Record> {
    let all = records.connections(port).into_iter();
    let inbound = all.filter(|record| record.text("direction") == "inbound");
    inbound.filter(|record| record.text("treatment") != "skip").collect()
}

/// Ends the daemon; then nothing of it is left.
fn ended(mut daemon: Daemon, pods: &Pods) -> Result<()> {
    daemon.stop()?;
    daemon.instance().detach(&[])?.ok()?;
    nothing_left(daemon.instance(), &pods.namespaces())
}

// === What is captured ===

/// Client and destination of the record are those of the connection, whatever the server bound.
#[test]
fn every_family_and_every_way_to_listen_is_captured() -> Result<()> {
    let pods = Pods::new()?;
    let daemon = capture(&pods, &[])?;
    let (client, pod) = (&pods.client_a, &pods.pod_a);
    let listeners = [
        (pod.listen(at("0.0.0.0", 9001))?, &POD[..1]),
        (pod.listen(at(POD[0], 9002))?, &POD[..1]),
        (pod.listen_v6only(at("::", 9003))?, &POD[1..]),
        (pod.listen(at(POD[1], 9004))?, &POD[1..]),
        (pod.listen(at("::", 9005))?, &POD[..]),
    ];
    for (listener, addresses) in &listeners {
        let port = listener.local_addr()?.port();
        for (number, address) in addresses.iter().enumerate() {
            let (own, _) = visit(client, at(address, port), listener)?;
            let records = daemon.records_of(port, number + 1)?;
            let record = records.connections(port)[number];
            assert_eq!(record.text("direction"), "inbound", "{record:#?}");
            assert_eq!(record.text("workload"), "pod-a", "{record:#?}");
            assert_eq!(record.text("client"), own.to_string(), "{record:#?}");
            assert_eq!(record.text("destination"), at(address, port).to_string(), "{record:#?}");
            assert_eq!(record.number("bytes_sent"), 5, "{record:#?}");
        }
    }
    drop(listeners);
    ended(daemon, &pods)
}

#[test]
fn servers_from_before_and_after_the_start_are_captured() -> Result<()> {
    let pods = Pods::new()?;
    let before = server(&pods.pod_a, 9001)?;
    let (own, seen) = visit(&pods.client_a, at(POD[0], 9001), &before)?;
    assert_eq!(own, seen, "there is no weir yet");
    let daemon = capture(&pods, &[])?;
    let after = server(&pods.pod_a, 9002)?;
    for (port, listener) in [(9001, &before), (9002, &after)] {
        for ip in POD {
            visit(&pods.client_a, at(ip, port), listener)?;
        }
        assert_eq!(inbound(&daemon.records_of(port, 2)?, port).len(), 2);
    }
    Ok(())
}

/// From a client host through pod A to pod B: inbound and outbound of the one, inbound of the other.
#[test]
fn a_chain_of_pods_is_captured_at_every_step() -> Result<()> {
    let pods = Pods::new()?;
    let daemon = capture(&pods, &[])?;
    let b = &pods.pod_b;
    daemon.add("pod-b", b.cgroup(), &b.netns, &[])?;
    let (relay, last) = (server(&pods.pod_a, 9001)?, server(b, 9002)?);
    for (number, (first_ip, last_ip)) in POD.into_iter().zip(POD_B).enumerate() {
        let first = join(&pods.client_a, at(first_ip, 9001), &relay)?;
        let second = join(&pods.pod_a, at(last_ip, 9002), &last)?;
        for words in ["GET / HTTP/9\r\n", "anything"] {
            first.up(words)?;
            second.up(words)?;
            second.down(words)?;
            first.down(words)?;
        }
        first.client_ends()?;
        second.finish()?;
        first.server_ends()?;
        drop(first);
        let records = daemon.records_of(9001, number + 1)?;
        assert_eq!(inbound(&records, 9001).len(), number + 1, "{records:#?}");
        let records = daemon.records_of(9002, 2 * (number + 1))?;
        assert_eq!(inbound(&records, 9002).len(), number + 1, "{records:#?}");
        assert_eq!(records.connections(9002).len(), 2 * (number + 1), "{records:#?}");
    }
    drop((relay, last));
    ended(daemon, &pods)
}

// === What is not ===

#[test]
fn a_skipped_port_goes_direct_and_its_neighbour_does_not() -> Result<()> {
    let pods = Pods::new()?;
    let daemon = capture(&pods, &["--skip-inbound-ports", "9001"])?;
    let (skipped, captured) = (server(&pods.pod_a, 9001)?, server(&pods.pod_a, 9002)?);
    for ip in POD {
        let (own, seen) = visit(&pods.client_a, at(ip, 9001), &skipped)?;
        assert_eq!(own, seen);
        let (own, seen) = visit(&pods.client_a, at(ip, 9002), &captured)?;
        assert_ne!(own, seen);
    }
    let records = daemon.records_of(9002, 2)?;
    let treated: Vec<String> =
        records.connections(9001).iter().map(|record| record.text("treatment")).collect();
    assert!(treated.iter().all(|treatment| treatment == "skip"), "{treated:?}");
    Ok(())
}

#[test]
fn with_no_capture_inbound_connections_go_direct() -> Result<()> {
    let pods = Pods::new()?;
    let daemon = capture(&pods, &["--no-capture-inbound"])?;
    let listener = server(&pods.pod_a, PORT)?;
    for ip in POD {
        let (own, seen) = visit(&pods.client_a, at(ip, PORT), &listener)?;
        assert_eq!(own, seen);
    }
    // Its outbound connections are captured all the same.
    let elsewhere = server(&pods.client_a, PORT)?;
    assert!(is_captured(&pods.pod_a, at(CLIENT[0], PORT), &elsewhere)?);
    let records = daemon.records_of(PORT, 1)?;
    for record in records.connections(PORT) {
        let captured = record.text("treatment") != "skip";
        assert_eq!(captured, record.text("direction") == "outbound", "{record:#?}");
    }
    Ok(())
}

/// Over loopback, over its own address, and by a process that is in the namespace but not in the
/// cgroup, such as a sidecar.
#[test]
fn connections_from_inside_are_not_captured_inbound() -> Result<()> {
    let pods = Pods::new()?;
    let daemon = capture(&pods, &[])?;
    let listener = server(&pods.pod_a, PORT)?;
    for ip in ["127.0.0.1", "::1"] {
        let (own, seen) = visit(&pods.pod_a, at(ip, PORT), &listener)?;
        assert_eq!(own, seen);
    }
    for ip in ["127.0.0.1", "::1", POD[0], POD[1]] {
        let to = at(ip, PORT);
        let client = pods.pod_a.netns.enter(|| std::net::TcpStream::connect(to))??;
        let own = client.local_addr()?;
        assert_eq!(own, exchange(Wire { client, server: accept(&listener)? })?);
    }
    // A pod that calls its own address makes an outbound connection, and only that.
    for ip in POD {
        visit(&pods.pod_a, at(ip, PORT), &listener)?;
    }
    // One from outside, after all of them, shows that the records are complete.
    visit(&pods.client_a, at(POD[0], PORT), &listener)?;
    let records = daemon.records_of(PORT, 3)?;
    assert_eq!(inbound(&records, PORT).len(), 1, "{records:#?}");
    Ok(())
}

// === Without a listener ===

#[test]
fn a_port_without_a_server_refuses_as_before() -> Result<()> {
    let pods = Pods::new()?;
    let daemon = capture(&pods, &[])?;
    for round in 0..3 {
        for ip in POD {
            refused(&pods.client_a, at(ip, PORT)).with_context(|| format!("round {round}"))?;
        }
        let listener = server(&pods.pod_a, PORT)?;
        for ip in POD {
            visit(&pods.client_a, at(ip, PORT), &listener)?;
        }
        stop(listener)?;
    }
    // Those that were not refused were captured.
    assert_eq!(inbound(&daemon.records_of(PORT, 6)?, PORT).len(), 6);
    Ok(())
}

/// No `shutdown`, no `close`: the kernel ends what a dead process had open.
#[test]
fn a_server_process_that_is_killed_leaves_a_port_that_refuses() -> Result<()> {
    let pods = Pods::new()?;
    let daemon = capture(&pods, &[])?;
    let netns = &pods.pod_a.netns;
    let mut command = netns.command(fixture::PYTHON);
    let program = format!("import time; s = socket.create_server(('', {PORT})); time.sleep(600)");
    command.args(["-c", &format!("import socket; {program}")]);
    let mut process = Process::serve("server", command, pods.dir(), (netns, PORT))?;
    drop(pods.client_a.connect(at(POD[0], PORT))?);
    process.kill_hard()?;
    refused(&pods.client_a, at(POD[0], PORT))?;
    // It had been captured; its record is written when the server's end is gone too.
    assert_eq!(inbound(&daemon.records_of(PORT, 1)?, PORT).len(), 1);
    Ok(())
}

#[test]
fn a_server_from_before_the_start_that_stops_is_noticed() -> Result<()> {
    let pods = Pods::new()?;
    let listener = server(&pods.pod_a, PORT)?;
    let daemon = capture(&pods, &[])?;
    visit(&pods.client_a, at(POD[0], PORT), &listener)?;
    assert_eq!(inbound(&daemon.records_of(PORT, 1)?, PORT).len(), 1);
    stop(listener)?;
    for ip in POD {
        refused_soon(&pods.client_a, at(ip, PORT))?;
    }
    Ok(())
}

#[test]
fn a_server_of_one_family_or_address_refuses_the_others() -> Result<()> {
    let pods = Pods::new()?;
    let daemon = capture(&pods, &[])?;
    let (client, pod) = (&pods.client_a, &pods.pod_a);
    let v4 = pod.listen(at("0.0.0.0", 9001))?;
    let v6 = pod.listen_v6only(at("::", 9002))?;
    let local = pod.listen(at("127.0.0.1", 9003))?;
    refused(client, at(POD[1], 9001))?;
    refused(client, at(POD[0], 9002))?;
    refused(client, at(POD[0], 9003))?;
    visit(client, at(POD[0], 9001), &v4)?;
    visit(client, at(POD[1], 9002), &v6)?;
    assert_eq!(inbound(&daemon.records_of(9001, 1)?, 9001).len(), 1);
    assert_eq!(inbound(&daemon.records_of(9002, 1)?, 9002).len(), 1);
    drop(local);
    Ok(())
}

/// A server that hands over to another one on the same port, as nginx does at a reload.
#[test]
fn the_last_of_several_servers_on_a_port_decides() -> Result<()> {
    let pods = Pods::new()?;
    let first = pods.pod_a.listen_shared(at("::", PORT))?;
    let daemon = capture(&pods, &[])?;
    let second = pods.pod_a.listen_shared(at("::", PORT))?;
    stop(first)?;
    for ip in POD {
        visit(&pods.client_a, at(ip, PORT), &second)?;
    }
    assert_eq!(inbound(&daemon.records_of(PORT, 2)?, PORT).len(), 2);
    stop(second)?;
    for ip in POD {
        refused_soon(&pods.client_a, at(ip, PORT))?;
    }
    Ok(())
}

// === The client's address ===

#[test]
fn without_the_option_the_application_sees_a_local_address() -> Result<()> {
    let pods = Pods::new()?;
    let daemon = capture(&pods, &[])?;
    let listener = server(&pods.pod_a, PORT)?;
    let local: Vec<IpAddr> =
        ["127.0.0.1", "::1", POD[0], POD[1]].iter().map(|ip| at(ip, 0).ip()).collect();
    for ip in POD {
        let (_, seen) = visit(&pods.client_a, at(ip, PORT), &listener)?;
        assert!(local.contains(&seen.ip()), "{seen}");
    }
    let rules = leavings(daemon.instance(), &[&pods.pod_a.netns])?;
    assert!(
        !rules.iter().any(|line| line.contains("rule") || line.contains("fwmark")),
        "{rules:?}"
    );
    Ok(())
}

/// The port must be another one: the client's own four-tuple is taken by weir's socket.
#[test]
fn with_preserve_client_ip_the_application_sees_the_clients() -> Result<()> {
    let pods = Pods::new()?;
    let daemon = capture(&pods, &["--preserve-client-ip"])?;
    let listener = server(&pods.pod_a, PORT)?;
    let v4 = pods.pod_a.listen(at("0.0.0.0", 9001))?;
    for round in 1..=20 {
        for (ip, client) in POD.into_iter().zip(CLIENT) {
            let wire = join(&pods.client_a, at(ip, PORT), &listener)?;
            let own = wire.client.local_addr()?;
            assert_eq!(plain(wire.server.local_addr()?), at(ip, PORT), "getsockname");
            let seen = exchange(wire)?;
            assert_eq!(seen.ip(), at(client, 0).ip(), "round {round}");
            assert_ne!(seen.port(), own.port());
        }
        let (_, seen) = visit(&pods.client_a, at(POD[0], 9001), &v4)?;
        assert_eq!(seen.ip(), at(CLIENT[0], 0).ip());
    }
    assert_eq!(inbound(&daemon.records_of(PORT, 40)?, PORT).len(), 40);
    // It takes a rule and a sysctl, which `ended` must not find any more.
    let during = leavings(daemon.instance(), &[&pods.pod_a.netns])?;
    assert!(during.iter().any(|line| line.starts_with("rule in")), "{during:?}");
    drop((listener, v4));
    ended(daemon, &pods)
}

// === Two pods with the same addresses ===

/// The same four-tuple exists twice, at the same time and in both directions; only the namespaces
/// tell them apart.
#[test]
fn identical_four_tuples_do_not_meet() -> Result<()> {
    let pods = Pods::new()?;
    let daemon = capture(&pods, &[])?;
    daemon.add("pod-b", pods.pod_b.cgroup(), &pods.pod_b.netns, &[])?;
    let sides = [(&pods.client_a, &pods.pod_a), (&pods.client_b, &pods.pod_b)];
    for (number, (client_ip, pod_ip)) in CLIENT.into_iter().zip(POD).enumerate() {
        let port = PORT + u16::try_from(number)?;
        let (client_at, pod_at) = (at(client_ip, 20_000), at(pod_ip, port));
        let inwards = sides.map(|(client, pod)| open(client, client_at, pod, pod_at));
        let (pod_at, client_at) = (at(pod_ip, 21_000), at(client_ip, port));
        let outwards = sides.map(|(client, pod)| open(pod, pod_at, client, client_at));
        let mut wires = Vec::new();
        for (name, pair) in [("inbound", inwards), ("outbound", outwards)] {
            for (wire, pod) in pair.into_iter().zip(["pod-a", "pod-b"]) {
                wires.push((
                    wire.with_context(|| format!("{name} {pod}"))?,
                    format!("{name} {pod}"),
                ));
            }
        }
        for _ in 0..3 {
            wires.iter().try_for_each(|(wire, text)| wire.up(format!("{text}\n")))?;
            wires.iter().rev().try_for_each(|(wire, text)| wire.down(format!("{text}\n")))?;
        }
        wires.into_iter().try_for_each(|(wire, _)| wire.finish())?;
        let records = daemon.records_of(port, 4)?;
        let mut told: Vec<String> = records
            .connections(port)
            .iter()
            .map(|record| format!("{} {}", record.text("direction"), record.text("workload")))
            .collect();
        told.sort();
        let all = ["inbound pod-a", "inbound pod-b", "outbound pod-a", "outbound pod-b"];
        assert_eq!(told, all);
    }
    ended(daemon, &pods)
}

fn open(client: &Site, from: SocketAddr, server: &Site, to: SocketAddr) -> Result<Wire> {
    let listener = server.listen(to)?;
    let client = client.connect_from(from, to)?;
    Ok(Wire { client, server: accept(&listener)? })
}

// === Fail closed ===

#[test]
fn fail_closed_refuses_until_weir_is_detached() -> Result<()> {
    let pods = Pods::new()?;
    let flags =
        ["--fail", "closed", "--skip-inbound-ports", "9001", "--skip-outbound-ports", "9001"];
    let mut daemon = capture(&pods, &flags)?;
    let (inside, outside) = (server(&pods.pod_a, PORT)?, server(&pods.client_a, PORT)?);
    let (skip_in, skip_out) = (server(&pods.pod_a, 9001)?, server(&pods.client_a, 9001)?);
    for (pod_ip, client_ip) in POD.into_iter().zip(CLIENT) {
        visit(&pods.client_a, at(pod_ip, PORT), &inside)?;
        visit(&pods.pod_a, at(client_ip, PORT), &outside)?;
    }
    daemon.process.kill_hard()?;
    for (pod_ip, client_ip) in POD.into_iter().zip(CLIENT) {
        refused(&pods.client_a, at(pod_ip, PORT)).context("inbound")?;
        let outbound = pods.pod_a.connect(at(client_ip, PORT)).map(drop);
        let errno = outbound.map_err(|error| error.raw_os_error());
        assert_eq!(errno, Err(Some(nix::libc::EPERM)), "outbound");
        // What weir never had a hand in goes on.
        visit(&pods.client_a, at(pod_ip, 9001), &skip_in)?;
        visit(&pods.pod_a, at(client_ip, 9001), &skip_out)?;
    }
    daemon.instance().detach(&["--force"])?.ok()?;
    assert_direct(&pods, &inside, &outside)?;
    nothing_left(daemon.instance(), &pods.namespaces())
}

#[test]
fn by_default_connections_go_direct_when_weir_is_dead() -> Result<()> {
    let pods = Pods::new()?;
    let mut daemon = capture(&pods, &[])?;
    let (inside, outside) = (server(&pods.pod_a, PORT)?, server(&pods.client_a, PORT)?);
    let (own, seen) = visit(&pods.client_a, at(POD[0], PORT), &inside)?;
    assert_ne!(own, seen);
    daemon.process.kill_hard()?;
    assert_direct(&pods, &inside, &outside)
}

fn assert_direct(pods: &Pods, inside: &TcpListener, outside: &TcpListener) -> Result<()> {
    for (pod_ip, client_ip) in POD.into_iter().zip(CLIENT) {
        let (own, seen) = visit(&pods.client_a, at(pod_ip, PORT), inside)?;
        ensure!(own == seen, "inbound: {own} was seen as {seen}");
        let (own, seen) = visit(&pods.pod_a, at(client_ip, PORT), outside)?;
        ensure!(own == seen, "outbound: {own} was seen as {seen}");
    }
    Ok(())
}
