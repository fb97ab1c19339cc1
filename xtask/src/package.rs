//! `cargo xtask package`: a Debian package with a static weir, its systemd unit, manual pages, completions,
//! an example of a configuration and the licences of all that is in it. `--check` installs it.

mod check;
mod notices;
mod tree;

use std::env::consts::ARCH;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::image::{self, Parts};
use crate::setup::{Purpose, setup};

/// The name of the package.
const NAME: &str = "weir";
/// The largest static binary, in MiB.
const LARGEST: u64 = 40;
/// The same without `weir node`.
const LARGEST_WITHOUT_NODE: u64 = 15;

/// Flags of `cargo xtask package`.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  cargo xtask package\n  \
    cargo xtask package --check\n  cargo xtask package --binary target/debug/weir --check")]
pub(crate) struct Args {
    /// The package [default: target/package/weir_VERSION_ARCHITECTURE.deb]
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Package this binary, which need not be static, instead of building one
    #[arg(long, value_name = "PATH")]
    binary: Option<PathBuf>,
    /// Leave out `weir node`, which is more than half of the binary
    #[arg(long, conflicts_with = "binary")]
    without_node: bool,
    /// Check the package too: contents, unit, and docs/tour.sh in a fresh Debian root; needs root and
    /// a mirror of Debian
    #[arg(long)]
    check: bool,
}

/// What a package is made of.
struct Package<'a> {
    root: &'a Path,
    /// The binary, to be stripped.
    binary: &'a Path,
    /// Whether it needs no library.
    is_static: bool,
    /// As dpkg has it.
    architecture: &'static str,
    version: &'a str,
}

pub(crate) fn run(root: &Path, args: &Args) -> Result<()> {
    if args.check {
        setup(Purpose::Package)?;
    }
    let (parts, largest) = if args.without_node {
        (Parts::WithoutNode, LARGEST_WITHOUT_NODE)
    } else {
        (Parts::All, LARGEST)
    };
    let built;
    let binary = match &args.binary {
        Some(path) => path,
        None => {
            built = image::build(root, parts)?;
            &built
        }
    };
    let is_static = image::is_static(binary)?;
    ensure!(
        is_static || args.binary.is_some(),
        "{} is linked dynamically; `cargo xtask image` says more",
        binary.display()
    );
    let package = Package {
        root,
        binary,
        is_static,
        architecture: architecture()?,
        version: env!("CARGO_PKG_VERSION"),
    };
    let output = args.output.clone().unwrap_or_else(|| package.default_output());
    package.build(&output)?;
    println!("{}", output.display());
    if args.check {
        check::run(root, &output, is_static.then_some(largest))?;
    }
    Ok(())
}

// === impl Package ===

impl Package<'_> {
    fn default_output(&self) -> PathBuf {
        let file = format!("{NAME}_{}_{}.deb", self.version, self.architecture);
        weir_tests::weir::target_dir().join("package").join(file)
    }

    fn build(&self, output: &Path) -> Result<()> {
        let staging = tempfile::Builder::new().prefix("weir-package-").tempdir()?;
        let root = staging.path().join("root");
        tree::fill(self, &root)?;
        let parent = output.parent().filter(|parent| !parent.as_os_str().is_empty());
        parent.map_or(Ok(()), fs::create_dir_all)?;
        let mut build = Command::new("dpkg-deb");
        build.args(["--root-owner-group", "-Zxz", "--build"]).arg(&root).arg(output);
        // The same input gives the same bytes.
        build.env("SOURCE_DATE_EPOCH", "1");
        let done = build.output().context("cannot run dpkg-deb; install dpkg")?;
        ensure!(done.status.success(), "dpkg-deb: {}", String::from_utf8_lossy(&done.stderr));
        Ok(())
    }

    /// The control file (deb-control(5)). `size` is in KiB.
    fn control(&self, size: u64) -> String {
        let depends = if self.is_static { "" } else { "Depends: libc6, libgcc-s1\n" };
        format!(
            "Package: {NAME}\nVersion: {}\nArchitecture: {}\n\
             Maintainer: The weir authors <weir@localhost>\nSection: net\nPriority: optional\n\
             Installed-Size: {size}\n{depends}\
             Description: transparent, eBPF-assisted proxy\n \
             weir captures a workload's TCP connections in the kernel, detects the protocol of each\n \
             from its first bytes, forwards it unchanged, and reports metrics and records.\n",
            self.version, self.architecture
        )
    }
}

// === helpers ===

/// As dpkg calls the architecture of this machine.
fn architecture() -> Result<&'static str> {
    Ok(match ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => bail!("no package is made for {other}: weir is tried on x86_64 and aarch64 only"),
    })
}
