//! The flag and the call that all verbs share that talk to a running weir.

use std::path::{Path, PathBuf};

use crate::{
    admin::{
        client::{ClientError, ask, follow},
        protocol::{Call, Stream},
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
