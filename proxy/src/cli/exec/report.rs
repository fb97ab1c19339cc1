//! What `weir exec` says when its command has ended, and where: the table on stderr, or a summary in a
//! file; the HTTP archive; whether a condition of `--fail-if` holds.

use std::{
    ffi::OsStr,
    fs::File,
    io::Write as _,
    os::fd::{BorrowedFd, FromRawFd as _, OwnedFd, RawFd},
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use anyhow::{Context as _, Result};
use nix::{
    fcntl::{FcntlArg, fcntl},
    unistd::fchown,
};
use serde::Serialize;

use super::super::{
    Exit,
    capture_args::{ExecArgs, SummaryFormat},
    output::Format,
    with_exit,
};
use crate::{
    host::Account,
    json,
    log::{LogBuffer, LogTarget},
    table::Width,
    telemetry::{
        conditions::{Conditions, Outcome},
        har::{HarCounts, HarFile},
        record::Observer,
        stats::StatsSnapshot,
    },
};

/// Everything that is written at the end, opened before anything is captured.
#[derive(Debug)]
pub(super) struct Report {
    summary: Option<Summary>,
    har: Option<(PathBuf, HarFile)>,
    conditions: Arc<Conditions>,
    begun: Instant,
}

/// The file of `--summary`.
#[derive(Debug)]
struct Summary {
    file: File,
    name: PathBuf,
    format: SummaryFormat,
    log: LogBuffer,
}

/// The summary as JSON.
#[derive(Serialize)]
struct Document<'a> {
    command: Vec<String>,
    exit_code: u8,
    duration_ms: u64,
    #[serde(flatten)]
    stats: &'a StatsSnapshot,
    /// What there was where there are no rows.
    #[serde(skip_serializing_if = "Option::is_none")]
    instead: Option<&'a str>,
    conditions: &'a [Outcome],
    #[serde(skip_serializing_if = "Option::is_none")]
    har: Option<HarDocument<'a>>,
    /// What weir had to say meanwhile.
    log: Vec<String>,
}

#[derive(Serialize)]
struct HarDocument<'a> {
    file: &'a Path,
    #[serde(flatten)]
    counts: Option<HarCounts>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// An archive, and what has become of it.
type Har = (PathBuf, std::io::Result<HarCounts>);

// === impl Report ===

impl Report {
    /// Opens the files; those of before are replaced. A new one belongs to the command's user.
    pub(super) fn open(args: &ExecArgs, owner: Option<&Account>) -> Result<Self> {
        let summary = args.summary.as_deref().map(|name| Summary::open(name, args, owner));
        let summary = summary.transpose()?;
        let har = match &args.har {
            None => None,
            Some(path) => {
                let file = create(path, owner)?;
                let file = HarFile::start(file).with_context(|| path.display().to_string())?;
                Some((path.clone(), file))
            }
        };
        let conditions = Arc::new(Conditions::new(args.fail_if.iter().cloned()));
        Ok(Self { summary, har, conditions, begun: Instant::now() })
    }

    /// Where weir's log goes: what is on stderr is the command's once there is a summary.
    pub(super) fn log_target(&self) -> LogTarget {
        match &self.summary {
            Some(summary) => LogTarget::Buffer(summary.log.clone()),
            None => LogTarget::Stderr,
        }
    }

    /// What is to be told of records.
    pub(super) fn observers(&self, args: &ExecArgs) -> Vec<Arc<dyn Observer>> {
        let mut observers: Vec<Arc<dyn Observer>> = Vec::new();
        if !args.fail_if.is_empty() {
            observers.push(Arc::clone(&self.conditions) as _);
        }
        observers.extend(self.har.as_ref().map(|(_, file)| file.log() as _));
        observers
    }

    /// Says everything; `instead` where there are no connections. The result is the command's code, unless it
    /// is 0 and a condition holds.
    pub(super) fn finish(
        self,
        args: &ExecArgs,
        stats: &StatsSnapshot,
        instead: &str,
        code: u8,
    ) -> Result<Exit> {
        let Self { summary, har, conditions, begun } = self;
        let har = har.map(|(path, file)| (path, file.finish()));
        let outcomes = conditions.outcomes();
        let har_failed = har.as_ref().is_some_and(|(_, counts)| counts.is_err());
        match summary {
            Some(summary) => {
                let command = args.command.iter();
                let document = Document {
                    command: command.map(|word| word.to_string_lossy().into()).collect(),
                    exit_code: code,
                    duration_ms: u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
                    stats,
                    instead: stats.rows.is_empty().then_some(instead),
                    conditions: &outcomes,
                    har: har.as_ref().map(HarDocument::of),
                    log: summary.log.take(),
                };
                summary.write(&document, har.as_ref())?;
            }
            None => report(args, stats, instead, &outcomes, har)?,
        }
        let holds = outcomes.iter().any(|outcome| outcome.holds);
        Ok(match code {
            0 if holds => Exit::Condition,
            0 if har_failed => Exit::Failure,
            code => Exit::Command(code),
        })
    }
}

// === impl Summary ===

impl Summary {
    fn open(name: &OsStr, args: &ExecArgs, owner: Option<&Account>) -> Result<Self> {
        let path = Path::new(name);
        let number = name.to_str().and_then(|text| text.parse::<RawFd>().ok());
        let file = match number {
            Some(number) => descriptor(number)?,
            None => create(path, owner)?,
        };
        let by_name = || match (path.extension(), args.output) {
            (Some(end), _) if end == "json" => SummaryFormat::Json,
            (_, Format::Json) => SummaryFormat::Json,
            (_, Format::Table) => SummaryFormat::Text,
        };
        let format = args.summary_format.unwrap_or_else(by_name);
        Ok(Self { file, name: path.to_owned(), format, log: LogBuffer::default() })
    }

    fn write(mut self, document: &Document<'_>, har: Option<&Har>) -> Result<()> {
        let text = match self.format {
            SummaryFormat::Json => json::to_string_pretty(document)? + "\n",
            SummaryFormat::Text => {
                let Document { stats, instead, conditions, log, .. } = document;
                let mut text = stats.table().unwrap_or_default();
                let lines = instead.map(str::to_owned).into_iter();
                let lines = lines.chain(conditions.iter().map(ToString::to_string));
                for line in lines.chain(har.map(har_line)).chain(log.iter().cloned()) {
                    text.push_str(&line);
                    text.push('\n');
                }
                text
            }
        };
        let written = self.file.write_all(text.as_bytes());
        written.with_context(|| format!("cannot write the summary to {}", self.name.display()))
    }
}

// === impl HarDocument ===

impl<'a> HarDocument<'a> {
    fn of((file, counts): &'a Har) -> Self {
        let error = counts.as_ref().err().map(ToString::to_string);
        Self { file, counts: counts.as_ref().ok().copied(), error }
    }
}

// === helpers ===

/// A file in place of one that is there. A new one is given to its owner: only what was made here
/// and now is, whatever the path leads to.
fn create(path: &Path, owner: Option<&Account>) -> Result<File> {
    let new = File::options().write(true).create_new(true).open(path);
    let file = match (new, owner) {
        (Ok(file), Some(owner)) => fchown(&file, Some(owner.uid()), Some(owner.gid()))
            .map(|()| file)
            .map_err(std::io::Error::from),
        (Ok(file), None) => Ok(file),
        (Err(error), _) if error.kind() == std::io::ErrorKind::AlreadyExists => File::create(path),
        (Err(error), _) => Err(error),
    };
    file.with_context(|| {
        let path = path.display();
        format!("cannot create {path}; use a path in an existing directory that you may write")
    })
}

/// A descriptor that weir was started with, for itself: its number may be used for something else.
fn descriptor(number: RawFd) -> Result<File> {
    let usage = |error: nix::Error| {
        let problem = format!(
            "cannot write the summary to descriptor {number}: {error}; open it for weir, such as \
             {number}>FILE, or name a file (./{number})"
        );
        with_exit(anyhow::anyhow!(problem), Exit::Usage)
    };
    if number < 0 {
        return Err(usage(nix::Error::EBADF));
    }
    // SAFETY: it is borrowed for one call, which refuses a number that is not open.
    let given = unsafe { BorrowedFd::borrow_raw(number) };
    let own = fcntl(given, FcntlArg::F_DUPFD_CLOEXEC(3)).map_err(usage)?;
    // SAFETY: the kernel has just made it, for this call alone.
    Ok(File::from(unsafe { OwnedFd::from_raw_fd(own) }))
}

/// Goes to standard error: standard output is the command's. Where the terminal is gone, no one
/// reads it.
fn report(
    args: &ExecArgs,
    stats: &StatsSnapshot,
    instead: &str,
    outcomes: &[Outcome],
    har: Option<Har>,
) -> Result<()> {
    let mut err = anstream::stderr();
    if !args.quiet {
        let text = match (args.output, stats.table_for(Width::of_stderr())) {
            (Format::Json, _) => json::to_string(stats)?,
            (Format::Table, Some(table)) => format!("\n{table}"),
            (Format::Table, None) => format!("\nweir: {instead}"),
        };
        let _ = writeln!(err, "{text}");
    }
    // Why weir fails is said in any case.
    for outcome in outcomes.iter().filter(|outcome| outcome.holds) {
        let _ = writeln!(err, "weir: --fail-if {outcome}");
    }
    if let Some(har) = har.filter(|(_, counts)| !matches!(counts, Ok(HarCounts { dropped: 0, .. })))
    {
        let _ = writeln!(err, "weir: {}", har_line(&har));
    }
    Ok(())
}

fn har_line((path, counts): &Har) -> String {
    let path = path.display();
    match counts {
        Ok(HarCounts { entries, dropped: 0 }) => format!("{path}: {entries} requests"),
        Ok(HarCounts { entries, dropped }) => {
            format!("{path}: {entries} requests; {dropped} are missing: too many at a time")
        }
        Err(error) => format!("cannot write {path}: {error}; requests are missing"),
    }
}
