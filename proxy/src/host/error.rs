//! What can go wrong with a look at the machine, each with its object and the next step.

use std::{io, path::PathBuf};

/// An error of the host layer.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// No cgroup2 mount.
    #[error(
        "no cgroup2 file system is mounted: run `mount -t cgroup2 none /sys/fs/cgroup/unified` (or boot with the unified hierarchy)"
    )]
    NoCgroup2,
    /// The mounts cannot be read.
    #[error(transparent)]
    Mounts(#[from] super::mounts::Unreadable),
    /// A cgroup operation failed.
    #[error("cannot {action} cgroup {path}: {source}{hint}")]
    Cgroup {
        /// What was tried.
        action: &'static str,
        /// The cgroup's directory.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
        /// The next step, with its separator; may be empty.
        hint: &'static str,
    },
    /// weir was asked to capture the pod that it is in, and that was not found.
    #[error("cannot find the pod that weir runs in: {0}")]
    NoPod(String),
}
