//! How often the kernel decided what.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Call, ControlError, Conversation};

/// Asks for the counters of the hooks, of all workloads.
#[derive(Debug, Serialize, Deserialize)]
pub struct GetKernelCounters;

/// Counters of the hooks: workload → direction → reason → count.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct KernelCounters {
    /// Workload name → direction → [`weir_common::Reason`] name → count.
    pub workloads: BTreeMap<String, BTreeMap<String, BTreeMap<String, u64>>>,
}

// === impl GetKernelCounters ===

impl Call for GetKernelCounters {
    const NAME: &'static str = "kernel_counters";
    const REPLY: &'static str = "kernel_counters";
    type Reply = KernelCounters;

    fn changes(&self) -> bool {
        false
    }

    async fn answer(self, on: &mut Conversation<'_>) -> Result<KernelCounters, ControlError> {
        on.handler.kernel_counters()
    }
}
