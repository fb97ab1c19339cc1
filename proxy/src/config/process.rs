//! What the process is told: how it is asked, what it says, how it ends, and what its workloads share.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

use super::{Balance, Otlp, RouteConfig, ServiceConfig};
use crate::{budget::Sizes, units};

/// The instance where none is named.
pub const DEFAULT_INSTANCE: &str = "default";
/// Where the control socket is unless told otherwise.
pub const DEFAULT_CONTROL_SOCKET: &str = "/run/weir/control.sock";
/// Where those of `weir exec` are, one for each session.
pub const SESSION_DIRECTORY: &str = "/run/weir-exec";
/// The variable with the control socket that verbs ask, in the environment of the command of `weir exec`.
pub const CONTROL_VARIABLE: &str = "WEIR_CONTROL";

/// The settings of the process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProcessConfig {
    /// Probes, metrics and control.
    pub admin: Admin,
    /// weir's own log.
    pub log: Log,
    /// Access records.
    pub record: RecordConfig,
    /// Spans.
    pub otlp: Otlp,
    /// How it ends.
    pub drain: Drain,
    /// Threads, instance, kernel features.
    pub runtime: Runtime,
    /// Limits of the resources that workloads share.
    pub budget: Budget,
    /// How services are balanced.
    pub balance: Balance,
    /// Services without a cluster.
    pub service: Vec<ServiceConfig>,
    /// Rules for the requests to services.
    pub route: Vec<RouteConfig>,
}

/// Probes, metrics and control.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Admin {
    /// Where `/live`, `/ready` and `/metrics` are; absent for nowhere.
    #[serde(deserialize_with = "super::address::optional")]
    pub address: Option<SocketAddr>,
    /// Whether the page of `weir ui` is there as well, for clients on this machine.
    pub ui: bool,
    /// Destinations with metrics of their own, for each workload and direction; 0 for none.
    pub destinations: usize,
    /// What these are called.
    pub destination_label: DestinationLabel,
    /// The Unix control socket.
    pub control_socket: PathBuf,
}

/// What metrics by destination call it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum DestinationLabel {
    /// The host that clients ask for, and the address where there is none.
    #[default]
    Name,
    /// The service of the address, and the address where it is of none.
    Service,
}

/// What weir says about itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// How it is written, on stderr.
    pub format: LogFormat,
    /// tracing's `EnvFilter` syntax.
    pub level: String,
    /// What the BPF programs say. Anything but `off` costs time in every hook.
    pub bpf: BpfLog,
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Human-readable.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// Log level of the BPF programs.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Serialize, Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum BpfLog {
    /// Nothing, without any cost.
    #[default]
    Off,
    /// Failed helpers.
    Error,
    /// Unusual decisions.
    Warn,
    /// One line per decision.
    Info,
    /// Every step.
    Debug,
}

/// Access records.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RecordConfig {
    /// Where they go; `-` is stdout; absent for nowhere.
    pub file: Option<PathBuf>,
    /// How they are written, where a workload does not ask for another format.
    pub format: RecordFormat,
    /// Size of the file after which it is renamed and a new one begun; 0 for never.
    #[serde(with = "units::size")]
    pub max_size: usize,
    /// Renamed files that are kept.
    pub keep: usize,
}

/// How records are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum RecordFormat {
    /// One JSON object per line.
    #[default]
    Json,
    /// One human-readable line each.
    Human,
    /// Apache's combined log format, one line for each request.
    Combined,
    /// Envoy's default text format, one line for each request.
    Envoy,
}

/// How weir ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Drain {
    /// How long connections may go on after SIGTERM before they are cut.
    #[serde(with = "units::duration")]
    pub deadline: Duration,
}

/// The process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Runtime {
    /// The directory in the bpffs that its kernel side is kept in, below `weir/`: 1 to 63 letters,
    /// digits, `-` and `_`.
    pub instance: String,
    /// Worker threads: 1 to 1024; 0 for one per CPU.
    pub workers: usize,
    /// Socket-to-socket redirection in the kernel.
    pub sk_msg: Switch,
}

/// How much there is of what workloads share. Of the memory and the rows, a workload may take half of
/// what the others leave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Budget {
    /// Connections of a workload that are accepted and not yet dialled; further ones wait in the
    /// kernel's queue.
    pub dialling: usize,
    /// Bytes that all workloads may keep of what their peers have sent; 0 for a quarter of what the
    /// process may have, at most 256 MiB.
    #[serde(with = "units::size")]
    pub memory: usize,
    /// Rows of `weir stat`.
    pub stat_rows: usize,
}

/// On or off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Switch {
    /// Disabled.
    #[default]
    Off,
    /// Enabled, if the self-test at start passes.
    On,
}

// === defaults ===

impl Default for Admin {
    fn default() -> Self {
        Self {
            address: None,
            ui: false,
            destinations: 0,
            destination_label: DestinationLabel::default(),
            control_socket: DEFAULT_CONTROL_SOCKET.into(),
        }
    }
}

impl Default for RecordConfig {
    fn default() -> Self {
        Self { file: None, format: RecordFormat::default(), max_size: 0, keep: 5 }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { format: LogFormat::Text, level: "info".into(), bpf: BpfLog::Off }
    }
}

impl Default for Drain {
    fn default() -> Self {
        Self { deadline: Duration::from_secs(30) }
    }
}

impl Default for Runtime {
    fn default() -> Self {
        Self { instance: DEFAULT_INSTANCE.into(), workers: 0, sk_msg: Switch::Off }
    }
}

impl Default for Budget {
    fn default() -> Self {
        let Sizes { dialling, rows, .. } = Sizes::default();
        Self { dialling: dialling as usize, memory: 0, stat_rows: rows as usize }
    }
}
