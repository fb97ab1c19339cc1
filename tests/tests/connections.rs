//! `weir connections` and `weir stat --reset` beside a running weir, with clients that keep their
//! connections open.

use std::process::Command;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use serde_json::Value;
use weir_tests::Lab;
use weir_tests::cgroup::Cgroup;
use weir_tests::fixture::PYTHON;
use weir_tests::lab::SERVER_V4;
use weir_tests::process::{Process, wait_until};
use weir_tests::servers::nginx::{HTTP1, Nginx};
use weir_tests::site::PATIENCE;
use weir_tests::weir::Daemon;

/// One connection with an answered request, and one without a byte; both stay open.
const CLIENT: &str = "
import socket, sys, signal
to = (sys.argv[1], int(sys.argv[2]))
named = socket.create_connection(to)
named.sendall(b'GET /hello.txt HTTP/1.1\\r\\nHost: Shop.example:8080\\r\\n\\r\\n')
assert named.recv(65536).startswith(b'HTTP/1.1 200')
silent = socket.create_connection(to)
print('open', flush=True)
signal.pause()
";

fn client(lab: &Lab, cgroup: &Cgroup) -> Result<Process> {
    let mut command: Command = lab.client.command(PYTHON);
    command.args(["-c", CLIENT, SERVER_V4, &HTTP1.to_string()]);
    let client = Process::start("client", cgroup.wrap(&command), lab.dir())?;
    wait_until("the client to have both connections", PATIENCE, || {
        Ok(client.log().contains("open"))
    })
    .with_context(|| client.log())?;
    Ok(client)
}

/// The connections that are shown.
fn shown(daemon: &Daemon, flags: &[&str]) -> Result<Vec<Value>> {
    let said = daemon.json(&[&["connections"], flags].concat())?;
    Ok(said["connections"].as_array().context("no list")?.clone())
}

#[test]
fn open_connections_are_listed_with_their_state_and_what_has_passed() -> Result<()> {
    let (lab, cgroup) = (Lab::new()?, Cgroup::new("open")?);
    let _nginx = Nginx::start(&lab)?;
    let daemon = Daemon::start(&lab, &cgroup, &[])?;
    let nothing = daemon.ask(&["connections"])?.ok()?;
    assert_eq!((&*nothing.stdout, nothing.stderr.trim()), ("", "no connection is open"));

    let client = client(&lab, &cgroup)?;
    let all = shown(&daemon, &[])?;
    let [named, silent] = &all[..] else { panic!("{all:#?}") };
    let to = format!("{SERVER_V4}:{HTTP1}");
    for (key, value) in [
        ("name", "shop.example"),
        ("state", "open"),
        ("treatment", "http1"),
        ("source", "detected"),
        ("direction", "outbound"),
        ("workload", "client"),
        ("destination", &to),
    ] {
        assert_eq!(named[key], value, "{named:#}");
    }
    let process = &named["process"];
    assert!(process["command"].as_str().is_some_and(|it| it.starts_with("python")), "{named:#}");
    let pid = process["pid"].as_u64().context("no process")?;
    assert!(std::path::Path::new(&format!("/proc/{pid}")).exists(), "{named:#}");
    assert_eq!(silent["process"], *process);
    assert_eq!(named["requests"], 1, "{named:#}");
    assert!(named["bytes_sent"].as_u64() > Some(40), "{named:#}");
    assert!(named["bytes_received"].as_u64() > Some(100), "{named:#}");
    assert!(named["age_us"].as_u64() >= silent["age_us"].as_u64(), "{all:#?}");
    assert_eq!((&silent["state"], &silent["bytes_sent"]), (&"detecting".into(), &0.into()));
    assert!(silent.get("name").is_none(), "{silent:#}");

    let by_name = shown(&daemon, &["--authority", "*.example", "--outbound"])?;
    assert_eq!(by_name.len(), 1, "{by_name:#?}");
    assert_eq!(shown(&daemon, &["--older-than", "1h"])?, [] as [Value; 0]);
    assert_eq!(shown(&daemon, &["--inbound"])?, [] as [Value; 0]);
    let first = daemon.ask(&["connections", "--limit", "1"])?.ok()?;
    assert!(first.stderr.starts_with("the oldest 1 of 2; "), "{}", first.stderr);
    assert_eq!(first.stdout.lines().count(), 2, "{}", first.stdout);
    let rows = |by: &str| -> Result<Vec<Value>> {
        let said = daemon.json(&["stat", "--by", by])?;
        Ok(said["rows"].as_array().context("no rows")?.clone())
    };
    let of_process = rows("process")?;
    let of_process: Vec<_> = of_process.iter().map(|row| &row["name"]).collect();
    assert_eq!(of_process, [&process["command"]], "by process");
    let by_path = rows("path")?;
    assert_eq!(by_path[0]["name"], "shop.example/hello.txt", "{by_path:#?}");
    assert_eq!(rows("client")?, [] as [Value; 0], "nothing is inbound");
    // Not a terminal: every column.
    let header: Vec<_> = first.stdout.lines().take(1).flat_map(str::split_whitespace).collect();
    assert!(header.starts_with(&["ID", "AGE", "WORKLOAD"]), "{header:?}");
    assert!(header.contains(&"NAME") && header.ends_with(&["DECIDED", "BY"]), "{header:?}");
    let wrong = daemon.ask(&["connections", "--workload", "shop"])?;
    assert_eq!(wrong.code(), 1, "{}", wrong.stderr);
    assert!(wrong.stderr.contains("client"), "{}", wrong.stderr);

    client.signal(Signal::SIGKILL)?;
    wait_until("the connections to be gone", PATIENCE, || Ok(shown(&daemon, &[])?.is_empty()))
}

#[test]
fn statistics_count_from_zero_after_a_reset_and_know_what_is_open() -> Result<()> {
    let (lab, cgroup) = (Lab::new()?, Cgroup::new("reset")?);
    let _nginx = Nginx::start(&lab)?;
    let daemon = Daemon::start(&lab, &cgroup, &[])?;
    let client = client(&lab, &cgroup)?;
    let counted = |flags: &[&str]| -> Result<(u64, u64, u64)> {
        let said = daemon.json(&[&["stat"], flags].concat())?;
        let rows = said["rows"].as_array().context("no rows")?;
        let sum = |key: &str| rows.iter().filter_map(|row| row[key].as_u64()).sum();
        Ok((sum("requests"), sum("connections"), sum("open")))
    };
    // The silent connection is in no row before it ends.
    assert_eq!(counted(&["--reset"])?, (1, 1, 1));
    assert_eq!(counted(&[])?, (0, 0, 1));
    client.signal(Signal::SIGKILL)?;
    wait_until("the connections to end", PATIENCE, || Ok(counted(&[])?.2 == 0))?;
    wait_until("the silent one to be counted", PATIENCE, || Ok(counted(&[])? == (0, 1, 0)))?;
    let refused = daemon.ask(&["stat", "--by", "service", "--reset"])?;
    assert_eq!(refused.code(), 2, "{}", refused.stderr);
    Ok(())
}
