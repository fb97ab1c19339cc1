//! `cargo xtask setup`: installs the packages that the demo or the tests need, and Helm for the tests.
//! Services that they bring are not started.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::deploy::helm;
use crate::packages::{BENCH, DEMO, PACKAGE, TESTS, VM};

/// Debian asks this program whether a package may start its service (invoke-rc.d(8)).
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// Flags of `cargo xtask setup`.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  cargo xtask setup --demo")]
pub(crate) struct Args {
    /// Only what the demo needs
    #[arg(long)]
    demo: bool,
}

/// Which packages.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// `cargo xtask demo`.
    Demo,
    /// `cargo xtask test`.
    Tests,
    /// `cargo xtask bench proxies`.
    Bench,
    /// `cargo xtask vm`.
    Vm,
    /// `cargo xtask package --check`.
    Package,
}

/// Forbids services to start, as long as it lives; leaves a policy alone that was there.
struct Quiet {
    made: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    setup(if args.demo { Purpose::Demo } else { Purpose::Tests })
}

/// Installs what is missing.
///
/// # Errors
///
/// Fails when something is missing and cannot be installed here, and says what.
pub(crate) fn setup(purpose: Purpose) -> Result<()> {
    packages(purpose)?;
    if purpose == Purpose::Tests
        && let Err(error) = helm::install()
    {
        // The others can be run; those of the chart will say so too.
        eprintln!("Helm cannot be had, and the tests of the chart will fail: {error:#}");
    }
    Ok(())
}

// === impl Quiet ===

impl Quiet {
    fn new() -> Result<Self> {
        let made = !Path::new(POLICY).exists();
        if made {
            fs::write(
                POLICY,
                "#!/bin/sh\n# Made by weir's cargo xtask setup; may be deleted.\nexit 101\n",
            )
            .and_then(|()| fs::set_permissions(POLICY, fs::Permissions::from_mode(0o755)))
            .with_context(|| format!("cannot create {POLICY}"))?;
        }
        Ok(Self { made })
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        if self.made {
            let _gone_already = fs::remove_file(POLICY);
        }
    }
}

// === helpers ===

fn packages(purpose: Purpose) -> Result<()> {
    let missing = missing(purpose);
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    let by_hand = format!("apt-get install --no-install-recommends {list}");
    ensure!(
        has("apt-get"),
        "these Debian packages are missing: {list}\nthis is not Debian; install what they are called here"
    );
    ensure!(
        nix::unistd::geteuid().is_root(),
        "these Debian packages are missing: {list}\nrun as root, or install them: sudo {by_hand}"
    );
    eprintln!("installing: {list}");
    let _quiet = Quiet::new()?;
    apt(&["update", "-q"])?;
    let mut install = vec!["install", "-y", "-q", "--no-install-recommends"];
    install.extend(&missing);
    apt(&install)
}

/// Runs apt-get without questions.
fn apt(arguments: &[&str]) -> Result<()> {
    let status = Command::new("apt-get")
        .args(["-o", "DPkg::Lock::Timeout=300"])
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .status()
        .context("cannot run apt-get")?;
    if !status.success() {
        bail!("apt-get {} ended with {status}; its message is above", arguments.join(" "));
    }
    Ok(())
}

fn missing(purpose: Purpose) -> Vec<&'static str> {
    let lists: &[&[&'static str]] = match purpose {
        Purpose::Demo => &[DEMO],
        Purpose::Tests => &[DEMO, TESTS],
        Purpose::Bench => &[BENCH],
        Purpose::Vm => &[DEMO, TESTS, VM],
        Purpose::Package => &[PACKAGE],
    };
    lists.concat().into_iter().filter(|package| !installed(package)).collect()
}

fn installed(package: &str) -> bool {
    let query =
        Command::new("dpkg-query").args(["-W", "-f", "${db:Status-Status}", package]).output();
    query.is_ok_and(|output| output.stdout == b"installed")
}

fn has(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).exists())
}
