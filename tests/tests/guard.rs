//! What weir says of itself is measured: a cgroup that was made anew is captured again, a namespace
//! that was deleted is let go, programs that others have replaced are put back; and until then weir
//! says that it does not capture, and why.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use weir_tests::cgroup::Cgroup;
use weir_tests::left::{nothing_left, pins};
use weir_tests::metrics::{FLAGS, get};
use weir_tests::netns::{Netns, ip};
use weir_tests::pods::{CLIENT, POD, Pods};
use weir_tests::process::{Finished, Process, run, wait_until};
use weir_tests::site::{PATIENCE, Site, is_captured};
use weir_tests::weir::{Daemon, Run};

const PORT: u16 = 9000;
/// Attempts to kill a successor between two of its steps.
const ROUNDS: usize = 5;
/// Connects, as a process that begins in a cgroup.
const CONNECT: &str =
    "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 20).close()";

fn at(ip: &str) -> SocketAddr {
    SocketAddr::new(ip.parse().expect("an address of this harness"), PORT)
}

/// A workload whose cgroup has processes only while they connect.
struct Service {
    pods: Pods,
    cgroup: Cgroup,
}

// === impl Service ===

impl Service {
    fn new() -> Result<Self> {
        Ok(Self { pods: Pods::new()?, cgroup: Cgroup::new("service")? })
    }

    fn run(&self, flags: &[&str]) -> Run<'_> {
        let run = Run::new(&self.pods.node, self.pods.dir()).flags(flags);
        run.workload("service", &self.cgroup, Some(&self.pods.pod_a.netns))
    }

    /// Connects from inside of the cgroup.
    fn visit(&self) -> Result<Finished> {
        let mut command = self.pods.pod_a.netns.command_in(self.cgroup.path(), "python3");
        run(command.args(["-c", CONNECT, CLIENT[0], &PORT.to_string()]), PATIENCE * 2)
    }

    /// Whether a new connection is captured, by what the kernel has counted.
    fn is_captured(&self, daemon: &Daemon) -> Result<bool> {
        let before = redirected(daemon)?;
        self.visit()?.ok()?;
        Ok(redirected(daemon)? > before)
    }

    fn remove_cgroup(&self) -> Result<()> {
        // A process that has just gone keeps it busy for a moment.
        wait_until("the cgroup to go", PATIENCE, || Ok(fs::remove_dir(self.cgroup.path()).is_ok()))
    }
}

fn redirected(daemon: &Daemon) -> Result<u64> {
    let status = daemon.json(&["status"])?;
    let workloads = status["kernel"]["workloads"].as_object().context("no counters")?;
    Ok(workloads.values().filter_map(|it| it["outbound"]["redirected"].as_u64()).sum())
}

fn workload(daemon: &Daemon) -> Result<Value> {
    Ok(daemon.json(&["status"])?["status"]["workloads"][0].clone())
}

fn wait_for_phase(daemon: &Daemon, phase: &str) -> Result<()> {
    wait_until(phase, PATIENCE, || Ok(workload(daemon)?["phase"] == phase))
}

/// Everywhere that weir speaks of the workload it must say that it waits, and for what.
fn says_that_it_waits(service: &Service, daemon: &Daemon, for_what: &Path) -> Result<()> {
    wait_for_phase(daemon, "waiting")?;
    let why = workload(daemon)?["why"].to_string();
    ensure!(why.contains(&for_what.display().to_string()), "{why}");
    let (ready, text) = get(&service.pods.node, "/ready")?;
    ensure!(ready == 503 && text.contains("not captured"), "{ready}: {text}");
    let (_, metrics) = get(&service.pods.node, "/metrics")?;
    for metric in ["weir_workload_capturing{workload=\"service\"} 0", "reason=\"cgroup\"} 1"] {
        ensure!(metrics.contains(metric), "no {metric} in:\n{metrics}");
    }
    let explained = daemon.ask(&["explain", "192.0.2.1:80"])?.ok()?.stdout;
    ensure!(explained.contains("waits"), "{explained}");
    Ok(())
}

/// Guards against a service that is restarted and never captured again. With `fail = closed` it is
/// cut off again, too, when weir dies.
#[test]
fn a_cgroup_that_is_made_anew_is_captured_again() -> Result<()> {
    let service = Service::new()?;
    let _server = service.pods.client_a.listen(at("::"))?;
    let mut daemon = service.run(&["--fail", "closed", FLAGS[0], FLAGS[1]]).start()?;
    ensure!(service.is_captured(&daemon)?, "direct");
    service.remove_cgroup()?;
    says_that_it_waits(&service, &daemon, service.cgroup.path())?;
    fs::create_dir(service.cgroup.path())?;
    wait_until("the new cgroup to be captured", PATIENCE, || service.is_captured(&daemon))?;
    wait_for_phase(&daemon, "capturing")?;
    let (ready, text) = get(&service.pods.node, "/ready")?;
    ensure!(ready == 200, "{ready}: {text}");
    let warnings = daemon.process.log().lines().filter(|line| line.contains("WARN")).count();
    assert_eq!(warnings, 1, "{}", daemon.process.log());
    // Between two looks: its absence was not seen.
    service.remove_cgroup()?;
    fs::create_dir(service.cgroup.path())?;
    wait_until("the third cgroup to be captured", PATIENCE, || service.is_captured(&daemon))?;
    daemon.process.kill_hard()?;
    ensure!(service.visit()?.code() != 0, "fail = closed is gone");
    daemon.instance().detach(&[])?.ok()?;
    service.visit()?.ok()?;
    nothing_left(daemon.instance(), &service.pods.namespaces())
}

#[test]
fn weir_may_start_before_the_cgroup_exists() -> Result<()> {
    let service = Service::new()?;
    let _server = service.pods.client_a.listen(at("::"))?;
    service.remove_cgroup()?;
    let mut daemon = service.run(&FLAGS).start()?;
    says_that_it_waits(&service, &daemon, service.cgroup.path())?;
    let refused = daemon.ask(&["ports", "skip", "80"])?;
    ensure!(refused.code() != 0 && refused.stderr.contains("does not exist"), "{refused:?}");
    fs::create_dir(service.cgroup.path())?;
    wait_until("the cgroup to be captured", PATIENCE, || service.is_captured(&daemon))?;
    // A restart while it is away finds it again, too.
    service.remove_cgroup()?;
    wait_for_phase(&daemon, "waiting")?;
    daemon.process.kill_hard()?;
    let mut daemon = service.run(&FLAGS).after(&daemon).start()?;
    wait_for_phase(&daemon, "waiting")?;
    fs::create_dir(service.cgroup.path())?;
    wait_until("the cgroup to be captured", PATIENCE, || service.is_captured(&daemon))?;
    daemon.stop()?;
    daemon.instance().detach(&[])?.ok()?;
    nothing_left(daemon.instance(), &service.pods.namespaces())
}

/// The kernel frees a namespace, and what is in it, when the last one lets go.
#[test]
fn a_namespace_that_is_deleted_is_let_go() -> Result<()> {
    let pods = Pods::new()?;
    let (gone, peer) = (Netns::new("gone")?, Netns::new("peer")?);
    gone.cable(["10.79.0.1/24", "fd79::1/64"], &peer, ["10.79.0.2/24", "fd79::2/64"])?;
    let cgroup = Cgroup::new("gone")?;
    let run = Run::new(&pods.node, pods.dir()).workload("gone", &cgroup, Some(&gone));
    let daemon = run.start()?;
    drop((gone, cgroup));
    wait_until("the other end of the cable to go", PATIENCE, || {
        Ok(ip(&["-n", peer.name(), "link", "show", "eth0"]).is_err())
    })?;
    wait_for_phase(&daemon, "waiting")
}

// === Upgrades ===

fn pod_a<'a>(pods: &'a Pods, name: &str) -> Run<'a> {
    let pod = &pods.pod_a;
    Run::new(&pods.node, pods.dir()).workload(name, pod.cgroup(), Some(&pod.netns))
}

/// Waits until a successor with another layout has put its program into this hook's link.
fn wait_for_program(daemon: &Daemon, hook: &str) -> Result<()> {
    let pinned = || -> Result<bool> {
        let of = |root: &PathBuf| root.join("another/1").join(hook).exists();
        Ok(pins(daemon.instance())?.iter().any(of))
    };
    wait_until("the successor's program", PATIENCE, pinned)
}

/// Guards against a weir whose links were taken by a successor that has died: it captured nothing
/// any more, and said that it did.
#[test]
fn a_weir_takes_back_what_a_killed_successor_has_taken() -> Result<()> {
    let pods = Pods::new()?;
    let (inside, outside) = (pods.pod_a.listen(at("::"))?, pods.client_a.listen(at("::"))?);
    let ways = [(&pods.client_a, at(POD[0]), &inside), (&pods.pod_a, at(CLIENT[0]), &outside)];
    for round in 0..ROUNDS {
        let mut daemon = pod_a(&pods, "a").start()?;
        let run = pod_a(&pods, "a").after(&daemon).flags(&["--upgrade"]);
        let command = run.variable("WEIR_BPF_SCHEMA", "another").command()?;
        let mut successor = Process::start(&format!("killed-{round}"), command, pods.dir())?;
        wait_for_program(&daemon, "sockops")?;
        // It is not to retire before the successor dies.
        daemon.process.signal(Signal::SIGSTOP)?;
        wait_for_program(&daemon, "connect6")?;
        successor.kill_hard()?;
        daemon.process.signal(Signal::SIGCONT)?;
        let went_on = || {
            wait_until("the old weir to go on", PATIENCE, || {
                Ok(daemon.process.log().contains("the new process has exited during the handover"))
            })
        };
        let retired = daemon.process.log().contains("another weir has taken over");
        if retired || went_on().is_err() {
            // The successor was faster than this test.
            eprintln!("round {round}:\n{}", daemon.process.log());
            continue;
        }
        for (from, to, listener) in ways {
            wait_until("new connections to be captured again", PATIENCE, || {
                is_captured(from, to, listener)
            })
            .with_context(|| daemon.process.log())?;
        }
        wait_for_phase(&daemon, "capturing")?;
        daemon.stop()?;
        daemon.instance().detach(&[])?.ok()?;
        return nothing_left(daemon.instance(), &pods.namespaces());
    }
    bail!("every successor was faster than this test")
}

/// The predecessor is stopped while the successor takes over. When it goes on, it retires.
#[test]
fn a_successor_goes_on_without_a_predecessor_that_hangs() -> Result<()> {
    let pods = Pods::new()?;
    let outside = pods.client_a.listen(at("::"))?;
    let mut old = pod_a(&pods, "a").start()?;
    let run = pod_a(&pods, "a").after(&old).flags(&["--upgrade"]);
    let run = run.variable("WEIR_BPF_SCHEMA", "another");
    let (new, stopped) = thread::scope(|scope| {
        let old = &old;
        let stopper = scope.spawn(move || {
            wait_for_program(old, "sockops")?;
            old.process.signal(Signal::SIGSTOP)
        });
        // Here: it dies with the thread that starts it.
        (run.start(), stopper.join().expect("it does not panic"))
    });
    stopped?;
    let mut new = new?;
    let taken = captured(&pods.pod_a, &outside);
    ensure!(taken.with_context(|| account(&new))?, "the successor does not capture");
    old.process.signal(Signal::SIGCONT)?;
    let status = old.process.wait(PATIENCE * 2)?;
    ensure!(status.success(), "{status}:\n{}", old.process.log());
    let kept = captured(&pods.pod_a, &outside);
    ensure!(kept.with_context(|| account(&new))?, "the successor does not capture any more");
    new.stop()?;
    new.instance().detach(&[])?.ok()?;
    nothing_left(new.instance(), &pods.namespaces())
}

/// What it has recorded, counted and said, to look for a cause.
fn account(daemon: &Daemon) -> String {
    let counted = daemon.ask(&["status"]).map(|said| said.stdout);
    format!("{:?}\n{counted:?}\n{}", daemon.records(), daemon.process.log())
}

fn captured(pod: &Site, server: &std::net::TcpListener) -> Result<bool> {
    is_captured(pod, at(CLIENT[0]), server)
}

/// Guards against a workload that was added, and lost in an upgrade that had read the list before.
#[test]
fn nothing_is_changed_while_another_weir_takes_over() -> Result<()> {
    let pods = Pods::new()?;
    let daemon = pod_a(&pods, "a").start()?;
    let pod = &pods.pod_b;
    let (cgroup, netns) =
        (pod.cgroup().path().display().to_string(), pod.netns.path().display().to_string());
    let add = ["workload", "add", "b", "--cgroup", &cgroup, "--netns", &netns];
    let mut successor = UnixStream::connect(daemon.control())?;
    writeln!(successor, r#"{{"version": 1, "command": "handover"}}"#)?;
    let mut answer = String::new();
    BufReader::new(&successor).read_line(&mut answer)?;
    ensure!(answer.contains("handing_over"), "{answer}");
    for line in [&add[..], &["workload", "remove", "a"], &["ports", "skip", "80"]] {
        let refused = daemon.ask(line)?;
        ensure!(refused.code() != 0, "{line:?} was accepted");
        for word in ["being replaced", "try again"] {
            ensure!(refused.stderr.contains(word), "{line:?}: no {word:?} in {}", refused.stderr);
        }
    }
    // One at a time.
    let refused = pod_a(&pods, "a").after(&daemon).flags(&["--upgrade"]).refused()?;
    ensure!(refused.code() != 0 && refused.stderr.contains("being replaced"), "{refused:?}");
    drop(successor);
    wait_until("changes to be accepted again", PATIENCE, || Ok(daemon.ask(&add)?.code() == 0))?;
    let names = daemon.json(&["workload", "list"])?.to_string();
    ensure!(names.contains("\"b\""), "{names}");
    Ok(())
}

/// Guards against an upgrade that captured one cgroup twice: every connection was reset.
#[test]
fn an_upgrade_that_would_capture_twice_is_refused_and_the_old_weir_stays() -> Result<()> {
    let pods = Pods::new()?;
    let pod = &pods.pod_a;
    let outside = pods.client_a.listen(at("::"))?;
    let daemon = Run::new(&pods.node, pods.dir()).flags(&["--standby"]).start()?;
    daemon.add("shop", pod.cgroup(), &pod.netns, &[])?;
    let below = pod.cgroup().below("below")?;
    for (cgroup, word) in [(pod.cgroup(), "captured already"), (&below, "below")] {
        let run = Run::new(&pods.node, pods.dir()).workload("other", cgroup, Some(&pod.netns));
        let refused = run.after(&daemon).flags(&["--upgrade"]).refused()?;
        ensure!(refused.code() != 0, "{}", refused.stdout);
        for word in [word, "\"shop\""] {
            ensure!(refused.stderr.contains(word), "no {word:?} in: {}", refused.stderr);
        }
        ensure!(captured(pod, &outside)?, "the old weir does not capture any more");
    }
    // Without the conflict it is taken over.
    let new = Run::new(&pods.node, pods.dir()).flags(&["--standby", "--upgrade"]);
    let mut new = new.after(&daemon).start()?;
    ensure!(captured(pod, &outside)?, "the successor does not capture");
    new.stop()
}
