//! One workload less.

use serde::{Deserialize, Serialize};

use super::{Call, ControlError, Conversation};

/// Stops capturing a workload; its connections may finish.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkloadRemove {
    /// Its name.
    pub name: String,
}

impl Call for WorkloadRemove {
    const NAME: &'static str = "workload_remove";
    const REPLY: &'static str = "removed";
    type Reply = ();

    async fn answer(self, on: &mut Conversation<'_>) -> Result<(), ControlError> {
        on.handler.remove_workload(&self.name, on.caller)
    }
}
