//! Numbers per destination, or per endpoint.

use serde::{Deserialize, Serialize};

use super::{Call, ControlError, Conversation};
use crate::telemetry::stats::{By, StatsSnapshot};

/// Asks for the numbers per destination, of one workload or of all.
#[derive(Debug, Serialize, Deserialize)]
pub struct GetStat;

/// Asks for the same per endpoint.
#[derive(Debug, Serialize, Deserialize)]
pub struct GetEndpointStat;

/// Asks for the same per host name.
#[derive(Debug, Serialize, Deserialize)]
pub struct GetNameStat;

/// Asks for the numbers with all latencies, of one workload or of all: what is new since an earlier reply
/// has percentiles of its own.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SampleStat {
    /// What the rows of the reply are by.
    pub by: By,
}

/// Asks for the numbers so far, of one workload or of all, which count from zero from then on.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResetStat {
    /// What the rows of the reply are by.
    pub by: By,
}

impl Call for GetStat {
    const NAME: &'static str = "stat";
    const REPLY: &'static str = "stat";
    type Reply = StatsSnapshot;

    fn changes(&self) -> bool {
        false
    }

    async fn answer(self, on: &mut Conversation<'_>) -> Result<StatsSnapshot, ControlError> {
        on.handler.stat(on.workload(), By::Destination)
    }
}

impl Call for GetEndpointStat {
    const NAME: &'static str = "endpoint_stat";
    const REPLY: &'static str = "endpoint_stat";
    type Reply = StatsSnapshot;

    fn changes(&self) -> bool {
        false
    }

    async fn answer(self, on: &mut Conversation<'_>) -> Result<StatsSnapshot, ControlError> {
        on.handler.stat(on.workload(), By::Endpoint)
    }
}

impl Call for ResetStat {
    const NAME: &'static str = "stat_reset";
    const REPLY: &'static str = "stat_reset";
    type Reply = StatsSnapshot;

    async fn answer(self, on: &mut Conversation<'_>) -> Result<StatsSnapshot, ControlError> {
        on.handler.reset_stat(on.workload(), self.by)
    }
}

impl Call for SampleStat {
    const NAME: &'static str = "stat_sample";
    const REPLY: &'static str = "stat_sample";
    type Reply = StatsSnapshot;

    fn changes(&self) -> bool {
        false
    }

    async fn answer(self, on: &mut Conversation<'_>) -> Result<StatsSnapshot, ControlError> {
        on.handler.sample_stat(on.workload(), self.by)
    }
}

impl Call for GetNameStat {
    const NAME: &'static str = "name_stat";
    const REPLY: &'static str = "name_stat";
    type Reply = StatsSnapshot;

    fn changes(&self) -> bool {
        false
    }

    async fn answer(self, on: &mut Conversation<'_>) -> Result<StatsSnapshot, ControlError> {
        on.handler.stat(on.workload(), By::Name)
    }
}
