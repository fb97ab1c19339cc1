//! Servers that were listening before weir came: they are followed as closely as those that start
//! later, and cannot tell.

use std::io::{ErrorKind, IoSlice, Write};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::socket::{Backlog, Shutdown, listen, shutdown};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use weir_tests::fixture;
use weir_tests::left::nothing_left;
use weir_tests::peer::plain;
use weir_tests::pods::{POD, Pods};
use weir_tests::process::{Process, run, wait_until};
use weir_tests::site::{Site, accept, close, is_captured as captured, read_all};
use weir_tests::weir::{Daemon, Run};
use weir_tests::wire::{Wire, noise};

const PORT: u16 = 9000;
const BYTES: usize = 3_000_000;
const SOON: Duration = Duration::from_secs(20);

fn at(ip: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip.parse().expect("an address of this harness"), port)
}

/// weir on the node, for pod A.
fn capture(pods: &Pods, flags: &[&str]) -> Result<Daemon> {
    command(pods, flags).start()
}

fn command<'a>(pods: &'a Pods, flags: &[&str]) -> Run<'a> {
    let run = Run::new(&pods.node, pods.dir()).flags(flags);
    run.workload("pod-a", pods.pod_a.cgroup(), Some(&pods.pod_a.netns))
}

/// Talks over both ends; true where weir is between them.
fn talk(wire: Wire) -> Result<bool> {
    let captured = wire.went_through_weir()?;
    wire.up("ping")?;
    wire.down("pong")?;
    wire.finish()?;
    Ok(captured)
}

fn refused(from: &Site, to: SocketAddr) -> Result<()> {
    let kind = from.connect(to).map(drop).map_err(|error| error.kind());
    ensure!(kind == Err(ErrorKind::ConnectionRefused), "{to}: {kind:?}");
    Ok(())
}

/// Talks over a new connection to whichever of the group the kernel chooses.
fn captured_by_any(from: &Site, to: SocketAddr, group: &[TcpListener]) -> Result<bool> {
    let client = from.connect(to).with_context(|| format!("cannot connect to {to}"))?;
    group.iter().try_for_each(|listener| listener.set_nonblocking(true))?;
    let mut ready = None;
    wait_until("a connection at one of the group", SOON, || {
        ready = group.iter().find_map(|listener| listener.accept().ok());
        Ok(ready.is_some())
    })?;
    let (server, _) = ready.context("the wait ended without a connection")?;
    server.set_nonblocking(false)?;
    talk(Wire { client, server })
}

/// Ends the daemon; then nothing of it is left.
fn ended(mut daemon: Daemon, pods: &Pods) -> Result<()> {
    daemon.stop()?;
    daemon.instance().detach(&[])?.ok()?;
    nothing_left(daemon.instance(), &pods.namespaces())
}

// === What ends a listener ===

#[test]
fn each_family_and_address_is_followed() -> Result<()> {
    let pods = Pods::new()?;
    let (client, pod) = (&pods.client_a, &pods.pod_a);
    let listeners = [
        (pod.listen(at("0.0.0.0", 9001))?, &POD[..1]),
        (pod.listen(at(POD[0], 9002))?, &POD[..1]),
        (pod.listen_v6only(at("::", 9003))?, &POD[1..]),
        (pod.listen(at(POD[1], 9004))?, &POD[1..]),
        (pod.listen(at("::", 9005))?, &POD[..]),
    ];
    // Two addresses of one port are two servers.
    let v4 = pod.listen(at(POD[0], 9006))?;
    let v6 = pod.listen(at(POD[1], 9006))?;
    let daemon = capture(&pods, &[])?;
    for (listener, addresses) in listeners {
        let port = listener.local_addr()?.port();
        for address in POD {
            let to = at(address, port);
            if addresses.contains(&address) {
                assert!(captured(client, to, &listener)?, "{to}");
            } else {
                refused(client, to)?;
            }
        }
        close(pod, listener)?;
        for address in POD {
            refused(client, at(address, port))?;
        }
    }
    assert!(captured(client, at(POD[0], 9006), &v4)? && captured(client, at(POD[1], 9006), &v6)?);
    close(pod, v4)?;
    refused(client, at(POD[0], 9006))?;
    assert!(captured(client, at(POD[1], 9006), &v6)?);
    close(pod, v6)?;
    refused(client, at(POD[1], 9006))?;
    ended(daemon, &pods)
}

/// As after fork(2), or in a server that hands its listener on.
#[test]
fn the_last_copy_of_a_descriptor_ends_it() -> Result<()> {
    let pods = Pods::new()?;
    let first = pods.pod_a.listen(at("::", PORT))?;
    let _daemon = capture(&pods, &[])?;
    let second = first.try_clone()?;
    drop(first);
    assert!(captured(&pods.client_a, at(POD[0], PORT), &second)?);
    close(&pods.pod_a, second)?;
    refused(&pods.client_a, at(POD[0], PORT))
}

#[test]
fn shutdown_ends_it_and_listening_again_is_seen() -> Result<()> {
    let pods = Pods::new()?;
    let listener = pods.pod_a.listen(at("::", PORT))?;
    let _daemon = capture(&pods, &[])?;
    let to = at(POD[0], PORT);
    for _ in 0..2 {
        assert!(captured(&pods.client_a, to, &listener)?);
        shutdown(std::os::fd::AsRawFd::as_raw_fd(&listener), Shutdown::Both)?;
        refused(&pods.client_a, to)?;
        listen(&listener, Backlog::new(16)?)?;
    }
    assert!(captured(&pods.client_a, to, &listener)?);
    close(&pods.pod_a, listener)?;
    refused(&pods.client_a, to)
}

/// Five fit; of twelve some are not followed, and their connections go direct at worst.
#[test]
fn a_group_listens_until_its_last_member_has_gone() -> Result<()> {
    let pods = Pods::new()?;
    let group = |port, count| -> Result<Vec<TcpListener>> {
        (0..count).map(|_| Ok(pods.pod_a.listen_shared(at("::", port))?)).collect()
    };
    let (mut five, mut twelve) = (group(9001, 5)?, group(9002, 12)?);
    let _daemon = capture(&pods, &[])?;
    assert!(captured_by_any(&pods.client_a, at(POD[0], 9002), &twelve)?);
    while !five.is_empty() {
        for ip in POD {
            assert!(captured_by_any(&pods.client_a, at(ip, 9001), &five)?, "{} left", five.len());
        }
        close(&pods.pod_a, five.remove(0))?;
    }
    while !twelve.is_empty() {
        captured_by_any(&pods.client_a, at(POD[0], 9002), &twelve)?;
        close(&pods.pod_a, twelve.remove(0))?;
    }
    for port in [9001, 9002] {
        refused(&pods.client_a, at(POD[0], port))?;
    }
    Ok(())
}

#[test]
fn the_same_port_of_two_pods_is_followed_apart() -> Result<()> {
    let pods = Pods::new()?;
    let (a, b) = (pods.pod_a.listen(at("::", PORT))?, pods.pod_b.listen(at("::", PORT))?);
    let daemon = capture(&pods, &[])?;
    daemon.add("pod-b", pods.pod_b.cgroup(), &pods.pod_b.netns, &[])?;
    let to = at(POD[0], PORT);
    assert!(captured(&pods.client_a, to, &a)? && captured(&pods.client_b, to, &b)?);
    close(&pods.pod_a, a)?;
    refused(&pods.client_a, to)?;
    assert!(captured(&pods.client_b, to, &b)?);
    daemon.ask(&["workload", "remove", "pod-b"])?.ok()?;
    assert!(!captured(&pods.client_b, to, &b)?);
    // What was forgotten is found again.
    daemon.add("pod-b", pods.pod_b.cgroup(), &pods.pod_b.netns, &[])?;
    assert!(captured(&pods.client_b, to, &b)?);
    close(&pods.pod_b, b)?;
    refused(&pods.client_b, to)?;
    ended(daemon, &pods)
}

/// A socket belongs to the cgroup that it was made in, wherever its process goes.
#[test]
fn the_process_may_be_in_another_cgroup_by_now() -> Result<()> {
    let pods = Pods::new()?;
    let mut server = start(&pods, PORT, &[])?;
    let elsewhere = weir_tests::cgroup::Cgroup::new("elsewhere")?;
    std::fs::write(elsewhere.path().join("cgroup.procs"), server.pid().to_string())?;
    let daemon = capture(&pods, &[])?;
    download(&pods.client_a, at(POD[0], PORT), "sendfile")?;
    let records = daemon.records_of(PORT, 1)?;
    assert_eq!(records.only_connection(PORT).text("direction"), "inbound");
    server.kill_hard()?;
    refused(&pods.client_a, at(POD[0], PORT))
}

// === Restart and detach ===

#[test]
fn what_was_followed_still_is_after_kill_9() -> Result<()> {
    let pods = Pods::new()?;
    let (gone, stays) = (pods.pod_a.listen(at("::", 9001))?, pods.pod_a.listen(at("::", 9002))?);
    let mut daemon = capture(&pods, &[])?;
    assert!(captured(&pods.client_a, at(POD[0], 9001), &gone)?);
    let mut new = Vec::new();
    for round in 0..3_u16 {
        daemon.process.kill_hard()?;
        assert!(!captured(&pods.client_a, at(POD[0], 9002), &stays)?);
        new.push(pods.pod_a.listen(at("::", 9010 + round))?);
        daemon = command(&pods, &[]).after(&daemon).start()?;
        assert!(captured(&pods.client_a, at(POD[0], 9002), &stays)?);
    }
    daemon.process.kill_hard()?;
    close(&pods.pod_a, gone)?;
    let daemon = command(&pods, &[]).after(&daemon).start()?;
    refused(&pods.client_a, at(POD[0], 9001))?;
    assert!(captured(&pods.client_a, at(POD[0], 9002), &stays)?);
    close(&pods.pod_a, stays)?;
    refused(&pods.client_a, at(POD[0], 9002))?;
    for listener in new {
        let to = at(POD[0], listener.local_addr()?.port());
        assert!(captured(&pods.client_a, to, &listener)?);
        close(&pods.pod_a, listener)?;
        refused(&pods.client_a, to)?;
    }
    ended(daemon, &pods)
}

#[test]
fn a_followed_listener_goes_on_without_weir() -> Result<()> {
    let pods = Pods::new()?;
    let listener = pods.pod_a.listen(at("::", PORT))?;
    let daemon = capture(&pods, &[])?;
    assert!(captured(&pods.client_a, at(POD[0], PORT), &listener)?);
    ended(daemon, &pods)?;
    assert!(!captured(&pods.client_a, at(POD[0], PORT), &listener)?);
    let _again = capture(&pods, &[])?;
    assert!(captured(&pods.client_a, at(POD[0], PORT), &listener)?);
    close(&pods.pod_a, listener)?;
    refused(&pods.client_a, at(POD[0], PORT))
}

// === Where the descriptor is not to be had ===

/// It is on its way from one process to another, so that no process has it open.
#[test]
fn a_listener_of_nobody_is_captured_and_its_end_noticed_at_the_next_refusal() -> Result<()> {
    let pods = Pods::new()?;
    let listener = pods.pod_a.listen(at("::", PORT))?;
    let (one, other) = UnixStream::pair()?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut rights = SendAncillaryBuffer::new(&mut space);
    let descriptors = [listener.as_fd()];
    ensure!(rights.push(SendAncillaryMessage::ScmRights(&descriptors)), "no room");
    sendmsg(&one, &[IoSlice::new(b"x")], &mut rights, SendFlags::empty())?;
    drop(listener);
    let daemon = capture(&pods, &[])?;
    let client = pods.client_a.connect(at(POD[0], PORT))?;
    // What the queue holds is reset with the listener, and weir passes that on.
    drop((one, other));
    wait_until("the end to be noticed", SOON, || {
        Ok(refused(&pods.client_a, at(POD[0], PORT)).is_ok())
    })?;
    let reset = read_all(&client).map_err(|error| error.kind());
    ensure!(reset == Err(ErrorKind::ConnectionReset), "{reset:?}");
    let own = client.local_addr()?.to_string();
    let mut direction = None;
    wait_until("its record", SOON, || {
        let records = daemon.records()?;
        let mut of_port = records.connections(PORT).into_iter();
        let first = of_port.find(|record| record.text("client") == own);
        direction = first.map(|record| record.text("direction"));
        Ok(direction.is_some())
    })?;
    assert_eq!(direction.as_deref(), Some("inbound"));
    Ok(())
}

// === What the server sees ===

fn start(pods: &Pods, port: u16, flags: &[&str]) -> Result<Process> {
    let netns = &pods.pod_a.netns;
    let mut command = fixture::command(netns, "listener.py");
    command.args(flags).arg(port.to_string());
    Process::serve(&format!("listener-{port}"), command, pods.dir(), (netns, port))
}

fn download(from: &Site, to: SocketAddr, way: &str) -> Result<()> {
    let mut stream = from.connect(to)?;
    writeln!(stream, "{way} {BYTES}")?;
    ensure!(read_all(&stream)? == noise(BYTES), "{way}: other bytes arrived");
    Ok(())
}

fn upload(from: &Site, to: SocketAddr) -> Result<Vec<u8>> {
    let mut stream = from.connect(to)?;
    writeln!(stream, "digest {BYTES}")?;
    stream.write_all(&noise(BYTES))?;
    Ok(read_all(&stream)?)
}

/// What ss(8) tells of the listening sockets: inode, cookie, cgroup, queue.
fn listed(pods: &Pods) -> Result<String> {
    let mut ss = pods.pod_a.netns.command("ss");
    let text = run(ss.args(["-Htlne"]), SOON)?.ok()?.stdout;
    // The columns are as wide as the widest entry.
    let line = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    Ok(text.lines().map(line).collect::<Vec<_>>().join("\n"))
}

/// What it accepts are ordinary sockets, whichever way it was set up; nothing of the listener's
/// changes.
#[test]
fn a_server_works_in_every_way_and_cannot_tell() -> Result<()> {
    let pods = Pods::new()?;
    let setups: [(u16, &[&str]); 3] = [(9001, &[]), (9002, &["--defer"]), (9003, &["--map"])];
    let mut servers = Vec::new();
    for (port, flags) in setups {
        servers.push((port, start(&pods, port, flags)?));
    }
    let before = listed(&pods)?;
    ensure!(before.lines().count() == 3, "{before}");
    let digest = upload(&pods.client_a, at(POD[0], 9001)).context("without weir")?;
    download(&pods.client_a, at(POD[0], 9001), "zerocopy").context("without weir")?;
    let daemon = capture(&pods, &[])?;
    let during = listed(&pods)?;
    for line in before.lines() {
        // Beside them are weir's own, which are in another cgroup.
        assert!(during.contains(line), "{line} is not in {during}");
    }
    for (port, _) in &servers {
        for ip in POD {
            let to = at(ip, *port);
            for way in ["sendfile", "splice", "zerocopy"] {
                download(&pods.client_a, to, way).with_context(|| format!("{way} from {to}"))?;
            }
            assert_eq!(upload(&pods.client_a, to)?, digest, "to {to}");
            // From inside: not through weir, but from the same listener.
            download(&pods.pod_a, at("127.0.0.1", *port), "splice")?;
        }
        let records = daemon.records_of(*port, 8)?;
        let inbound = records.connections(*port).into_iter();
        let inbound = inbound.filter(|record| record.text("direction") == "inbound").count();
        assert_eq!(inbound, 8, "of port {port}");
    }
    for (port, server) in &mut servers {
        server.kill_hard()?;
        refused(&pods.client_a, at(POD[0], *port))?;
    }
    ended(daemon, &pods)
}

/// Connections that are in the queue when the listener is put into the map are accepted.
#[test]
fn what_waits_in_the_queue_is_not_lost() -> Result<()> {
    let pods = Pods::new()?;
    let listener = pods.pod_a.listen(at("::", PORT))?;
    let mut waiting: Vec<TcpStream> = Vec::new();
    for _ in 0..20 {
        waiting.push(pods.client_a.connect(at(POD[0], PORT))?);
    }
    let _daemon = capture(&pods, &[])?;
    for client in waiting {
        let server = accept(&listener)?;
        assert_eq!(plain(server.peer_addr()?), client.local_addr()?, "in the order of arrival");
        assert!(!talk(Wire { client, server })?);
    }
    Ok(())
}
