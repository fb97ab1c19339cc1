//! The language of the control socket: one JSON object per line each way. Both ends state the
//! version; within one version fields are only ever added.

mod status;

pub use status::{PodState, PodStatus, Status, WorkloadStatus};

use std::{collections::BTreeMap, net::SocketAddr};

use serde::{Deserialize, Serialize};

use crate::{
    config::WorkloadSettings,
    decision::{Direction, Source, Treatment},
    names,
    ports::{PortChange, PortSet, PortStatus, PortsSet},
    telemetry::{record::Record, stats::StatsSnapshot, tap::TapFilter},
};

/// The version this weir speaks.
pub const VERSION: u32 = 1;

/// Longest request in bytes: a workload fits whose every list has all ports one by one, and whose
/// prefixes are as many as the kernel's map takes.
pub const MAX_REQUEST: usize = 8 * 1024 * 1024;

/// Longest answer in bytes that a client reads.
pub const MAX_RESPONSE: usize = 16 * 1024 * 1024;

/// One line from the client.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// See [`VERSION`].
    pub version: u32,
    /// The workload that is meant; not needed where there is only one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload: Option<String>,
    /// What is asked.
    pub command: Command,
}

/// What can be asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Command {
    /// What is running, since when, on what.
    Status,
    /// The ports that are not "detect by default", and how often skip rules were hit.
    PortsList,
    /// Puts ports into a state, now and for both the proxy and the kernel.
    PortsSet(PortsSet),
    /// What a connection to this address would get, and why.
    Explain {
        /// The destination.
        address: SocketAddr,
        /// Seen from the workload.
        #[serde(with = "names::direction")]
        direction: Direction,
    },
    /// Numbers per destination.
    Stat,
    /// Records as connections and requests end, until one side closes.
    Tap(Box<TapFilter>),
    /// Changes the log filter (tracing's `EnvFilter` syntax), or tells it.
    LogLevel {
        /// The new filter; `None` only asks.
        filter: Option<String>,
    },
    /// How often the kernel decided what.
    KernelCounters,
    /// What is captured.
    WorkloadList,
    /// Captures one more workload.
    WorkloadAdd(Box<WorkloadSettings>),
    /// Captures a workload no more; its connections may finish.
    WorkloadRemove {
        /// Its name.
        name: String,
    },
    /// A weir that is to take over asks whom from.
    Handover,
    /// It has: lock, socket and address are to be let go, and connections finished.
    Retire {
        /// The layout of the successor's maps: with the same one, both have the same maps.
        schema: String,
    },
}

/// One line from weir.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Response {
    /// See [`VERSION`].
    pub version: u32,
    /// The answer.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// An answer, or why there is none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The answer to the command.
    Ok(Answer),
    /// Nothing was changed.
    Error(ControlError),
}

/// The answers, by command.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// To [`Command::Status`].
    Status(Box<Status>),
    /// To [`Command::PortsList`].
    Ports(PortsReport),
    /// To [`Command::PortsSet`]: what changed.
    Changed(Vec<PortsChanged>),
    /// To [`Command::Explain`].
    Explanation(Box<Explanation>),
    /// To [`Command::Stat`].
    Stat(StatsSnapshot),
    /// To [`Command::Tap`]: what ends from now on follows, a line each.
    Tapping,
    /// A record, after [`Answer::Tapping`].
    Record(Box<Record>),
    /// After [`Answer::Tapping`]: records that came faster than they were read.
    Missed {
        /// How many since the last line of this kind.
        records: u64,
    },
    /// To [`Command::LogLevel`]: the filter in effect.
    LogLevel(String),
    /// To [`Command::KernelCounters`].
    KernelCounters(KernelCounters),
    /// To [`Command::WorkloadList`].
    Workloads(Vec<WorkloadStatus>),
    /// To [`Command::WorkloadAdd`].
    Added(Box<WorkloadStatus>),
    /// To [`Command::WorkloadRemove`].
    Removed,
    /// To [`Command::Handover`] and [`Command::Retire`].
    HandingOver {
        /// The process that hands over.
        pid: u32,
    },
}

/// Why a command was refused or failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct ControlError {
    /// For programs.
    pub code: ErrorCode,
    /// For people.
    pub message: String,
}

/// Kinds of [`ControlError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// Not understood.
    BadRequest,
    /// The other end speaks another version.
    Version,
    /// Understood and refused.
    Refused,
    /// Tried and failed.
    Failed,
    /// A code of a later version.
    #[serde(other)]
    Unknown,
}

/// The ports that somebody or a default said something about.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PortsReport {
    /// One entry per port with hits, and one for all without that have the same status.
    pub rules: Vec<PortsRule>,
    /// Directions in which only included ports are captured.
    pub include_lists: Vec<String>,
}

/// Ports with the same status.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PortsRule {
    /// Seen from the workload.
    #[serde(with = "names::direction")]
    pub direction: Direction,
    /// The ports.
    pub ports: PortSet,
    /// What their connections get.
    #[serde(flatten)]
    pub status: PortStatus,
    /// Connections that the kernel let pass because of the rule.
    pub hits: u64,
}

/// Ports that changed in the same way. (One entry per port would make 25 MB of "all of them".)
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PortsChanged {
    /// Seen from the workload.
    #[serde(with = "names::direction")]
    pub direction: Direction,
    /// The ports.
    pub ports: PortSet,
    /// What they were.
    pub before: PortStatus,
    /// What they are.
    pub after: PortStatus,
}

/// What a connection to an address would get.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    /// The destination.
    pub address: SocketAddr,
    /// Seen from the workload.
    #[serde(with = "names::direction")]
    pub direction: Direction,
    /// In a few words: `skip`, `opaque`, `detect`.
    pub verdict: String,
    /// Who decided.
    #[serde(with = "names::source")]
    pub source: Source,
    /// Why, as a clause.
    pub why: String,
    /// The reason that the hook counts, a label of `weir_kernel_decisions_total`; absent where no hook
    /// decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Every test in the order in which the hook makes them, up to the one that decided.
    pub steps: Vec<Step>,
    /// What connections to it were treated as so far.
    pub seen: Vec<Seen>,
}

/// One test on the way to a decision.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// The question: `port skipped?`.
    pub test: String,
    /// The answer: `no: port 80 is detect (default)`.
    pub result: String,
    /// True for the one that decided.
    pub decisive: bool,
}

/// Earlier connections to the same address.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Seen {
    /// What they were treated as.
    pub treatment: Option<Treatment>,
    /// Who decided.
    #[serde(with = "names::source::optional")]
    pub source: Option<Source>,
    /// Why the kernel let them pass, where nobody has asked for that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Why.
    pub why: String,
    /// How many.
    pub connections: u64,
}

/// Counters of the hooks: workload → direction → reason → count.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct KernelCounters {
    /// Workload name → direction → [`weir_common::Reason`] name → count.
    pub workloads: BTreeMap<String, BTreeMap<String, BTreeMap<String, u64>>>,
}

// === impl Request ===

impl Request {
    /// A request in this version.
    #[must_use]
    pub const fn new(workload: Option<String>, command: Command) -> Self {
        Self { version: VERSION, workload, command }
    }
}

// === impl Response ===

impl From<Result<Answer, ControlError>> for Response {
    fn from(result: Result<Answer, ControlError>) -> Self {
        let outcome = match result {
            Ok(answer) => Outcome::Ok(answer),
            Err(error) => Outcome::Error(error),
        };
        Self { version: VERSION, outcome }
    }
}

// === impl ControlError ===

impl ControlError {
    /// The request is not understood.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self { code: ErrorCode::BadRequest, message: message.into() }
    }

    /// The request is understood and refused.
    pub fn refused(message: impl Into<String>) -> Self {
        Self { code: ErrorCode::Refused, message: message.into() }
    }

    /// Carrying it out failed; nothing was changed.
    pub fn failed(message: impl Into<String>) -> Self {
        Self { code: ErrorCode::Failed, message: message.into() }
    }
}

// === impl PortsReport ===

impl PortsReport {
    /// The rules of a policy, with how often each port's rule was hit.
    #[must_use]
    pub fn new(policy: &crate::ports::PortPolicy, hits: &dyn Fn(Direction, u16) -> u64) -> Self {
        let mut report = Self::default();
        for direction in [Direction::Outbound, Direction::Inbound] {
            if policy.has_include_list(direction) {
                report.include_lists.push(crate::decision::direction_name(direction).to_owned());
            }
            // Few statuses exist, but any number of ports may have hits.
            let mut quiet: Vec<(PortStatus, Vec<u16>)> = Vec::new();
            for (port, status) in policy.rules(direction) {
                let hits = hits(direction, port);
                if hits > 0 {
                    let ports = PortSet::from_iter([port]);
                    report.rules.push(PortsRule { direction, ports, status, hits });
                } else {
                    push(&mut quiet, status, port);
                }
            }
            report.rules.extend(quiet.into_iter().map(|(status, ports)| {
                let ports = ports.into_iter().collect();
                PortsRule { direction, ports, status, hits: 0 }
            }));
        }
        report
    }
}

// === impl PortsChanged ===

impl PortsChanged {
    /// Groups what [`crate::ports::PortPolicy::set`] returned.
    #[must_use]
    pub fn group(changes: &[PortChange]) -> Vec<Self> {
        let mut groups = Vec::new();
        for PortChange { direction, port, before, after } in changes {
            push(&mut groups, (*direction, *before, *after), *port);
        }
        groups
            .into_iter()
            .map(|((direction, before, after), ports)| Self {
                direction,
                ports: ports.into_iter().collect(),
                before,
                after,
            })
            .collect()
    }
}

/// Adds a port to the group with this key; groups keep the order of their first ports.
fn push<K: PartialEq>(groups: &mut Vec<(K, Vec<u16>)>, key: K, port: u16) {
    match groups.iter_mut().find(|(existing, _)| *existing == key) {
        Some((_, ports)) => ports.push(port),
        None => groups.push((key, vec![port])),
    }
}
