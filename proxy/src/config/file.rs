//! The configuration file: its sections, how it is read, and errors with the place of the problem.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use toml::de::{DeTable, DeValue};

use super::{
    Admin, Balance, Budget, Config, Detect, Drain, Forward, Http, Inbound, Log, Otlp, Outbound,
    ProcessConfig, RecordConfig, RouteConfig, Runtime, ServiceConfig, TrafficPolicy, Workload,
    WorkloadSettings, list,
};

/// Larger files are no configuration: all lists of ports fit, one by one, and 65,536 prefixes.
const MAX_BYTES: u64 = 8 * 1024 * 1024;

/// The sections, as they are in the file.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Sections {
    workload: Workload,
    outbound: Outbound,
    inbound: Inbound,
    detect: Detect,
    forward: Forward,
    http: Http,
    admin: Admin,
    log: Log,
    record: RecordConfig,
    otlp: Otlp,
    drain: Drain,
    runtime: Runtime,
    budget: Budget,
    balance: Balance,
    #[serde(deserialize_with = "list::all", skip_serializing_if = "Vec::is_empty")]
    service: Vec<ServiceConfig>,
    #[serde(deserialize_with = "list::all", skip_serializing_if = "Vec::is_empty")]
    route: Vec<RouteConfig>,
}

/// Why a configuration was refused. Nothing has been changed then.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("cannot read config {}: {source}; check the path and that it is readable", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The file is not understood.
    #[error("config {}, line {line}, column {column}: {problem}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// Counted in characters from 1.
        column: usize,
        /// The cause, and what would be right.
        problem: String,
    },
    /// A value is out of its range.
    #[error("{key}: {problem}")]
    Value {
        /// The key in dotted notation.
        key: &'static str,
        /// The cause, and what would be right.
        problem: String,
    },
    /// A value in a file is out of its range.
    #[error("config {}: {source}", path.display())]
    InFile {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: Box<ConfigError>,
    },
}

// === impl Sections ===

impl From<Sections> for Config {
    fn from(sections: Sections) -> Self {
        let Sections { workload, outbound, inbound, detect, forward, http, .. } = sections;
        let Sections { admin, log, record, otlp, drain, runtime, budget, .. } = sections;
        let Sections { balance, service, route, .. } = sections;
        Self {
            process: ProcessConfig {
                admin,
                log,
                record,
                otlp,
                drain,
                runtime,
                budget,
                balance,
                service,
                route,
            },
            own: WorkloadSettings { workload, outbound, inbound },
            traffic: TrafficPolicy { detect, forward, http },
        }
    }
}

impl From<Config> for Sections {
    fn from(Config { process, own, traffic }: Config) -> Self {
        let ProcessConfig { admin, log, record, otlp, drain, runtime, budget, .. } = process;
        let ProcessConfig { balance, service, route, .. } = process;
        let WorkloadSettings { workload, outbound, inbound } = own;
        let TrafficPolicy { detect, forward, http } = traffic;
        Self {
            workload,
            outbound,
            inbound,
            detect,
            forward,
            http,
            admin,
            log,
            record,
            otlp,
            drain,
            runtime,
            budget,
            balance,
            service,
            route,
        }
    }
}

// === helpers ===

pub(super) fn load(path: &Path) -> Result<Config, ConfigError> {
    let text = read(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    let mut config = parse(&text, path)?;
    config.resolve();
    config.validate().map_err(|error| {
        if let ConfigError::Value { key, problem } = &error
            && let Some(at) = offset(&text, key)
        {
            return syntax(&text, path, at, format!("{key}: {problem}"));
        }
        ConfigError::InFile { path: path.to_owned(), source: Box::new(error) }
    })?;
    Ok(config)
}

/// Where the value of a dotted key begins in a file, in bytes; `None` where it is not in it.
fn offset(text: &str, key: &str) -> Option<usize> {
    let (section, key) = key.split_once('.')?;
    let file = DeTable::parse(text).ok()?;
    let (_, section) = file.get_ref().iter().find(|(name, _)| name.get_ref() == section)?;
    let DeValue::Table(section) = section.get_ref() else { return None };
    let (_, value) = section.iter().find(|(name, _)| name.get_ref() == key)?;
    Some(value.span().start)
}

fn read(path: &Path) -> io::Result<String> {
    if fs::metadata(path)?.len() > MAX_BYTES {
        return Err(io::Error::other("the file is larger than 8 MiB"));
    }
    fs::read_to_string(path)
}

fn parse(text: &str, path: &Path) -> Result<Config, ConfigError> {
    toml::from_str(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        syntax(text, path, at, error.message().replace('\n', "; "))
    })
}

/// A problem at a place, in bytes.
fn syntax(text: &str, path: &Path, at: usize, problem: String) -> ConfigError {
    let before = text.get(..at.min(text.len())).unwrap_or_default();
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    ConfigError::Syntax {
        path: path.to_owned(),
        line: before.matches('\n').count() + 1,
        column: before[line_start..].chars().count() + 1,
        problem,
    }
}
