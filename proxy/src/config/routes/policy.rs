//! How long requests may take: `timeouts` of a rule.

use serde::{Deserialize, Serialize};
use weir_http::TimeLimits;

use crate::units::parse_duration;

/// Durations; zero is none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Timeouts {
    #[serde(skip_serializing_if = "Option::is_none")]
    request: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    backend: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    idle: Option<String>,
}

// === impl Timeouts ===

impl Timeouts {
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    pub(super) fn limits(&self) -> Result<TimeLimits, String> {
        let limit = |name: &str, text: &Option<String>| {
            let Some(text) = text else { return Ok(None) };
            let read = parse_duration(text).map_err(|fault| format!("timeouts.{name}: {fault}"))?;
            Ok::<_, String>(Some(read).filter(|it| !it.is_zero()))
        };
        Ok(TimeLimits {
            request: limit("request", &self.request)?,
            backend: limit("backend", &self.backend)?,
            idle: limit("idle", &self.idle)?,
        })
    }
}
