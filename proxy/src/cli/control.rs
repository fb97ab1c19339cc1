//! The flag and the call that all verbs share that talk to a running weir.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::{
    admin::{
        client::{ClientError, ask, follow},
        protocol::{Call, Stream},
    },
    config::{CONTROL_VARIABLE, DEFAULT_CONTROL_SOCKET, SESSION_DIRECTORY},
};

use super::{Exit, with_exit};

/// Which weir is asked.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct ControlArgs {
    /// Control socket of the running weir [default: WEIR_CONTROL in the environment, else
    /// /run/weir/control.sock]
    #[arg(long, value_name = "PATH")]
    control: Option<PathBuf>,
}

/// Which workload of it.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct WorkloadArgs {
    /// Name of the workload; required if there are several
    #[arg(long, value_name = "NAME")]
    pub(super) workload: Option<String>,
    #[command(flatten)]
    control: ControlArgs,
}

// === impl WorkloadArgs ===

impl WorkloadArgs {
    /// Asks the running weir about the workload.
    pub(super) fn ask<C: Call>(&self, call: C) -> anyhow::Result<C::Reply> {
        self.control.reach(|path| ask(path, self.workload.as_deref(), &call))
    }

    /// Asks for something that goes on.
    pub(super) fn follow<C: Stream>(
        &self,
        call: C,
    ) -> anyhow::Result<impl Iterator<Item = Result<C::Item, ClientError>> + use<C>> {
        self.control.reach(|path| follow(path, self.workload.as_deref(), &call))
    }
}

// === impl ControlArgs ===

impl ControlArgs {
    /// Asks the running weir.
    pub(super) fn ask<C: Call>(&self, call: C) -> anyhow::Result<C::Reply> {
        self.reach(|path| ask(path, None, &call))
    }

    /// The socket of the weir that is meant.
    pub(super) fn path(&self) -> PathBuf {
        self.selected().0
    }

    /// The socket, and what to say where there is no weir behind it.
    fn selected(&self) -> (PathBuf, String) {
        let variable = std::env::var_os(CONTROL_VARIABLE).filter(|path| !path.is_empty());
        match (&self.control, variable) {
            (Some(path), _) => (path.clone(), String::new()),
            (None, Some(path)) => (
                path.into(),
                format!("; the path comes from {CONTROL_VARIABLE}, which --control overrides"),
            ),
            (None, None) => (DEFAULT_CONTROL_SOCKET.into(), other_sockets()),
        }
    }

    fn reach<T>(&self, speak: impl FnOnce(&Path) -> Result<T, ClientError>) -> anyhow::Result<T> {
        let (path, hint) = self.selected();
        speak(&path).map_err(|error| match error {
            ClientError::NotRunning { .. } => {
                with_exit(anyhow::anyhow!("{error}{hint}"), Exit::NotRunning)
            }
            error => error.into(),
        })
    }
}

// === helpers ===

/// What to do where no weir is at the usual place: `weir exec` has its sockets elsewhere.
fn other_sockets() -> String {
    let entries = fs::read_dir(SESSION_DIRECTORY).into_iter().flatten().filter_map(Result::ok);
    let mut sessions: Vec<_> = entries.map(|entry| entry.path().display().to_string()).collect();
    sessions.sort();
    if sessions.is_empty() {
        return ", or select another socket with --control".to_owned();
    }
    format!(", or select a session of `weir exec` with --control {}", sessions.join(", "))
}
