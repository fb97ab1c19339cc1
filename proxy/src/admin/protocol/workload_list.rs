//! What is captured.

use serde::{Deserialize, Serialize};

use super::{Call, ControlError, Conversation, WorkloadStatus};

/// Asks which workloads there are.
#[derive(Debug, Serialize, Deserialize)]
pub struct WorkloadList;

impl Call for WorkloadList {
    const NAME: &'static str = "workload_list";
    const REPLY: &'static str = "workloads";
    type Reply = Vec<WorkloadStatus>;

    fn changes(&self) -> bool {
        false
    }

    async fn answer(self, on: &mut Conversation<'_>) -> Result<Vec<WorkloadStatus>, ControlError> {
        Ok(on.handler.workloads())
    }
}
