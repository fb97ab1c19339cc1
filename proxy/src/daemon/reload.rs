//! SIGHUP: reopens the record file and reads the configuration again. What can change
//! without a restart does; what cannot is named in the log.

use std::{error::Error, sync::Arc};

use super::{Daemon, setup};
use crate::{config::Config, workload::Origin};

/// Reads the effective configuration, flags included, as at the start.
type Read<'a> = Box<dyn Fn() -> Result<Config, Box<dyn Error + Send + Sync>> + 'a>;

/// The configuration as it is in force, and how it is read again.
pub(crate) struct Reload<'a> {
    in_force: Config,
    read: Read<'a>,
}

// === impl Reload ===

impl<'a> Reload<'a> {
    /// `read` gives the effective configuration, flags included, as at the start.
    pub(crate) fn new<E: Into<Box<dyn Error + Send + Sync>>>(
        in_force: Config,
        read: impl Fn() -> Result<Config, E> + 'a,
    ) -> Self {
        Self { in_force, read: Box::new(move || read().map_err(Into::into)) }
    }

    /// Reopens and reads again, and says what has come of it.
    pub(super) async fn run(&mut self, daemon: &Daemon) {
        daemon.reopen_records().await;
        let wanted = match (self.read)() {
            Ok(wanted) => wanted,
            Err(error) => {
                let error = format!("{error:#}");
                tracing::error!(error, "cannot reload the configuration; nothing is changed");
                return;
            }
        };
        let before = self.in_force.clone();
        self.apply_log(daemon, &wanted);
        self.apply_traffic(daemon, &wanted);
        self.apply_workload(daemon, &wanted).await;
        daemon.sources().reconfigure(&wanted.process);
        self.in_force.process.service.clone_from(&wanted.process.service);
        self.in_force.process.route.clone_from(&wanted.process.route);
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

    fn apply_log(&mut self, daemon: &Daemon, wanted: &Config) {
        if self.in_force.process.log.level == wanted.process.log.level {
            return;
        }
        match daemon.log().set(&setup::log_filter(&wanted.process)) {
            Ok(()) => self.in_force.process.log.level.clone_from(&wanted.process.log.level),
            Err(error) => tracing::error!(%error, "cannot change the log level"),
        }
    }

    fn apply_traffic(&mut self, daemon: &Daemon, wanted: &Config) {
        let next = self.in_force.traffic.with_changes_in_place(&wanted.traffic);
        if self.in_force.traffic != next {
            daemon.traffic().set(next.clone());
            self.in_force.traffic = next;
        }
    }

    /// Of the process's own workload; others have settings of their own.
    async fn apply_workload(&mut self, daemon: &Daemon, wanted: &Config) {
        let Some(workload) = daemon.workload(&self.in_force.own.workload.name) else { return };
        if workload.origin() != Origin::Config {
            return;
        }
        let next = workload.with_changes_of(&wanted.own);
        if *workload.settings() == next {
            return;
        }
        if let Err(error) = Arc::clone(&workload).change(next.clone()).await {
            tracing::error!(%error, workload = &**workload.name(), "cannot change the settings");
            return;
        }
        self.in_force.own = next;
    }
}
