//! SIGHUP to a daemon: reopens the record file and reads the configuration again. What can change
//! without a restart does; what cannot is named in the log.

use std::{fs::File, sync::Arc};

use anyhow::Result;

use super::session::{self, Session};
use crate::{config::Config, workload::Origin};

/// The configuration as it is in force, and how it is read again.
pub(super) struct Reload<'a> {
    in_force: Config,
    read: Box<dyn Fn() -> Result<Config> + 'a>,
}

/// What a SIGHUP means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hangup {
    /// Somebody has sent it.
    Reload,
    /// The terminal that weir was started in is gone.
    TerminalGone,
}

/// Tells the one from the other. The kernel takes the terminal from every process of a session that
/// it hangs up (`__tty_hangup` in drivers/tty/tty_io.c).
pub(super) struct Terminal {
    ends_with_it: bool,
}

// === impl Terminal ===

impl Terminal {
    /// To be asked before SIGHUP is handled: nohup(1) has it ignored.
    pub(super) fn at_start() -> Self {
        Self { ends_with_it: Self::is_there() && !is_ignored() }
    }

    /// What a SIGHUP that has just come means.
    pub(super) fn hangup(&self) -> Hangup {
        if self.ends_with_it && !Self::is_there() { Hangup::TerminalGone } else { Hangup::Reload }
    }

    /// Whether the process has a controlling terminal (tty(4)).
    fn is_there() -> bool {
        File::open("/dev/tty").is_ok()
    }
}

// === impl Reload ===

impl<'a> Reload<'a> {
    /// `read` gives the effective configuration, flags included, as at the start.
    pub(super) fn new(in_force: Config, read: impl Fn() -> Result<Config> + 'a) -> Self {
        Self { in_force, read: Box::new(read) }
    }

    /// Reopens and reads again, and says what has come of it.
    pub(super) async fn run(&mut self, session: &Session) {
        session.reopen_records().await;
        let wanted = match (self.read)() {
            Ok(wanted) => wanted,
            Err(error) => {
                let error = format!("{error:#}");
                tracing::error!(error, "cannot reload the configuration; nothing is changed");
                return;
            }
        };
        let before = self.in_force.clone();
        self.apply_log(session, &wanted);
        self.apply_workload(session, &wanted).await;
        let changed = before.differences(&self.in_force);
        let pending = self.in_force.differences(&wanted);
        if !pending.is_empty() {
            tracing::warn!(
                settings = pending.join(", "),
                "some settings take effect only after a restart, or with --upgrade"
            );
        }
        tracing::info!(changed = changed.join(", "), "configuration reloaded");
    }

    fn apply_log(&mut self, session: &Session, wanted: &Config) {
        if self.in_force.log.level == wanted.log.level {
            return;
        }
        match session.log().set(&session::log_filter(wanted)) {
            Ok(()) => self.in_force.log.level.clone_from(&wanted.log.level),
            Err(error) => tracing::error!(%error, "cannot change the log level"),
        }
    }

    /// Of the process's own workload; others have settings of their own.
    async fn apply_workload(&mut self, session: &Session, wanted: &Config) {
        let Some(workload) = session.workload(&self.in_force.workload.name) else { return };
        if workload.origin() != Origin::Config {
            return;
        }
        let next = workload.with_changes_of(&wanted.settings());
        if *workload.settings() == next {
            return;
        }
        if let Err(error) = Arc::clone(&workload).change(next.clone()).await {
            tracing::error!(%error, workload = &**workload.name(), "cannot change the settings");
            return;
        }
        self.in_force.workload = next.workload;
        self.in_force.outbound = next.outbound;
        self.in_force.inbound = next.inbound;
    }
}

// === helpers ===

/// Whether whoever started weir has it ignore SIGHUP (proc_pid_status(5)).
fn is_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask & 1 << (libc::SIGHUP - 1) != 0)
}
