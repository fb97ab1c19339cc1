//! Short runs of chaos: one that is always the same, and one that never is.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};
use weir_tests::chaos::{self, Settings, run};

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
