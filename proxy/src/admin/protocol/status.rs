//! What is running: the weir, the workloads that it captures, the pods that it should.

use std::{net::SocketAddr, time::Duration};

use serde::{Deserialize, Serialize};

use super::{Call, ControlError, Conversation};
use crate::{budget::Figures, config::Fail, learn::Learn};

/// Asks what is running, since when, on what.
#[derive(Debug, Serialize, Deserialize)]
pub struct GetStatus;

/// The state of a running weir.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// weir's version.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// How long it has been running.
    #[serde(rename = "uptime_ms", with = "millis")]
    pub uptime: Duration,
    /// `starting`, `running` or `draining`.
    pub phase: String,
    /// What is captured.
    pub workloads: Vec<WorkloadStatus>,
    /// Where `/metrics` is.
    pub admin: Option<SocketAddr>,
    /// `on` or `off`, and why if it is not as configured.
    pub sk_msg: String,
    /// Proxied connections open now.
    pub open_connections: u64,
    /// Resident memory in bytes.
    pub resident_bytes: Option<u64>,
    /// Memory that the kernel has allocated for maps, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel_bytes: Option<u64>,
    /// Whether it is `weir node`, which is told by annotations what to capture.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub node: bool,
    /// Of `weir node`: the pods that are to be captured.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pods: Vec<PodStatus>,
    /// Of `weir node`: what keeps it from knowing which pods there are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_problem: Option<String>,
    /// The export of spans, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spans: Option<SpanExport>,
}

/// How the export of spans goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpanExport {
    /// Where they go.
    pub url: String,
    /// Spans that the collector has taken.
    pub exported: u64,
    /// Spans that found no place in the queue.
    pub dropped: u64,
    /// Spans that the collector has refused.
    pub rejected: u64,
    /// Spans that could not be sent for too long.
    pub failed: u64,
    /// Why the last attempt failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// A pod that is to be captured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodStatus {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// How far that has come.
    pub state: PodState,
    /// Why it is not captured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Whether it runs and should be captured: `/ready` waits for it.
    #[serde(default)]
    pub missing: bool,
}

/// How far the capture of a pod has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PodState {
    /// Its connections are captured.
    Captured,
    /// Something that it takes is not there yet.
    Waiting,
    /// It cannot be captured as things are; tried again.
    Failed,
    /// It will not be captured unless its annotations change.
    Refused,
    /// It has a weir of its own, a sidecar.
    #[serde(rename = "captures_itself")]
    CapturesItself,
    /// A state of a later version.
    #[serde(other)]
    Unknown,
}

/// One captured workload.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorkloadStatus {
    /// Its name.
    pub name: String,
    /// Its cgroup's path.
    pub cgroup: String,
    /// The path that its network namespace was opened by; `None` for that of its processes.
    #[serde(default)]
    pub netns: Option<String>,
    /// `open` or `closed`: what happens to new connections without a proxy.
    #[serde(default)]
    pub fail: Fail,
    /// Whether inbound connections are captured.
    #[serde(default)]
    pub inbound: bool,
    /// Whether the application sees the client's own address.
    #[serde(default)]
    pub preserve_client_ip: bool,
    /// What is remembered of destinations.
    #[serde(default)]
    pub learn: Learn,
    /// `capturing` or `draining`; `waiting` (for its cgroup, its namespace or its hooks: see `why`); or,
    /// while new connections go direct, `exhausted` (too few descriptors, or the budget is used up) or
    /// `flooded` (most connections were reset before they could be accepted).
    #[serde(default)]
    pub phase: String,
    /// Why it is not captured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Proxied connections open now.
    #[serde(default)]
    pub open_connections: u64,
    /// What it has of what all workloads share, and may have.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub budget: Vec<Figures>,
    /// `hold` or `immediate`: when connect(2) succeeds; and why, if it is not as configured.
    #[serde(default)]
    pub connect: String,
    /// `tap`, or `passthrough` and why, where the engine is to be the tap; empty otherwise.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub engine: String,
    /// The listeners that captured connections arrive at.
    pub listeners: Vec<SocketAddr>,
    /// The BPF programs attached to it, by hook.
    pub hooks: Vec<String>,
}

// === impl GetStatus ===

impl Call for GetStatus {
    const NAME: &'static str = "status";
    const REPLY: &'static str = "status";
    type Reply = Status;

    fn changes(&self) -> bool {
        false
    }

    async fn answer(self, on: &mut Conversation<'_>) -> Result<Status, ControlError> {
        Ok(on.handler.status())
    }
}

mod millis {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(value: &Duration, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_u64(u64::try_from(value.as_millis()).unwrap_or(u64::MAX))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Duration, D::Error> {
        u64::deserialize(d).map(Duration::from_millis)
    }
}
