//! Numbers per destination.

use serde::{Deserialize, Serialize};

use super::{Call, ControlError, Conversation};
use crate::telemetry::stats::StatsSnapshot;

/// Asks for the numbers per destination, of one workload or of all.
#[derive(Debug, Serialize, Deserialize)]
pub struct GetStat;

impl Call for GetStat {
    const NAME: &'static str = "stat";
    const REPLY: &'static str = "stat";
    type Reply = StatsSnapshot;

    async fn answer(self, on: &mut Conversation<'_>) -> Result<StatsSnapshot, ControlError> {
        on.handler.stat(on.workload())
    }
}
