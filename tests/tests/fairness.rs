//! What one workload does leaves to another what it needs: descriptors, and a turn at being accepted.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, TcpStream};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use weir_tests::fixture;
use weir_tests::metrics::{self, Metrics};
use weir_tests::pods::{CLIENT, POD, Pods};
use weir_tests::process::{Process, limit_descriptors, wait_until};
use weir_tests::site::{PATIENCE, Site, is_captured};
use weir_tests::weir::{Daemon, Run};

const PORT: u16 = 9000;
/// Descriptors that the limit leaves.
const ROOM: usize = 60;
/// Connections that a peer holds beyond those that a workload has descriptors for.
const MORE: u64 = 30;

/// Connects and resets until it is ended.
const FLOOD: &str = "
import socket, struct, sys
print('begins', flush=True)
while True:
    s = socket.socket()
    s.setblocking(False)
    s.connect_ex((sys.argv[1], int(sys.argv[2])))
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
    s.close()
";

fn at(ip: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip.parse().expect("an address of this harness"), port)
}

/// weir with two workloads: the first lets connections go direct without it, the second is as told.
fn two(pods: &Pods, flags: [&[&str]; 2]) -> Result<Daemon> {
    two_with(pods, &[], flags)
}

/// The same with flags of weir itself.
fn two_with(pods: &Pods, own: &[&str], flags: [&[&str]; 2]) -> Result<Daemon> {
    let run = Run::new(&pods.node, pods.dir()).flags(&["--standby"]).flags(&metrics::FLAGS);
    let daemon = run.flags(own).start()?;
    daemon.add("a", pods.pod_a.cgroup(), &pods.pod_a.netns, flags[0])?;
    daemon.add("b", pods.pod_b.cgroup(), &pods.pod_b.netns, flags[1])?;
    Ok(daemon)
}

/// A workload in `weir status`.
fn workload(daemon: &Daemon, name: &str) -> Result<Value> {
    let status = daemon.json(&["status"])?;
    let all = status["status"]["workloads"].as_array().context("no workloads")?;
    let found = all.iter().find(|workload| workload["name"] == name).cloned();
    found.with_context(|| format!("no workload {name}"))
}

/// A number of a workload's budget.
fn budget(daemon: &Daemon, name: &str, budget: &str, figure: &str) -> Result<u64> {
    let workload = workload(daemon, name)?;
    let all = workload["budget"].as_array().context("no budget")?;
    let found = all.iter().find(|figures| figures["budget"] == budget);
    found.and_then(|figures| figures[figure].as_u64()).with_context(|| format!("no {budget}"))
}

/// Connections of pod B, each of which must be captured and work.
fn assert_b_is_served(pods: &Pods, listener: &TcpListener, count: usize) -> Result<()> {
    for number in 0..count {
        let captured = is_captured(&pods.pod_b, at(CLIENT[0], PORT), listener);
        ensure!(captured.with_context(|| format!("connection {number}"))?, "{number} went direct");
    }
    Ok(())
}

/// Connections to pod A that say nothing.
fn hold(client: &Site, count: u64) -> Result<Vec<TcpStream>> {
    let mut held = Vec::new();
    for _ in 0..count {
        match client.connect(at(POD[0], PORT)) {
            Ok(stream) => held.push(stream),
            // What is in the queue for too long is reset.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(held)
}

#[test]
fn a_peer_that_holds_connections_to_one_workload_does_not_cut_another_off() -> Result<()> {
    let pods = Pods::new()?;
    let server_a = pods.pod_a.listen(at("::", PORT))?;
    let server_b = pods.client_b.listen(at("::", PORT))?;
    let daemon = two(&pods, [&[], &["--fail", "closed"]])?;
    assert_b_is_served(&pods, &server_b, 3)?;

    let limit = limit_descriptors(daemon.process.pid(), ROOM)? as u64;
    wait_until("the limit to be seen", PATIENCE, || {
        Ok(budget(&daemon, "a", "descriptors", "limit")? < limit)
    })?;
    let room = budget(&daemon, "a", "descriptors", "limit")? / 2;
    let held = hold(&pods.client_a, room + MORE)?;
    wait_until("connections to pod A to go direct", PATIENCE, || {
        Ok(workload(&daemon, "a")?["phase"] == "exhausted")
    })?;
    ensure!(budget(&daemon, "a", "descriptors", "exceeded")? > 0);
    ensure!(workload(&daemon, "b")?["phase"] == "capturing");
    assert_b_is_served(&pods, &server_b, 20)?;
    let scraped = Metrics::scrape(&pods.node)?;
    let refused = ["workload=\"b\"", "reason=\"fail_closed\""];
    ensure!(scraped.sum("weir_kernel_decisions_total", &refused) == 0.0);
    ensure!(scraped.sum("weir_accept_errors_total", &[]) == 0.0, "descriptors ran out");

    drop((held, server_a));
    wait_until("pod A to be captured again", PATIENCE, || {
        Ok(workload(&daemon, "a")?["phase"] == "capturing")
    })
}

fn flood(pods: &Pods) -> Result<Process> {
    let mut flood = pods.pod_a.netns.command(fixture::PYTHON);
    flood.args(["-uc", FLOOD, CLIENT[0], &PORT.to_string()]);
    Process::start("flood", flood, pods.dir())
}

/// Of connections that are held and given up nothing is ever accepted.
#[test]
fn a_flood_of_attempts_that_are_given_up_leaves_other_workloads_their_turn() -> Result<()> {
    let pods = Pods::new()?;
    let _server_a = pods.client_a.listen(at("::", PORT))?;
    let server_b = pods.client_b.listen(at("::", PORT))?;
    let daemon = two(&pods, [&["--fail", "closed"], &[]])?;
    let mut flood = flood(&pods)?;
    wait_until("the flood", PATIENCE, || Ok(daemon.records()?.connections(PORT).len() > 100))?;
    assert_b_is_served(&pods, &server_b, 30)?;
    ensure!(flood.running()?, "{}", flood.log());
    ensure!(workload(&daemon, "b")?["phase"] == "capturing");
    ensure!(budget(&daemon, "b", "dialling", "exceeded")? == 0);
    Ok(())
}

#[test]
fn a_flood_of_resets_leaves_other_workloads_their_turn() -> Result<()> {
    let pods = Pods::new()?;
    let _server_a = pods.client_a.listen(at("::", PORT))?;
    let server_b = pods.client_b.listen(at("::", PORT))?;
    // One that fails open would be let pass: the flood would not come to weir.
    let daemon = two_with(&pods, &["--connect", "immediate"], [&["--fail", "closed"], &[]])?;
    let mut flood = flood(&pods)?;
    let dead = || -> Result<f64> {
        let scraped = Metrics::scrape(&pods.node)?;
        Ok(scraped.sum("weir_accept_dead_total", &["workload=\"a\""]))
    };
    wait_until("the flood", PATIENCE, || Ok(dead()? > 100.0))?;
    let before = dead()?;
    assert_b_is_served(&pods, &server_b, 30)?;
    wait_until("the flood to go on", PATIENCE, || Ok(dead()? > before))?;
    ensure!(flood.running()?, "{}", flood.log());
    ensure!(workload(&daemon, "b")?["phase"] == "capturing");
    ensure!(budget(&daemon, "b", "dialling", "exceeded")? == 0);
    Ok(())
}
