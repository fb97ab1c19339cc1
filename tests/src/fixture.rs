//! The Python programs in `tests/fixtures`: where they are and what runs them.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::netns::Netns;

/// Debian's own interpreter: the packages python3-grpcio and python3-websockets belong to it, not to
/// another `python3` in the path.
pub const PYTHON: &str = "/usr/bin/python3";

/// Path of a fixture.
#[must_use]
pub fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

/// A command that runs a fixture in a namespace.
#[must_use]
pub fn command(netns: &Netns, name: &str) -> Command {
    let mut command = netns.command(PYTHON);
    // -u: what it prints must be in the log at once, -B: no __pycache__ in the source tree.
    command.arg("-uB").arg(path(name));
    command
}
