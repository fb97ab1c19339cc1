//! Ends and beginnings of a weir that has workloads: removal, kill and restart, stop and start,
//! detach.

use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Result, ensure};
use serde::Serialize;

use super::control::{Weir, detach};
use super::ground::Place;
use super::usage::cpu;
use super::workloads::millis;

/// Workloads that are removed and added again.
const REMOVED: usize = 10;

/// What removal sets going ends within this: 100 ms for connects on their way, and its own work.
const LET_GO: Duration = Duration::from_secs(2);

/// Milliseconds, with so many workloads.
#[derive(Serialize)]
pub(super) struct Lives {
    pub(super) workloads: usize,
    /// Processor time of weir for each workload that is removed.
    pub(super) remove_cpu_ms: f64,
    /// From fork(2) after `kill -9` until all are captured.
    pub(super) restart_ms: f64,
    /// From SIGTERM to the end of the process.
    pub(super) stop_ms: f64,
    /// From fork(2) after a stop until all are captured.
    pub(super) start_ms: f64,
    /// `weir detach` after `kill -9`.
    pub(super) detach_ms: f64,
}

/// Measures with all places, which `weir` serves, and then with only a few of them.
///
/// # Errors
///
/// Fails when something is not captured again, or left by `weir detach`.
pub(super) fn measure(
    weir: Weir,
    instance: &str,
    dir: &Path,
    places: &[Place],
    few: usize,
) -> Result<Vec<Lives>> {
    let setting = Setting { instance, dir };
    eprintln!("kill, restart, stop, start and detach with {} …", places.len());
    let many = setting.live(weir, places)?;
    let places = &places[..few];
    eprintln!("the same with {few} …");
    let (weir, _) = Weir::start(instance, dir, 0)?;
    for place in places {
        weir.add(place)?;
    }
    Ok(vec![setting.live(weir, places)?, many])
}

struct Setting<'a> {
    instance: &'a str,
    dir: &'a Path,
}

// === impl Setting ===

impl Setting<'_> {
    fn live(&self, weir: Weir, places: &[Place]) -> Result<Lives> {
        let start = || Weir::start(self.instance, self.dir, places.len());
        let remove_cpu_ms = removals(&weir, places)?;
        weir.kill()?;
        let (weir, restarted) = start()?;
        let stopped = weir.stop()?;
        let (weir, started) = start()?;
        weir.kill()?;
        let detached = detach(self.instance)?;
        let left = Path::new("/sys/fs/bpf/weir").join(self.instance);
        ensure!(!left.exists(), "weir detach has left {}", left.display());
        Ok(Lives {
            workloads: places.len(),
            remove_cpu_ms,
            restart_ms: millis(restarted),
            stop_ms: millis(stopped),
            start_ms: millis(started),
            detach_ms: millis(detached),
        })
    }
}

/// Removes a few workloads and adds them again.
fn removals(weir: &Weir, places: &[Place]) -> Result<f64> {
    let removed = &places[places.len().saturating_sub(REMOVED)..];
    let before = cpu(weir.pid())?;
    sleep(LET_GO);
    let idle = cpu(weir.pid())?.saturating_sub(before);
    let before = cpu(weir.pid())?;
    for place in removed {
        weir.remove(place)?;
    }
    sleep(LET_GO);
    let busy = cpu(weir.pid())?.saturating_sub(before);
    for place in removed {
        weir.add(place)?;
    }
    Ok(millis(busy.saturating_sub(idle)) / removed.len() as f64)
}
