//! Reports of whole runs, kept between runs: on an emulated processor a kernel takes a quarter of an
//! hour, and one that has to be run again need not take the others with it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use super::kernels::{MATRIX, Wanted};
use super::report::Report;

/// Keeps what came of a kernel, in place of what came of it before.
///
/// # Errors
///
/// Fails when the file cannot be written.
pub(super) fn keep(cache: &Path, wanted: Wanted, report: &Report) -> Result<()> {
    let path = path(cache, wanted);
    fs::create_dir_all(path.parent().context("a report lies in a folder")?)?;
    fs::write(&path, serde_json::to_vec(report)?)
        .with_context(|| format!("cannot write {}", path.display()))
}

/// The last whole run of each kernel of the matrix.
///
/// # Errors
///
/// Fails when a kernel has none, or the file cannot be read.
pub(super) fn matrix(cache: &Path) -> Result<Vec<Report>> {
    let missing: Vec<_> = MATRIX.into_iter().filter(|w| !path(cache, *w).exists()).collect();
    let flags: Vec<_> = missing.iter().map(|wanted| format!("--kernel {wanted}")).collect();
    ensure!(
        missing.is_empty(),
        "the table has all kernels, and some were not run yet; run \
         `cargo xtask vm {} --write`, what was run now is kept",
        flags.join(" ")
    );
    MATRIX.into_iter().map(|wanted| read(&path(cache, wanted))).collect()
}

// === helpers ===

fn path(cache: &Path, wanted: Wanted) -> PathBuf {
    cache.join("reports").join(format!("{wanted}.json"))
}

fn read(path: &Path) -> Result<Report> {
    let text = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    match serde_json::from_slice(&text) {
        Ok(report) => Ok(report),
        Err(error) => {
            bail!("{} is of another version of this program ({error}): remove it", path.display())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::report::sample;

    #[test]
    fn the_table_waits_for_all_kernels() {
        let cache = tempfile::tempdir().unwrap();
        keep(cache.path(), MATRIX[0], &sample()).unwrap();
        let error = matrix(cache.path()).unwrap_err().to_string();
        assert!(error.contains("--kernel 6.1 --kernel 6.12 --kernel newest --write"), "{error}");
        for wanted in MATRIX {
            keep(cache.path(), wanted, &sample()).unwrap();
        }
        let kept = matrix(cache.path()).unwrap();
        assert_eq!(kept.len(), MATRIX.len());
        assert_eq!(kept[0], sample());
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let cache = tempfile::tempdir().unwrap();
        for wanted in MATRIX {
            keep(cache.path(), wanted, &sample()).unwrap();
        }
        fs::write(path(cache.path(), MATRIX[1]), "{}").unwrap();
        let error = matrix(cache.path()).unwrap_err().to_string();
        assert!(error.contains("6.1.json"), "{error}");
    }
}
