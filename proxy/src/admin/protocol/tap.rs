//! Records as connections and requests end, until one side closes.

use serde::{Deserialize, Serialize};

use super::{Call, ControlError, Conversation, Stream};
use crate::telemetry::{record::Record, tap::TapFilter};

/// Asks for the records that pass a filter from now on.
#[derive(Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StartTap(pub TapFilter);

/// A line after the reply.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tapped {
    /// A record.
    Record(Box<Record>),
    /// Records that came faster than they were read.
    Missed {
        /// How many since the last line of this kind.
        records: u64,
    },
}

// === impl StartTap ===

impl Call for StartTap {
    const NAME: &'static str = "tap";
    const REPLY: &'static str = "tapping";
    type Reply = ();

    fn changes(&self) -> bool {
        false
    }

    async fn answer(self, on: &mut Conversation<'_>) -> Result<(), ControlError> {
        on.tap = Some(on.handler.tap(on.workload(), self.0)?);
        Ok(())
    }
}

impl Stream for StartTap {
    type Item = Tapped;
}
