//! weir with hardly any descriptors, and far more clients than it can serve.

use std::fs;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use weir_tests::cgroup::Cgroup;
use weir_tests::lab::SERVER_V4;
use weir_tests::peer::Peer;
use weir_tests::process::{Process, descriptors, limit_descriptors, run, wait_until};
use weir_tests::visits::{Outcome, Visitor, now};
use weir_tests::weir::Daemon;
use weir_tests::{Lab, fixture};

/// What the limit leaves: room for a few connections of two descriptors each.
const ROOM: usize = 16;
const CLIENTS: usize = 200;
const PATIENCE: Duration = Duration::from_secs(30);
/// User and system time in `/proc/PID/stat` is in ticks of a hundredth of a second (proc(5)).
const TICKS_A_SECOND: u64 = 100;

/// Connects all, says so, and holds those that live until killed.
const HOLD: &str = "
import socket, sys, time
held = []
for _ in range(int(sys.argv[3])):
    s = socket.socket()
    s.setblocking(False)
    s.connect_ex((sys.argv[1], int(sys.argv[2])))
    held.append(s)
time.sleep(0.5)
print('held', flush=True)
time.sleep(3600)
";

fn hold(lab: &Lab, cgroup: &Cgroup, port: u16) -> Result<Process> {
    let mut command = lab.client.command(fixture::PYTHON);
    command.args(["-uc", HOLD, SERVER_V4, &port.to_string(), &CLIENTS.to_string()]);
    let process = Process::start("hold", cgroup.wrap(&command), lab.dir())?;
    wait_until("the clients", PATIENCE, || Ok(process.log().contains("held")))
        .with_context(|| process.log())?;
    Ok(process)
}

/// User and system time so far, in ticks.
fn cpu_ticks(pid: u32) -> Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name may contain spaces; after it, utime and stime are the 12th and 13th field.
    let (_, fields) = stat.rsplit_once(") ").context("no name in stat")?;
    let mut fields = fields.split(' ').skip(11).map(str::parse::<u64>);
    let mut field = || fields.next().context("stat is too short")?.context("not a number");
    Ok(field()? + field()?)
}

/// A connection that weir cannot serve must not be made to wait for it.
fn assert_new_connections_go_direct(lab: &Lab, cgroup: &Cgroup, port: u16) -> Result<()> {
    let from = now()?;
    let visits = Visitor::start(lab, cgroup, port, Duration::from_secs(1))?.finish()?;
    visits.assert_no_error();
    visits.assert_all_direct(from, u64::MAX);
    Ok(())
}

/// Waits until the namespace's addresses stay as they are: IPv6 looks for duplicates first.
fn wait_for_addresses(lab: &Lab) -> Result<()> {
    wait_until("addresses without duplicates", PATIENCE, || {
        let mut command = lab.client.command("ip");
        command.args(["-6", "address", "show", "tentative"]);
        Ok(run(&mut command, PATIENCE)?.ok()?.stdout.trim().is_empty())
    })?;
    // weir reads the routes anew within a few milliseconds.
    thread::sleep(Duration::from_millis(500));
    Ok(())
}

fn wait_until_proxied(lab: &Lab, cgroup: &Cgroup, port: u16) -> Result<()> {
    wait_until("connections to be proxied again", PATIENCE, || {
        let visits = Visitor::start(lab, cgroup, port, Duration::from_secs(1))?.finish()?;
        visits.assert_no_error();
        let visits = visits.between(0, u64::MAX);
        Ok(visits.iter().all(|visit| visit.outcome == Outcome::Proxied))
    })
}

#[test]
fn an_exhausted_weir_does_not_spin_and_comes_back() -> Result<()> {
    let (lab, cgroup) = (Lab::new()?, Cgroup::new("exhausted")?);
    let held = Peer::echo(&lab.server, 9001)?;
    let peer = Peer::whoami(&lab.server, 9000)?;
    let mut daemon = Daemon::start(&lab, &cgroup, &[])?;
    wait_for_addresses(&lab)?;
    let pid = daemon.process.pid();
    let limit = limit_descriptors(pid, ROOM)?;
    let idle = descriptors(pid)?;

    let clients = hold(&lab, &cgroup, held.port())?;
    wait_until("weir to be exhausted", PATIENCE, || {
        let status = daemon.json(&["status"])?;
        Ok(status["status"]["workloads"][0]["phase"] == "exhausted")
    })?;
    let (full, before) = (descriptors(pid)?, cpu_ticks(pid)?);
    ensure!(full <= limit, "{full} of {limit} descriptors");
    thread::sleep(Duration::from_secs(1));
    let ticks = cpu_ticks(pid)? - before;
    eprintln!("{idle} descriptors idle, {full} with {CLIENTS} clients; {ticks} ticks in a second");
    ensure!(ticks < TICKS_A_SECOND / 2, "weir used {ticks} ticks of CPU in a second");
    assert_new_connections_go_direct(&lab, &cgroup, peer.port())?;

    drop(clients);
    wait_until("the descriptors to come back", PATIENCE, || Ok(descriptors(pid)? <= idle + 2))?;
    wait_until_proxied(&lab, &cgroup, peer.port())?;
    ensure!(daemon.process.running()?, "weir ended: {}", daemon.process.log());
    Ok(())
}

/// Probing a route takes a descriptor: a lack of them must not pass for a lack of routes.
#[test]
fn routes_that_change_during_exhaustion_are_right_afterwards() -> Result<()> {
    let (lab, cgroup) = (Lab::new()?, Cgroup::new("routes")?);
    let held = Peer::echo(&lab.server, 9001)?;
    let peer = Peer::whoami(&lab.server, 9000)?;
    let daemon = Daemon::start(&lab, &cgroup, &[])?;
    wait_for_addresses(&lab)?;
    limit_descriptors(daemon.process.pid(), ROOM)?;
    let clients = hold(&lab, &cgroup, held.port())?;
    let mut change = lab.client.command("ip");
    run(change.args(["route", "add", "10.78.0.0/24", "dev", "eth0"]), PATIENCE)?.ok()?;
    thread::sleep(Duration::from_millis(500));
    drop(clients);
    wait_until_proxied(&lab, &cgroup, peer.port())
}
