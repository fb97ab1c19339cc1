//! What survives the process, and what does not: port changes and workloads come back after
//! `kill -9`, two weirs never share a workload, and `weir detach` leaves nothing.

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use weir_tests::left::{leavings, nothing_left, pins};
use weir_tests::pods::{CLIENT, POD, Pods};
use weir_tests::process::wait_until;
use weir_tests::site::{Site, is_captured, stop};
use weir_tests::weir::{Daemon, Instance, Run, verb};

const PORT: u16 = 9000;
const SOON: Duration = Duration::from_secs(20);

fn at(ip: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip.parse().expect("an address of this harness"), port)
}

/// `weir run` for pod A.
fn run<'a>(pods: &'a Pods, flags: &[&str]) -> Run<'a> {
    let pod = &pods.pod_a;
    let run = Run::new(&pods.node, pods.dir()).flags(flags);
    run.workload("pod-a", pod.cgroup(), Some(&pod.netns))
}

/// Servers in a pod and on its client host, on one port.
struct Servers<'a> {
    client: &'a Site,
    pod: &'a Site,
    port: u16,
    inside: TcpListener,
    outside: TcpListener,
}

// === impl Servers ===

impl<'a> Servers<'a> {
    fn new(client: &'a Site, pod: &'a Site, port: u16) -> Result<Self> {
        let (inside, outside) = (pod.listen(at("::", port))?, client.listen(at("::", port))?);
        Ok(Self { client, pod, port, inside, outside })
    }

    /// Whether new connections in and out go through weir, over both families.
    fn captured(&self) -> Result<[bool; 2]> {
        let mut captured = [Vec::new(), Vec::new()];
        for (pod, client) in POD.into_iter().zip(CLIENT) {
            captured[0].push(is_captured(self.client, at(pod, self.port), &self.inside)?);
            captured[1].push(is_captured(self.pod, at(client, self.port), &self.outside)?);
        }
        ensure!(captured.iter().all(|way| way[0] == way[1]), "families differ: {captured:?}");
        Ok([captured[0][0], captured[1][0]])
    }
}

/// What `ports list` says, without the hits and the order that follows from them.
fn rules(daemon: &Daemon) -> Result<Vec<String>> {
    let report = daemon.json(&["ports", "list", "--workload", "pod-a"])?;
    let rules = report["rules"].as_array().cloned().unwrap_or_default();
    ensure!(!rules.is_empty(), "no rules in {report:#}");
    let mut rules: Vec<String> = rules
        .into_iter()
        .map(|mut rule| {
            rule["hits"] = Value::Null;
            rule.to_string()
        })
        .collect();
    rules.sort();
    Ok(rules)
}

// === What comes back ===

#[test]
fn changed_ports_are_still_changed_after_kill_9() -> Result<()> {
    let pods = Pods::new()?;
    let plain = Servers::new(&pods.client_a, &pods.pod_a, 9000)?;
    let skipped = Servers::new(&pods.client_a, &pods.pod_a, 9001)?;
    let unskipped = Servers::new(&pods.client_a, &pods.pod_a, 9002)?;
    let flags = ["--skip-outbound-ports", "9002", "--skip-inbound-ports", "9002"];
    let mut daemon = run(&pods, &flags).start()?;
    daemon.ask(&["ports", "skip", "9001"])?.ok()?;
    daemon.ask(&["ports", "detect", "9002"])?.ok()?;
    daemon.ask(&["ports", "opaque", "9003", "--inbound"])?.ok()?;
    let before = rules(&daemon)?;
    for _ in 0..3 {
        daemon.process.kill_hard()?;
        daemon = run(&pods, &flags).after(&daemon).start()?;
        assert_eq!(rules(&daemon)?, before);
        assert_eq!(plain.captured()?, [true, true]);
        assert_eq!(skipped.captured()?, [false, false]);
        assert_eq!(unskipped.captured()?, [true, true]);
    }
    daemon.stop()?;
    daemon.instance().detach(&[])?.ok()?;
    nothing_left(daemon.instance(), &pods.namespaces())
}

/// The one that was asked for, the one that was added, and its ports; not one that was removed.
#[test]
fn workloads_added_at_run_time_are_captured_again() -> Result<()> {
    let pods = Pods::new()?;
    let a = Servers::new(&pods.client_a, &pods.pod_a, PORT)?;
    let b = Servers::new(&pods.client_b, &pods.pod_b, PORT)?;
    let skipped = Servers::new(&pods.client_b, &pods.pod_b, 9001)?;
    let mut daemon = run(&pods, &[]).start()?;
    daemon.add("pod-b", pods.pod_b.cgroup(), &pods.pod_b.netns, &[])?;
    daemon.ask(&["ports", "skip", "9001", "--workload", "pod-b"])?.ok()?;
    assert_eq!((a.captured()?, b.captured()?), ([true, true], [true, true]));
    daemon.process.kill_hard()?;
    assert_eq!((a.captured()?, b.captured()?), ([false, false], [false, false]));
    let mut daemon = run(&pods, &[]).after(&daemon).start()?;
    assert_eq!(a.captured()?, [true, true]);
    // The workloads of the one before may take a moment more than the one that was asked for.
    wait_until("pod B to be captured again", SOON, || Ok(b.captured()? == [true, true]))?;
    assert_eq!(skipped.captured()?, [false, false]);
    daemon.ask(&["workload", "remove", "pod-b"])?.ok()?;
    assert_eq!((a.captured()?, b.captured()?), ([true, true], [false, false]));
    // What was removed does not come back.
    daemon.process.kill_hard()?;
    let mut daemon = run(&pods, &[]).after(&daemon).start()?;
    assert_eq!((a.captured()?, b.captured()?), ([true, true], [false, false]));
    daemon.stop()?;
    daemon.instance().detach(&[])?.ok()?;
    nothing_left(daemon.instance(), &pods.namespaces())
}

/// Its cgroup and namespace may be gone when weir comes back: that is no reason not to start, nor to
/// forget a service that is between two starts.
#[test]
fn a_workload_that_has_gone_meanwhile_waits_until_it_is_removed() -> Result<()> {
    let pods = Pods::new()?;
    let a = Servers::new(&pods.client_a, &pods.pod_a, PORT)?;
    let short = Site::pod("short-lived", pods.dir())?;
    let mut daemon = run(&pods, &[]).start()?;
    daemon.add("short-lived", short.cgroup(), &short.netns, &[])?;
    daemon.process.kill_hard()?;
    drop(short);
    let mut daemon = run(&pods, &[]).after(&daemon).start()?;
    assert_eq!(a.captured()?, [true, true]);
    let list = || daemon.json(&["workload", "list"]);
    let workloads = list()?;
    let all = workloads.as_array().or_else(|| workloads["workloads"].as_array());
    let found = all.and_then(|all| all.iter().find(|it| it["name"] == "short-lived").cloned());
    assert_eq!(found.context("it is forgotten")?["phase"], "waiting");
    daemon.ask(&["workload", "remove", "short-lived"])?.ok()?;
    assert!(!list()?.to_string().contains("short-lived"));
    daemon.stop()?;
    daemon.instance().detach(&[])?.ok()?;
    nothing_left(daemon.instance(), &pods.namespaces())
}

/// A server that starts while weir is dead is captured afterwards, and one that stops refuses.
#[test]
fn servers_that_changed_while_weir_was_dead_are_known_after() -> Result<()> {
    let pods = Pods::new()?;
    let mut daemon = run(&pods, &[]).start()?;
    let gone = pods.pod_a.listen(at("::", 9001))?;
    daemon.process.kill_hard()?;
    stop(gone)?;
    let new = Servers::new(&pods.client_a, &pods.pod_a, 9002)?;
    let daemon = run(&pods, &[]).after(&daemon).start()?;
    assert_eq!(new.captured()?, [true, true]);
    let error = pods.client_a.connect(at(POD[0], 9001)).map(drop).map_err(|error| error.kind());
    assert_eq!(error, Err(std::io::ErrorKind::ConnectionRefused));
    daemon.records_of(9002, 4)?;
    Ok(())
}

// === Two at once ===

/// Whether an error says which weir is in the way.
fn names(error: &str, daemon: &Daemon) -> bool {
    let pid = format!("pid {}", daemon.process.pid());
    error.contains(daemon.instance().name()) || error.contains(&pid)
}

/// Neither with the same instance, nor with another one on the same cgroup or namespace; and the
/// one that runs goes on.
#[test]
fn a_second_weir_on_the_same_workload_refuses_and_names_the_first() -> Result<()> {
    let pods = Pods::new()?;
    let servers = Servers::new(&pods.client_a, &pods.pod_a, PORT)?;
    let first = run(&pods, &[]).start()?;
    for second in [run(&pods, &[]).instance(first.instance()), run(&pods, &[])] {
        let refused = second.refused()?;
        let said = &refused.stderr;
        assert!([1, 2, 3].contains(&refused.code()), "{}: {said}", refused.code());
        assert!(names(said, &first), "the running one is not named in: {said}");
        assert!(!said.contains("panicked"), "{said}");
        assert_eq!(servers.captured()?, [true, true]);
    }
    // One client through one weir once: never two that redirect to each other.
    let records = first.records_of(PORT, 8)?;
    assert_eq!(records.connections(PORT).len(), 8, "{records:#?}");
    assert!(records.connections(PORT).iter().all(|record| record.text("treatment") == "tcp"));
    Ok(())
}

/// No other instance may add the other one's workload either.
#[test]
fn a_workload_of_another_weir_is_not_added() -> Result<()> {
    let pods = Pods::new()?;
    let servers = Servers::new(&pods.client_a, &pods.pod_a, PORT)?;
    let first = run(&pods, &[]).start()?;
    let second = Run::new(&pods.node, pods.dir()).flags(&["--standby"]).start()?;
    let added = second.add("mine", pods.pod_a.cgroup(), &pods.pod_a.netns, &[]);
    let error = format!("{:#}", added.expect_err("it belongs to the first"));
    assert!(names(&error, &first), "the first is not named in: {error}");
    assert_eq!(servers.captured()?, [true, true]);
    Ok(())
}

// === Detach ===

#[test]
fn detach_without_a_running_weir_leaves_nothing_and_can_be_repeated() -> Result<()> {
    let pods = Pods::new()?;
    let servers = Servers::new(&pods.client_a, &pods.pod_a, PORT)?;
    let mut daemon = run(&pods, &["--preserve-client-ip"]).start()?;
    daemon.add("pod-b", pods.pod_b.cgroup(), &pods.pod_b.netns, &[])?;
    daemon.process.kill_hard()?;
    let instance = daemon.instance();
    let before = leavings(instance, &pods.namespaces())?;
    // What the last look must not find is there.
    for what in ["pin ", "program ", "rule in ", "ipv4/tcp_fwmark_accept=1"] {
        ensure!(before.iter().any(|line| line.starts_with(what)), "no {what}in {before:#?}");
    }
    for _ in 0..2 {
        let finished = instance.detach(&[])?;
        assert_eq!(finished.code(), 0, "{}", finished.stderr);
        nothing_left(instance, &pods.namespaces())?;
        assert_eq!(servers.captured()?, [false, false]);
    }
    Ok(())
}

/// Taking the hooks away under a weir that works needs to be meant.
#[test]
fn detach_spares_a_running_weir_unless_forced() -> Result<()> {
    let pods = Pods::new()?;
    let servers = Servers::new(&pods.client_a, &pods.pod_a, PORT)?;
    let daemon = run(&pods, &[]).start()?;
    let finished = daemon.instance().detach(&[])?;
    assert_ne!(finished.code(), 0, "{}", finished.stdout);
    let said = &finished.stderr;
    assert!(said.contains(&daemon.process.pid().to_string()) || said.contains("--force"), "{said}");
    assert_eq!(servers.captured()?, [true, true]);
    daemon.instance().detach(&["--force"])?.ok()?;
    assert_eq!(servers.captured()?, [false, false]);
    Ok(())
}

#[test]
fn detach_of_one_instance_leaves_the_other() -> Result<()> {
    let pods = Pods::new()?;
    let servers = Servers::new(&pods.client_a, &pods.pod_a, PORT)?;
    let others = Servers::new(&pods.client_b, &pods.pod_b, PORT)?;
    let pod = &pods.pod_b;
    let mut one = run(&pods, &[]).start()?;
    let other = Run::new(&pods.node, pods.dir())
        .workload("pod-b", pod.cgroup(), Some(&pod.netns))
        .start()
        .context("a second instance for another pod")?;
    one.process.kill_hard()?;
    one.instance().detach(&[])?.ok()?;
    ensure!(pins(one.instance())?.is_empty(), "pins are left");
    ensure!(!pins(other.instance())?.is_empty(), "the other's pins are gone");
    assert_eq!((servers.captured()?, others.captured()?), ([false, false], [true, true]));
    Ok(())
}

#[test]
fn detach_of_what_never_was_is_no_error() -> Result<()> {
    let pods = Pods::new()?;
    let never = Instance::new();
    let finished = verb(&pods.node, &["detach", "--instance", never.name()])?;
    assert_eq!(finished.code(), 0, "{}", finished.stderr);
    for wrong in ["../default", "a/b", ""] {
        let finished = verb(&pods.node, &["detach", "--instance", wrong])?;
        assert_eq!(finished.code(), 2, "{wrong:?}: {}", finished.stderr);
    }
    Ok(())
}
