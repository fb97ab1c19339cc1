//! A short soak: descriptors, threads and map entries come back to what they were, exactly, and
//! memory stays within bounds. `cargo xtask soak` is the long one.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use weir_tests::soak::{Settings, run};

const CONNECTIONS: usize = 10_000;

fn soak(flags: &[&str]) -> Result<()> {
    let load = PathBuf::from(env!("CARGO_BIN_EXE_weir-load"));
    let flags = flags.iter().map(|&flag| flag.to_owned()).collect();
    let report = run(&Settings { connections: CONNECTIONS, load, flags })?;
    eprintln!("{report}");
    ensure!(report.is_flat(), "not flat: see above");
    ensure!(report.proxied > report.connections / 3, "most did not go through weir");
    Ok(())
}

#[test]
fn ten_thousand_connections_leave_nothing_behind() -> Result<()> {
    soak(&[])
}
