//! A short run of each fuzz target in `proxy/fuzz`, on stable: the coverage flags of libFuzzer are
//! given to LLVM directly, without `cargo fuzz` and without a sanitizer.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::test::{Tally, cargo};

/// Seconds per target.
const SECONDS: u32 = 10;

/// What `cargo fuzz --sanitizer none` passes, without its nightly-only parts.
const FLAGS: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares \
    -Ccodegen-units=1 -Cdebug-assertions";

/// Builds and runs every target; one that finds something counts as failed.
///
/// # Errors
///
/// Fails when the targets do not build.
pub(crate) fn run_all(root: &Path) -> Result<Tally> {
    let dir = root.join("proxy/fuzz");
    let targets = targets(&dir)?;
    let triple = host()?;
    // The triple keeps the flags away from build scripts and procedural macros.
    let build = ["build", "--release", "--bins", "--target", &triple];
    cargo(&dir, &build, &[("RUSTFLAGS", FLAGS)])?;
    let mut tally = Tally::default();
    for target in targets {
        let program = dir.join("target").join(&triple).join("release").join(&target);
        let limit = format!("-max_total_time={SECONDS}");
        let corpus = dir.join("corpus").join(&target);
        std::fs::create_dir_all(&corpus)?;
        let output = Command::new(&program)
            .args([&limit, "-timeout=10", "-rss_limit_mb=2048", "-print_final_stats=1"])
            .arg(corpus)
            .arg(dir.join("seeds").join(&target))
            .current_dir(&dir)
            .output()
            .with_context(|| format!("cannot run {}", program.display()))?;
        let log = String::from_utf8_lossy(&output.stderr);
        let runs =
            log.lines().find_map(|line| line.strip_prefix("stat::number_of_executed_units:"));
        if output.status.success() {
            tally.passed += 1;
            println!("fuzz {target} ... ok ({} inputs)", runs.unwrap_or("?").trim());
        } else {
            tally.failed += 1;
            println!("fuzz {target} ... FAILED\n{log}");
        }
    }
    Ok(tally)
}

/// A target is a file in `fuzz_targets`.
fn targets(dir: &Path) -> Result<Vec<String>> {
    let targets = dir.join("fuzz_targets");
    let entries = std::fs::read_dir(&targets)
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
