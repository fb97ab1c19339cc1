//! What each workload is told for itself; everything else in the configuration is the process's.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{ConfigError, EngineName, RecordFormat, name, setting};
use crate::{
    balance::Mode,
    decision::Source,
    learn::Learn,
    ports::{CidrList, DEFAULT_OPAQUE_PORTS, PolicyInput, PortList, PortPolicy, PortSet},
};

/// All settings that each workload has for itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WorkloadSettings {
    /// What is captured.
    pub workload: Workload,
    /// Connections that it opens.
    pub outbound: Outbound,
    /// Connections that it accepts.
    pub inbound: Inbound,
}

/// What is captured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Workload {
    /// Its name in metrics and records: 1 to 63 letters, digits, `-`, `_` and `.`.
    pub name: String,
    /// Its cgroup v2 directory.
    pub cgroup: Option<PathBuf>,
    /// Its network namespace, such as `/run/netns/NAME` or `/proc/PID/ns/net`; absent for the one that
    /// the processes in the cgroup are in.
    pub netns: Option<PathBuf>,
    /// Policy for new connections while weir is not running.
    pub fail: Fail,
    /// Policy for destinations whose servers speak neither HTTP nor TLS.
    pub learn: Learn,
    /// Format of its records; absent for that of the process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub record_format: Option<RecordFormat>,
}

/// Policy for new connections while weir is not running.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Fail {
    /// New connections go direct.
    #[default]
    Open,
    /// New connections are refused: EPERM outbound, a reset inbound.
    Closed,
}

/// The policy as it is written.
#[must_use]
pub const fn fail_name(fail: Fail) -> &'static str {
    match fail {
        Fail::Open => "open",
        Fail::Closed => "closed",
    }
}

/// Connections that the workload opens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Outbound {
    /// Ports that the kernel lets pass.
    pub skip_ports: PortList,
    /// Ports proxied as raw TCP. A leading `+` adds to the default list.
    pub opaque_ports: PortList,
    /// If not empty, only these ports are captured.
    pub include_ports: PortList,
    /// Destinations that the kernel lets pass.
    pub skip_cidrs: CidrList,
    /// Capture connections to 127.0.0.0/8 and ::1 too.
    pub capture_loopback: bool,
    /// Whether connections to services are balanced; absent for what is configured for all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub balance: Option<Mode>,
    /// The HTTP engine of its connections; absent for what is configured for all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub engine: Option<EngineName>,
}

/// Connections that the workload accepts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Inbound {
    /// Whether they are captured at all.
    pub capture: bool,
    /// The application sees the client's own address, not one of its namespace.
    pub preserve_client_ip: bool,
    /// Ports that the kernel lets pass.
    pub skip_ports: PortList,
    /// Ports proxied as raw TCP. A leading `+` adds to the default list.
    pub opaque_ports: PortList,
    /// If not empty, only these ports are captured.
    pub include_ports: PortList,
}

// === defaults ===

impl Default for Workload {
    fn default() -> Self {
        Self {
            name: "default".into(),
            cgroup: None,
            netns: None,
            fail: Fail::Open,
            learn: Learn::default(),
            record_format: None,
        }
    }
}

impl Default for Outbound {
    fn default() -> Self {
        Self {
            skip_ports: PortList::default(),
            opaque_ports: default_opaque().into(),
            include_ports: PortList::default(),
            skip_cidrs: CidrList::default(),
            capture_loopback: false,
            balance: None,
            engine: None,
        }
    }
}

impl Default for Inbound {
    fn default() -> Self {
        Self {
            capture: true,
            preserve_client_ip: false,
            skip_ports: PortList::default(),
            opaque_ports: default_opaque().into(),
            include_ports: PortList::default(),
        }
    }
}

// === impl WorkloadSettings ===

impl WorkloadSettings {
    /// Resolves lists that began with `+` against the defaults.
    pub fn resolve(&mut self) {
        let (outbound, inbound) = (&mut self.outbound, &mut self.inbound);
        let (defaults, none) = (default_opaque(), PortSet::default());
        for (list, before) in [
            (&mut outbound.opaque_ports, &defaults),
            (&mut inbound.opaque_ports, &defaults),
            (&mut outbound.skip_ports, &none),
            (&mut inbound.skip_ports, &none),
            (&mut outbound.include_ports, &none),
            (&mut inbound.include_ports, &none),
        ] {
            *list = list.resolve(before).into();
        }
    }

    /// Checks every value against its range.
    ///
    /// # Errors
    /// The first problem, naming its key.
    pub fn validate(&self) -> Result<(), ConfigError> {
        name("workload.name", &self.workload.name)
    }

    /// These settings, with those of `wanted` that change in place.
    #[must_use]
    pub fn with_changes_in_place(&self, wanted: &Self) -> Self {
        setting::with_changes_in_place(self, wanted)
    }

    /// The port states that these lists mean; `source` is who says so.
    #[must_use]
    pub fn port_policy(&self, source: Source) -> PortPolicy {
        let (defaults, none) = (default_opaque(), PortSet::default());
        let input = |skip: &PortList, opaque: &PortList, include: &PortList| PolicyInput {
            skip: skip.resolve(&none),
            opaque: opaque.resolve(&defaults),
            include: include.resolve(&none),
        };
        let (out, inb) = (&self.outbound, &self.inbound);
        PortPolicy::new(
            input(&out.skip_ports, &out.opaque_ports, &out.include_ports),
            input(&inb.skip_ports, &inb.opaque_ports, &inb.include_ports),
            source,
        )
    }
}

// === helpers ===

fn default_opaque() -> PortSet {
    DEFAULT_OPAQUE_PORTS.into_iter().collect()
}
