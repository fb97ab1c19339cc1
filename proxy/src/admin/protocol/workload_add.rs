//! One more workload.

use serde::{Deserialize, Serialize};

use super::{Call, ControlError, Conversation, WorkloadStatus};
use crate::config::WorkloadSettings;

/// Captures one more workload.
#[derive(Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WorkloadAdd(pub WorkloadSettings);

impl Call for WorkloadAdd {
    const NAME: &'static str = "workload_add";
    const REPLY: &'static str = "added";
    type Reply = WorkloadStatus;

    async fn answer(self, on: &mut Conversation<'_>) -> Result<WorkloadStatus, ControlError> {
        on.handler.add_workload(self.0, on.caller).await
    }
}
