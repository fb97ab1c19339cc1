//! weir's own log: tracing to stderr, with a filter that can be changed while it runs. What the
//! BPF programs say arrives through the `log` facade and is filtered alike.

use std::{
    io::{self, IsTerminal as _},
    sync::{Arc, Mutex},
};

use tracing_subscriber::{
    EnvFilter, Layer, Registry, fmt, layer::SubscriberExt, reload, util::SubscriberInitExt,
};

use crate::config::{Log, LogFormat};
use crate::sync::lock;

/// Before what was asked for, which wins. kube logs each request that fails, at each attempt, without
/// saying to whom: `node/cluster.rs` says it once, with the address.
const QUIET: &str = "kube_client::client=error,kube_client::client::builder=off,\
                     kube_client::client::tls=info,kube_runtime::watcher=error";

/// Changes the filter. Cloning is cheap.
#[derive(Clone, Debug)]
pub(crate) struct LogHandle {
    filter: reload::Handle<EnvFilter, Registry>,
    /// As it was given: an `EnvFilter` prints itself in another order.
    current: Arc<Mutex<String>>,
}

/// Why the log was not set up, or its filter not changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LogError {
    /// The filter does not parse.
    #[error("invalid log filter {filter:?}: {source}; write info or weir=debug,h2=warn")]
    Filter {
        /// As given.
        filter: String,
        /// The cause.
        source: tracing_subscriber::filter::ParseError,
    },
    /// There is a log already, or none any more.
    #[error("cannot set up the log: {0}")]
    Install(String),
}

/// Installs the log for the whole process; once.
///
/// # Errors
/// See [`LogError`].
pub(crate) fn init(config: &Log) -> Result<LogHandle, LogError> {
    let (filter, handle) = reload::Layer::new(parse(&config.level)?);
    let lines = match config.format {
        LogFormat::Text => {
            fmt::layer().with_ansi(io::stderr().is_terminal()).with_writer(io::stderr).boxed()
        }
        LogFormat::Json => fmt::layer().json().flatten_event(true).with_writer(io::stderr).boxed(),
    };
    // The filter is the innermost layer, so that it sees the registry that its handle names.
    tracing_subscriber::registry()
        .with(filter)
        .with(lines)
        .try_init()
        .map_err(|error| LogError::Install(error.to_string()))?;
    Ok(LogHandle { filter: handle, current: Arc::new(Mutex::new(config.level.clone())) })
}

// === impl LogHandle ===

impl LogHandle {
    /// The filter in effect.
    #[must_use]
    pub(crate) fn current(&self) -> String {
        lock(&self.current).clone()
    }

    /// Changes the filter, or leaves it as it is if the new one does not parse.
    ///
    /// # Errors
    /// See [`LogError`].
    pub(crate) fn set(&self, filter: &str) -> Result<(), LogError> {
        let parsed = parse(filter)?;
        let mut current = lock(&self.current);
        self.filter.reload(parsed).map_err(|error| LogError::Install(error.to_string()))?;
        filter.clone_into(&mut current);
        Ok(())
    }
}

fn parse(filter: &str) -> Result<EnvFilter, LogError> {
    // Alone first: an error is to quote what was given.
    EnvFilter::try_new(filter)
        .and_then(|_| EnvFilter::try_new(format!("{QUIET},{filter}")))
        .map_err(|source| LogError::Filter { filter: filter.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filter_changes_only_to_one_that_parses() {
        // The only test that installs a global log.
        let handle = init(&Log { level: "off".into(), ..Log::default() }).unwrap();
        handle.set("weir=debug,h2=off").unwrap();
        let error = handle.set("weir=loud").unwrap_err().to_string();
        assert!(error.contains("invalid log filter \"weir=loud\""), "{error}");
        assert_eq!(handle.current(), "weir=debug,h2=off");
        handle.set("off").unwrap();
        assert!(matches!(init(&Log::default()), Err(LogError::Install(_))));
    }
}
