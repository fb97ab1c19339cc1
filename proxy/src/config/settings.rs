//! What each workload is told for itself; everything else in the configuration is the process's.

use serde::{Deserialize, Serialize};

use super::{ConfigError, Inbound, Outbound, Workload, default_opaque, name, resolve};
use crate::decision::Source;
use crate::ports::{PolicyInput, PortList, PortPolicy, PortSet};

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

// === impl WorkloadSettings ===

impl WorkloadSettings {
    /// Resolves lists that began with `+` against the defaults.
    pub fn resolve(&mut self) {
        resolve(&mut self.outbound, &mut self.inbound);
    }

    /// Checks every value against its range.
    ///
    /// # Errors
    /// The first problem, naming its key.
    pub fn validate(&self) -> Result<(), ConfigError> {
        name("workload.name", &self.workload.name)
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
