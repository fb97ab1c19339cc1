//! Short runs of chaos: one that is always the same, and one that never is; and one kill of each kind.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};
use weir_tests::chaos::{self, Settings, kill, run};

fn rage(seed: u64, seconds: u64) -> Result<()> {
    eprintln!("seed {seed}: `cargo xtask chaos --seed {seed} --seconds {seconds}`");
    let load = PathBuf::from(env!("CARGO_BIN_EXE_weir-load"));
    let keep = std::env::var_os("CHAOS_KEEP").map(PathBuf::from);
    let report = run(&Settings { seed, time: Duration::from_secs(seconds), load, keep })?;
    eprintln!("{report}");
    ensure!(report.is_well(), "seed {seed}: see above");
    Ok(())
}

#[test]
fn chaos_of_a_known_seed_loses_nothing_that_it_may_not() -> Result<()> {
    rage(1, 25)
}

#[test]
fn chaos_of_a_random_seed_loses_nothing_that_it_may_not() -> Result<()> {
    rage(chaos::seed(), 25)
}

#[test]
fn a_kill_at_any_instant_breaks_nothing() -> Result<()> {
    let seed = chaos::seed();
    let points = kill::KINDS.len();
    eprintln!("seed {seed}: `cargo xtask chaos --kill-points {points} --seed {seed}`");
    let report = kill::run(seed, points)?;
    eprintln!("{report}");
    ensure!(report.faults.is_empty(), "seed {seed}: see above");
    Ok(())
}
