//! weir with hardly any descriptors, and far more clients than it can serve.

use std::fs;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use weir_tests::cgroup::Cgroup;
use weir_tests::lab::SERVER_V4;
use weir_tests::peer::Peer;
use weir_tests::process::{Process, descriptors, limit_descriptors, run, wait_until};
use weir_tests::visits::{Outcome, Visitor};
use weir_tests::weir::Daemon;
use weir_tests::{Lab, fixture};

/// What the limit leaves: room for a few connections of two descriptors each.
const ROOM: usize = 16;
const CLIENTS: usize = 200;
const PATIENCE: Duration = Duration::from_secs(30);
/// How long weir goes on sending connections direct after one lack of descriptors of many in a row
/// (`proxy/src/accept/exhaustion.rs`).
const LONGEST_CALM: Duration = Duration::from_secs(32);
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

/// A connection that weir cannot serve must not be made to wait for it. While the clients are still
/// coming, one may find room that another has just left.
fn wait_until_direct(lab: &Lab, cgroup: &Cgroup, port: u16) -> Result<()> {
    wait_until_all(lab, cgroup, port, Outcome::Direct, PATIENCE)
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
    wait_until_all(lab, cgroup, port, Outcome::Proxied, LONGEST_CALM + PATIENCE)
}

/// Waits for a second in which every connection goes that way; none may fail meanwhile.
fn wait_until_all(
    lab: &Lab,
    cgroup: &Cgroup,
    port: u16,
    way: Outcome,
    patience: Duration,
) -> Result<()> {
    wait_until(&format!("all connections to be {way:?}"), patience, || {
        let visits = Visitor::start(lab, cgroup, port, Duration::from_secs(1))?.finish()?;
        visits.assert_no_error();
        let visits = visits.between(0, u64::MAX);
        Ok(!visits.is_empty() && visits.iter().all(|visit| visit.outcome == way))
    })
}

/// Waits for a second in which weir hardly takes any of the processor: one that spins has none.
fn wait_until_calm(pid: u32) -> Result<()> {
    wait_until("weir to need less than half of a processor", PATIENCE, || {
        let before = cpu_ticks(pid)?;
        thread::sleep(Duration::from_secs(1));
        let ticks = cpu_ticks(pid)? - before;
        eprintln!("{ticks} ticks in a second");
        Ok(ticks < TICKS_A_SECOND / 2)
    })
}

/// What weir has to say, to be shown with a failure.
fn with_log(result: Result<()>, daemon: &Daemon) -> Result<()> {
    result.with_context(|| {
        let status = daemon.json(&["status"]).map_or_else(|e| e.to_string(), |s| s.to_string());
        format!("status: {status}\nlog of weir:\n{}", daemon.process.log())
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
        // The question needs a descriptor too, and may have to ask again.
        let status = daemon.json(&["status"]).unwrap_or_default();
        Ok(status["status"]["workloads"][0]["phase"] == "exhausted")
    })?;
    let full = descriptors(pid)?;
    ensure!(full <= limit, "{full} of {limit} descriptors");
    eprintln!("{idle} descriptors idle, {full} with {CLIENTS} clients");
    with_log(wait_until_calm(pid), &daemon)?;
    with_log(wait_until_direct(&lab, &cgroup, peer.port()), &daemon)?;

    drop(clients);
    let back = || Ok(descriptors(pid)? <= idle + 2);
    with_log(wait_until("the descriptors to come back", PATIENCE, back), &daemon)?;
    with_log(wait_until_proxied(&lab, &cgroup, peer.port()), &daemon)?;
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
    with_log(wait_until_proxied(&lab, &cgroup, peer.port()), &daemon)
}
