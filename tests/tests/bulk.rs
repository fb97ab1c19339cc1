//! Much of everything, with bounds: a gigabyte each way with checksums, thousands of connections, and
//! weir's memory all the while.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use weir_tests::cgroup::Cgroup;
use weir_tests::lab::SERVER_V4;
use weir_tests::netns::Netns;
use weir_tests::process::{Process, run, wait_until};
use weir_tests::servers::nginx::{self, Nginx};
use weir_tests::weir::{Daemon, Exec, Run};
use weir_tests::{Lab, fixture};

const GIB: u64 = 1 << 30;
/// What weir may use at most while it moves a gigabyte.
const MEMORY_KIB: u64 = 64 * 1024;
const LIMIT: Duration = Duration::from_secs(600);

const PORT: u16 = 9100;

/// A value of `/proc/PID/status`, in KiB.
fn status_kib(pid: u32, field: &str) -> Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(field));
    let number = line.and_then(|rest| rest.trim_start_matches(':').split_whitespace().next());
    Ok(number.with_context(|| format!("no {field} for process {pid}"))?.parse()?)
}

/// Which end of the connections is in the workload.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Outbound,
    Inbound,
}

/// Runs a shell line at the client; then weir's greatest memory must have been small.
fn transfer(way: Way, line: &str) -> Result<()> {
    let (mut lab, cgroup) = (Lab::new()?, Cgroup::new("bulk")?);
    let captured = if way == Way::Inbound { &mut lab.server } else { &mut lab.client };
    captured.join(&cgroup);
    let server = Nginx::start(&lab)?;
    let mut raw = fixture::command(&lab.server, "bulk.py");
    raw.args(["serve", &PORT.to_string()]);
    let _raw = Process::serve("bulk", raw, lab.dir(), (&lab.server, PORT))?;
    let big = server.root().join("big.bin");
    fill(&big)?;
    let node = Netns::new("node")?;
    let captured = if way == Way::Inbound { &lab.server } else { &lab.client };
    let weir = Run::new(&node, lab.dir()).workload("bulk", &cgroup, Some(captured));
    let daemon = weir.start()?;
    let line = line
        .replace(
            "{fixture}",
            &format!("{} -B {}", fixture::PYTHON, fixture::path("bulk.py").display()),
        )
        .replace("{big}", &big.display().to_string())
        .replace("{uploads}", &server.uploads().display().to_string());
    let mut shell = lab.client.command("bash");
    shell.args(["-euo", "pipefail", "-c", &line]);
    let took = run(&mut shell, LIMIT)?.ok()?.took;
    let peak = status_kib(daemon.process.pid(), "VmHWM")?;
    println!("{:.1} s, weir's greatest memory {peak} KiB", took.as_secs_f64());
    ensure!(peak < MEMORY_KIB, "weir used {peak} KiB");
    ensure!(moved(&daemon)? >= 2 * GIB, "not all through weir: {:#?}", daemon.records()?);
    Ok(())
}

/// The bytes of all connections that weir has recorded, once they have a gigabyte each way.
fn moved(daemon: &Daemon) -> Result<u64> {
    let mut total = 0;
    // A record is written when the connection has ended on both sides.
    let _judged_by_the_caller = wait_until("the record", Duration::from_secs(20), || {
        let records = daemon.records()?;
        let sizes = [PORT, nginx::HTTP1, nginx::H2C].into_iter().flat_map(|port| {
            let found = records.connections(port);
            found
                .iter()
                .map(|c| c.number("bytes_sent") + c.number("bytes_received"))
                .collect::<Vec<_>>()
        });
        total = sizes.sum();
        Ok(total >= 2 * GIB)
    });
    Ok(total)
}

/// A gibibyte that no two blocks of are equal, and that costs no randomness.
fn fill(path: &Path) -> Result<()> {
    use std::io::Write;
    let mut file = std::io::BufWriter::with_capacity(1 << 20, std::fs::File::create(path)?);
    for word in 0..GIB / 8 {
        file.write_all(&word.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes())?;
    }
    Ok(file.flush()?)
}

// === A gigabyte ===

#[test]
fn raw_tcp_carries_a_gigabyte_down_and_up() -> Result<()> {
    transfer(
        Way::Outbound,
        &format!(
            "{{fixture}} download {SERVER_V4} {PORT} {GIB}; {{fixture}} upload {SERVER_V4} {PORT} {GIB}"
        ),
    )
}

fn http(way: Way, port: u16, option: &str) -> Result<()> {
    let url = format!("http://{SERVER_V4}:{port}");
    // nginx answers an upload with the name of the file that it put the body into.
    transfer(
        way,
        &format!(
            "curl -sS {option} {url}/big.bin | cmp - {{big}}\n\
         file=$(curl -sS {option} -H Expect: -T {{big}} {url}/upload)\n\
         cmp \"$file\" {{big}}"
        ),
    )
}

#[test]
fn http1_carries_a_gigabyte_down_and_up() -> Result<()> {
    http(Way::Outbound, nginx::HTTP1, "--http1.1")
}

#[test]
fn http1_carries_a_gigabyte_down_and_up_inbound() -> Result<()> {
    http(Way::Inbound, nginx::HTTP1, "--http1.1")
}

#[test]
fn http2_carries_a_gigabyte_down_and_up() -> Result<()> {
    http(Way::Outbound, nginx::H2C, "--http2-prior-knowledge")
}

// === A slow reader ===

/// Backpressure: a client that does not read must not fill weir's memory.
#[test]
fn a_slow_reader_does_not_fill_memory() -> Result<()> {
    let (lab, cgroup) = (Lab::new()?, Cgroup::new("slow")?);
    let mut raw = fixture::command(&lab.server, "bulk.py");
    raw.args(["serve", &PORT.to_string()]);
    let _raw = Process::serve("bulk", raw, lab.dir(), (&lab.server, PORT))?;
    let daemon = Daemon::start(&lab, &cgroup, &[])?;
    let program = format!(
        "import socket, time\n\
         all = [socket.create_connection(('{SERVER_V4}', {PORT}), 20) for _ in range(20)]\n\
         for s in all: s.sendall(b'DOWNLOAD 200000000\\n')\n\
         time.sleep(2)"
    );
    let mut client = lab.client.command(fixture::PYTHON);
    client.args(["-c", &program]);
    run(&mut cgroup.wrap(&client), LIMIT)?.ok()?;
    let peak = status_kib(daemon.process.pid(), "VmHWM")?;
    ensure!(peak < MEMORY_KIB, "weir used {peak} KiB");
    wait_for_records(&daemon, 20)
}

/// All of these connections went through weir, and are over.
fn wait_for_records(daemon: &Daemon, count: usize) -> Result<()> {
    wait_until(&format!("{count} records"), Duration::from_secs(20), || {
        Ok(daemon.records()?.connections(PORT).len() == count)
    })
}

// === Many connections ===

#[test]
fn two_thousand_idle_connections_bear_two_hundred_new_ones_a_second() -> Result<()> {
    let (lab, cgroup) = (Lab::new()?, Cgroup::new("idle")?);
    let mut server = fixture::command(&lab.server, "load_server.py");
    server.arg(PORT.to_string());
    let _server = Process::serve("load", server, lab.dir(), (&lab.server, PORT))?;
    let daemon = Daemon::start(&lab, &cgroup, &[])?;
    let pid = daemon.process.pid();
    let before = status_kib(pid, "VmRSS")?;
    let mut command = fixture::command(&lab.client, "load_client.py");
    command.args([SERVER_V4, &PORT.to_string(), "2000", "200", "10"]);
    let mut client = Process::start("load-client", cgroup.wrap(&command), lab.dir())?;
    let stop = AtomicBool::new(false);
    let status = thread::scope(|scope| {
        scope.spawn(|| report_idle_memory(&client_log(&lab), pid, before, &stop));
        let status = client.wait(Duration::from_secs(300));
        stop.store(true, Ordering::Relaxed);
        status
    })?;
    let log = client.log();
    assert!(status.success() && log.contains("short 2000 errors 0"), "{status}: {log}");
    wait_for_records(&daemon, 4000)
}

fn client_log(lab: &Lab) -> std::path::PathBuf {
    lab.dir().join("load-client.log")
}

/// Prints what an idle connection costs, when all of them are there.
fn report_idle_memory(log: &Path, pid: u32, before: u64, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        if std::fs::read_to_string(log).unwrap_or_default().contains("idle 2000") {
            let now = status_kib(pid, "VmRSS").unwrap_or_default();
            let each = now.saturating_sub(before) * 1024 / 2000;
            eprintln!("memory per idle connection: {each} bytes ({before} -> {now} KiB)");
            return;
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// A burst of short HTTP connections: nothing is lost when each connection is new.
#[test]
fn a_new_connection_for_every_request_loses_none() -> Result<()> {
    let lab = Lab::new()?;
    let _server = Nginx::start(&lab)?;
    let url = format!("http://{SERVER_V4}:{}/hello.txt", nginx::HTTP1);
    let line =
        format!("for i in $(seq 20); do h2load --h1 -n 20 -c 20 {url} | grep succeeded; done");
    let seen = Exec::new(&lab).ok(&["bash", "-c", &line])?;
    let good = seen.stdout().lines().filter(|line| line.contains("20 succeeded, 0 failed")).count();
    assert_eq!(good, 20, "{}", seen.stdout());
    Ok(())
}
