//! `cargo xtask bench`: what weir costs. Each subcommand runs in a cgroup of its own with nothing but
//! network namespaces of its own, and leaves nothing behind.

mod control;
mod ground;
mod lives;
mod peer;
mod report;
mod usage;
mod workloads;

use std::path::Path;

use anyhow::{Result, ensure};
use weir_tests::weir::binary;

use crate::{scope, test};

/// Flags of `cargo xtask bench`.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// What a workload costs, and whether each costs more where there are many; needs root
    Workloads(workloads::Args),
    /// The other end of a measurement; started by the others
    #[command(hide = true)]
    Peer(peer::Args),
}

pub(crate) fn run(root: &Path, args: &Args) -> Result<()> {
    match &args.what {
        What::Peer(args) => peer::run(args),
        What::Workloads(args) if scope::is_inner() => {
            scope::accept_interrupts()?;
            workloads::run(args, &instance(nix::unistd::getppid().as_raw().cast_unsigned()))
        }
        What::Workloads(_) => enclosed(root),
    }
}

/// Builds weir and runs the same again inside; then looks that nothing is left.
fn enclosed(root: &Path) -> Result<()> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "the benchmark makes network namespaces and cgroups and loads BPF programs: run as root \
         (sudo -E env PATH=\"$PATH\" cargo xtask bench workloads)"
    );
    test::cargo(root, &["build", "--release", "--package", "weir"], &[])?;
    let ended = scope::enclose("bench")?;
    let instance = instance(std::process::id());
    if ended.leftovers.iter().any(|leftover| leftover.contains(&instance)) {
        let _reported_below = std::process::Command::new(binary()?)
            .args(["detach", "--instance", &instance])
            .status();
    }
    for leftover in &ended.leftovers {
        eprintln!("left behind: {leftover}");
    }
    if !ended.status.success() {
        std::process::exit(ended.code());
    }
    ensure!(ended.leftovers.is_empty(), "measured, but something was left behind: see above");
    Ok(())
}

/// The name of weir's pins: the same for the outer and the inner process.
fn instance(outer: u32) -> String {
    format!("bench-{outer}")
}
