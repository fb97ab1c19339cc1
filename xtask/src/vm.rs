//! `cargo xtask vm`: the end-to-end tests on Debian's kernels, in virtual machines, and what came of
//! it in one table. Works offline once the kernels are in the cache, `target/vm`.

mod archive;
mod closure;
mod console;
mod image;
mod initramfs;
mod kept;
mod kernels;
mod machine;
mod modules;
mod payload;
mod protocol;
mod report;
mod selection;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use self::image::Stage;
use self::kernels::Wanted;
use self::machine::{Accelerator, Limits, Machine};
use self::payload::{Built, Manner};
use self::protocol::{Heard, Outcome};
use self::report::Report;
use self::selection::{Abilities, Breadth, Selection};
use crate::setup::{Purpose, setup};

/// The document that `--write` keeps the table in, between these lines.
const DOCUMENT: &str = "docs/KERNELS.md";
const TABLE: [&str; 2] =
    ["<!-- written by cargo xtask vm --all --write -->\n", "<!-- end of what is written -->\n"];

/// Flags of `cargo xtask vm`.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  cargo xtask vm\n  cargo xtask vm --kernel 6.12 --kernel newest seeding\n  cargo xtask vm --all --write"
)]
pub(crate) struct Args {
    /// A series of Debian's kernels such as 6.12, or `newest` [default: 6.1]
    #[arg(long, value_name = "VERSION")]
    kernel: Vec<Wanted>,
    /// 5.10, on which weir must refuse to start, 6.1, 6.12 and the newest
    #[arg(long, conflicts_with = "kernel")]
    all: bool,
    /// Only the subset for continuous integration
    #[arg(long)]
    quick: bool,
    /// Look for newer kernels of the series than those in the cache
    #[arg(long)]
    update: bool,
    /// Put the table into docs/KERNELS.md: these kernels, and of the others of --all the last run
    #[arg(long, conflicts_with_all = ["filter", "quick"])]
    write: bool,
    /// Number of parallel tests in the guest
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=16))]
    jobs: u32,
    /// Only tests whose name (`program::test`) contains this
    filter: Option<String>,
}

/// What all kernels share.
struct Ground<'a> {
    args: &'a Args,
    /// Whether KVM is worth a try: it was not tried yet, or worked.
    kvm: std::cell::Cell<bool>,
    cache: PathBuf,
    root_disk: PathBuf,
    built: Built,
    /// The commit that is tested.
    revision: String,
}

pub(crate) fn run(root: &Path, args: &Args) -> Result<()> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "the guest's files belong to several users: run as root \
         (sudo -E env PATH=\"$PATH\" cargo xtask vm)"
    );
    ensure!(
        cfg!(target_arch = "x86_64"),
        "the kernels here are Debian's for amd64; there is no other way yet"
    );
    setup(Purpose::Vm)?;
    let cache = weir_tests::weir::target_dir().join("vm");
    let _alone = lock(&cache)?;
    Stage::sweep(&cache)?;
    let wanted = match (args.all, args.kernel.is_empty()) {
        (true, _) => kernels::MATRIX.to_vec(),
        (false, true) => vec![kernels::DEFAULT],
        (false, false) => args.kernel.clone(),
    };
    // What cannot be had is said before anything is built.
    let kernels: Vec<_> =
        wanted.iter().map(|w| archive::kernel(&cache, *w, args.update)).collect::<Result<_>>()?;
    let root_disk = image::root(&cache)?;
    let built = Built::new(root)?;
    let stale = selection::stale(&built.tests);
    ensure!(stale.is_empty(), "no test fits these entries of the selection: {}", stale.join(", "));
    let mut git = Command::new("git");
    let revision = output_of(git.args(["describe", "--always", "--dirty"]).current_dir(root));
    let revision = revision.map_or_else(|_| "no commit".into(), |said| said.trim().to_owned());
    let ground = Ground { args, kvm: true.into(), root_disk, built, revision, cache };
    let whole = !args.quick && args.filter.is_none();
    let mut reports = Vec::new();
    for (wanted, kernel) in wanted.into_iter().zip(&kernels) {
        let report = ground.test(kernel)?;
        if whole {
            kept::keep(&ground.cache, wanted, &report)?;
        }
        reports.push(report);
    }
    println!("\n{}", report::table(&reports));
    if args.write {
        write(&root.join(DOCUMENT), &report::table(&kept::matrix(&ground.cache)?))?;
    }
    let failed = reports.iter().filter(|report| !report.faults().is_empty()).count();
    ensure!(failed == 0, "{failed} of {} kernels failed", reports.len());
    Ok(())
}

// === impl Ground ===

impl Ground<'_> {
    /// Boots a kernel and runs its tests.
    fn test(&self, kernel: &archive::Cached) -> Result<Report> {
        let Self { args, kvm, cache, root_disk, built, revision } = self;
        let release = &kernel.release;
        println!("\n=== Linux {release} ===");
        let of_release = kernels::supported(release).zip(kernels::taps(release));
        let (supported, taps) =
            of_release.with_context(|| format!("{release:?} has no version number"))?;
        let breadth = if args.quick { Breadth::Quick } else { Breadth::Wide };
        let filter = args.filter.as_deref();
        let Selection { run, not_run } =
            selection::select(&built.tests, Abilities { supported, taps }, breadth, filter);
        let initramfs = initramfs::make(cache, kernel)?;
        let console = cache.join("logs").join(format!("{release}.log"));
        let accelerator = if kvm.get() {
            Accelerator::choose(&kernel.image, &initramfs, &console.with_extension("probe.log"))
        } else {
            Accelerator::Tcg
        };
        kvm.set(accelerator == Accelerator::Kvm);
        let (patience, limits) = pace(accelerator, breadth);
        let payload = cache.join("payload.ext4");
        let manner = Manner { patience, test_limit: 60 * u64::from(patience), jobs: args.jobs };
        built.disk(&payload, &run, &manner)?;
        let mut machine = Machine {
            kernel: kernel.image.clone(),
            initramfs,
            disks: vec![root_disk.clone(), payload],
            console,
            accelerator,
        };
        println!("{} tests, {} not run, by {accelerator}", run.len(), not_run.len());
        let mut report = Report {
            release: release.clone(),
            revision: revision.clone(),
            supported,
            accelerator,
            check: None,
            results: Vec::new(),
            unfinished: Vec::new(),
            not_run: not_run.into_iter().map(|(test, why)| (test, why.to_owned())).collect(),
            given: run.len(),
            refused: Vec::new(),
            troubles: Vec::new(),
            fatal: None,
            ended: machine::Ended::Off,
            took: Duration::ZERO,
        };
        report.listen(&mut machine, &limits)?;
        Ok(report)
    }
}

// === impl Report ===

impl Report {
    /// Runs the machine and takes down what it says.
    fn listen(&mut self, machine: &mut Machine, limits: &Limits) -> Result<()> {
        let begin = Instant::now();
        let mut done = false;
        self.ended = machine.run("", limits, |heard| {
            done |= heard == Heard::Done;
            self.take(heard);
        })?;
        self.took = begin.elapsed();
        let log = machine.log();
        self.troubles = console::troubles(&log)
            .into_iter()
            .map(|(kind, line)| (kind.to_owned(), line.to_owned()))
            .collect();
        if !done && self.fatal.is_none() {
            self.fatal = Some(format!("it ended before its tests did ({})", self.ended));
            println!("the console's last lines:\n{}", machine.last_words());
        }
        Ok(())
    }

    fn take(&mut self, heard: Heard<'_>) {
        match heard {
            Heard::Alive(release) => println!("  booted {release}"),
            Heard::Fatal(why) => self.fatal = Some(why.to_owned()),
            Heard::Note(note) => println!("  note: {note}"),
            Heard::Check(json) => self.check = serde_json::from_str(json).ok(),
            Heard::Checked(how) => println!("  weir check: exit code {how}"),
            Heard::Begin(test) => self.unfinished.push(test),
            Heard::Said(test, line) => {
                println!("    {line}");
                if console::is_verifiers(line) && !self.refused.contains(&test) {
                    self.refused.push(test);
                }
            }
            Heard::End(test, outcome, milliseconds) => {
                let word = match outcome {
                    Outcome::Passed => "ok",
                    Outcome::Failed => "FAILED",
                    Outcome::Hung => "HUNG",
                    Outcome::Missing => "MISSING",
                };
                let seconds = milliseconds as f64 / 1000.0;
                println!("  {word} {test} ({seconds:.1} s)");
                self.unfinished.retain(|begun| *begun != test);
                self.results.push((test, outcome, milliseconds));
            }
            Heard::Other(line) if !line.trim().is_empty() => println!("  guest: {line}"),
            Heard::Done | Heard::Other(_) => {}
        }
    }
}

// === helpers ===

/// How patient tests are, and how long a machine may take.
fn pace(accelerator: Accelerator, breadth: Breadth) -> (u32, Limits) {
    let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
    let patience = match accelerator {
        Accelerator::Kvm => 2,
        Accelerator::Tcg => 6,
    };
    let total = match breadth {
        Breadth::Quick => minutes(20),
        Breadth::Wide => minutes(60),
    };
    (patience, Limits { total, silence: minutes(8) })
}

/// Waits until no other run uses the cache; ours until the file is closed.
fn lock(cache: &Path) -> Result<fs::File> {
    fs::create_dir_all(cache).with_context(|| format!("cannot make {}", cache.display()))?;
    let file = fs::File::create(cache.join("lock"))?;
    if file.try_lock().is_err() {
        println!("another run uses {}: waiting for its end", cache.display());
        file.lock()?;
    }
    Ok(file)
}

/// Puts the table between its marks.
fn write(document: &Path, table: &str) -> Result<()> {
    let text = fs::read_to_string(document)
        .with_context(|| format!("cannot read {}", document.display()))?;
    fs::write(document, between(&text, table)?)?;
    println!("written to {}", document.display());
    Ok(())
}

fn between(text: &str, table: &str) -> Result<String> {
    let parts = text.split_once(TABLE[0]).and_then(|(before, rest)| {
        let (_old, after) = rest.split_once(TABLE[1])?;
        Some((before, after))
    });
    let Some((before, after)) = parts else { bail!("{DOCUMENT} has no place for the table") };
    Ok(format!("{before}{}\n{table}\n{}{after}", TABLE[0], TABLE[1]))
}

/// Runs a program to its end; what it wrote to stdout.
///
/// # Errors
///
/// Fails with its stderr when it does.
fn output_of(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("cannot run {name}"))?;
    ensure!(
        output.status.success(),
        "{name} ended with {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_takes_the_place_of_the_last_one() {
        let text = format!("before\n{}old\n{}after\n", TABLE[0], TABLE[1]);
        let once = between(&text, "new\n").unwrap();
        assert!(once.contains("new") && !once.contains("old") && once.ends_with("after\n"));
        assert_eq!(between(&once, "new\n").unwrap(), once);
        assert!(between("no marks", "new").is_err());
    }
}
