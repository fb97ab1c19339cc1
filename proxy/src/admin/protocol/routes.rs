//! Routes, and what becomes of one request.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::{Call, ControlError, Conversation};
use crate::service::{RequestReport, RoutesReport};

/// Asks for the routes that are known.
#[derive(Debug, Serialize, Deserialize)]
pub struct GetRoutes;

/// Asks what becomes of a request.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExplainRequest {
    /// The destination of its connection.
    pub address: SocketAddr,
    /// The method.
    pub method: String,
    /// The path with its query, or an absolute URI.
    pub target: String,
    /// Its fields.
    pub fields: Vec<(String, String)>,
}

// === impl GetRoutes ===

impl Call for GetRoutes {
    const NAME: &'static str = "routes";
    const REPLY: &'static str = "routes";
    type Reply = RoutesReport;

    fn changes(&self) -> bool {
        false
    }

    async fn answer(self, on: &mut Conversation<'_>) -> Result<RoutesReport, ControlError> {
        Ok(on.handler.routes())
    }
}

// === impl ExplainRequest ===

impl Call for ExplainRequest {
    const NAME: &'static str = "explain_request";
    const REPLY: &'static str = "request_explained";
    type Reply = Option<RequestReport>;

    fn changes(&self) -> bool {
        false
    }

    async fn answer(
        self,
        on: &mut Conversation<'_>,
    ) -> Result<Option<RequestReport>, ControlError> {
        on.handler.explain_request(on.workload(), &self)
    }
}
