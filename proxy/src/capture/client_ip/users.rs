//! Who needs the set-up of a namespace for `--preserve-client-ip`. Workloads that share the namespace,
//! one that was removed and still has connections, and a predecessor that finishes its own may all
//! need it, in more than one process: a process that ends removes it only if it is the last.
//!
//! The count is flock(2) on the namespace's own file: one shared lock for each, given back by the
//! kernel when the process dies.

use std::{
    fs::{File, TryLockError},
    io,
    os::fd::AsRawFd,
};

use super::{super::Netns, ClientIp, Installed, failed};
use crate::capture::CaptureError;

/// A user of the set-up; dropping it does not take the set-up away.
#[derive(Debug)]
pub struct ClientIpUser {
    _shared: File,
}

// === impl ClientIpUser ===

impl ClientIpUser {
    /// Counts one more. Waits for as long as another process takes to take the set-up away.
    ///
    /// # Errors
    /// What open(2) or flock(2) say.
    pub async fn of(netns: &Netns) -> Result<Self, CaptureError> {
        let file = open(netns).map_err(failed("open"))?;
        let locked = tokio::task::spawn_blocking(move || file.lock_shared().map(|()| file)).await;
        let locked = locked.unwrap_or_else(|error| Err(io::Error::other(error)));
        Ok(Self { _shared: locked.map_err(failed("lock"))? })
    }
}

// === impl ClientIp ===

impl ClientIp {
    /// As [`ClientIp::remove`], unless it is in use.
    ///
    /// # Errors
    /// As [`ClientIp::install`], and what flock(2) says.
    pub async fn remove_unless_used(
        netns: &Netns,
        installed: &Installed,
    ) -> Result<(), CaptureError> {
        let file = open(netns).map_err(failed("open"))?;
        match file.try_lock() {
            // Held until it is done: an installation meanwhile waits.
            Ok(()) => Self::remove(netns, installed).await,
            Err(TryLockError::WouldBlock) => Ok(()),
            Err(TryLockError::Error(error)) => Err(failed("lock")(error)),
        }
    }
}

/// Another open file of the namespace: locks belong to the open file, and others share `netns`'s.
fn open(netns: &Netns) -> io::Result<File> {
    File::open(format!("/proc/self/fd/{}", netns.as_fd().as_raw_fd()))
}
