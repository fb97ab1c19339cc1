//! Exit codes, and how an error becomes one.

use std::{error::Error as StdError, fmt, io, process::ExitCode};

use weir_manifest::ManifestError;

use crate::{
    admin::{client::ClientError, control::ControlSocketError, protocol::ErrorCode},
    capture::CaptureError,
    config::ConfigError,
    daemon::DaemonError,
    host::{AccountError, HostError, LocateError, NetnsError},
    ports::{CidrError, PortListError},
    workloads::WorkloadError,
};

/// How a verb ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// As asked.
    Success,
    /// Tried and failed.
    Failure,
    /// Not tried: the input was wrong.
    Usage,
    /// Not tried: the machine or the user lacks something.
    Requirement,
    /// There is no weir to ask.
    NotRunning,
    /// The command of `weir exec` has succeeded, and a condition of `--fail-if` holds.
    Condition,
    /// The code of the command that `weir exec` ran.
    Command(u8),
}

/// An error that knows its exit code.
#[derive(Debug)]
struct WithExit {
    error: anyhow::Error,
    exit: Exit,
}

/// Gives an error the exit code that it ends weir with.
pub fn with_exit(error: impl Into<anyhow::Error>, exit: Exit) -> anyhow::Error {
    anyhow::Error::new(WithExit { error: error.into(), exit })
}

// === impl Exit ===

impl Exit {
    /// The number.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::Failure => 1,
            Self::Usage => 2,
            Self::Requirement => 3,
            Self::NotRunning => 4,
            // As k6 (Grafana) has it for thresholds that were crossed.
            Self::Condition => 99,
            Self::Command(code) => code,
        }
    }

    /// The code for an error, from the first cause that has one.
    fn of(error: &anyhow::Error) -> Self {
        error.chain().find_map(Self::of_cause).unwrap_or(Self::Failure)
    }

    fn of_cause(cause: &(dyn StdError + 'static)) -> Option<Self> {
        if let Some(with) = cause.downcast_ref::<WithExit>() {
            return Some(with.exit);
        }
        if let Some(error) = cause.downcast_ref::<ClientError>() {
            return Some(match error {
                ClientError::NotRunning { .. } => Self::NotRunning,
                ClientError::Denied(_) => Self::Requirement,
                ClientError::Refused(refusal) => match refusal.code {
                    ErrorCode::BadRequest => Self::Usage,
                    ErrorCode::Denied => Self::Requirement,
                    _ => Self::Failure,
                },
                _ => Self::Failure,
            });
        }
        match cause.downcast_ref() {
            Some(ControlSocketError::Io { source, .. }) => {
                let denied = source.kind() == io::ErrorKind::PermissionDenied;
                return denied.then_some(Self::Requirement);
            }
            Some(ControlSocketError::NoDirectory { .. }) => return Some(Self::Usage),
            _ => {}
        }
        match cause.downcast_ref() {
            Some(NetnsError::NotFound { .. }) => return Some(Self::Usage),
            Some(NetnsError::Refused { .. }) => return Some(Self::Requirement),
            None => {}
        }
        // A transparent error is not among its own causes, and neither is what it stands for.
        if let Some(error) = cause.downcast_ref::<DaemonError>().and_then(DaemonError::transparent)
        {
            return Self::of_cause(error);
        }
        match cause.downcast_ref::<WorkloadError>() {
            Some(WorkloadError::Capture(error)) => return Self::of_cause(error),
            Some(WorkloadError::Config(error)) => return Self::of_cause(error),
            _ => {}
        }
        if let Some(error) = cause.downcast_ref::<CaptureError>() {
            return Some(match error {
                CaptureError::OwnCgroup(_) | CaptureError::NoNetns { .. } => Self::Usage,
                CaptureError::Host(error) => Self::of_host(error),
                _ => Self::Requirement,
            });
        }
        if let Some(LocateError::Host(error)) = cause.downcast_ref() {
            return Some(Self::of_host(error));
        }
        if let Some(error) = cause.downcast_ref::<HostError>() {
            return Some(Self::of_host(error));
        }
        if let Some(error) = cause.downcast_ref::<ManifestError>() {
            return Some(match error {
                ManifestError::Input { .. } => Self::Usage,
                ManifestError::Internal(_) => Self::Failure,
            });
        }
        let usage = cause.is::<ConfigError>()
            || cause.is::<PortListError>()
            || cause.is::<CidrError>()
            || cause.is::<AccountError>()
            || cause.is::<LocateError>();
        usage.then_some(Self::Usage)
    }

    fn of_host(error: &HostError) -> Self {
        match error {
            HostError::Cgroup { source, .. }
                if matches!(
                    source.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::InvalidInput
                ) =>
            {
                Self::Usage
            }
            _ => Self::Requirement,
        }
    }
}

// === impl WithExit ===

impl fmt::Display for WithExit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl StdError for WithExit {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.error.source()
    }
}

/// Reports an error and gives the process its code.
pub(super) fn settle(outcome: anyhow::Result<Exit>) -> ExitCode {
    let exit = match outcome {
        Ok(exit) => exit,
        Err(error) if is_broken_pipe(&error) => Exit::Success,
        Err(error) => {
            // If stderr is gone too there is nowhere left to tell.
            let _ = io::Write::write_all(
                &mut io::stderr(),
                format!("weir: {}\n", describe(&error)).as_bytes(),
            );
            Exit::of(&error)
        }
    };
    ExitCode::from(exit.code())
}

/// The error and those of its causes that it does not already quote.
fn describe(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

/// Writing to our own stdout; a peer's broken pipe has another error around it.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_refuses_a_workload_is_a_requirement() {
        let error = WorkloadError::from(CaptureError::TooOld { release: "5.10.0".into() });
        let error = anyhow::Error::new(error).context("cannot start");
        assert_eq!(Exit::of(&error), Exit::Requirement);
        let own = WorkloadError::from(CaptureError::OwnCgroup("/sys/fs/cgroup/a".into()));
        assert_eq!(Exit::of(&own.into()), Exit::Usage);
        assert_eq!(Exit::of(&WorkloadError::None.into()), Exit::Failure);
    }
}
