//! Where it was measured, and with which programs.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use serde::Serialize;
use weir_tests::process::run;
use weir_tests::weir::binary;

use super::tools;
use crate::bench::report::Machine as Hardware;

/// The part of a report that is no figure.
#[derive(Serialize)]
pub(super) struct Machine {
    pub(super) hardware: Hardware,
    pub(super) date: String,
    pub(super) revision: String,
    pub(super) command_line: String,
    pub(super) versions: BTreeMap<&'static str, String>,
}

// === impl Machine ===

impl Machine {
    /// # Errors
    ///
    /// Fails without /proc.
    pub(super) fn here(root: &Path, rounds: usize) -> Result<Self> {
        let mut versions = BTreeMap::new();
        let mut add = |name, version: Option<String>| {
            versions.insert(name, version.unwrap_or_else(|| "not there".into()));
        };
        add("weir", tools::version(binary()?, "--version"));
        add("haproxy", tools::version("haproxy", "-v"));
        add("nginx", tools::version("nginx", "-v"));
        add("envoy", tools::envoy().and_then(|binary| tools::version(binary, "--version")));
        add("iptables", tools::version("iptables", "--version"));
        add("wrk", tools::version("wrk", "--version"));
        add("h2load", tools::version("h2load", "--version"));
        add("iperf3", tools::version("iperf3", "--version"));
        let revision = told(root, "git", &["describe", "--always", "--dirty", "--abbrev=12"]);
        Ok(Self {
            hardware: Hardware::here(rounds)?,
            date: told(root, "date", &["--utc", "+%Y-%m-%d %H:%M UTC"]),
            revision,
            command_line: command_line(),
            versions,
        })
    }
}

// === helpers ===

/// What was typed, without the path of this program.
fn command_line() -> String {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    format!("cargo xtask {}", arguments.join(" "))
}

fn told(root: &Path, program: &str, arguments: &[&str]) -> String {
    let mut command = Command::new(program);
    let output = run(command.args(arguments).current_dir(root), Duration::from_secs(10));
    output.map(|it| it.stdout.trim().to_owned()).unwrap_or_default()
}
