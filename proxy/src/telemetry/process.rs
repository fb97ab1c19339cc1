//! The process's own numbers, read at each scrape, under the names that every Prometheus client
//! library uses for them.

use std::{fmt, fs, sync::LazyLock, time::Duration};

use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
};

/// Units of the times in proc_pid_stat(5) and proc_stat(5): `USER_HZ`, which is 100 on every architecture
/// that Linux has eBPF's JIT for (include/asm-generic/param.h).
const TICKS_PER_SECOND: u64 = 100;

#[derive(Debug)]
pub(super) struct ProcessCollector;

impl Collector for ProcessCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let numbers = [
            ("process_open_fds", "Number of open file descriptors.", open_fds()),
            ("process_max_fds", "Maximum number of open file descriptors.", max_fds()),
            (
                "process_resident_memory_bytes",
                "Resident memory size in bytes.",
                bytes(&status, "VmRSS:"),
            ),
            (
                "process_virtual_memory_bytes",
                "Virtual memory size in bytes.",
                bytes(&status, "VmSize:"),
            ),
            (
                "process_threads",
                "Number of OS threads in the process.",
                number(&status, "Threads:"),
            ),
        ];
        for (name, help, value) in numbers {
            let Some(value) = value else { continue };
            let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ConstGauge::new(value).encode(metric)?;
        }
        if let Some(started) = *STARTED {
            let (name, help) = (
                "process_start_time_seconds",
                "Start time of the process since unix epoch in seconds.",
            );
            let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ConstGauge::new(started.as_secs_f64()).encode(metric)?;
        }
        if let Some(used) = processor_time() {
            let (name, help) =
                ("process_cpu_seconds", "Total user and system CPU time spent in seconds.");
            let metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            ConstCounter::new(used.as_secs_f64()).encode(metric)?;
        }
        Ok(())
    }
}

/// Since 1970. Read once: the start of the machine moves with its clock.
static STARTED: LazyLock<Option<Duration>> = LazyLock::new(|| {
    let machine = fs::read_to_string("/proc/stat").ok()?;
    let process = fs::read_to_string("/proc/self/stat").ok()?;
    started(&machine, &process)
});

/// From `btime` of proc_stat(5), and field 22 of proc_pid_stat(5): the name in field 2 may have spaces.
fn started(machine: &str, process: &str) -> Option<Duration> {
    let booted = machine.lines().find_map(|line| line.strip_prefix("btime "))?;
    let (_, fields) = process.rsplit_once(')')?;
    let ticks: u64 = fields.split_whitespace().nth(22 - 3)?.parse().ok()?;
    let since = Duration::from_millis(ticks.checked_mul(1000 / TICKS_PER_SECOND)?);
    Some(Duration::from_secs(booted.trim().parse().ok()?) + since)
}

fn processor_time() -> Option<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_SELF).ok()?;
    let time = |value: nix::sys::time::TimeVal| {
        Some(Duration::new(
            u64::try_from(value.tv_sec()).ok()?,
            u32::try_from(value.tv_usec()).ok()? * 1000,
        ))
    };
    Some(time(usage.user_time())? + time(usage.system_time())?)
}

fn open_fds() -> Option<i64> {
    // The directory being read holds one itself.
    Some(fs::read_dir("/proc/self/fd").ok()?.count() as i64 - 1)
}

fn max_fds() -> Option<i64> {
    getrlimit(Resource::RLIMIT_NOFILE).ok().map(|(soft, _)| i64::try_from(soft).unwrap_or(i64::MAX))
}

/// Resident memory of this process in bytes.
pub(crate) fn resident_bytes() -> Option<i64> {
    bytes(&fs::read_to_string("/proc/self/status").ok()?, "VmRSS:")
}

/// A size of proc_pid_status(5), which has KiB.
fn bytes(status: &str, name: &str) -> Option<i64> {
    number(status, name)?.checked_mul(1024)
}

fn number(status: &str, name: &str) -> Option<i64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().trim_end_matches(" kB").parse().ok()
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn the_start_is_read_behind_a_name_with_spaces_and_brackets() {
        let process = "42 (a ) b) S 1 42 42 0 -1 4194560 1 0 0 0 3 4 0 0 20 0 3 0 12345 1 1";
        let machine = "cpu 1 2\nbtime 1700000000\nprocesses 1\n";
        assert_eq!(started(machine, process), Some(Duration::from_millis(1_700_000_123_450)));
        assert_eq!(started("cpu 1", process), None);
        assert_eq!(started(machine, "42"), None);
    }

    #[test]
    fn this_process_has_started_before_now_and_uses_memory() {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let started = STARTED.unwrap();
        // `btime` is rounded to a second.
        assert!(started <= now + Duration::from_secs(1), "{started:?} {now:?}");
        assert!(now - Duration::from_secs(86_400) < started, "{started:?} {now:?}");
        assert!(processor_time().is_some());
        assert!(resident_bytes().is_some_and(|bytes| bytes > 1 << 20));
    }
}
