//! Endpoints that come and go while connections are made.

use std::{process::Command, time::Duration};

use anyhow::{Result, ensure};
use weir_tests::{
    Lab,
    cgroup::Cgroup,
    fixture::PYTHON,
    process::{Process, run, wait_until},
    site::PATIENCE,
    weir::{Daemon, Run},
};

use super::place::{
    Backend, Manner, Objects, PORT, VIP, address, backends, lab, lab_with_vip, program, seen_in,
};

const MANNER: Manner = Manner::Answers(Duration::ZERO);

fn start(lab: &Lab, cgroup: &Cgroup, objects: &Objects) -> Result<Daemon> {
    let directory = objects.path().display().to_string();
    let run = Run::new(&lab.client, lab.dir()).workload("client", cgroup, None);
    run.flags(&["--objects-dir", &directory]).start()
}

fn application(lab: &Lab, cgroup: &Cgroup, count: usize) -> Command {
    let mut command = lab.client.command_in(cgroup.path(), PYTHON);
    command.args(["-c", &program(count, MANNER)]);
    command
}

/// The servers that a few connections reach.
fn reached(lab: &Lab, cgroup: &Cgroup) -> Result<Vec<String>> {
    let finished = run(&mut application(lab, cgroup, 24), Duration::from_secs(120))?.ok()?;
    let seen = seen_in(&finished.stdout)?;
    Ok(seen.by_name.into_keys().collect())
}

#[test]
fn endpoints_are_used_as_they_come_and_go() -> Result<()> {
    let lab = lab_with_vip()?;
    let cgroup = Cgroup::new("services")?;
    let _vip = Backend::start(&lab, VIP, MANNER)?;
    let backends = backends(&lab, 3, MANNER)?;
    let all: Vec<_> = backends.iter().map(Backend::ip).collect();
    let objects = Objects::new(&lab, &all[..2])?;
    let _daemon = start(&lab, &cgroup, &objects)?;
    wait_until("the first two", PATIENCE, || Ok(reached(&lab, &cgroup)? == all[..2]))?;
    objects.set(&all)?;
    wait_until("all three", PATIENCE, || Ok(reached(&lab, &cgroup)? == all))?;
    objects.set(&all[1..])?;
    wait_until("the last two", PATIENCE, || Ok(reached(&lab, &cgroup)? == all[1..]))?;
    let before = backends[0].accepted();
    reached(&lab, &cgroup)?;
    ensure!(backends[0].accepted() == before, "a removed endpoint gets nothing");
    objects.set(&[])?;
    wait_until("the service's own address", PATIENCE, || Ok(reached(&lab, &cgroup)? == [VIP]))
}

/// Each server is stopped, and its list changed, in no order that a client could rely on.
#[test]
fn a_rolling_restart_under_load_fails_no_connection() -> Result<()> {
    const SERVERS: usize = 5;
    let lab = lab()?;
    let cgroup = Cgroup::new("rolling")?;
    let mut backends: Vec<_> = backends(&lab, SERVERS, MANNER)?.into_iter().map(Some).collect();
    let all: Vec<_> = (0..SERVERS).map(address).collect();
    let objects = Objects::new(&lab, &all)?;
    let daemon = start(&lab, &cgroup, &objects)?;
    wait_until("the service", PATIENCE, || Ok(!reached(&lab, &cgroup)?.is_empty()))?;
    let mut load = Process::start("load", application(&lab, &cgroup, 10_000), lab.dir())?;
    for round in 0..5 {
        for number in 0..SERVERS {
            let others: Vec<_> = all.iter().filter(|it| **it != all[number]).cloned().collect();
            if round % 2 == 0 {
                objects.set(&others)?;
                backends[number] = None;
            } else {
                backends[number] = None;
                objects.set(&others)?;
            }
            backends[number] = Some(Backend::start(&lab, &all[number], MANNER)?);
            objects.set(&all)?;
            let used = |it: &Option<Backend>| it.as_ref().is_some_and(|it| it.accepted() > 0);
            let is_over = |load: &Process| !load.log().is_empty();
            wait_until("the new one to be used", Duration::from_secs(120), || {
                Ok(used(&backends[number]) || is_over(&load))
            })?;
        }
    }
    load.wait(Duration::from_secs(600))?;
    let seen = seen_in(&load.log())?;
    seen.none_failed()?;
    ensure!(seen.by_name.values().sum::<usize>() == 10_000, "{seen:?}");
    ensure!(daemon.records()?.connections(PORT).len() >= 10_000);
    Ok(())
}
