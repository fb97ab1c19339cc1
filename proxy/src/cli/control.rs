//! The flag and the call that all verbs share that talk to a running weir.

use std::path::{Path, PathBuf};

use crate::{
    admin::{
        client::{Answers, ClientError, ask, follow},
        protocol::{Answer, Command},
    },
    config::DEFAULT_CONTROL_SOCKET,
};

use super::{Exit, with_exit};

/// Which weir is asked.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct ControlArgs {
    /// Control socket of the running weir [default: /run/weir/control.sock]
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
    pub(super) fn ask(&self, command: Command) -> anyhow::Result<Answer> {
        self.control.ask_about(self.workload.clone(), command)
    }

    /// Asks for something that goes on; the first answer, and those that follow.
    pub(super) fn follow(&self, command: Command) -> anyhow::Result<(Answer, Answers)> {
        self.control.reach(|path| follow(path, self.workload.clone(), command))
    }
}

// === impl ControlArgs ===

impl ControlArgs {
    /// Asks the running weir.
    pub(super) fn ask(&self, command: Command) -> anyhow::Result<Answer> {
        self.ask_about(None, command)
    }

    fn ask_about(&self, workload: Option<String>, command: Command) -> anyhow::Result<Answer> {
        self.reach(|path| ask(path, workload, command))
    }

    fn reach<T>(&self, speak: impl FnOnce(&Path) -> Result<T, ClientError>) -> anyhow::Result<T> {
        let path = self.control.as_deref().unwrap_or(Path::new(DEFAULT_CONTROL_SOCKET));
        speak(path).map_err(|error| match (&error, &self.control) {
            (ClientError::NotRunning { .. }, None) => with_exit(
                anyhow::anyhow!("{error}, or select another socket with --control"),
                Exit::NotRunning,
            ),
            _ => error.into(),
        })
    }
}

/// An answer to another question: the two sides disagree about the protocol.
pub(super) fn unexpected(answer: &Answer) -> anyhow::Error {
    anyhow::anyhow!(
        "unexpected response from the daemon ({answer:.60?}): client and daemon versions differ"
    )
}
