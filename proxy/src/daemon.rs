//! A weir that captures: how it starts, replaces another one, reloads, drains and ends, and what its
//! control socket answers.

mod audit;
mod control;
mod endpoints;
mod explain;
mod handover;
mod lifecycle;
mod reload;
mod setup;
mod signals;
mod supervisor;

use std::{io, path::PathBuf};

pub(crate) use lifecycle::{Daemon, SessionOptions};
pub(crate) use reload::Reload;
pub(crate) use setup::{raise_file_limit, reduce_privileges, runtime, start_log};
pub(crate) use signals::Signals;

use crate::{
    admin::{client::ClientError, control::ControlSocketError, http::AdminError},
    capture::CaptureError,
    log::LogError,
    privileges::PrivilegeError,
    workloads::WorkloadError,
};

/// Why a daemon does not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DaemonError {
    /// A workload, or the instance.
    #[error(transparent)]
    Workload(#[from] WorkloadError),
    /// The kernel side.
    #[error(transparent)]
    Capture(#[from] CaptureError),
    /// The control socket.
    #[error(transparent)]
    Control(#[from] ControlSocketError),
    /// The admin address.
    #[error(transparent)]
    Admin(#[from] AdminError),
    /// weir's own log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The privileges.
    #[error(transparent)]
    Privileges(#[from] PrivilegeError),
    /// The old process refuses, or is not understood.
    #[error("handover failed; the running weir continues")]
    Handover(#[source] ClientError),
    /// The file of access records.
    #[error("cannot open record file {}; use a path in an existing directory", path.display())]
    Records {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A signal.
    #[error("cannot handle {name}")]
    Signal {
        /// Its name.
        name: &'static str,
        /// The cause.
        source: io::Error,
    },
    /// The runtime.
    #[error("cannot start the runtime")]
    Runtime(#[source] io::Error),
}

// === impl DaemonError ===

impl DaemonError {
    /// The error that it passes on as its own.
    pub(crate) fn transparent(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Workload(error) => Some(error),
            Self::Capture(error) => Some(error),
            Self::Control(error) => Some(error),
            Self::Admin(error) => Some(error),
            Self::Log(error) => Some(error),
            Self::Privileges(error) => Some(error),
            _ => None,
        }
    }

    /// Whether another weir captures the cgroup, or one above or below it.
    pub(crate) fn is_overlap(&self) -> bool {
        matches!(self, Self::Workload(error) if error.is_overlap())
    }
}
