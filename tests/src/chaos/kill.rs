//! Kill points: `kill -9` at a random instant of what changes weir's state, each followed by the
//! same questions. Do new connections succeed? Does the next start capture, or the weir that goes on
//! capture again? Does `weir detach` leave nothing?
//!
//! An instant is a fraction of the time that a start takes on this machine: on a slow one the same
//! seed hits the same places, more or less.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{SocketAddr, TcpListener};
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use super::stage::{SCHEMA, SOON};
use crate::daemon::{Daemon, Instance, Run};
use crate::left::{nothing_left, pins};
use crate::pods::{CLIENT, POD, Pods};
use crate::process::{Process, wait_until};
use crate::site::{Site, is_captured};
use crate::weir::binary;

const PORT: u16 = 9000;

/// What is killed, and over what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// weir, while it starts for the first time.
    Start,
    /// weir, while it starts after another was killed.
    Restart,
    /// weir, while a workload is added.
    Add,
    /// weir, while a workload is removed.
    Remove,
    /// `weir detach`.
    Detach,
    /// weir, while it ends.
    Terminate,
    /// A successor with the same layout of the maps.
    Upgrade,
    /// A successor with another layout.
    UpgradeLayout,
    /// The predecessor of one with the same layout.
    Predecessor,
    /// The predecessor of one with another layout.
    PredecessorLayout,
}

/// All of them, in the order in which they come.
pub const KINDS: [Kind; 10] = [
    Kind::Start,
    Kind::Restart,
    Kind::Add,
    Kind::Remove,
    Kind::Detach,
    Kind::Terminate,
    Kind::Upgrade,
    Kind::UpgradeLayout,
    Kind::Predecessor,
    Kind::PredecessorLayout,
];

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Of the instants.
    pub seed: u64,
    /// How many of each kind.
    pub done: BTreeMap<Kind, usize>,
    /// What went wrong, each with its point.
    pub faults: Vec<String>,
}

/// What stays from point to point.
struct Kill {
    pods: Pods,
    inside: TcpListener,
    outside: TcpListener,
    /// How long a start takes here.
    start: Duration,
    count: usize,
}

/// Kills at so many instants.
///
/// # Errors
///
/// Fails when the harness does. What weir did wrong is in the report, and no error.
pub fn run(seed: u64, points: usize) -> Result<Report> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut kill = Kill::new()?;
    let mut report = Report { seed, ..Report::default() };
    for (number, kind) in (0..points).zip(KINDS.into_iter().cycle()) {
        let fraction = random.f64();
        eprintln!("{number:>4} {kind} at {fraction:.3}");
        if let Err(error) = kill.point(kind, fraction) {
            report.faults.push(format!("point {number}, {kind} at {fraction:.3}: {error:?}"));
        }
        *report.done.entry(kind).or_default() += 1;
    }
    Ok(report)
}

// === impl Kind ===

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Start => "start",
            Self::Restart => "restart",
            Self::Add => "workload add",
            Self::Remove => "workload remove",
            Self::Detach => "detach",
            Self::Terminate => "SIGTERM",
            Self::Upgrade => "upgrade, same layout",
            Self::UpgradeLayout => "upgrade, other layout",
            Self::Predecessor => "predecessor, same layout",
            Self::PredecessorLayout => "predecessor, other layout",
        })
    }
}

// === impl Report ===

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {}\n\n{:<28}{:>6}", self.seed, "killed in", "times")?;
        for (kind, times) in &self.done {
            writeln!(f, "{kind:<28}{times:>6}")?;
        }
        let points: usize = self.done.values().sum();
        writeln!(f, "\n{points} points, {} faults", self.faults.len())?;
        self.faults.iter().try_for_each(|fault| writeln!(f, "\n{fault}"))
    }
}

// === impl Kill ===

impl Kill {
    fn new() -> Result<Self> {
        let pods = Pods::new()?;
        let at = SocketAddr::new("::".parse()?, PORT);
        let (inside, outside) = (pods.pod_a.listen(at)?, pods.client_a.listen(at)?);
        let mut kill = Self { pods, inside, outside, start: Duration::ZERO, count: 0 };
        let begin = Instant::now();
        let daemon = kill.run(&Instance::new()).start()?;
        kill.start = begin.elapsed();
        kill.end(daemon)?;
        Ok(kill)
    }

    fn run(&self, instance: &Arc<Instance>) -> Run<'_> {
        let pod = &self.pods.pod_a;
        let run = Run::new(&self.pods.node, self.pods.dir()).instance(instance);
        run.workload("pod-a", pod.cgroup(), Some(&pod.netns))
    }

    fn victim(&mut self, what: &str, command: Command) -> Result<Process> {
        self.count += 1;
        Process::start(&format!("{what}-{}", self.count), command, self.pods.dir())
    }

    fn point(&mut self, kind: Kind, fraction: f64) -> Result<()> {
        let instance = Instance::new();
        let mut old = match kind {
            Kind::Start => None,
            _ => Some(self.run(&instance).start()?),
        };
        // What is short in comparison is hit too.
        let share = match kind {
            Kind::Remove | Kind::Detach | Kind::Terminate => 0.2,
            _ => 1.2,
        };
        let instant = self.start.mul_f64(fraction * share);
        let mut added = None;
        let going_on = match (kind, &mut old) {
            (Kind::Start, _) | (_, None) => {
                self.shoot("start", self.run(&instance).command()?, instant)?;
                None
            }
            (Kind::Restart, Some(old)) => {
                old.process.kill_hard()?;
                self.shoot("restart", self.run(&instance).command()?, instant)?;
                None
            }
            (Kind::Detach, Some(old)) => {
                old.process.kill_hard()?;
                let mut command = Command::new(binary()?);
                command.args(["detach", "--instance", instance.name()]);
                self.shoot("detach", command, instant)?;
                None
            }
            (Kind::Add | Kind::Remove, Some(old)) => {
                let accepted = self.change(old, kind, instant)?;
                added = accepted.then_some(kind == Kind::Add);
                None
            }
            (Kind::Terminate, Some(old)) => {
                old.process.signal(Signal::SIGTERM)?;
                thread::sleep(instant);
                if old.process.running()? {
                    old.process.kill_hard()?;
                }
                None
            }
            (Kind::Upgrade | Kind::UpgradeLayout, Some(old)) => {
                let command = self.successor(old, kind == Kind::UpgradeLayout).command()?;
                self.shoot("upgrade", command, instant)?;
                is_serving(old)?.then_some(())
            }
            (Kind::Predecessor | Kind::PredecessorLayout, Some(old)) => {
                return self.orphan(old, kind == Kind::PredecessorLayout, instant);
            }
        };
        self.connections().context("after the kill")?;
        let daemon = match (going_on, old) {
            (Some(()), Some(old)) => old,
            (_, old) => {
                if let Some(mut old) = old
                    && old.process.running()?
                {
                    old.process.kill_hard()?;
                }
                self.run(&instance).start().context("the next start")?
            }
        };
        self.captured(&daemon).with_context(|| state(&daemon))?;
        if let Some(expected) = added {
            let listed = daemon.json(&["workload", "list"])?.to_string().contains("pod-b");
            ensure!(
                listed == expected,
                "accepted, and after the next start pod-b is listed: {listed}"
            );
        }
        self.end(daemon)
    }

    /// Starts a process, and kills it.
    fn shoot(&mut self, what: &str, command: Command, instant: Duration) -> Result<()> {
        let mut victim = self.victim(what, command)?;
        thread::sleep(instant);
        if victim.running()? {
            victim.kill_hard()?;
        }
        Ok(())
    }

    /// Kills weir while pod B is added or removed. Returns whether that was accepted.
    fn change(&mut self, old: &mut Daemon, kind: Kind, instant: Duration) -> Result<bool> {
        let pod = &self.pods.pod_b;
        let mut command = Command::new(binary()?);
        if kind == Kind::Add {
            command.args(["workload", "add", "pod-b", "--cgroup"]).arg(pod.cgroup().path());
            command.arg("--netns").arg(pod.netns.path());
        } else {
            old.add("pod-b", pod.cgroup(), &pod.netns, &[])?;
            command.args(["workload", "remove", "pod-b"]);
        }
        command.arg("--control").arg(old.control());
        let mut verb = self.victim("change", command)?;
        thread::sleep(instant);
        old.process.kill_hard()?;
        Ok(verb.wait(SOON)?.success())
    }

    /// Kills the predecessor: its successor must come to serve.
    fn orphan(&mut self, old: &mut Daemon, other: bool, instant: Duration) -> Result<()> {
        let successor = self.successor(old, other);
        let (started, died) = thread::scope(|scope| {
            let killer = scope.spawn(move || {
                thread::sleep(instant);
                // Retired and drained it may be gone already.
                if old.process.running()? { old.process.kill_hard() } else { Ok(()) }
            });
            // Here: it dies with the thread that starts it.
            (successor.start(), killer.join().expect("it does not panic"))
        });
        died?;
        let daemon = started.context("the successor")?;
        self.connections().context("after the kill")?;
        self.captured(&daemon).with_context(|| state(&daemon))?;
        self.end(daemon)
    }

    fn successor(&self, old: &Daemon, other: bool) -> Run<'_> {
        let run = self.run(old.instance()).in_place_of(old).flags(&["--upgrade"]);
        if other { run.variable(SCHEMA, "another") } else { run }
    }

    fn ways(&self) -> Result<[(&Site, SocketAddr, &TcpListener); 2]> {
        let at = |ip: &str| Ok::<_, anyhow::Error>(SocketAddr::new(ip.parse()?, PORT));
        let pods = &self.pods;
        Ok([
            (&pods.client_a, at(POD[0])?, &self.inside),
            (&pods.pod_a, at(CLIENT[0])?, &self.outside),
        ])
    }

    /// They must succeed, captured or not.
    fn connections(&self) -> Result<()> {
        self.ways()?.into_iter().try_for_each(|(from, to, at)| is_captured(from, to, at).map(drop))
    }

    /// Both ways must be captured, soon.
    fn captured(&self, daemon: &Daemon) -> Result<()> {
        for (from, to, at) in self.ways()? {
            wait_until(&format!("connections to {to} to be captured"), SOON, || {
                is_captured(from, to, at)
            })?;
        }
        let status = daemon.json(&["status"])?;
        let phase = &status["status"]["workloads"][0]["phase"];
        ensure!(phase == "capturing", "captured, and said to be {phase}");
        Ok(())
    }

    /// Kills it, detaches, and looks what is left.
    fn end(&self, mut daemon: Daemon) -> Result<()> {
        daemon.process.kill_hard()?;
        let instance = daemon.instance();
        instance.detach(&[])?.ok().context("detach")?;
        let left = pins(instance)?;
        ensure!(left.is_empty(), "pinned after detach: {left:?}");
        for (from, to, at) in self.ways()? {
            ensure!(!is_captured(from, to, at)?, "captured after detach: {to}");
        }
        nothing_left(instance, &self.pods.namespaces())
    }
}

// === helpers ===

/// What it says, to look for a cause.
fn state(daemon: &Daemon) -> String {
    let status = daemon.ask(&["status"]).map(|said| said.stdout + &said.stderr);
    format!("{}\nlog:\n{}", status.unwrap_or_default(), daemon.process.log())
}

/// Whether it serves, and is not about to end because a successor does.
fn is_serving(daemon: &mut Daemon) -> Result<bool> {
    Ok(daemon.process.running()?
        && daemon.json(&["status"]).is_ok_and(|said| said["status"]["phase"] == "running"))
}
