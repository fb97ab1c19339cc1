//! Chaos: connections of all kinds in all directions while weir, its workloads, its ports and its
//! upstreams are treated badly, at random from a seed; and a verdict on every connection.
//!
//! [`schedule`] says what is done, `stage` and `traffic` do it, [`ledger`] judges, [`report`] tells.
//! [`kill`] has no load, and kills at chosen steps.

pub mod kill;
pub mod ledger;
pub mod report;
pub mod schedule;
mod stage;
mod traffic;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use nix::sys::signal::Signal;

use report::Report;
use schedule::{Action, Schedule, Upstream};
use stage::Stage;

/// What is wanted.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Of the schedule.
    pub seed: u64,
    /// For how long bad things are begun; the end takes some time more.
    pub time: Duration,
    /// The program `weir-load`.
    pub load: PathBuf,
    /// Where logs are copied to when something was lost.
    pub keep: Option<PathBuf>,
}

/// What has been begun and has to be ended at its time.
struct Later {
    at: Instant,
    of: Upstream,
    dead: bool,
}

/// One run.
struct Chaos {
    stage: Stage,
    later: Vec<Later>,
    done: BTreeMap<&'static str, usize>,
}

/// A seed by chance.
#[must_use]
pub fn seed() -> u64 {
    fastrand::u64(..)
}

/// Does it.
///
/// # Errors
///
/// Fails when the harness does, or weir in a way that leaves nothing to go on with. What was lost is
/// in the report, and no error.
pub fn run(settings: &Settings) -> Result<Report> {
    let mut schedule = Schedule::new(settings.seed);
    let stage = Stage::new(&settings.load, &mut schedule, settings.time)?;
    let mut chaos = Chaos { stage, later: Vec::new(), done: BTreeMap::new() };
    let went = chaos.rage(&mut schedule, settings.time);
    let went = went.and_then(|()| chaos.end());
    let (Chaos { stage, done, .. }, seed) = (chaos, settings.seed);
    let report = Report {
        seed,
        time: settings.time,
        done,
        faults: stage.faults.clone(),
        ledger: stage.ledger.clone(),
    };
    if let Some(keep) = settings.keep.as_ref().filter(|_| went.is_err() || !report.is_well()) {
        stage.keep(keep)?;
    }
    match went {
        Ok(()) => Ok(report),
        Err(error) => bail!("{error:?}\n{report}"),
    }
}

// === impl Chaos ===

impl Chaos {
    fn rage(&mut self, schedule: &mut Schedule, time: Duration) -> Result<()> {
        self.stage.traffic.has_begun()?;
        let begin = Instant::now();
        while begin.elapsed() < time {
            let (pause, action) = schedule.step();
            self.rest(pause)?;
            self.stage.reap()?;
            eprintln!("{:>8.3} {action}", begin.elapsed().as_secs_f64());
            if self.act(&action)? {
                *self.done.entry(action.name()).or_default() += 1;
            }
        }
        Ok(())
    }

    /// Waits, and ends what is due meanwhile.
    fn rest(&mut self, pause: Duration) -> Result<()> {
        let until = Instant::now() + pause;
        loop {
            self.later.sort_by_key(|later| later.at);
            let due = self.later.first().map(|later| later.at).filter(|at| *at <= until);
            thread::sleep(due.unwrap_or(until).saturating_duration_since(Instant::now()));
            if due.is_none() {
                return Ok(());
            }
            let later = self.later.remove(0);
            self.restore(&later)?;
        }
    }

    fn restore(&mut self, later: &Later) -> Result<()> {
        let Stage { traffic, pods, ledger, .. } = &mut self.stage;
        if later.dead {
            traffic.revive(pods, later.of, ledger)
        } else {
            traffic.signal(later.of, Signal::SIGCONT)
        }
    }

    fn restore_all(&mut self) -> Result<()> {
        std::mem::take(&mut self.later).iter().try_for_each(|later| self.restore(later))
    }

    /// Whether it could be done.
    fn act(&mut self, action: &Action) -> Result<bool> {
        let stage = &mut self.stage;
        match action {
            Action::Ports { state, kind, direction, of_pod_b } => {
                let workload = if *of_pod_b { "pod-b" } else { "pod-a" };
                let port = kind.port().to_string();
                let line = ["ports", state, &port, "--workload", workload];
                stage.ask(&[&line[..], direction.as_slice()].concat())?;
            }
            Action::Workload(away) => {
                stage.remove()?;
                thread::sleep(*away);
                stage.add()?;
            }
            Action::Stop(time) => stage.stop(*time)?,
            Action::Kill(away, setup) => stage.kill(*away, setup)?,
            Action::KillRetired => return stage.kill_retired(),
            Action::Terminate(setup) => {
                if !stage.ends_soon() {
                    return Ok(false);
                }
                // It takes long: a server must not be away for as long.
                self.restore_all()?;
                self.stage.terminate(setup)?;
            }
            Action::Upgrade(setup) => stage.upgrade(setup)?,
            Action::Doomed(life, setup) => stage.doomed(*life, setup)?,
            Action::Starve(room, time) => stage.starve(*room, *time)?,
            Action::UpstreamDies(of, away) => {
                if self.is_in_trouble(*of) {
                    return Ok(false);
                }
                self.stage.traffic.kill(*of)?;
                self.later.push(Later { at: Instant::now() + *away, of: *of, dead: true });
            }
            Action::UpstreamStops(of, time) => {
                if self.is_in_trouble(*of) {
                    return Ok(false);
                }
                self.stage.traffic.signal(*of, Signal::SIGSTOP)?;
                self.later.push(Later { at: Instant::now() + *time, of: *of, dead: false });
            }
        }
        Ok(true)
    }

    fn is_in_trouble(&self, of: Upstream) -> bool {
        self.later.iter().any(|later| later.of == of)
    }

    /// Everything as it should be; then new connections must be captured, and all come to an end.
    fn end(&mut self) -> Result<()> {
        self.restore_all()?;
        for workload in ["pod-a", "pod-b"] {
            self.stage.ask(&["ports", "detect", "9100-9199", "--workload", workload])?;
        }
        let calm = self.stage.calm_down();
        self.stage.finish()?;
        calm
    }
}
