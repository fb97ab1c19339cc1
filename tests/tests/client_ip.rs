//! What `--preserve-client-ip` needs in a namespace stays there for as long as a connection needs it,
//! whichever weir carries that, and no longer. Found by chaos: a workload that a successor removed was
//! still being drained by its predecessor, whose connections were reset.

use std::net::{SocketAddr, TcpListener};

use anyhow::{Result, ensure};
use weir_tests::left::nothing_left;
use weir_tests::peer::plain;
use weir_tests::pods::{CLIENT, POD, Pods};
use weir_tests::process::wait_until;
use weir_tests::site::{PATIENCE, join};
use weir_tests::weir::{Daemon, Run};
use weir_tests::wire::Wire;

const PORT: u16 = 9000;
const FLAGS: [&str; 3] = ["--preserve-client-ip", "--drain-deadline", "5m"];

fn run(pods: &Pods) -> Run<'_> {
    Run::new(&pods.node, pods.dir()).flags(&FLAGS[1..]).flags(&["--standby"])
}

fn add(pods: &Pods, daemon: &Daemon) -> Result<()> {
    daemon.add("a", pods.pod_a.cgroup(), &pods.pod_a.netns, &FLAGS[..1])
}

fn remove(daemon: &Daemon) -> Result<()> {
    daemon.ask(&["workload", "remove", "a"])?.ok().map(drop)
}

fn listen(pods: &Pods) -> Result<TcpListener> {
    Ok(pods.pod_a.listen(SocketAddr::new("::".parse()?, PORT))?)
}

/// A connection to the pod over each family, through weir and from the client's address.
fn wires(pods: &Pods, listener: &TcpListener) -> Result<Vec<Wire>> {
    let both = POD.into_iter().zip(CLIENT).map(|(pod, client)| {
        let wire = join(&pods.client_a, SocketAddr::new(pod.parse()?, PORT), listener)?;
        let (seen, own) = (plain(wire.server.peer_addr()?), wire.client.local_addr()?);
        ensure!(seen.ip().to_string() == client && wire.went_through_weir()?, "{own} as {seen}");
        Ok(wire)
    });
    both.collect()
}

fn work(wires: &[Wire]) -> Result<()> {
    wires.iter().try_for_each(|wire| wire.up("ping").and_then(|()| wire.down("pong")))
}

fn finish(wires: Vec<Wire>) -> Result<()> {
    work(&wires)?;
    wires.into_iter().try_for_each(Wire::finish)
}

/// Whether the namespace is as it was before weir.
fn is_bare(pods: &Pods) -> Result<bool> {
    let fwmark = || std::fs::read_to_string("/proc/sys/net/ipv4/tcp_fwmark_accept");
    Ok(pods.pod_a.netns.enter(fwmark)??.trim() == "0")
}

fn becomes_bare(pods: &Pods) -> Result<()> {
    wait_until("the set-up to be taken away", PATIENCE, || is_bare(pods))
}

fn close(pods: &Pods, mut daemon: Daemon) -> Result<()> {
    daemon.stop()?;
    daemon.instance().detach(&[])?.ok()?;
    nothing_left(daemon.instance(), &pods.namespaces())
}

#[test]
fn a_workload_that_the_successor_removes_is_drained_in_peace() -> Result<()> {
    let pods = Pods::new()?;
    let listener = listen(&pods)?;
    let mut old = run(&pods).start()?;
    add(&pods, &old)?;
    let wires = wires(&pods, &listener)?;
    let mut new = run(&pods).flags(&["--upgrade"]).after(&old).start()?;
    remove(&new)?;
    // It has nothing to drain, and has ended when that is done.
    new.stop()?;
    ensure!(!is_bare(&pods)?, "taken away under a connection");
    finish(wires)?;
    ensure!(old.process.wait(PATIENCE)?.success(), "{}", old.process.log());
    becomes_bare(&pods)?;
    new.instance().detach(&[])?.ok()?;
    nothing_left(new.instance(), &pods.namespaces())
}

#[test]
fn a_workload_that_is_removed_twice_is_drained_in_peace() -> Result<()> {
    let pods = Pods::new()?;
    let listener = listen(&pods)?;
    let daemon = run(&pods).start()?;
    add(&pods, &daemon)?;
    let first = wires(&pods, &listener)?;
    remove(&daemon)?;
    add(&pods, &daemon)?;
    let second = wires(&pods, &listener)?;
    remove(&daemon)?;
    finish(second)?;
    // Neither of the two must be the last while the other one has connections.
    work(&first)?;
    ensure!(!is_bare(&pods)?, "taken away under a connection");
    finish(first)?;
    becomes_bare(&pods)?;
    close(&pods, daemon)
}

#[test]
fn a_predecessor_that_has_drained_leaves_the_set_up_to_its_successor() -> Result<()> {
    let pods = Pods::new()?;
    let listener = listen(&pods)?;
    let mut old = run(&pods).start()?;
    add(&pods, &old)?;
    let drained = wires(&pods, &listener)?;
    remove(&old)?;
    let new = run(&pods).flags(&["--upgrade"]).after(&old).start()?;
    add(&pods, &new)?;
    work(&drained)?;
    finish(drained)?;
    ensure!(old.process.wait(PATIENCE)?.success(), "{}", old.process.log());
    finish(wires(&pods, &listener)?)?;
    close(&pods, new)?;
    becomes_bare(&pods)
}
