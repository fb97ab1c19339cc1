//! What weir is told to do, by the file, the flags and the defaults: settings of the process, of its
//! own workload, and of traffic. Parsed strictly and validated once; the effective result can be
//! printed and read back. [`Setting`] has the table of all settings.

mod address;
mod differences;
mod docs;
mod engine;
mod file;
mod list;
mod otlp;
mod process;
mod routes;
mod services;
mod setting;
mod table;
mod traffic;
mod workload;

pub(crate) use docs::tables;
pub use engine::{EngineName, HttpEngine};
pub use file::ConfigError;
pub(crate) use otlp::url_problem;
pub use otlp::{Otlp, Ratio};
pub use process::{
    Admin, BpfLog, Budget, CONTROL_VARIABLE, DEFAULT_CONTROL_SOCKET, DEFAULT_INSTANCE,
    DestinationLabel, Drain, Log, LogFormat, ProcessConfig, RecordConfig, RecordFormat, Runtime,
    SESSION_DIRECTORY, Switch,
};
pub use routes::RouteConfig;
pub use services::{
    Balance, BreakerConfig, EndpointConfig, HostPort, ServiceConfig, check_another,
};
pub use setting::{Change, Group, Kind, Setting};
pub use traffic::{Connect, Detect, Forward, Http, Traffic, TrafficPolicy};
pub use workload::{Fail, Inbound, Outbound, Workload, WorkloadSettings, fail_name};

use std::path::Path;

use serde::{Deserialize, Serialize};
use tracing_subscriber::EnvFilter;

use self::file::Sections;
use crate::budget::{Sizes, usual_memory};

/// Everything that can be configured. In the file, the sections of all three are side by side.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "Sections", into = "Sections")]
pub struct Config {
    /// The process: how it is asked, what it says, how it ends, and what its workloads share.
    pub process: ProcessConfig,
    /// The process's own workload; of `weir node`, the defaults for pods.
    pub own: WorkloadSettings,
    /// How connections are served.
    pub traffic: TrafficPolicy,
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
        self.own.resolve();
    }

    /// What there is of what workloads share.
    #[must_use]
    pub fn budgets(&self) -> Sizes {
        let budget = &self.process.budget;
        Sizes {
            connections: self.traffic.forward.max_connections as u64,
            dialling: budget.dialling as u64,
            memory: match budget.memory {
                0 => usual_memory(),
                bytes => bytes as u64,
            },
            rows: budget.stat_rows as u64,
        }
    }

    /// Checks every value against its range.
    ///
    /// # Errors
    /// The first problem, naming its key.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let ProcessConfig { admin, log, runtime, otlp, .. } = &self.process;
        self.own.validate()?;
        otlp.validate()?;
        instance_name("runtime.instance", &runtime.instance)?;
        let table = setting::to_table(self);
        for setting in Setting::all() {
            setting.validate(&table)?;
        }
        check(!admin.ui || admin.address.is_some(), "admin.ui", || {
            "the page needs an admin address; set admin.address, or use `weir ui`".to_owned()
        })?;
        check(!admin.control_socket.as_os_str().is_empty(), "admin.control_socket", || {
            format!("is empty; write a path such as {DEFAULT_CONTROL_SOCKET}")
        })?;
        let refused = |problem| ConfigError::Value { key: "log.level", problem };
        log_filter(&log.level).map(drop).map_err(refused)
    }

    /// The effective configuration as a file that [`Config::load`] reads.
    #[must_use]
    pub fn to_toml(&self) -> String {
        toml::to_string(&self.with_current_names()).expect("every field has a TOML form")
    }

    /// The same as a table.
    pub(crate) fn to_table(&self) -> toml::Table {
        setting::to_table(&self.with_current_names())
    }

    fn with_current_names(&self) -> Self {
        let mut config = self.clone();
        config.traffic.http.engine = config.traffic.http.engine.current();
        config
    }
}

/// Reads a log filter. A word alone is a level: tracing-subscriber takes any other for a module, of
/// which everything is logged and of all others nothing.
///
/// # Errors
/// What is wrong with it, and what would be right.
pub fn log_filter(text: &str) -> Result<EnvFilter, String> {
    const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];
    let is_level = |word: &str| {
        LEVELS.iter().any(|level| level.eq_ignore_ascii_case(word))
            || matches!(word.parse(), Ok(0_u8..=5))
    };
    // What is in brackets is of spans, and may have commas.
    let words = text.split(',').map(str::trim).filter(|_| !text.contains('['));
    let mut words = words.filter(|word| !word.is_empty() && !word.contains('='));
    if let Some(word) = words.find(|word| !is_level(word)) {
        return Err(format!(
            "invalid log filter {text:?}: {word:?} is not a level; write error, warn, info, debug, \
             trace or off, or MODULE=LEVEL such as weir=debug,h2=warn"
        ));
    }
    EnvFilter::try_new(text).map_err(|error| {
        format!("invalid log filter {text:?}: {error}; write info or weir=debug,h2=warn")
    })
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

#[cfg(test)]
mod tests;
