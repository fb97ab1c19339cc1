//! weir's own log: tracing to stderr, with a filter that can be changed while it runs. What the
//! BPF programs say arrives through the `log` facade and is filtered alike.

use std::{
    io::{self, IsTerminal as _},
    sync::{Arc, Mutex},
};

use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    fmt::{self, writer::BoxMakeWriter},
    layer::SubscriberExt,
    reload,
    util::SubscriberInitExt,
};

use crate::config::{Log, LogFormat, log_filter};
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

/// Where log lines go.
#[derive(Clone, Debug)]
pub(crate) enum LogTarget {
    /// As they come.
    Stderr,
    /// Kept until they are asked for.
    Buffer(LogBuffer),
}

/// The first lines of a log, for a summary.
#[derive(Clone, Debug, Default)]
pub(crate) struct LogBuffer(Arc<Mutex<Kept>>);

#[derive(Debug, Default)]
struct Kept {
    text: Vec<u8>,
    /// Lines that there was no room for.
    more: u64,
}

/// Why the log was not set up, or its filter not changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LogError {
    /// The filter does not parse.
    #[error("{0}")]
    Filter(String),
    /// There is a log already, or none any more.
    #[error("cannot set up the log: {0}")]
    Install(String),
}

/// Installs the log for the whole process; once.
///
/// # Errors
/// See [`LogError`].
pub(crate) fn init(config: &Log, target: LogTarget) -> Result<LogHandle, LogError> {
    let (filter, handle) = reload::Layer::new(parse(&config.level)?);
    let (writer, ansi) = match target {
        LogTarget::Stderr => (BoxMakeWriter::new(io::stderr), io::stderr().is_terminal()),
        LogTarget::Buffer(buffer) => (BoxMakeWriter::new(move || buffer.clone()), false),
    };
    let lines = match config.format {
        LogFormat::Text => fmt::layer().with_ansi(ansi).with_writer(writer).boxed(),
        LogFormat::Json => fmt::layer().json().flatten_event(true).with_writer(writer).boxed(),
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

    /// Whether a filter would be taken.
    ///
    /// # Errors
    /// See [`LogError`].
    pub(crate) fn check(filter: &str) -> Result<(), LogError> {
        parse(filter).map(drop)
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

// === impl LogBuffer ===

impl LogBuffer {
    /// Bytes that are kept.
    const ROOM: usize = 64 * 1024;

    /// The lines so far, which are kept no more.
    pub(crate) fn take(&self) -> Vec<String> {
        let Kept { text, more } = std::mem::take(&mut *lock(&self.0));
        let mut lines: Vec<_> = String::from_utf8_lossy(&text).lines().map(str::to_owned).collect();
        if more > 0 {
            lines.push(format!("{more} more lines of weir's log"));
        }
        lines
    }
}

impl io::Write for LogBuffer {
    /// Is given one line at a time.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut kept = lock(&self.0);
        if kept.more == 0 && kept.text.len() + line.len() <= Self::ROOM {
            kept.text.extend_from_slice(line);
        } else {
            kept.more += 1;
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn parse(filter: &str) -> Result<EnvFilter, LogError> {
    // Alone first: an error is to quote what was given.
    log_filter(filter).map_err(LogError::Filter)?;
    log_filter(&format!("{QUIET},{filter}")).map_err(LogError::Filter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filter_changes_only_to_one_that_parses() {
        // The only test that installs a global log.
        let off = Log { level: "off".into(), ..Log::default() };
        let handle = init(&off, LogTarget::Stderr).unwrap();
        handle.set("weir=debug,h2=off").unwrap();
        let error = handle.set("weir=loud").unwrap_err().to_string();
        assert!(error.contains("invalid log filter \"weir=loud\""), "{error}");
        // Guards against a word that is taken for a module, and silences all others.
        for (filter, word) in [("lowd", "lowd"), ("info,weir", "weir"), ("6", "6")] {
            let error = handle.set(filter).unwrap_err().to_string();
            assert!(error.contains(&format!("{word:?} is not a level")), "{error}");
        }
        for filter in ["INFO", "3", "info,h2=off", "weir[connection]=debug"] {
            LogHandle::check(filter).unwrap();
        }
        assert_eq!(handle.current(), "weir=debug,h2=off");
        handle.set("off").unwrap();
        let again = init(&Log::default(), LogTarget::Stderr);
        assert!(matches!(again, Err(LogError::Install(_))));
    }

    #[test]
    fn a_log_that_is_kept_is_bounded() {
        let mut buffer = LogBuffer::default();
        let line = [b"x".repeat(1023), b"\n".to_vec()].concat();
        for _ in 0..100 {
            io::Write::write_all(&mut buffer, &line).unwrap();
        }
        let lines = buffer.take();
        assert_eq!(lines.len(), 65);
        assert_eq!(lines[64], "36 more lines of weir's log");
        assert!(buffer.take().is_empty());
    }
}
