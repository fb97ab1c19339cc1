//! weir's own log: set up once, its filter changeable while running. Access records are another
//! thing (`telemetry::record`).

use std::{io, sync::Arc};

use tracing_subscriber::{
    EnvFilter, Registry, fmt, layer::SubscriberExt, reload, util::SubscriberInitExt,
};

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogStyle {
    /// For people.
    #[default]
    Human,
    /// One JSON object per line.
    Json,
}

/// Changes the filter of the running log.
#[derive(Clone)]
pub struct LogHandle {
    handle: Arc<reload::Handle<EnvFilter, Registry>>,
}

/// Starts logging to standard error. `filter` is in `EnvFilter`'s syntax: `info`,
/// `weir::capture=debug,warn`.
///
/// # Errors
/// Where the filter does not parse; with the filter's own words.
pub fn init(filter: &str, style: LogStyle) -> Result<LogHandle, String> {
    let parsed = EnvFilter::try_new(filter).map_err(|error| error.to_string())?;
    let (layer, handle) = reload::Layer::new(parsed);
    let registry = tracing_subscriber::registry().with(layer);
    // A second initialisation in one process (tests) keeps the first.
    let _ = match style {
        LogStyle::Human => registry
            .with(fmt::layer().with_writer(io::stderr).with_target(false))
            .try_init(),
        LogStyle::Json => registry.with(fmt::layer().json().with_writer(io::stderr)).try_init(),
    };
    Ok(LogHandle { handle: Arc::new(handle) })
}

// === impl LogHandle ===

impl LogHandle {
    /// The filter in effect.
    #[must_use]
    pub fn filter(&self) -> String {
        self.handle.with_current(ToString::to_string).unwrap_or_default()
    }

    /// Replaces the filter.
    ///
    /// # Errors
    /// Where it does not parse; the old one stays.
    pub fn set(&self, filter: &str) -> Result<(), String> {
        let parsed = EnvFilter::try_new(filter).map_err(|error| error.to_string())?;
        self.handle.reload(parsed).map_err(|error| error.to_string())
    }
}
