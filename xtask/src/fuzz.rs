//! `cargo xtask fuzz`: the fuzz targets in `proxy/fuzz`, on stable: the coverage flags of libFuzzer are
//! given to LLVM directly, without `cargo fuzz` and without a sanitizer.

use std::fs;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Mutex, PoisonError};
use std::thread;

use anyhow::{Context, Result, ensure};

use crate::test::{Tally, cargo};

/// Seconds per target in `cargo xtask test`.
const SHORT: u32 = 10;

/// What `cargo fuzz --sanitizer none` passes, without its nightly-only parts, and in several
/// parts of a crate, each with counters of its own.
const FLAGS: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares \
    -Cdebug-assertions";

/// Flags of `cargo xtask fuzz`.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  cargo xtask fuzz\n  cargo xtask fuzz --seconds 600 inject tap"
)]
pub(crate) struct Args {
    /// Duration of each target, in seconds
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// Names of targets, as the files in proxy/fuzz/fuzz_targets
    targets: Vec<String>,
}

/// Where things lie.
struct Places {
    /// `proxy/fuzz`.
    dir: PathBuf,
    /// The built targets.
    programs: PathBuf,
    /// Inputs that a target has failed on; git ignores it.
    findings: PathBuf,
}

pub(crate) fn run(root: &Path, args: &Args) -> Result<()> {
    let there = targets(&root.join("proxy/fuzz"))?;
    for target in &args.targets {
        ensure!(
            there.contains(target),
            "there is no fuzz target {target:?}; there are {}",
            there.join(", ")
        );
    }
    let wanted = if args.targets.is_empty() { there } else { args.targets.clone() };
    let tally = run_targets(root, wanted, args.seconds)?;
    ensure!(tally.failed == 0, "{} targets found something; see above", tally.failed);
    Ok(())
}

/// Builds and runs every target for a short time; one that finds something counts as failed.
///
/// # Errors
///
/// Fails when the targets do not build.
pub(crate) fn run_all(root: &Path) -> Result<Tally> {
    run_targets(root, targets(&root.join("proxy/fuzz"))?, SHORT)
}

/// As many at a time as there are processors: each one is a thread that computes.
fn run_targets(root: &Path, wanted: Vec<String>, seconds: u32) -> Result<Tally> {
    let places = Places::build(root)?;
    let queue = Mutex::new(wanted.into_iter());
    let tally = Mutex::new(Tally::default());
    let work = || -> Result<()> {
        loop {
            let next = queue.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some(target) = next else { return Ok(()) };
            let output = places.fuzz(&target, seconds)?;
            let one = places.tell(&target, &output);
            tally.lock().unwrap_or_else(PoisonError::into_inner).add(one);
        }
    };
    let processors = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..processors).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| match worker.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    })?;
    Ok(tally.into_inner().unwrap_or_else(PoisonError::into_inner))
}

// === impl Places ===

impl Places {
    fn build(root: &Path) -> Result<Self> {
        let dir = root.join("proxy/fuzz");
        let triple = host()?;
        // The triple keeps the flags away from build scripts and procedural macros.
        let build = ["build", "--release", "--bins", "--target", &triple];
        cargo(&dir, &build, &[("RUSTFLAGS", FLAGS)])?;
        let target = dir.join("target");
        let (programs, findings) = (target.join(triple).join("release"), target.join("findings"));
        fs::create_dir_all(&findings)?;
        Ok(Self { dir, programs, findings })
    }

    fn fuzz(&self, target: &str, seconds: u32) -> Result<Output> {
        let corpus = self.dir.join("corpus").join(target);
        fs::create_dir_all(&corpus)?;
        let program = self.programs.join(target);
        Command::new(&program)
            .arg(format!("-max_total_time={seconds}"))
            .args(["-timeout=10", "-rss_limit_mb=2048", "-print_final_stats=1"])
            .arg(format!("-artifact_prefix={}/{target}-", self.findings.display()))
            .arg(corpus)
            .arg(self.dir.join("seeds").join(target))
            .current_dir(&self.dir)
            .output()
            .with_context(|| format!("cannot run {}", program.display()))
    }

    fn tell(&self, target: &str, output: &Output) -> Tally {
        let log = String::from_utf8_lossy(&output.stderr);
        if output.status.success() {
            let runs =
                log.lines().find_map(|line| line.strip_prefix("stat::number_of_executed_units:"));
            println!("fuzz {target} ... ok ({} inputs)", runs.unwrap_or("?").trim());
            Tally { passed: 1, failed: 0 }
        } else {
            let again = self.programs.join(target);
            // Without the progress, of many hundred lines.
            let log: Vec<_> = log.lines().filter(|line| !line.starts_with('#')).collect();
            println!(
                "fuzz {target} ... FAILED\n{}\nTo see it again: {} INPUT, which is in {}",
                log.join("\n"),
                again.display(),
                self.findings.display()
            );
            Tally { passed: 0, failed: 1 }
        }
    }
}

/// A target is a file in `fuzz_targets`.
fn targets(dir: &Path) -> Result<Vec<String>> {
    let targets = dir.join("fuzz_targets");
    let entries = fs::read_dir(&targets)
        .with_context(|| format!("no fuzz targets in {}", targets.display()))?;
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter_map(|name| name.strip_suffix(".rs").map(str::to_owned))
        .collect();
    names.sort();
    Ok(names)
}

fn host() -> Result<String> {
    let output = Command::new("rustc").arg("-vV").output().context("cannot run rustc")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).context("rustc does not say for which host it compiles")
}
