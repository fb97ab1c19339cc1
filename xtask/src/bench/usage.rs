//! What a weir takes: memory, descriptors, threads, processor time, and what the kernel keeps for it.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use anyhow::{Context, Result};
use aya::maps::MapInfo;
use aya::programs::loaded_programs;
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;
use serde::Serialize;

/// Counters of `/proc/meminfo` that BPF programs, maps, links and sockets are part of and the page
/// cache is not; of the whole machine.
const KERNEL: [&str; 4] = ["SUnreclaim:", "VmallocUsed:", "Percpu:", "KernelStack:"];

/// What a weir takes at one moment. Memory in KiB.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Usage {
    /// Its share of the memory that it has mapped (`Pss` of smaps_rollup).
    pub(super) pss_kib: u64,
    /// What of that no other process has mapped.
    pub(super) private_kib: u64,
    /// BPF programs that it has open or attached, and what the kernel says they take.
    pub(super) programs: usize,
    pub(super) programs_kib: u64,
    /// Maps of its own and of those programs, likewise.
    pub(super) maps: usize,
    pub(super) maps_kib: u64,
    /// [`KERNEL`].
    pub(super) kernel_kib: u64,
    pub(super) descriptors: usize,
    pub(super) threads: usize,
}

// === impl Usage ===

impl Usage {
    /// What a process takes now.
    ///
    /// # Errors
    ///
    /// Fails when it is gone, and without root.
    pub(super) fn of(pid: u32) -> Result<Self> {
        let rollup = read(&format!("/proc/{pid}/smaps_rollup"))?;
        let (programs, maps) = objects(pid)?;
        let meminfo = read("/proc/meminfo")?;
        Ok(Self {
            pss_kib: field(&rollup, "Pss:"),
            private_kib: field(&rollup, "Private_Clean:") + field(&rollup, "Private_Dirty:"),
            programs: programs.count,
            programs_kib: programs.bytes / 1024,
            maps: maps.count,
            maps_kib: maps.bytes / 1024,
            kernel_kib: kernel_kib(&meminfo),
            descriptors: entries(&format!("/proc/{pid}/fd"))?.len(),
            threads: entries(&format!("/proc/{pid}/task"))?.len(),
        })
    }
}

/// Processor time that all threads of a process have had.
///
/// # Errors
///
/// Fails when it is gone.
pub(super) fn cpu(pid: u32) -> Result<Duration> {
    let clock = ClockId::pid_cpu_clock_id(Pid::from_raw(pid.cast_signed()))?;
    Ok(clock_gettime(clock)?.into())
}

#[derive(Default)]
struct Sum {
    count: usize,
    bytes: u64,
}

/// What the kernel itself takes on the whole machine: [`KERNEL`], in KiB.
///
/// # Errors
///
/// Fails without /proc.
pub(super) fn kernel() -> Result<u64> {
    Ok(kernel_kib(&read("/proc/meminfo")?))
}

/// The ids of the BPF programs that a process has open, or that its links name.
///
/// # Errors
///
/// Fails when it is gone, and without root.
pub(super) fn programs(pid: u32) -> Result<BTreeSet<u64>> {
    Ok(ids(pid)?.0)
}

// === helpers ===

fn kernel_kib(meminfo: &str) -> u64 {
    KERNEL.iter().map(|name| field(meminfo, name)).sum()
}

/// The ids of programs as [`programs`] has them, and of maps that are open.
fn ids(pid: u32) -> Result<(BTreeSet<u64>, BTreeSet<u64>)> {
    let (mut programs, mut maps) = (BTreeSet::new(), BTreeSet::new());
    for name in entries(&format!("/proc/{pid}/fdinfo"))? {
        // Closed meanwhile.
        let Ok(info) = fs::read_to_string(format!("/proc/{pid}/fdinfo/{name}")) else { continue };
        programs.extend(named(&info, "prog_id:").map(number));
        maps.extend(named(&info, "map_id:").map(number));
    }
    Ok((programs, maps))
}

/// The BPF programs and maps of a process. Its descriptors of links name programs that it has not
/// open; those name maps.
fn objects(pid: u32) -> Result<(Sum, Sum)> {
    let (programs, mut maps) = ids(pid)?;
    let mut sums = (Sum::default(), Sum::default());
    for info in loaded_programs() {
        // Unloaded meanwhile: another's.
        let Ok(info) = info else { continue };
        if programs.contains(&u64::from(info.id())) {
            sums.0.count += 1;
            sums.0.bytes += u64::from(info.memory_locked()?);
            maps.extend(info.map_ids()?.unwrap_or_default().into_iter().map(u64::from));
        }
    }
    for id in maps {
        let fd = MapInfo::from_id(u32::try_from(id)?)?.fd()?;
        let fd = fd.as_fd().as_raw_fd();
        sums.1.count += 1;
        sums.1.bytes += field(&read(&format!("/proc/self/fdinfo/{fd}"))?, "memlock:");
    }
    Ok(sums)
}

fn read(path: &str) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {path}"))
}

fn entries(path: &str) -> Result<Vec<String>> {
    let entries = fs::read_dir(path).with_context(|| format!("cannot read {path}"))?;
    Ok(entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect())
}

/// The rest of the line that begins with a name.
fn named<'a>(text: &'a str, name: &'a str) -> impl Iterator<Item = &'a str> {
    text.lines().filter_map(move |line| line.strip_prefix(name))
}

/// The number in a line like `Pss:     1234 kB`; 0 where there is none.
pub(super) fn field(text: &str, name: &str) -> u64 {
    named(text, name).next().map_or(0, number)
}

fn number(text: &str) -> u64 {
    text.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_by_name() {
        let text = "Pss_Dirty:   7 kB\nPss:     1234 kB\nmemlock:\t4096\n";
        assert_eq!((field(text, "Pss:"), field(text, "memlock:")), (1234, 4096));
        assert_eq!(field(text, "Rss:"), 0);
        let status = "Name:\tweir\nVmHWM:\t   9120 kB\nVmRSS:\t 8000 kB\n";
        assert_eq!((field(status, "VmHWM:"), field(status, "Pss:")), (9120, 0));
    }

    #[test]
    fn the_own_process_is_measured() {
        let usage = Usage::of(std::process::id());
        let usage = usage.expect("run the tests as root");
        assert!(usage.private_kib > 0 && usage.threads > 0 && usage.descriptors > 2, "{usage:?}");
        assert!(cpu(std::process::id()).expect("own clock") > Duration::ZERO);
    }
}
