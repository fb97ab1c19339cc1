//! Signals to a daemon: SIGHUP reloads, and a terminal that is closed ends weir with a drain.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use weir_tests::Lab;
use weir_tests::cgroup::Cgroup;
use weir_tests::fixture::PYTHON;
use weir_tests::lab::SERVER_V4;
use weir_tests::peer::Peer;
use weir_tests::process::{run, wait_until};
use weir_tests::record::Records;
use weir_tests::weir::{Daemon, Instance, Run};

const LIMIT: Duration = Duration::from_secs(60);

/// Whether a rule skips a port of outbound connections.
fn skips(daemon: &Daemon, port: u16) -> Result<bool> {
    let said = daemon.json(&["ports", "list"])?;
    let rules = said["rules"].as_array().context("no list of rules")?;
    let is_of = |rule: &serde_json::Value| rule.to_string().contains(&port.to_string());
    Ok(rules.iter().any(|rule| is_of(rule) && rule["state"] == "skip"))
}

#[test]
fn a_hangup_reads_the_configuration_again_and_opens_the_record_file_anew() -> Result<()> {
    let lab = Lab::new()?;
    let cgroup = Cgroup::new("hangup")?;
    let peer = Peer::whoami(&lab.server, 9000)?;
    let file = lab.dir().join("weir.toml");
    let path = file.to_str().context("a path in UTF-8")?;
    fs::write(&file, "[outbound]\nskip_ports = \"9001\"\n")?;
    let daemon = Daemon::start(&lab, &cgroup, &["--config", path])?;
    assert!(!skips(&daemon, 9002)?);
    let visit = || -> Result<()> {
        let program = format!(
            "import socket\nsocket.create_connection(('{SERVER_V4}', {}), 10).recv(99)",
            peer.port()
        );
        let mut client = lab.client.command(PYTHON);
        client.args(["-c", &program]);
        run(&mut cgroup.wrap(&client), LIMIT)?.ok().map(drop)
    };
    visit()?;
    daemon.records_of(peer.port(), 1)?;

    // A file that is wrong changes nothing.
    fs::write(&file, "[outbound]\nskip_ports = \"many\"\n")?;
    daemon.process.signal(Signal::SIGHUP)?;
    wait_until("the refusal", LIMIT, || {
        Ok(daemon.process.log().contains("cannot reload the configuration"))
    })?;
    assert!(skips(&daemon, 9001)?);

    let records = daemon.records_file().to_owned();
    let moved = records.with_extension("moved");
    fs::rename(&records, &moved)?;
    fs::write(&file, "[outbound]\nskip_ports = \"9002\"\n[forward]\nmax_connections = 7\n")?;
    daemon.process.signal(Signal::SIGHUP)?;
    wait_until("the other ports", LIMIT, || skips(&daemon, 9002))?;
    assert!(!skips(&daemon, 9001)?);
    wait_until("what did not change", LIMIT, || {
        Ok(daemon.process.log().contains("forward.max_connections"))
    })?;
    visit()?;
    daemon.records_of(peer.port(), 1)?;
    assert_eq!(Records::read(&moved)?.connections(peer.port()).len(), 1);
    Ok(())
}

#[test]
fn a_terminal_that_is_closed_ends_weir_with_a_drain() -> Result<()> {
    let lab = Lab::new()?;
    let cgroup = Cgroup::new("terminal")?;
    let instance = Instance::new();
    let run_weir =
        Run::new(&lab.client, lab.dir()).instance(&instance).workload("client", &cgroup, None);
    let command = run_weir.command()?;
    // Under nohup(1) weir is not meant to end, and then this would not either.
    let program = "import os, pty, signal, sys\n\
         signal.signal(signal.SIGHUP, signal.SIG_DFL)\n\
         pid, terminal = pty.fork()\n\
         if pid == 0: os.execvp(sys.argv[1], sys.argv[1:])\n\
         seen = b''\n\
         while b'capturing' not in seen: seen += os.read(terminal, 4096)\n\
         os.close(terminal)\n\
         print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))";
    let mut python = std::process::Command::new(PYTHON);
    python.args(["-c", program]).arg(command.get_program()).args(command.get_args());
    let ended = run(&mut python, LIMIT)?.ok()?;
    assert_eq!(ended.stdout.trim(), "0", "not by the signal: {}", ended.stderr);
    let pins = Path::new("/sys/fs/bpf/weir").join(instance.name());
    assert!(!pins.exists(), "{} is still there", pins.display());
    Ok(())
}

/// As systemd's `Type=notify` with `WatchdogSec=` and `ExecReload=` see it (sd_notify(3)).
#[test]
fn a_supervisor_is_told_of_the_start_reloads_signs_of_life_and_the_stop() -> Result<()> {
    let lab = Lab::new()?;
    let cgroup = Cgroup::new("supervised")?;
    let path = lab.dir().join("notify");
    let socket = UnixDatagram::bind(&path)?;
    socket.set_read_timeout(Some(LIMIT))?;
    let next = || -> Result<String> {
        let mut bytes = [0; 4096];
        let length = socket.recv(&mut bytes).context("weir says nothing to its supervisor")?;
        Ok(String::from_utf8(bytes[..length].to_vec())?)
    };
    let until = |wanted: &str| -> Result<String> {
        loop {
            let message = next()?;
            if message.lines().any(|line| line == wanted) {
                return Ok(message);
            }
            assert_eq!(message, "WATCHDOG=1\n", "while waiting for {wanted}");
        }
    };
    let mut daemon = Run::new(&lab.client, lab.dir())
        .workload("shop", &cgroup, None)
        .variable("NOTIFY_SOCKET", path.to_str().context("a path in UTF-8")?)
        .variable("WATCHDOG_USEC", "200000")
        .start()?;
    assert!(until("READY=1")?.contains("STATUS=workloads: shop\n"));
    for _ in 0..3 {
        until("WATCHDOG=1")?;
    }
    daemon.process.signal(Signal::SIGHUP)?;
    until("RELOADING=1")?;
    until("READY=1")?;
    daemon.stop()?;
    until("STOPPING=1")?;
    Ok(())
}
