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

/// Asks for the services that connections were made to: of many that are known few are used.
#[derive(Debug, Serialize, Deserialize)]
pub struct GetUsedServices;

// === impl GetServices ===

impl Call for GetServices {
    const NAME: &'static str = "services";
    const REPLY: &'static str = "services";
    type Reply = ServicesReport;

    fn changes(&self) -> bool {
        false
    }

    async fn answer(self, on: &mut Conversation<'_>) -> Result<ServicesReport, ControlError> {
        Ok(on.handler.services(self.service.as_deref()))
    }
}

// === impl GetUsedServices ===

impl Call for GetUsedServices {
    const NAME: &'static str = "used_services";
    const REPLY: &'static str = "used_services";
    type Reply = ServicesReport;

    fn changes(&self) -> bool {
        false
    }

    async fn answer(self, on: &mut Conversation<'_>) -> Result<ServicesReport, ControlError> {
        Ok(on.handler.used_services())
    }
}
