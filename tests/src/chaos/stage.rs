//! Where it happens: two captured pods and their client hosts, load on all ways between them, and
//! the weirs of one instance that follow each other. Whatever is done is written into the ledger.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;

use super::ledger::{Generation, Ledger, Span, Time};
use super::schedule::{Schedule, Setup};
use super::traffic::Traffic;
use crate::daemon::{Daemon, Run};
use crate::left::nothing_left;
use crate::pods::{CLIENT, Pods};
use crate::process::{Process, wait_until};
use crate::visits::now;

/// What makes a weir behave as one with another layout of the maps.
pub(super) const SCHEMA: &str = "WEIR_BPF_SCHEMA";
/// How long the machine may take for anything, when it has other things to do.
pub(super) const SOON: Duration = Duration::from_secs(60);
/// `Heartbeat::LIMIT_NS`: what connects this long after the last sign of life goes direct.
const HEARTBEAT: Duration = Duration::from_secs(2);
/// More than the longest drain deadline of a schedule.
const LAST_DRAIN: Duration = Duration::from_secs(150);

/// The pods, the load and the weirs.
pub(super) struct Stage {
    pub(super) traffic: Traffic,
    pub(super) ledger: Ledger,
    /// What went wrong beside connections.
    pub(super) faults: Vec<String>,
    current: Current,
    retired: Vec<(usize, Daemon)>,
    doomed: usize,
    flags: Vec<String>,
    logs: Vec<(String, PathBuf)>,
    pub(super) pods: Pods,
}

/// The weir that new connections go to.
struct Current {
    daemon: Daemon,
    number: usize,
    deadline: Duration,
    learn: &'static str,
}

// === impl Stage ===

impl Stage {
    /// Starts weir with both pods, then servers and clients.
    pub(super) fn new(load: &Path, schedule: &mut Schedule, limit: Duration) -> Result<Self> {
        let pods = Pods::new()?;
        let setup = schedule.setup();
        let preserve = schedule.preserves_client_ip();
        let flags: Vec<String> =
            if preserve { vec!["--preserve-client-ip".to_owned()] } else { Vec::new() };
        let begin = now()?;
        let daemon = run(&pods, &flags, &setup).start()?;
        let traffic = Traffic::start(load, &pods, schedule, limit)?;
        let current = Current { daemon, number: 0, deadline: setup.deadline, learn: setup.learn };
        let (ledger, faults, retired) = (Ledger::default(), Vec::new(), Vec::new());
        let (doomed, logs) = (0, Vec::new());
        let mut stage =
            Self { traffic, ledger, faults, current, retired, doomed, flags, logs, pods };
        stage.entered(begin);
        stage.add()?;
        Ok(stage)
    }

    fn entered(&mut self, begin: Time) {
        let pid = self.current.daemon.process.pid();
        self.current.number = self.ledger.generations.len();
        self.ledger.generations.push(Generation {
            pid,
            serves: Span::since(begin),
            drains: None,
            killed: None,
        });
    }

    fn generation(&mut self) -> &mut Generation {
        &mut self.ledger.generations[self.current.number]
    }

    // === Workloads and ports ===

    /// `weir workload add` for pod B, whose connections to its client host are exempted.
    pub(super) fn add(&mut self) -> Result<()> {
        let (pod, skipped) = (&self.pods.pod_b, CLIENT.join(","));
        let flags: Vec<&str> = self.flags.iter().map(String::as_str).collect();
        let flags = [&flags[..], &["--skip-cidrs", &skipped]].concat();
        patiently(|| self.current.daemon.add("pod-b", pod.cgroup(), &pod.netns, &flags))
    }

    /// `weir workload remove` for pod B.
    pub(super) fn remove(&mut self) -> Result<()> {
        let begin = now()?;
        self.ask(&["workload", "remove", "pod-b"])?;
        let deadline = nanoseconds(self.current.deadline);
        self.ledger.troubles.removed.push((Span { begin, end: now()? }, deadline));
        Ok(())
    }

    /// A verb for the weir that new connections go to.
    pub(super) fn ask(&self, words: &[&str]) -> Result<()> {
        patiently(|| self.current.daemon.ask(words)?.ok().map(drop))
    }

    // === Weirs ===

    /// SIGSTOP, and SIGCONT after so long.
    pub(super) fn stop(&mut self, time: Duration) -> Result<()> {
        self.current.daemon.process.signal(Signal::SIGSTOP)?;
        let asleep = now()? + nanoseconds(HEARTBEAT);
        thread::sleep(time);
        let awake = now()?;
        self.current.daemon.process.signal(Signal::SIGCONT)?;
        if asleep < awake {
            self.ledger.absent.push(Span { begin: asleep, end: awake });
        }
        Ok(())
    }

    /// `kill -9`, and another weir after so long.
    pub(super) fn kill(&mut self, away: Duration, setup: &Setup) -> Result<()> {
        let begin = now()?;
        self.current.daemon.process.kill_hard()?;
        let end = now()?;
        let generation = self.generation();
        generation.serves.end = end;
        generation.killed = Some(Span { begin, end });
        thread::sleep(away);
        let begin = self.start(setup)?;
        self.ledger.absent.push(Span { begin: end, end: begin });
        Ok(())
    }

    /// `kill -9` for the oldest that drains; false if there is none.
    pub(super) fn kill_retired(&mut self) -> Result<bool> {
        self.reap()?;
        if self.retired.is_empty() {
            return Ok(false);
        }
        let (number, mut daemon) = self.retired.remove(0);
        let begin = now()?;
        if daemon.process.running()? {
            daemon.process.kill_hard()?;
            self.ledger.generations[number].killed = Some(Span { begin, end: now()? });
        }
        self.keep_log(number, &daemon);
        Ok(true)
    }

    /// Whether the current weir need not be waited for too long when it is told to end.
    pub(super) fn ends_soon(&self) -> bool {
        self.current.deadline <= SOON / 3
    }

    /// SIGTERM, and another weir as soon as the instance is free.
    pub(super) fn terminate(&mut self, setup: &Setup) -> Result<()> {
        let begin = now()?;
        self.current.daemon.process.signal(Signal::SIGTERM)?;
        let deadline = nanoseconds(self.current.deadline);
        self.generation().drains = Some((begin, deadline));
        self.ended()?;
        self.generation().serves.end = now()?;
        self.start(setup).map(drop)
    }

    /// Waits for the end of the weir that was told to end.
    fn ended(&mut self) -> Result<()> {
        let limit = self.current.deadline + SOON;
        let status = self.current.daemon.process.wait(limit)?;
        if !status.success() {
            self.fault(self.current.number, &format!("ended with {status} after SIGTERM"));
        }
        Ok(())
    }

    /// When it was begun to be started.
    fn start(&mut self, setup: &Setup) -> Result<Time> {
        let begin = now()?;
        let next = run(&self.pods, &self.flags, setup).after(&self.current.daemon);
        let daemon = next.start().context("start after the end of another")?;
        self.replace(daemon, begin, setup);
        Ok(begin)
    }

    fn replace(&mut self, daemon: Daemon, begin: Time, setup: &Setup) {
        let old = std::mem::replace(&mut self.current.daemon, daemon);
        let number = self.current.number;
        (self.current.deadline, self.current.learn) = (setup.deadline, setup.learn);
        self.entered(begin);
        self.retired.push((number, old));
    }

    /// Another weir takes over.
    pub(super) fn upgrade(&mut self, setup: &Setup) -> Result<()> {
        let begin = now()?;
        let daemon = self.successor(setup).start().context("upgrade")?;
        self.superseded(begin)?;
        self.replace(daemon, begin, setup);
        Ok(())
    }

    fn superseded(&mut self, begin: Time) -> Result<()> {
        let deadline = nanoseconds(self.current.deadline);
        let end = now()?;
        let generation = self.generation();
        generation.serves.end = end;
        generation.drains = Some((begin, deadline));
        Ok(())
    }

    /// Another weir is about to take over, and dies. Starts another if the one before has retired.
    pub(super) fn doomed(&mut self, life: Duration, setup: &Setup) -> Result<()> {
        let command = self.successor(setup).command()?;
        let begin = now()?;
        self.doomed += 1;
        let name = format!("doomed-{}", self.doomed);
        let mut process = Process::start(&name, command, self.pods.dir())?;
        let pid = process.pid();
        thread::sleep(life);
        let killed = now()?;
        process.kill_hard()?;
        let end = now()?;
        let killed = Some(Span { begin: killed, end });
        let serves = Span { begin, end };
        self.ledger.generations.push(Generation { pid, serves, drains: None, killed });
        if self.is_running()? {
            return Ok(());
        }
        // The one before may have gone on to serve for as long as it did not know.
        self.superseded(begin)?;
        self.start(setup).map(drop)
    }

    fn is_running(&mut self) -> Result<bool> {
        let daemon = &mut self.current.daemon;
        Ok(daemon.process.running()?
            && daemon.json(&["status"]).is_ok_and(|said| said["status"]["phase"] == "running"))
    }

    fn successor(&self, setup: &Setup) -> Run<'_> {
        let run = run(&self.pods, &self.flags, setup).flags(&["--upgrade"]);
        let daemon = &self.current.daemon;
        let run = if setup.same_socket { run.in_place_of(daemon) } else { run.after(daemon) };
        if setup.other_layout { run.variable(SCHEMA, "another") } else { run }
    }

    /// No more descriptors than those in use and so many others, for so long.
    pub(super) fn starve(&mut self, room: usize, time: Duration) -> Result<()> {
        let pid = self.current.daemon.process.pid();
        let before = limits(pid, None)?;
        let begin = now()?;
        let highest = std::fs::read_dir(format!("/proc/{pid}/fd"))?
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<usize>().ok())
            .max()
            .context("no descriptors")?;
        limits(pid, Some((highest + room, before.1)))?;
        thread::sleep(time);
        limits(pid, Some(before))?;
        let span = Span { begin, end: now()? };
        self.ledger.troubles.starved.push((self.current.number, span));
        Ok(())
    }

    // === Watch ===

    /// Whether everything runs that should; what has retired and ended is seen off.
    pub(super) fn reap(&mut self) -> Result<()> {
        if !self.current.daemon.process.running()? {
            bail!("weir is gone, by itself:\n{}", self.current.daemon.process.log());
        }
        self.traffic.check()?;
        for (number, mut daemon) in std::mem::take(&mut self.retired) {
            if daemon.process.running()? {
                self.retired.push((number, daemon));
                continue;
            }
            let status = daemon.process.wait(SOON)?;
            let generation = &self.ledger.generations[number];
            if !status.success() && generation.killed.is_none() {
                self.fault(number, &format!("ended with {status}"));
            }
            self.keep_log(number, &daemon);
        }
        Ok(())
    }

    fn fault(&mut self, number: usize, what: &str) {
        self.faults.push(format!("weir {number}: {what}"));
    }

    fn keep_log(&mut self, number: usize, daemon: &Daemon) {
        let log = daemon.process.log();
        for line in log.lines().filter(|line| line.contains("panicked") || line.contains(" ERROR "))
        {
            self.faults.push(format!("weir {number} says: {line}"));
        }
        self.logs.push((format!("weir {number}"), daemon.control().with_extension("log")));
    }

    /// Waits until new connections on all captured ways go through weir again, and well.
    pub(super) fn calm_down(&mut self) -> Result<()> {
        let deadline = Instant::now() + SOON;
        loop {
            let direct = self.traffic.probe(&self.pods, self.current.learn)?;
            if direct.is_empty() {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "not captured again in the end: {direct:#?}");
        }
    }

    /// Lets the connections come to an end, then all weirs, and looks what is left.
    pub(super) fn finish(&mut self) -> Result<()> {
        self.traffic.finish(&mut self.ledger)?;
        let deadline = Instant::now() + LAST_DRAIN;
        while !self.retired.is_empty() && Instant::now() < deadline {
            self.reap()?;
            thread::sleep(Duration::from_millis(50));
        }
        if let Some((number, _)) = self.retired.first() {
            self.fault(*number, "has not ended, though nothing is left to be drained");
        }
        self.current.daemon.stop()?;
        let log = self.current.daemon.process.log();
        for line in log.lines().filter(|line| line.contains("panicked") || line.contains(" ERROR "))
        {
            self.faults.push(format!("the last weir says: {line}"));
        }
        self.current.daemon.instance().detach(&[])?.ok()?;
        nothing_left(self.current.daemon.instance(), &self.pods.namespaces())
    }

    /// Copies all logs and records to look for a cause.
    pub(super) fn keep(&self, to: &Path) -> Result<()> {
        std::fs::create_dir_all(to).with_context(|| format!("cannot create {}", to.display()))?;
        for entry in std::fs::read_dir(self.pods.dir())? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                std::fs::copy(entry.path(), to.join(entry.file_name()))?;
            }
        }
        Ok(())
    }
}

// === helpers ===

/// Asks again while weir refuses because another one takes over: it says so until it has noticed that a
/// successor was killed.
fn patiently(ask: impl Fn() -> Result<()>) -> Result<()> {
    let mut result = Ok(());
    wait_until("a weir that is not being replaced", SOON, || {
        result = ask();
        let replaced = |error: &anyhow::Error| format!("{error:#}").contains("being replaced");
        Ok(!result.as_ref().is_err_and(replaced))
    })?;
    result
}

fn run<'a>(pods: &'a Pods, flags: &[String], setup: &Setup) -> Run<'a> {
    let pod = &pods.pod_a;
    let run = Run::new(&pods.node, pods.dir()).flags(flags).flags(&setup.flags());
    run.workload("pod-a", pod.cgroup(), Some(&pod.netns))
}

pub(super) fn nanoseconds(time: Duration) -> Time {
    Time::try_from(time.as_nanos()).unwrap_or(Time::MAX)
}

/// Descriptors that a process may have, soft and hard; sets them first if told to (prlimit(1)).
fn limits(pid: u32, new: Option<(usize, usize)>) -> Result<(usize, usize)> {
    let mut command = std::process::Command::new("prlimit");
    command.args(["--pid", &pid.to_string()]);
    match new {
        Some((soft, hard)) => {
            command.arg(format!("--nofile={soft}:{hard}"));
            crate::process::run(&mut command, SOON)?.ok()?;
            Ok((soft, hard))
        }
        None => {
            command.args(["--nofile", "--output", "SOFT,HARD", "--noheadings"]);
            let said = crate::process::run(&mut command, SOON)?.ok()?.stdout;
            let mut numbers = said.split_whitespace().map(str::parse);
            let mut number =
                || numbers.next().context("prlimit says too little")?.context("number");
            Ok((number()?, number()?))
        }
    }
}
