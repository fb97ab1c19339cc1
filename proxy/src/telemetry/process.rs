//! The process's own numbers, read at each scrape, under the names that every Prometheus client
//! library uses for them.

use std::fmt;

use nix::sys::resource::{Resource, getrlimit};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, gauge::ConstGauge},
};

#[derive(Debug)]
pub(super) struct ProcessCollector;

impl Collector for ProcessCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let numbers = [
            ("process_open_fds", "Number of open file descriptors.", open_fds()),
            ("process_max_fds", "Maximum number of open file descriptors.", max_fds()),
            ("process_resident_memory_bytes", "Resident memory size in bytes.", resident_bytes()),
        ];
        for (name, help, value) in numbers {
            let Some(value) = value else { continue };
            let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ConstGauge::new(value).encode(metric)?;
        }
        Ok(())
    }
}

fn open_fds() -> Option<i64> {
    // The directory being read holds one itself.
    Some(std::fs::read_dir("/proc/self/fd").ok()?.count() as i64 - 1)
}

fn max_fds() -> Option<i64> {
    getrlimit(Resource::RLIMIT_NOFILE).ok().map(|(soft, _)| i64::try_from(soft).unwrap_or(i64::MAX))
}

/// Resident memory of this process in bytes (`VmRSS` of proc_pid_status(5), which is in KiB).
pub(crate) fn resident_bytes() -> Option<i64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.parse::<i64>().ok()?.checked_mul(1024)
}
