//! The log filter.

use serde::{Deserialize, Serialize};

use super::{Call, ControlError, Conversation};

/// Changes the log filter (tracing's `EnvFilter` syntax), or only asks for it. The reply is the
/// filter in effect.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogLevel {
    /// The new filter; `None` only asks.
    pub filter: Option<String>,
}

// === impl LogLevel ===

impl Call for LogLevel {
    const NAME: &'static str = "log_level";
    const REPLY: &'static str = "log_level";
    type Reply = String;

    fn changes(&self) -> bool {
        self.filter.is_some()
    }

    async fn answer(self, on: &mut Conversation<'_>) -> Result<String, ControlError> {
        match self.filter {
            None => Ok(on.handler.log_level()),
            Some(filter) => on.handler.set_log_level(&filter, on.caller),
        }
    }
}
