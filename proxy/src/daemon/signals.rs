//! The signals that a daemon acts upon.

use std::{fs::File, io};

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::DaemonError;

/// SIGTERM and SIGINT end a daemon; SIGHUP has it reload, or ends it with its terminal.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    terminal: Terminal,
}

/// What a SIGHUP means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hangup {
    /// It was sent.
    Reload,
    /// The terminal that weir was started in is gone.
    TerminalGone,
}

/// Tells the one from the other. The kernel takes the terminal from every process of a session that
/// it hangs up (`__tty_hangup` in drivers/tty/tty_io.c).
struct Terminal {
    ends_with_it: bool,
}

// === impl Signals ===

impl Signals {
    /// From here on they do not kill the process.
    ///
    /// # Errors
    /// Where the kernel refuses a handler.
    pub(crate) fn new() -> Result<Self, DaemonError> {
        let terminal = Terminal::at_start();
        let handle = |kind, name| {
            signal(kind).map_err(|source: io::Error| DaemonError::Signal { name, source })
        };
        Ok(Self {
            terminal,
            hangup: handle(SignalKind::hangup(), "SIGHUP")?,
            terminate: handle(SignalKind::terminate(), "SIGTERM")?,
            interrupt: handle(SignalKind::interrupt(), "SIGINT")?,
        })
    }

    /// Waits for one that ends a daemon.
    pub(super) async fn end(&mut self) {
        let Self { terminate, interrupt, .. } = self;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    }

    /// `None` for a signal that ends a daemon.
    pub(super) async fn next(&mut self) -> Option<Hangup> {
        let Self { terminate, interrupt, hangup, terminal } = self;
        tokio::select! {
            _ = terminate.recv() => None,
            _ = interrupt.recv() => None,
            _ = hangup.recv() => Some(terminal.hangup()),
        }
    }
}

// === impl Terminal ===

impl Terminal {
    /// To be asked before SIGHUP is handled: nohup(1) has it ignored.
    fn at_start() -> Self {
        Self { ends_with_it: Self::is_there() && !is_ignored() }
    }

    /// What a SIGHUP that has just come means.
    fn hangup(&self) -> Hangup {
        if self.ends_with_it && !Self::is_there() { Hangup::TerminalGone } else { Hangup::Reload }
    }

    /// Whether the process has a controlling terminal (tty(4)).
    fn is_there() -> bool {
        File::open("/dev/tty").is_ok()
    }
}

// === helpers ===

/// Whether the process was started with SIGHUP ignored (proc_pid_status(5)).
fn is_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask & 1 << (libc::SIGHUP - 1) != 0)
}
