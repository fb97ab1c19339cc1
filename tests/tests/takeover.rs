//! Takeovers that chaos has shown to go wrong.
//!
//! A weir that is being replaced does not take back what its successor has: an episode without
//! descriptors that ended in that moment put the predecessor's listeners in the place of the
//! successor's; what connected then was cut at the predecessor's drain deadline.
//!
//! What the weir that is replaced was told to capture is what counts, not what one before it was
//! told that has the same maps as the successor and is still draining.

use std::net::SocketAddr;
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use weir_tests::left::nothing_left;
use weir_tests::pods::{POD, Pods};
use weir_tests::process::{Process, run as run_command, wait_until};
use weir_tests::site::{PATIENCE, is_captured, join};
use weir_tests::weir::Run;

const PORT: u16 = 9000;
/// Far more connections than there are descriptors for.
const CROWD: usize = 100;

/// Sets the soft limit of descriptors (prlimit(1)); the hard one stays.
fn limit(process: &Process, soft: usize) -> Result<()> {
    let (pid, flag) = (process.pid().to_string(), format!("--nofile={soft}:"));
    run_command(Command::new("prlimit").args(["--pid", &pid, &flag]), PATIENCE)?.ok().map(drop)
}

fn highest_descriptor(pid: u32) -> Result<usize> {
    std::fs::read_dir(format!("/proc/{pid}/fd"))?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .max()
        .context("no descriptors")
}

#[test]
fn the_end_of_an_episode_without_descriptors_leaves_the_successor_its_slots() -> Result<()> {
    let pods = Pods::new()?;
    let pod = &pods.pod_a;
    let run = || {
        let run = Run::new(&pods.node, pods.dir());
        run.workload("pod-a", pod.cgroup(), Some(&pod.netns))
    };
    let to = |port| -> Result<SocketAddr> { Ok(SocketAddr::new(POD[0].parse()?, port)) };
    let listener = pod.listen(SocketAddr::new("::".parse()?, PORT))?;
    let old = run().start()?;
    limit(&old.process, highest_descriptor(old.process.pid())? + 1)?;
    let crowd = (0..CROWD).map(|_| pods.client_a.connect(to(PORT)?).map_err(Into::into));
    let crowd = crowd.collect::<Result<Vec<_>>>()?;
    wait_until("an episode", PATIENCE, || {
        Ok(old.process.log().contains("out of file descriptors"))
    })?;
    drop((crowd, listener));

    limit(&old.process, 4096)?;
    let (new, stopped) = thread::scope(|scope| {
        let old = &old;
        let stopper = scope.spawn(|| -> Result<()> {
            let log = || std::fs::read_dir(pods.dir()).into_iter().flatten().flatten();
            let is_said = || {
                let texts = log().filter_map(|entry| std::fs::read_to_string(entry.path()).ok());
                texts.into_iter().any(|text| text.contains("taking over"))
            };
            wait_until("the successor's question", PATIENCE, || Ok(is_said()))?;
            old.process.signal(Signal::SIGSTOP)?;
            // The successor fills the slots and asks for the rest; the episode is overdue then.
            thread::sleep(Duration::from_secs(3));
            old.process.signal(Signal::SIGCONT)
        });
        let new = run().flags(&["--upgrade"]).after(old).start();
        (new, stopper.join().expect("it does not panic"))
    });
    stopped?;
    let new = new?;

    let port = PORT + 1;
    let listener = pod.listen(SocketAddr::new("::".parse()?, port))?;
    let wire = join(&pods.client_a, to(port)?, &listener)?;
    wire.up("ping")?;
    wire.finish()?;
    let records = new.records_of(port, 1)?;
    ensure!(records.connections(port)[0].text("direction") == "inbound", "{records:#?}");
    Ok(())
}

/// Forth to other maps and back, while the first weir is still draining.
#[test]
fn an_upgrade_back_finds_what_the_last_weir_was_told() -> Result<()> {
    let pods = Pods::new()?;
    let (a, b) = (&pods.pod_a, &pods.pod_b);
    let run = || Run::new(&pods.node, pods.dir()).flags(&["--standby"]);
    let to = |port| -> Result<SocketAddr> { Ok(SocketAddr::new(POD[0].parse()?, port)) };
    let listener = a.listen(SocketAddr::new("::".parse()?, PORT))?;
    let other = b.listen(SocketAddr::new("::".parse()?, PORT))?;

    let first = run().start()?;
    first.add("a", a.cgroup(), &a.netns, &[])?;
    first.add("b", b.cgroup(), &b.netns, &[])?;
    let port = PORT.to_string();
    let ports = |state| ["ports", state, port.as_str(), "--workload", "b", "--inbound"];
    first.ask(&ports("skip"))?.ok()?;
    // Keeps the first one there to the end.
    let wire = join(&pods.client_a, to(PORT)?, &listener)?;
    wire.up("ping")?;

    let upgrade = run().flags(&["--upgrade"]).after(&first);
    let second = upgrade.variable("WEIR_BPF_SCHEMA", "another").start()?;
    ensure!(!is_captured(&pods.client_b, to(PORT)?, &other)?, "the port state did not come over");
    second.ask(&["workload", "remove", "b"])?.ok()?;
    second.add("b2", b.cgroup(), &b.netns, &[])?;

    let mut third = run().flags(&["--upgrade"]).after(&second).start()?;
    ensure!(is_captured(&pods.client_b, to(PORT)?, &other)?, "{}", third.process.log());
    let names = third.json(&["workload", "list"])?;
    let names: Vec<&str> = names
        .as_array()
        .with_context(|| format!("no list: {names}"))?
        .iter()
        .filter_map(|it| it["name"].as_str())
        .collect();
    ensure!(names == ["a", "b2"], "{names:?}");
    third.ask(&["workload", "remove", "b2"])?.ok()?;
    // Its number is not one of those that the first weir has used in these maps.
    third.add("b", b.cgroup(), &b.netns, &[])?;
    ensure!(is_captured(&pods.client_b, to(PORT)?, &other)?, "an old port state came back");
    wire.up("pong")?;
    wire.finish()?;
    third.stop()?;
    third.instance().detach(&[])?.ok()?;
    nothing_left(third.instance(), &pods.namespaces())
}

/// Guards against an old process that removes, at its end, what is the new process's by then.
#[test]
fn an_instance_without_workloads_is_handed_over_again_and_again() -> Result<()> {
    let pods = Pods::new()?;
    let run = || Run::new(&pods.node, pods.dir()).flags(&["--standby"]);
    let mut daemon = run().start()?;
    for _ in 0..2 {
        let next = run().flags(&["--upgrade"]).after(&daemon).start()?;
        wait_until("the old process to exit", PATIENCE, || Ok(!daemon.process.running()?))?;
        daemon = next;
    }
    let pod = &pods.pod_a;
    daemon.add("a", pod.cgroup(), &pod.netns, &[])?;
    let listener = pod.listen(SocketAddr::new("::".parse()?, PORT))?;
    ensure!(is_captured(&pods.client_a, SocketAddr::new(POD[0].parse()?, PORT), &listener)?);
    daemon.stop()?;
    daemon.instance().detach(&[])?.ok()?;
    nothing_left(daemon.instance(), &pods.namespaces())
}
