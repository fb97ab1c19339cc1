//! `weir tap` beside a running weir: what real clients do is seen as it ends.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use serde_json::Value;
use weir_tests::Lab;
use weir_tests::cgroup::Cgroup;
use weir_tests::lab::SERVER_V4;
use weir_tests::process::{Process, patience, run, wait_until};
use weir_tests::servers::nginx::{HTTP1, Nginx, TLS};
use weir_tests::site::PATIENCE;
use weir_tests::weir::{Daemon, binary};

const BEGUN: &str = "showing new records";

/// `weir tap` that has begun.
fn tap(daemon: &Daemon, name: &str, dir: &Path, flags: &[&str]) -> Result<Process> {
    let mut command = Command::new(binary()?);
    command.arg("tap").args(flags).args(["-o", "json", "--control"]).arg(daemon.control());
    let tap = Process::start(name, command, dir)?;
    wait_until("the tap to begin", PATIENCE, || Ok(tap.log().contains(BEGUN)))
        .with_context(|| tap.log())?;
    Ok(tap)
}

/// Waits until it ends as asked; what it has shown.
fn shown(mut tap: Process) -> Result<Vec<Value>> {
    let status = tap.wait(PATIENCE).with_context(|| tap.log())?;
    assert!(status.success(), "{status}: {}", tap.log());
    let log = tap.log();
    let lines = log.lines().filter(|line| *line != BEGUN);
    lines.map(|line| serde_json::from_str(line).with_context(|| line.to_owned())).collect()
}

/// curl in the workload; whether it is content with the answer is not asked.
fn curl(lab: &Lab, cgroup: &Cgroup, flags: &[&str]) -> Result<()> {
    let mut command = lab.client.command("curl");
    command.args(["-sSk", "-o", "/dev/null"]).args(flags);
    run(&mut cgroup.wrap(&command), patience(Duration::from_secs(20)))?.ok()?;
    Ok(())
}

#[test]
fn what_is_asked_for_is_shown_as_it_is_in_the_records() -> Result<()> {
    let (lab, cgroup) = (Lab::new()?, Cgroup::new("tap")?);
    let _nginx = Nginx::start(&lab)?;
    let daemon = Daemon::start(&lab, &cgroup, &[])?;
    let missing = tap(&daemon, "missing", lab.dir(), &["--status", "4xx", "-c", "1"])?;
    let named = ["--authority", "*.example", "--connections", "-c", "1"];
    let named = tap(&daemon, "named", lab.dir(), &named)?;
    let all = tap(&daemon, "all", lab.dir(), &["-c", "5"])?;

    let at = |path: &str| format!("http://{SERVER_V4}:{HTTP1}{path}");
    curl(&lab, &cgroup, &[&at("/hello.txt"), "-o", "/dev/null", &at("/missing?secret=1")])?;
    let resolve = format!("shop.example:{TLS}:{SERVER_V4}");
    let hello = format!("https://shop.example:{TLS}/hello.txt");
    curl(&lab, &cgroup, &["--resolve", &resolve, &hello])?;
    curl(&lab, &cgroup, &[&at("/hello.txt")])?;

    let missing = shown(missing)?;
    assert_eq!(missing.len(), 1, "{missing:#?}");
    assert_eq!((&missing[0]["path"], &missing[0]["status"]), (&"/missing".into(), &404.into()));
    let named = shown(named)?;
    assert_eq!(named.len(), 1, "{named:#?}");
    assert_eq!(named[0]["sni"], "shop.example");
    let all = shown(all)?;
    // Two requests and their connection, the one of TLS, and the last request.
    let requests = all.iter().filter(|record| record["kind"] == "request").count();
    assert_eq!((requests, all.len()), (3, 5), "{all:#?}");
    // A record is shown before it is written.
    wait_until("what was shown to be in the records", PATIENCE, || {
        let records = daemon.records()?;
        Ok(all.iter().all(|seen| records.values().any(|record| record == seen)))
    })
    .with_context(|| format!("{all:#?} in {:#?}", daemon.records()))
}

#[test]
fn a_tap_ends_when_weir_does_and_weir_does_not_wait_for_it() -> Result<()> {
    let (lab, cgroup) = (Lab::new()?, Cgroup::new("tap")?);
    let mut daemon = Daemon::start(&lab, &cgroup, &[])?;
    let mut reading = tap(&daemon, "reading", lab.dir(), &[])?;
    let stopped = tap(&daemon, "stopped", lab.dir(), &[])?;
    stopped.signal(Signal::SIGSTOP)?;
    daemon.stop()?;
    let status = reading.wait(PATIENCE)?;
    assert_eq!(status.code(), Some(1), "{}", reading.log());
    assert!(reading.log().contains("weir has exited"), "{}", reading.log());
    Ok(())
}
