//! `cargo xtask bench`: what weir costs. Each subcommand runs in a cgroup of its own with nothing but
//! network namespaces of its own, and leaves nothing behind.

mod connections;
mod control;
mod ground;
mod lives;
mod peer;
mod proxies;
mod report;
mod services;
mod usage;
mod workloads;

use std::path::Path;

use anyhow::{Result, ensure};
use weir_tests::weir::binary;

use crate::{scope, test};

/// Flags of `cargo xtask bench`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Without: proxies
    #[command(subcommand)]
    what: Option<What>,
}

#[derive(clap::Subcommand)]
enum What {
    /// Compare weir with other proxies; needs root
    Proxies(proxies::Args),
    /// Cost of a workload, and how it scales with their number; needs root
    Workloads(workloads::Args),
    /// What services cost; needs root
    Services(services::Args),
    /// System calls, waits and BPF programs of a captured connection; needs root and strace
    Connections(connections::Args),
    /// The other end of a measurement; started by the others
    #[command(hide = true)]
    Peer(peer::Args),
    /// An origin or a client; started by the others
    #[command(hide = true)]
    Load(proxies::client::Args),
}

pub(crate) fn run(root: &Path, args: &Args) -> Result<()> {
    let proxies = proxies::Args::default();
    match &args.what {
        Some(What::Peer(args)) => peer::run(args),
        Some(What::Load(args)) => proxies::client::run(args),
        Some(What::Workloads(args)) => workloads(root, args),
        Some(What::Services(args)) => services(root, args),
        Some(What::Connections(args)) => connections(root, args),
        Some(What::Proxies(args)) => beside_proxies(root, args),
        None => beside_proxies(root, &proxies),
    }
}

fn workloads(root: &Path, args: &workloads::Args) -> Result<()> {
    if scope::is_inner() {
        scope::accept_interrupts()?;
        return workloads::run(args, &instance(outer()));
    }
    check_root()?;
    test::cargo(root, &["build", "--release", "--package", "weir"], &[])?;
    enclosed()
}

fn services(root: &Path, args: &services::Args) -> Result<()> {
    if scope::is_inner() {
        scope::accept_interrupts()?;
        return services::run(args, &instance(outer()));
    }
    check_root()?;
    test::cargo(root, &["build", "--release", "--package", "weir"], &[])?;
    enclosed()
}

fn connections(root: &Path, args: &connections::Args) -> Result<()> {
    if scope::is_inner() {
        scope::accept_interrupts()?;
        return connections::run(args, &instance(outer()));
    }
    check_root()?;
    if std::env::var_os("WEIR_BIN").is_none() {
        test::cargo(root, &["build", "--release", "--package", "weir"], &[])?;
    }
    enclosed()
}

fn beside_proxies(root: &Path, args: &proxies::Args) -> Result<()> {
    if scope::is_inner() {
        scope::accept_interrupts()?;
        return proxies::run(root, args, &instance(outer()));
    }
    check_root()?;
    // xtask itself is also the load: the profile of `cargo xtask` is not one to measure with. One by
    // one, because together weir would get the features of xtask's dependencies.
    for package in ["weir", "xtask"] {
        test::cargo(root, &["build", "--release", "--package", package], &[])?;
    }
    proxies::prepare()?;
    enclosed()
}

fn check_root() -> Result<()> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "the benchmark makes network namespaces and cgroups and loads BPF programs: run as root \
         (sudo -E env PATH=\"$PATH\" cargo xtask bench)"
    );
    Ok(())
}

/// Runs the same again inside; then looks that nothing is left.
fn enclosed() -> Result<()> {
    let mut ended = scope::enclose("bench")?;
    let instance = instance(std::process::id());
    // Not in the list of what is left: the name has the id of this process, and it lives.
    if Path::new("/sys/fs/bpf/weir").join(&instance).exists() {
        ended.leftovers.push(format!("pins of {instance}"));
        let _reported_below = std::process::Command::new(binary()?)
            .args(["detach", "--instance", &instance])
            .status();
    }
    ended.settle()
}

/// The process that waits for this one.
fn outer() -> u32 {
    nix::unistd::getppid().as_raw().cast_unsigned()
}

/// The name of weir's pins: the same for the outer and the inner process.
fn instance(outer: u32) -> String {
    format!("bench-{outer}")
}
