//! Open connections.

use serde::{Deserialize, Serialize};

use super::{Call, ControlError, Conversation};
use crate::telemetry::{OpenConnections, tap::TapFilter};

/// Asks for the oldest open connections that pass a filter, of one workload or of all.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GetConnections {
    /// Which ones. What only requests have, and failures, leave all of them out.
    pub filter: TapFilter,
    /// At most so many, and no more than [`GetConnections::MOST`].
    pub limit: usize,
}

// === impl GetConnections ===

impl GetConnections {
    /// As many fit into a reply.
    pub const MOST: usize = 16_384;
}

impl Call for GetConnections {
    const NAME: &'static str = "connections";
    const REPLY: &'static str = "connections";
    type Reply = OpenConnections;

    fn changes(&self) -> bool {
        false
    }

    async fn answer(self, on: &mut Conversation<'_>) -> Result<OpenConnections, ControlError> {
        on.handler.connections(on.workload(), self.filter, self.limit.min(Self::MOST)).await
    }
}
