//! What a process that captures does first: log, privileges, limits, runtime.

use std::path::{Path, PathBuf};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::DaemonError;
use crate::{
    config::{BpfLog, Config, Log, ProcessConfig},
    log::{self, LogHandle, LogTarget},
    privileges::{self, Extra},
};

/// Starts weir's own log as configured, and warns of deprecated settings.
///
/// # Errors
/// Where its filter does not parse, or there is a log already.
pub(crate) fn start_log(config: &Config, target: LogTarget) -> Result<LogHandle, DaemonError> {
    let process = &config.process;
    let log = log::init(&Log { level: log_filter(process), ..process.log.clone() }, target)?;
    if let Some((name, instead)) = config.traffic.http.engine.deprecated() {
        tracing::warn!(name, instead, "deprecated name of an HTTP engine");
    }
    Ok(log)
}

/// The filter of weir's own log.
pub(super) fn log_filter(config: &ProcessConfig) -> String {
    let mut filter = config.log.level.clone();
    if config.log.bpf != BpfLog::Off {
        // What the BPF programs log comes with their crate's name as its target.
        filter.push_str(",weir_ebpf=trace");
    }
    filter
}

/// Drops the privileges that the daemon does not need; before any other thread is started. `paths` will be
/// changed besides the file of records, and `signals` be sent to a command.
///
/// # Errors
/// Where the kernel refuses.
pub(crate) fn reduce_privileges(
    config: &ProcessConfig,
    mut paths: Vec<PathBuf>,
    signals: bool,
) -> Result<(), DaemonError> {
    paths.extend(config.record.file.clone().filter(|path| path != Path::new("-")));
    Ok(privileges::reduce(&Extra { paths, address: config.admin.address, signals })?)
}

/// For everything but serving connections, which has threads of its own where there are several.
///
/// # Errors
/// Where the kernel refuses.
pub(crate) fn runtime() -> Result<tokio::runtime::Runtime, DaemonError> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().map_err(DaemonError::Runtime)
}

/// Raises the soft limit of open files to the hard one: each proxied connection takes two.
/// Returns the soft limit as it was, for the command that `exec` starts.
pub(crate) fn raise_file_limit() -> Option<(u64, u64)> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).ok()?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).ok()?;
    Some((soft, hard))
}
