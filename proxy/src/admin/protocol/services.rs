//! Services, and their endpoints.

use serde::{Deserialize, Serialize};

use super::{Call, ControlError, Conversation};
use crate::service::ServicesReport;

/// Asks for the services that are known.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GetServices {
    /// The name of one, with or without its namespace; all of them without.
    pub service: Option<String>,
}

// === impl GetServices ===

impl Call for GetServices {
    const NAME: &'static str = "services";
    const REPLY: &'static str = "services";
    type Reply = ServicesReport;

    async fn answer(self, on: &mut Conversation<'_>) -> Result<ServicesReport, ControlError> {
        Ok(on.handler.services(self.service.as_deref()))
    }
}
