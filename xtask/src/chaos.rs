//! `cargo xtask chaos` and `cargo xtask soak`: long runs of what the tests run shortly, with what
//! they found out as a table.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use weir_tests::{chaos, soak};

use crate::setup::{Purpose, setup};
use crate::{scope, test};

/// Flags of `cargo xtask chaos`.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  cargo xtask chaos --seconds 600 --seed 7\n  cargo xtask chaos --kill-points 500"
)]
pub(crate) struct Args {
    /// Duration of the fault injection; the final checks take a minute or two more
    #[arg(long, value_name = "N", default_value_t = 60)]
    seconds: u64,

    /// Kill weir at this many random instants instead, and check that nothing is broken
    #[arg(long, value_name = "N", conflicts_with_all = ["seconds", "keep"])]
    kill_points: Option<usize>,

    /// Seed of the schedule [default: random]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,

    /// Copy logs and records to this directory if something was lost
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
}

/// Flags of `cargo xtask soak`.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  cargo xtask soak --connections 200000")]
pub(crate) struct SoakArgs {
    /// How many connections
    #[arg(long, value_name = "N", default_value_t = 200_000)]
    connections: usize,

    /// Additional flag for weir, such as --weir-flag=--http-engine=terminate; may be given again
    #[arg(long = "weir-flag", value_name = "FLAG", allow_hyphen_values = true)]
    weir_flags: Vec<String>,
}

pub(crate) fn run(root: &Path, args: &Args) -> Result<()> {
    if !scope::is_inner() {
        return enclosed(root, "chaos");
    }
    scope::accept_interrupts()?;
    let seed = args.seed.unwrap_or_else(chaos::seed);
    println!("seed {seed}");
    if let Some(points) = args.kill_points {
        let report = chaos::kill::run(seed, points)?;
        println!("{report}");
        ensure!(report.faults.is_empty(), "a kill has broken something; seed {seed}");
        return Ok(());
    }
    let settings = chaos::Settings {
        seed,
        time: Duration::from_secs(args.seconds),
        load: load()?,
        keep: args.keep.clone(),
    };
    let report = chaos::run(&settings)?;
    println!("{report}");
    ensure!(report.is_well(), "something was lost that may not be; seed {seed}");
    Ok(())
}

pub(crate) fn soak(root: &Path, args: &SoakArgs) -> Result<()> {
    if !scope::is_inner() {
        return enclosed(root, "soak");
    }
    scope::accept_interrupts()?;
    let (connections, flags) = (args.connections, args.weir_flags.clone());
    let report = soak::run(&soak::Settings { connections, load: load()?, flags })?;
    println!("{report}");
    ensure!(report.is_flat(), "what weir holds has grown: see above");
    Ok(())
}

/// Builds what is needed, and runs the same again inside.
fn enclosed(root: &Path, verb: &str) -> Result<()> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "it makes network namespaces and cgroups and loads BPF programs: run as root \
         (sudo -E env PATH=\"$PATH\" cargo xtask {verb})"
    );
    setup(Purpose::Tests)?;
    if std::env::var_os("WEIR_BIN").is_none() {
        test::cargo(root, &["build", "--release", "--package", "weir"], &[])?;
    }
    test::cargo(root, &["build", "--package", "weir-tests", "--bin", "weir-load"], &[])?;
    scope::enclose(verb)?.settle()
}

/// The load generator, which was built before.
fn load() -> Result<PathBuf> {
    let path = weir_tests::weir::target_dir().join("debug/weir-load");
    path.canonicalize().with_context(|| format!("no load generator at {}", path.display()))
}
