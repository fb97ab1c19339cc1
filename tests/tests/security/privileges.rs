//! Capabilities and no_new_privs of a running weir, thread by thread, and of what it starts.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::process::Command;

use anyhow::{Result, ensure};
use weir_tests::Lab;
use weir_tests::cgroup::Cgroup;
use weir_tests::peer::Peer;
use weir_tests::pods::{POD_B, Pods};
use weir_tests::process::{Process, run, wait_until};
use weir_tests::site::PATIENCE;
use weir_tests::weir::{Daemon, Exec, Run};

/// `include/uapi/linux/capability.h`: what weir keeps in every case.
const DAC_OVERRIDE: u64 = 1 << 1;
const DAC_READ_SEARCH: u64 = 1 << 2;
const KILL: u64 = 1 << 5;
const SETGID: u64 = 1 << 6;
const SETUID: u64 = 1 << 7;
const NET_BIND_SERVICE: u64 = 1 << 10;
const NET_ADMIN: u64 = 1 << 12;
const NET_RAW: u64 = 1 << 13;
const SYS_PTRACE: u64 = 1 << 19;
const SYS_ADMIN: u64 = 1 << 21;
const BPF: u64 = 1 << 39;
const KEPT: u64 =
    DAC_READ_SEARCH | SETGID | SETUID | NET_ADMIN | NET_RAW | SYS_PTRACE | SYS_ADMIN | BPF;

/// What `/proc/PID/status` says of a thread's privileges.
type Privileges = BTreeMap<String, u64>;

fn privileges(status: &str) -> Result<Privileges> {
    let fields = status.lines().filter_map(|line| line.split_once(":\t"));
    let wanted = fields.filter(|(name, _)| name.starts_with("Cap") || *name == "NoNewPrivs");
    wanted.map(|(name, value)| Ok((name.to_owned(), u64::from_str_radix(value, 16)?))).collect()
}

fn expected(kept: u64, had: u64) -> Privileges {
    // A container may not have all of them to begin with.
    let kept = kept & had;
    let sets = [("CapInh", 0), ("CapPrm", kept), ("CapEff", kept), ("CapBnd", kept), ("CapAmb", 0)];
    let all = sets.into_iter().chain([("NoNewPrivs", 1)]);
    all.map(|(name, value)| (name.to_owned(), value)).collect()
}

fn own() -> Result<Privileges> {
    privileges(&fs::read_to_string("/proc/self/status")?)
}

/// Every thread of a process, by name.
fn threads(pid: u32) -> Result<Vec<(String, Privileges)>> {
    let mut all = Vec::new();
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let task = task?.path();
        // It may end while we look.
        let Ok(status) = fs::read_to_string(task.join("status")) else { continue };
        let name = fs::read_to_string(task.join("comm")).unwrap_or_default();
        all.push((name.trim().to_owned(), privileges(&status)?));
    }
    Ok(all)
}

/// `/proc/PID/status` of a process's child, whichever thread has made it.
fn child(pid: u32) -> Result<Option<String>> {
    let lists = fs::read_dir(format!("/proc/{pid}/task"))?
        .filter_map(|task| fs::read_to_string(task.ok()?.path().join("children")).ok());
    let pids: Vec<String> = lists
        .flat_map(|list| list.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
        .collect();
    Ok(pids.first().and_then(|pid| fs::read_to_string(format!("/proc/{pid}/status")).ok()))
}

fn assert_reduced(pid: u32, kept: u64) -> Result<()> {
    let expected = expected(kept, own()?["CapEff"]);
    let threads = threads(pid)?;
    ensure!(threads.len() > 1, "only one thread was seen: {threads:?}");
    for (name, found) in &threads {
        ensure!(*found == expected, "{name}: {found:#x?} instead of {expected:#x?}");
    }
    Ok(())
}

/// Connections both ways and workloads that come at run time: whatever starts threads has.
#[test]
fn every_thread_of_a_daemon_at_work_has_what_weir_needs_and_no_more() -> Result<()> {
    let pods = Pods::new()?;
    let run = Run::new(&pods.node, pods.dir()).flags(&["--preserve-client-ip", "--workers", "2"]);
    let (a, b) = (&pods.pod_a, &pods.pod_b);
    let daemon = run.workload("pod-a", a.cgroup(), Some(&a.netns)).start()?;
    daemon.add("pod-b", b.cgroup(), &b.netns, &[])?;
    let peer = Peer::echo(&b.netns, 9000)?;
    let client = a.connect(SocketAddr::new(POD_B[0].parse()?, 9000))?;
    wait_until("the connection to be seen", PATIENCE, || Ok(!peer.seen().is_empty()))?;
    assert_reduced(daemon.process.pid(), KEPT)?;
    drop(client);
    daemon.ask(&["workload", "remove", "pod-b"])?.ok()?;
    assert_reduced(daemon.process.pid(), KEPT)
}

#[test]
fn a_successor_takes_over_with_reduced_privileges() -> Result<()> {
    let (lab, cgroup) = (Lab::new()?, Cgroup::new("successor")?);
    let old = Daemon::start(&lab, &cgroup, &[])?;
    let successor = Run::new(&lab.client, lab.dir()).in_place_of(&old);
    let successor = successor.workload("client", &cgroup, None).flags(&["--upgrade"]).start()?;
    assert_reduced(successor.process.pid(), KEPT)
}

#[test]
fn what_the_configuration_asks_for_is_kept_too() -> Result<()> {
    let (lab, cgroup) = (Lab::new()?, Cgroup::new("extra")?);
    let privileged = Daemon::start(&lab, &cgroup, &["--admin", "127.0.0.1:81"])?;
    assert_reduced(privileged.process.pid(), KEPT | NET_BIND_SERVICE)?;
    drop(privileged);
    // Root may not write here without CAP_DAC_OVERRIDE.
    let theirs = lab.subdir("theirs")?;
    let user = weir_tests::netns::user_named("nobody")?;
    std::os::unix::fs::chown(&theirs, Some(user.uid.as_raw()), Some(user.gid.as_raw()))?;
    let run = Run::new(&lab.client, &theirs).workload("client", &cgroup, None);
    let mut daemon = run.start()?;
    assert_reduced(daemon.process.pid(), KEPT | DAC_OVERRIDE)?;
    daemon.stop()?;
    ensure!(!daemon.control().exists(), "the control socket is left");
    Ok(())
}

// === weir exec ===

#[test]
fn a_command_has_what_weir_was_started_with() -> Result<()> {
    let lab = Lab::new()?;
    let seen = Exec::new(&lab).ok(&["cat", "/proc/self/status"])?;
    let (command, own) = (privileges(seen.stdout())?, own()?);
    ensure!(own["NoNewPrivs"] == 0, "the test itself may gain nothing: it proves nothing");
    ensure!(command == own, "{command:#x?} instead of {own:#x?}");
    Ok(())
}

/// What sudo(8) and ping(8) rest on: execve(2) still gives what a file says.
#[test]
fn a_set_user_id_program_works_under_exec() -> Result<()> {
    let lab = Lab::new()?;
    let program = lab.dir().join("id");
    let program = program.display().to_string();
    // Another process makes the copy: a child of another test would have it open for writing with
    // us, until it execs.
    let install = ["-m", "4755", "/usr/bin/id", &program];
    run(Command::new("install").args(install), PATIENCE)?.ok()?;
    let line = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", &program, "-u"];
    let direct = run(Command::new(line[0]).args(&line[1..]), PATIENCE)?.ok()?;
    ensure!(direct.stdout.trim() == "0", "not even without weir: {}", direct.stdout);
    let seen = Exec::new(&lab).ok(&line)?;
    ensure!(seen.stdout() == "0", "the program ran as {}", seen.stdout());
    Ok(())
}

#[test]
fn weir_exec_itself_keeps_no_more_than_it_needs() -> Result<()> {
    let lab = Lab::new()?;
    let cgroup = Cgroup::new("exec")?;
    let (command, _) = Exec::new(&lab).command(&["sleep", "1000"])?;
    let mut weir = Process::start("exec", cgroup.wrap(&command), lab.dir())?;
    wait_until("the command", PATIENCE, || {
        ensure!(weir.running()?, "it ended: {}", weir.log());
        Ok(child(weir.pid())?.is_some_and(|child| child.contains("Name:\tsleep\n")))
    })?;
    // The thread that has started it ends by itself.
    let original = |(name, _): &(String, Privileges)| name == "weir-original";
    wait_until("the original thread to end", PATIENCE, || {
        Ok(!threads(weir.pid())?.iter().any(original))
    })?;
    assert_reduced(weir.pid(), KEPT | KILL)?;
    weir.signal(nix::sys::signal::Signal::SIGTERM)?;
    let status = weir.wait(PATIENCE)?;
    ensure!(status.code() == Some(128 + 15), "{status}: {}", weir.log());
    Ok(())
}

/// A command may become another user, and is still sent the signals that weir gets.
#[test]
fn a_signal_reaches_a_command_of_another_user() -> Result<()> {
    let lab = Lab::new()?;
    let line = ["setpriv", "--reuid=65534", "--clear-groups", "sleep", "1000"];
    let (command, _) = Exec::new(&lab).command(&line)?;
    let mut weir = Process::start("exec", command, lab.dir())?;
    wait_until("the other user's command", PATIENCE, || {
        ensure!(weir.running()?, "it ended: {}", weir.log());
        let is_other = |child: &String| {
            child.contains("Name:\tsleep\n") && child.contains("Uid:\t65534\t65534")
        };
        Ok(child(weir.pid())?.as_ref().is_some_and(is_other))
    })?;
    weir.signal(nix::sys::signal::Signal::SIGTERM)?;
    let status = weir.wait(PATIENCE)?;
    ensure!(status.code() == Some(128 + 15), "{status}: {}", weir.log());
    Ok(())
}
