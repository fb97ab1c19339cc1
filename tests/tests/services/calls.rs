//! Calls of one gRPC connection, each at the endpoint that is chosen for it.

use std::{collections::BTreeMap, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use weir_tests::{
    Lab,
    cgroup::Cgroup,
    fixture,
    process::{Process, wait_until},
    site::PATIENCE,
    weir::{Daemon, Exec, Run},
};

use super::place::{Objects, PORT, VIP, add_addresses, address, lab, service};

/// What `grpc_calls.py` has said.
#[derive(Debug)]
struct Calls {
    /// Answers by the name of the server.
    by_name: BTreeMap<String, usize>,
    /// Failures by code and text.
    failed: BTreeMap<String, usize>,
    /// The status codes, in order.
    outcomes: Vec<u32>,
}

impl Calls {
    fn of(text: &str) -> Result<Self> {
        let line = text.lines().next_back().unwrap_or_default();
        let (by_name, failed, outcomes) =
            serde_json::from_str(line).with_context(|| text.to_owned())?;
        Ok(Self { by_name, failed, outcomes })
    }

    fn none_failed(&self) -> Result<()> {
        ensure!(self.failed.is_empty(), "{:?} {:?}", self.failed, self.by_name);
        Ok(())
    }

    fn at(&self, number: usize) -> usize {
        self.by_name.get(&name(number)).copied().unwrap_or(0)
    }

    fn answered(&self) -> usize {
        self.by_name.values().sum()
    }
}

fn name(number: usize) -> String {
    format!("{}:{PORT}", address(number))
}

/// Servers in one process; a manner is what `grpc_named.py` says it is.
fn serve(lab: &Lab, servers: impl IntoIterator<Item = (usize, &'static str)>) -> Result<Process> {
    let mut command = fixture::command(&lab.server, "grpc_named.py");
    command.args(servers.into_iter().map(|(number, manner)| format!("{}/{manner}", name(number))));
    let process = Process::start("named", command, lab.dir())?;
    wait_until("the servers to listen", PATIENCE, || Ok(process.log().contains("listening")))?;
    Ok(process)
}

fn arguments(count: usize, at_a_time: usize) -> Vec<String> {
    let script = fixture::path("grpc_calls.py").display().to_string();
    let target = format!("{VIP}:{PORT}");
    let words = [fixture::PYTHON.to_owned(), "-B".to_owned(), script, target];
    words.into_iter().chain([count.to_string(), at_a_time.to_string()]).collect()
}

/// So many calls to so many endpoints, by `weir exec`.
fn calls(lab: &Lab, endpoints: usize, count: usize, at_a_time: usize) -> Result<Calls> {
    let flag = service((0..endpoints).map(address));
    let flags = ["--balance", "auto", "--service", &flag];
    let exec = Exec::without_timer(lab).flags(&flags).limit(Duration::from_secs(300));
    Calls::of(exec.ok(&arguments(count, at_a_time))?.stdout())
}

#[test]
fn calls_of_one_connection_are_spread_evenly() -> Result<()> {
    let lab = lab()?;
    add_addresses(&lab, 10)?;
    let _servers = serve(&lab, (0..10).map(|number| (number, "")))?;
    for at_a_time in [1, 32] {
        let calls = calls(&lab, 10, 10_000, at_a_time)?;
        calls.none_failed()?;
        // On a machine with other work an endpoint seems slow for a while: how even it is otherwise,
        // `cargo xtask bench services` says.
        let least = calls.by_name.values().min().copied().unwrap_or(0);
        let is_whole = calls.answered() == 10_000 && calls.by_name.len() == 10;
        ensure!(is_whole && least >= 100, "{at_a_time}: {:?}", calls.by_name);
    }
    Ok(())
}

#[test]
fn a_slow_endpoint_gets_a_small_share() -> Result<()> {
    let lab = lab()?;
    add_addresses(&lab, 10)?;
    let manner = |number| if number == 9 { "0.4" } else { "0.02" };
    let _servers = serve(&lab, (0..10).map(|number| (number, manner(number))))?;
    let calls = calls(&lab, 10, 4000, 32)?;
    calls.none_failed()?;
    ensure!(calls.at(9) * 100 <= 3 * 4000, "{:?}", calls.by_name);
    Ok(())
}

/// The usual peak EWMA sends it twice its share: it is the fastest.
#[test]
fn an_endpoint_that_fails_at_once_gets_next_to_nothing() -> Result<()> {
    let lab = lab()?;
    add_addresses(&lab, 5)?;
    let manner = |number| if number == 4 { "fail" } else { "0.005" };
    let _servers = serve(&lab, (0..5).map(|number| (number, manner(number))))?;
    let calls = calls(&lab, 5, 4200, 8)?;
    let later = calls.outcomes[200..].iter().filter(|code| **code != 0).count();
    ensure!(later * 1000 <= 5 * 4000, "{later} of 4000 failed: {:?}", calls.failed);
    Ok(())
}

#[test]
fn new_endpoints_get_their_share_of_a_connection_that_is_open() -> Result<()> {
    let lab = lab()?;
    let cgroup = Cgroup::new("scale")?;
    add_addresses(&lab, 6)?;
    let _servers = serve(&lab, (0..6).map(|number| (number, "")))?;
    let all: Vec<_> = (0..6).map(address).collect();
    let objects = Objects::new(&lab, &all[..3])?;
    let daemon = start(&lab, &cgroup, &objects)?;
    let go = lab.dir().join("go");
    let mut load = start_calls(&lab, &cgroup, 3000, Some(&go), None)?;
    let requests = || Ok::<_, anyhow::Error>(daemon.records()?.requests_to(PORT).len());
    wait_until("the first calls", PATIENCE, || Ok(requests()? > 300))?;
    objects.set(&all)?;
    wait_until("a call to a new endpoint", PATIENCE, || {
        let records = daemon.records()?;
        let new = name(5);
        Ok(records.requests_to(PORT).iter().any(|record| record.text("endpoint") == new))
    })?;
    let before = requests()?;
    std::fs::write(&go, "")?;
    load.wait(Duration::from_secs(300))?;
    let calls = Calls::of(&load.log())?;
    calls.none_failed()?;
    let records = daemon.records()?;
    let after: Vec<_> =
        records.requests_to(PORT).iter().skip(before).map(|it| it.text("endpoint")).collect();
    for number in 0..6 {
        let share = after.iter().filter(|it| **it == name(number)).count();
        ensure!(share * 6 * 4 >= after.len(), "{number}: {share} of {}", after.len());
    }
    Ok(())
}

fn start(lab: &Lab, cgroup: &Cgroup, objects: &Objects) -> Result<Daemon> {
    let directory = objects.path().display().to_string();
    let run = Run::new(&lab.client, lab.dir()).workload("client", cgroup, None);
    run.flags(&["--balance", "auto", "--objects-dir", &directory]).start()
}

fn start_calls(
    lab: &Lab,
    cgroup: &Cgroup,
    count: usize,
    until: Option<&std::path::Path>,
    environment: Option<(&str, &str)>,
) -> Result<Process> {
    let arguments = arguments(count, 8);
    let mut command: Command = lab.client.command_in(cgroup.path(), &arguments[0]);
    command.args(&arguments[1..]).args(until).envs(environment);
    Process::start("calls", command, lab.dir())
}

/// Each server goes as a pod does: it leaves the list, and ends what it has begun.
#[test]
fn a_rolling_restart_under_load_fails_no_call() -> Result<()> {
    const SERVERS: usize = 5;
    let lab = lab()?;
    let cgroup = Cgroup::new("rolled")?;
    add_addresses(&lab, SERVERS)?;
    let all: Vec<_> = (0..SERVERS).map(address).collect();
    let mut servers =
        (0..SERVERS).map(|number| serve(&lab, [(number, "")])).collect::<Result<Vec<_>>>()?;
    let objects = Objects::new(&lab, &all)?;
    let daemon = start(&lab, &cgroup, &objects)?;
    let go = lab.dir().join("go");
    let mut load = start_calls(&lab, &cgroup, 5000, Some(&go), None)?;
    let reached = |number: usize, since: usize| {
        let records = daemon.records()?;
        let name = name(number);
        let mut later = records.requests_to(PORT).into_iter().skip(since);
        Ok::<_, anyhow::Error>(later.any(|record| record.text("endpoint") == name))
    };
    for number in 0..SERVERS {
        wait_until("the server to be used", PATIENCE, || reached(number, 0))?;
        let others: Vec<_> = all.iter().filter(|it| **it != all[number]).cloned().collect();
        objects.set(&others)?;
        // grpcio answers a call that crosses with its GOAWAY with CANCELLED, which is an answer.
        wait_until("the endpoint to be gone", PATIENCE, || {
            Ok(!daemon.ask(&["endpoints", "shop"])?.stdout.contains(&name(number)))
        })?;
        servers[number].signal(Signal::SIGTERM)?;
        servers[number].wait(PATIENCE)?;
        servers[number] = serve(&lab, [(number, "")])?;
        let since = daemon.records()?.requests_to(PORT).len();
        objects.set(&all)?;
        wait_until("the new one to be used", PATIENCE, || reached(number, since))?;
    }
    std::fs::write(&go, "")?;
    load.wait(Duration::from_secs(300))?;
    let calls = Calls::of(&load.log())?;
    calls.none_failed()?;
    ensure!(calls.answered() >= 5000, "{:?}", calls.by_name);
    Ok(())
}

#[test]
fn an_endpoint_that_is_killed_fails_only_the_calls_that_it_had() -> Result<()> {
    let lab = lab()?;
    let cgroup = Cgroup::new("killed")?;
    add_addresses(&lab, 3)?;
    let manner = "0.02";
    let mut servers =
        (0..3).map(|number| serve(&lab, [(number, manner)])).collect::<Result<Vec<_>>>()?;
    let objects = Objects::new(&lab, &(0..3).map(address).collect::<Vec<_>>())?;
    let daemon = start(&lab, &cgroup, &objects)?;
    let go = lab.dir().join("go");
    let mut load = start_calls(&lab, &cgroup, 500, Some(&go), None)?;
    wait_until("calls to be made", PATIENCE, || {
        Ok(daemon.records()?.requests_to(PORT).len() > 100)
    })?;
    servers[1].kill_hard()?;
    std::fs::write(&go, "")?;
    load.wait(Duration::from_secs(300))?;
    let calls = Calls::of(&load.log())?;
    // No more than were in flight there, each with a reason.
    let failed: usize = calls.failed.values().sum();
    let said = |text: &str| text.starts_with("UNAVAILABLE: upstream-");
    ensure!(failed <= 8 && calls.failed.keys().all(|it| said(it)), "{:?}", calls.failed);
    let records = daemon.records()?;
    let lost = records.requests_to(PORT);
    let lost: Vec<_> = lost.iter().filter(|it| it.number("grpc_status") == 14).collect();
    ensure!(lost.len() == failed && lost.iter().all(|it| it.text("endpoint") == name(1)));
    Ok(())
}

/// weir answers a client's PING, and yet the client learns what it asks for.
#[test]
fn keep_alive_ends_the_calls_of_an_endpoint_that_stands_still() -> Result<()> {
    let lab = lab()?;
    let cgroup = Cgroup::new("still")?;
    add_addresses(&lab, 2)?;
    let server = serve(&lab, [(0, "0.02")])?;
    let _other = serve(&lab, [(1, "0.02")])?;
    let objects = Objects::new(&lab, &[address(0), address(1)])?;
    let daemon = start(&lab, &cgroup, &objects)?;
    let go = lab.dir().join("go");
    let keep_alive = Some(("KEEP_ALIVE_MS", "1000"));
    let mut load = start_calls(&lab, &cgroup, 100, Some(&go), keep_alive)?;
    let count = || Ok::<_, anyhow::Error>(daemon.records()?.requests_to(PORT).len());
    wait_until("calls to be made", PATIENCE, || Ok(count()? > 100))?;
    server.signal(Signal::SIGSTOP)?;
    let is_lost = || {
        let records = daemon.records()?;
        let lost = records.requests_to(PORT).iter().any(|it| it.number("grpc_status") == 14);
        Ok::<_, anyhow::Error>(lost)
    };
    wait_until("a call to be given up", 4 * PATIENCE, is_lost)?;
    server.signal(Signal::SIGCONT)?;
    std::fs::write(&go, "")?;
    load.wait(Duration::from_secs(300))?;
    let calls = Calls::of(&load.log())?;
    let failed: usize = calls.failed.values().sum();
    let said = |text: &str| text == "UNAVAILABLE: upstream-reset";
    ensure!(failed <= 8 && calls.failed.keys().all(|it| said(it)), "{:?}", calls.failed);
    Ok(())
}
