//! The weir binary under test: where it is, its verbs, and `weir exec` around a command.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::Lab;
use crate::netns::Netns;
use crate::process::{Finished, run};
use crate::record::Records;

pub use crate::daemon::{Daemon, Instance, Run};

/// How long a wrapped command may take when the test does not say otherwise.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// A command to be run under `weir exec`.
#[derive(Debug)]
pub struct Exec<'a> {
    lab: &'a Lab,
    flags: Vec<OsString>,
    limit: Duration,
}

/// What `weir exec` left: the command's own outcome, and weir's records.
#[derive(Debug)]
pub struct Observed {
    /// Exit code and output; the command's and weir's share stderr.
    pub finished: Finished,
    /// What weir recorded.
    pub records: Records,
}

/// The binary: `WEIR_BIN`, or the one that cargo built last beside the tests.
///
/// # Errors
///
/// Fails when there is none: a test that cannot run must not pass.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("WEIR_BIN") {
        let path = PathBuf::from(path);
        return path.canonicalize().with_context(|| format!("WEIR_BIN is {}", path.display()));
    }
    let target = target_dir();
    let found = ["release", "debug"].map(|profile| target.join(profile).join("weir"));
    found.into_iter().find(|path| path.exists()).with_context(|| {
        format!("no weir in {}; run `cargo build --release -p weir`", target.display())
    })
}

/// Cargo's target directory.
#[must_use]
pub fn target_dir() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("target"),
        PathBuf::from,
    )
}

/// Runs a verb of weir in a namespace, to its end.
///
/// # Errors
///
/// Fails when it cannot be started or takes too long; its exit code is not judged.
pub fn verb(netns: &Netns, arguments: &[impl AsRef<OsStr>]) -> Result<Finished> {
    run(netns.command(binary()?).args(arguments), LIMIT)
}

// === impl Exec ===

impl<'a> Exec<'a> {
    /// Nothing but the defaults.
    #[must_use]
    pub fn new(lab: &'a Lab) -> Self {
        Self { lab, flags: Vec::new(), limit: LIMIT }
    }

    /// The detect timer can play no part: it would fire in an hour.
    #[must_use]
    pub fn without_timer(lab: &'a Lab) -> Self {
        Self::new(lab).flags(&["--detect-timeout", "1h"])
    }

    /// Adds flags of `weir exec`.
    #[must_use]
    pub fn flags(mut self, flags: &[impl AsRef<OsStr>]) -> Self {
        self.flags.extend(flags.iter().map(|flag| flag.as_ref().to_owned()));
        self
    }

    /// Allows the command that much time.
    #[must_use]
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// The command line, and the file that the records will be in.
    ///
    /// # Errors
    ///
    /// Fails when there is no binary.
    pub fn command(&self, arguments: &[impl AsRef<OsStr>]) -> Result<(Command, PathBuf)> {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let records = self.lab.dir().join(format!("records-{number}.json"));
        let mut command = self.lab.client.command(binary()?);
        command.arg("exec").arg("--record").arg(&records);
        // Tests run side by side: the default path is one for the whole machine.
        command.arg("--control").arg(records.with_extension("sock")).args(&self.flags);
        command.arg("--").args(arguments);
        Ok((command, records))
    }

    /// Runs the command in the client's namespace; its exit code is not judged.
    ///
    /// # Errors
    ///
    /// Fails when it takes too long or weir wrote no records.
    pub fn run(&self, arguments: &[impl AsRef<OsStr>]) -> Result<Observed> {
        let (mut command, records) = self.command(arguments)?;
        let finished = run(&mut command, self.limit)?;
        let records = Records::read(&records)
            .with_context(|| format!("exit code {}: {}", finished.code(), finished.stderr))?;
        Ok(Observed { finished, records })
    }

    /// Runs the command, which must succeed.
    ///
    /// # Errors
    ///
    /// Fails with the output when it does not.
    pub fn ok(&self, arguments: &[impl AsRef<OsStr>]) -> Result<Observed> {
        let Observed { finished, records } = self.run(arguments)?;
        Ok(Observed { finished: finished.ok()?, records })
    }

    /// Runs a Python program given as text, which must succeed.
    ///
    /// # Errors
    ///
    /// Fails with the output when it does not.
    pub fn python(&self, program: &str) -> Result<Observed> {
        self.ok(&[crate::fixture::PYTHON, "-c", program])
    }
}

impl Observed {
    /// What the command wrote to stdout, without white space around it.
    #[must_use]
    pub fn stdout(&self) -> &str {
        self.finished.stdout.trim()
    }
}
