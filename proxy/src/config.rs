//! What weir is told to do: one structure for the file, the flags and the defaults. Parsed
//! strictly and validated once; the effective result can be printed and read back.

mod differences;
mod engine;
mod file;
mod process;
mod settings;

pub use engine::{EngineName, HttpEngine};
pub use file::ConfigError;
pub use process::{
    Admin, BpfLog, Budget, DEFAULT_CONTROL_SOCKET, DEFAULT_INSTANCE, Drain, Log, LogFormat,
    RecordConfig, RecordFormat, Runtime, Switch,
};
pub use settings::{Fail, Inbound, Outbound, Workload, WorkloadSettings, fail_name};

use std::{path::Path, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    budget::{Sizes, usual_memory},
    units,
};

/// Everything that can be configured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// What is captured.
    pub workload: Workload,
    /// Connections that the workload opens.
    pub outbound: Outbound,
    /// Connections that the workload accepts.
    pub inbound: Inbound,
    /// Protocol detection.
    pub detect: Detect,
    /// Moving bytes.
    pub forward: Forward,
    /// The HTTP engine.
    pub http: Http,
    /// Probes, metrics and control.
    pub admin: Admin,
    /// What weir says about itself.
    pub log: Log,
    /// Access records.
    pub record: RecordConfig,
    /// How it ends.
    pub drain: Drain,
    /// The process.
    pub runtime: Runtime,
    /// What workloads may take of what they share.
    pub budget: Budget,
}

/// Protocol detection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Detect {
    /// How long the terminating engine holds an incomplete beginning of a known protocol. The
    /// passthrough engine holds nothing.
    #[serde(with = "units::duration")]
    pub timeout: Duration,
    /// Bytes after which an undecided beginning is raw TCP: 64 B to 1 MiB.
    #[serde(with = "units::size")]
    pub peek_limit: usize,
}

/// Moving bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Forward {
    /// How long a connection may be silent once one side has closed.
    #[serde(with = "units::duration")]
    pub half_closed_idle: Duration,
    /// When connect(2) of a captured connection succeeds.
    pub connect: Connect,
    /// How long an upstream may take to accept.
    #[serde(with = "units::duration")]
    pub connect_timeout: Duration,
    /// Proxied connections of a workload at a time; when there are nearly as many, new ones go
    /// direct.
    pub max_connections: usize,
}

/// When connect(2) of a captured connection succeeds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Connect {
    /// After weir has connected to the destination; fails with the destination's error.
    #[default]
    Hold,
    /// Immediately; an unreachable destination causes a reset later.
    Immediate,
}

/// How HTTP is carried. The bounds are the terminating engine's; the passthrough engine has none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Http {
    /// Which engine.
    pub engine: EngineName,
    /// Largest head of a request or response that the engine takes: 8 KiB to 64 MiB.
    #[serde(with = "units::size")]
    pub max_head_bytes: usize,
    /// Largest number of header fields in a head.
    pub max_headers: usize,
    /// HTTP/2 streams that a client may have open at a time.
    pub max_concurrent_streams: u32,
}

// === defaults ===

impl Default for Detect {
    fn default() -> Self {
        Self { timeout: Duration::from_millis(50), peek_limit: 8 * 1024 }
    }
}

impl Default for Forward {
    fn default() -> Self {
        Self {
            // Longer than the 60 s at which conntrack-based proxies lose late responses
            // (linkerd2 #8033).
            half_closed_idle: Duration::from_secs(300),
            connect: Connect::default(),
            // The kernel's own limit is 127 s (tcp_syn_retries = 6): weir must not be stricter.
            connect_timeout: Duration::from_secs(130),
            max_connections: 65_536,
        }
    }
}

impl Default for Http {
    fn default() -> Self {
        Self {
            engine: EngineName::default(),
            max_head_bytes: 1024 * 1024,
            max_headers: 1024,
            max_concurrent_streams: 1024,
        }
    }
}

// === impl Config ===

impl Config {
    /// Reads a TOML file on top of the defaults, and validates it.
    ///
    /// # Errors
    /// With the file, line and column of the first problem.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        file::load(path)
    }

    /// Resolves lists that began with `+` against the defaults, so that what is printed is what
    /// is in effect.
    pub fn resolve(&mut self) {
        settings::resolve(&mut self.outbound, &mut self.inbound);
    }

    /// What the process's own workload has for itself.
    #[must_use]
    pub fn settings(&self) -> WorkloadSettings {
        WorkloadSettings {
            workload: self.workload.clone(),
            outbound: self.outbound.clone(),
            inbound: self.inbound.clone(),
        }
    }

    /// What there is of what workloads share.
    #[must_use]
    pub fn budgets(&self) -> Sizes {
        Sizes {
            connections: self.forward.max_connections as u64,
            dialling: self.budget.dialling as u64,
            memory: match self.budget.memory {
                0 => usual_memory(),
                bytes => bytes as u64,
            },
            rows: self.budget.stat_rows as u64,
        }
    }

    /// Checks every value against its range.
    ///
    /// # Errors
    /// The first problem, naming its key.
    pub fn validate(&self) -> Result<(), ConfigError> {
        name("workload.name", &self.workload.name)?;
        instance_name("runtime.instance", &self.runtime.instance)?;
        range("detect.peek_limit", self.detect.peek_limit, 64, 1 << 20)?;
        range("http.max_head_bytes", self.http.max_head_bytes, 8 << 10, 64 << 20)?;
        range("http.max_headers", self.http.max_headers, 16, 32_768)?;
        range("forward.max_connections", self.forward.max_connections, 1, 10_000_000)?;
        range("runtime.workers", self.runtime.workers, 0, 1024)?;
        range("budget.dialling", self.budget.dialling, 1, 1 << 20)?;
        range("budget.stat_rows", self.budget.stat_rows, 16, 1 << 20)?;
        check(self.http.max_concurrent_streams > 0, "http.max_concurrent_streams", || {
            "must be at least 1: 0 would refuse every request".into()
        })?;
        for (key, value) in [
            ("detect.timeout", self.detect.timeout),
            ("forward.half_closed_idle", self.forward.half_closed_idle),
            ("forward.connect_timeout", self.forward.connect_timeout),
        ] {
            check(!value.is_zero(), key, || "must be at least 1ms".into())?;
        }
        check(!self.admin.control_socket.as_os_str().is_empty(), "admin.control_socket", || {
            format!("is empty; write a path such as {DEFAULT_CONTROL_SOCKET}")
        })?;
        tracing_subscriber::EnvFilter::try_new(&self.log.level).map(drop).or_else(|error| {
            check(false, "log.level", || {
                format!(
                    "{:?}: {error}; write a filter such as info or weir=debug,h2=warn",
                    self.log.level
                )
            })
        })
    }

    /// The effective configuration as a file that [`Config::load`] reads.
    #[must_use]
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("every field has a TOML form")
    }
}

/// Checks the name of an instance: a directory's, in a file system that allows no dots in names
/// (`bpf_lookup` in kernel/bpf/inode.c).
///
/// # Errors
/// Where it is no name.
pub fn instance_name(key: &'static str, name: &str) -> Result<(), ConfigError> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    check((1..=63).contains(&name.len()) && name.chars().all(allowed), key, || {
        format!(
            "{name:?} must be 1 to 63 letters, digits, '-' or '_'; a bpffs allows no other \
             characters in the name of an instance's directory"
        )
    })
}

/// Checks the name of a workload.
///
/// # Errors
/// Where it is no name.
pub fn name(key: &'static str, name: &str) -> Result<(), ConfigError> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let good =
        (1..=63).contains(&name.len()) && name.chars().all(allowed) && !name.starts_with('.');
    check(good, key, || {
        format!(
            "{name:?} must be 1 to 63 letters, digits, '-', '_' or '.', and must not start \
                 with '.'"
        )
    })
}

fn check(
    good: bool,
    key: &'static str,
    problem: impl FnOnce() -> String,
) -> Result<(), ConfigError> {
    if good { Ok(()) } else { Err(ConfigError::Value { key, problem: problem() }) }
}

fn range(key: &'static str, value: usize, low: usize, high: usize) -> Result<(), ConfigError> {
    check((low..=high).contains(&value), key, || {
        format!("{value} is out of range; write a number from {low} to {high}")
    })
}

#[cfg(test)]
mod tests;
