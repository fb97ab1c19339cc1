//! The two HTTP engines held against each other: the same traffic leaves the same records, whichever
//! carries it; what the passthrough one carries arrives as it was sent, byte by byte; and both let
//! connections end well when weir does.

mod bytes;
mod drain;
mod names;
mod raw;
mod real;

use std::panic::{AssertUnwindSafe, catch_unwind};

use anyhow::{Result, anyhow, ensure};
use serde_json::Value;

/// Runs a check of every row, also after one has failed, and then lists those that did.
fn all<T>(rows: &[(&'static str, T)], check: impl Fn(&T) -> Result<()>) -> Result<()> {
    let failed = rows.iter().filter_map(|(name, row)| {
        let outcome = catch_unwind(AssertUnwindSafe(|| check(row)));
        let outcome = outcome.unwrap_or_else(|_| Err(anyhow!("it panicked, see above")));
        outcome.err().map(|error| format!("{name}: {error:#}"))
    });
    let failed: Vec<String> = failed.collect();
    ensure!(failed.is_empty(), "{} of {} failed\n{}", failed.len(), rows.len(), failed.join("\n"));
    Ok(())
}

/// The lists are equal, or the error tells the first difference.
fn equal(passthrough: &[Value], other: &[Value]) -> Result<()> {
    ensure!(
        passthrough.len() == other.len(),
        "{} records of passthrough, {} of another: {passthrough:#?} {other:#?}",
        passthrough.len(),
        other.len()
    );
    for (passthrough, other) in passthrough.iter().zip(other) {
        ensure!(
            passthrough == other,
            "records differ
passthrough {passthrough}
other       {other}"
        );
    }
    Ok(())
}
