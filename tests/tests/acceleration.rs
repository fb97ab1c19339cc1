//! `--sk-msg on`: payload between application and weir does not cross the loopback interface, and
//! nothing else changes.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use weir_tests::cgroup::Cgroup;
use weir_tests::lab::SERVER_V4;
use weir_tests::process::{Process, run};
use weir_tests::servers::redis;
use weir_tests::weir::{Daemon, Exec};
use weir_tests::{Lab, fixture};

const PORT: u16 = 9100;
const BYTES: u64 = 64 << 20;
const LIMIT: Duration = Duration::from_secs(60);

/// Bytes that the client's loopback interface has carried.
fn loopback_bytes(lab: &Lab) -> Result<u64> {
    let mut cat = lab.client.command("cat");
    let text = run(cat.arg("/proc/net/dev"), LIMIT)?.ok()?.stdout;
    let line = text.lines().find_map(|line| line.trim().strip_prefix("lo:"));
    let received = line.and_then(|numbers| numbers.split_whitespace().next());
    Ok(received.context("no loopback interface")?.parse()?)
}

/// What crosses loopback while 64 MiB go each way, checked by digests at both ends.
fn carried(switch: &str) -> Result<(u64, String)> {
    let (lab, cgroup) = (Lab::new()?, Cgroup::new("accel")?);
    let mut raw = fixture::command(&lab.server, "bulk.py");
    raw.args(["serve", &PORT.to_string()]);
    let _raw = Process::serve("bulk", raw, lab.dir(), (&lab.server, PORT))?;
    let daemon = Daemon::start(&lab, &cgroup, &["--sk-msg", switch])?;
    let status = daemon.verb(&lab, &["status", "-o", "json"])?.ok()?.stdout;
    let status: serde_json::Value = serde_json::from_str(&status)?;
    let before = loopback_bytes(&lab)?;
    for way in ["download", "upload"] {
        let mut client = fixture::command(&lab.client, "bulk.py");
        client.args([way, SERVER_V4, &PORT.to_string(), &BYTES.to_string()]);
        run(&mut cgroup.wrap(&client), LIMIT)?.ok()?;
    }
    let state = status["status"]["sk_msg"].as_str().unwrap_or_default().to_owned();
    Ok((loopback_bytes(&lab)? - before, state))
}

#[test]
fn payload_bypasses_loopback_only_where_it_is_on() -> Result<()> {
    let (without, state) = carried("off")?;
    ensure!(state == "off", "sk_msg is {state:?}");
    ensure!(without >= 2 * BYTES, "{without} bytes crossed loopback without sk_msg");
    let (with, state) = carried("on")?;
    // A kernel on which applications could tell is refused by the self-test, with its reason.
    if state == "on" {
        ensure!(with < BYTES / 2, "{with} bytes crossed loopback with sk_msg");
    } else {
        ensure!(state.starts_with("off: sk_msg self-test failed"), "{state}");
    }
    Ok(())
}

#[test]
fn small_requests_work_with_sk_msg() -> Result<()> {
    let lab = Lab::new()?;
    let _redis = redis::start(&lab)?;
    let seen = Exec::new(&lab)
        .flags(&["--sk-msg", "on"])
        .ok(&redis::client(SERVER_V4, &["INCR", "visits"]))?;
    ensure!(seen.stdout().trim() == "1", "{}", seen.stdout());
    Ok(())
}
