//! Real servers from Debian's packages, one file each: the smallest configuration that works, data in
//! the lab's directory, listening in the server's namespace on ports that no list of weir names.

pub mod ftp;
pub mod grpc;
pub mod mariadb;
pub mod nats;
pub mod nghttpd;
pub mod nginx;
pub mod postgres;
pub mod redis;
pub mod smtp;
pub mod ssh;
pub mod websocket;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Writes a configuration file.
fn write(path: PathBuf, text: &str) -> Result<PathBuf> {
    std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

/// Gives a directory to another user.
fn give(path: &Path, user: &str) -> Result<()> {
    let entry = crate::netns::user_named(user)?;
    std::os::unix::fs::chown(path, Some(entry.uid.as_raw()), Some(entry.gid.as_raw()))
        .with_context(|| format!("cannot give {} to {user}", path.display()))
}
