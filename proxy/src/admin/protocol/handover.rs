//! One weir replaces another: the new process asks the old one to hand over, captures everything,
//! and has it retire. Both calls come on one connection, which lasts as long as the handover.

use serde::{Deserialize, Serialize};

use super::{Call, ControlError, Conversation};
use crate::workloads::WorkloadError;

/// The new process asks what the old one captures: nothing changes from now on.
#[derive(Debug, Serialize, Deserialize)]
pub struct HandOver;

/// The new process captures everything: the old one is to release lock, socket and address, and to
/// finish its connections.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retire {
    /// The layout of the new process's maps: with the same one, both have the same maps.
    pub schema: String,
}

/// The reply to both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandingOver {
    /// The old process.
    pub pid: u32,
}

// === impl HandOver ===

impl Call for HandOver {
    const NAME: &'static str = "handover";
    const REPLY: &'static str = "handing_over";
    type Reply = HandingOver;

    async fn answer(self, on: &mut Conversation<'_>) -> Result<HandingOver, ControlError> {
        on.handover = Some(on.handler.hand_over().await?);
        Ok(HandingOver::by_this_process())
    }
}

// === impl Retire ===

impl Call for Retire {
    const NAME: &'static str = "retire";
    const REPLY: &'static str = "handing_over";
    type Reply = HandingOver;

    async fn answer(self, on: &mut Conversation<'_>) -> Result<HandingOver, ControlError> {
        // A new process that has died meanwhile does not serve.
        if on.handover.is_none() || on.hung_up {
            return Err(ControlError::refused(WorkloadError::NoHandover.to_string()));
        }
        on.handler.retire(&self.schema).await?;
        Ok(HandingOver::by_this_process())
    }
}

// === impl HandingOver ===

impl HandingOver {
    fn by_this_process() -> Self {
        Self { pid: std::process::id() }
    }
}
