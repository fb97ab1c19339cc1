//! What a proxy takes, with all its processes: a cgroup that nothing else is in.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use weir_tests::cgroup::Cgroup;

use crate::bench::usage::{Usage, field};

/// The cgroup of one proxy.
pub(super) struct Gauge {
    cgroup: Cgroup,
}

// === impl Gauge ===

impl Gauge {
    /// # Errors
    ///
    /// Fails without root.
    pub(super) fn new() -> Result<Self> {
        Ok(Self { cgroup: Cgroup::new("proxy")? })
    }

    /// The command in the cgroup.
    pub(super) fn wrap(&self, command: &Command) -> Command {
        self.cgroup.wrap(command)
    }

    /// User and system time so far, of processes that have ended too.
    ///
    /// # Errors
    ///
    /// Fails where cgroups have no `cpu.stat`.
    pub(super) fn cpu(&self) -> Result<Duration> {
        let path = self.cgroup.path().join("cpu.stat");
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let usage = text.lines().find_map(|line| line.strip_prefix("usage_usec "));
        let usage = usage.and_then(|number| number.parse().ok()).context("no usage_usec")?;
        Ok(Duration::from_micros(usage))
    }

    /// The most memory that was resident in each process, added up; KiB.
    pub(super) fn peak_kib(&self) -> f64 {
        self.sum("status", "VmHWM:")
    }

    /// The processes' shares of what is resident; KiB.
    pub(super) fn pss_kib(&self) -> f64 {
        self.sum("smaps_rollup", "Pss:")
    }

    /// What the kernel has allocated for BPF maps of the processes; KiB.
    pub(super) fn maps_kib(&self) -> f64 {
        let usage = |pid| Usage::of(pid).map_or(0.0, |usage| usage.maps_kib as f64);
        self.cgroup.processes().into_iter().map(usage).sum()
    }

    fn sum(&self, file: &str, name: &str) -> f64 {
        let text = |pid| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
        self.cgroup.processes().into_iter().map(|pid| field(&text(pid), name) as f64).sum()
    }
}
