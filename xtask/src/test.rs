//! `cargo xtask test`: unit and property tests, end-to-end tests, a short run of each fuzz target,
//! and a look for anything that was left behind.

use std::io::BufRead;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::setup::{Purpose, setup};
use crate::{ebpf, fuzz, image, scope};

/// Where the tests find weir.
const WEIR_VARIABLE: &str = "WEIR_BIN";
/// Where they find the image archive.
const IMAGE_VARIABLE: &str = "WEIR_IMAGE";
/// What weir loads instead of the object that is compiled in.
const OBJECT_VARIABLE: &str = "WEIR_BPF_OBJECT";

/// All packages at once, wherever tests are built: cargo gives dependencies the features that the
/// packages ask for together, and another choice of packages has most of them compiled anew.
pub(crate) const WORKSPACE: &str = "--workspace";

/// Flags of `cargo xtask test`.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  cargo xtask test\n  cargo xtask test mariadb")]
pub(crate) struct Args {
    /// Only tests whose name contains this
    filter: Option<String>,
}

pub(crate) fn run(root: &Path, args: &Args) -> Result<()> {
    if scope::is_inner() {
        scope::accept_interrupts()?;
        return inside(root, args);
    }
    ensure!(
        nix::unistd::geteuid().is_root(),
        "the end-to-end tests make network namespaces and cgroups and load BPF programs: run as root \
         (sudo -E env PATH=\"$PATH\" cargo xtask test); `cargo test --workspace --exclude weir-tests` \
         runs the others"
    );
    setup(Purpose::Tests)?;
    scope::enclose("test")?.settle()
}

fn inside(root: &Path, args: &Args) -> Result<()> {
    let mut tally = Tally::default();
    step("weir, as it is in the image");
    let weir = image::build(root, image::Parts::All)?;
    let image = image::default_output().with_file_name("test.tar");
    image::pack(&weir, &image)?;

    step("unit, property and end-to-end tests");
    let object = ebpf::fresh_object(root)?;
    match &object {
        Some(path) => println!("with the BPF object built just now, {}", path.display()),
        None => println!("with the committed BPF object: there is no BPF toolchain here"),
    }
    let filter: Vec<&str> = args.filter.as_deref().into_iter().collect();
    let tests = ["test", WORKSPACE, "--no-fail-fast", "--"];
    let object = object.as_deref().map(|path| (OBJECT_VARIABLE, path));
    let variables: Vec<_> =
        object.into_iter().chain([(IMAGE_VARIABLE, &*image), (WEIR_VARIABLE, &*weir)]).collect();
    tally.add(cargo_test(root, &[&tests[..], &filter].concat(), &variables)?);

    if args.filter.is_none() {
        step("fuzz targets, a short run each");
        tally.add(fuzz::run_all(root)?);
    }
    println!("\n{} passed, {} failed", tally.passed, tally.failed);
    if tally.failed > 0 {
        bail!("{} failed", tally.failed);
    }
    Ok(())
}

/// How many tests passed and failed.
#[derive(Clone, Copy, Default)]
pub(crate) struct Tally {
    /// Those that passed.
    pub(crate) passed: u32,
    /// Those that did not, and test programs that did not end well.
    pub(crate) failed: u32,
}

// === impl Tally ===

impl Tally {
    pub(crate) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
    }

    /// Adds up cargo's closing lines: `test result: ok. 12 passed; 0 failed; …`.
    fn of(output: &str) -> Self {
        let mut tally = Self::default();
        for line in output.lines().filter(|line| line.starts_with("test result: ")) {
            let number = |word: &str| {
                let part = line.split([';', '.']).find(|part| part.ends_with(word));
                part.and_then(|part| part.trim().split(' ').next()?.parse().ok()).unwrap_or(0)
            };
            tally.add(Self { passed: number(" passed"), failed: number(" failed") });
        }
        tally
    }
}

// === helpers ===

/// Runs `cargo test`, showing its output and reading the sums from it.
fn cargo_test(root: &Path, arguments: &[&str], variables: &[(&str, &Path)]) -> Result<Tally> {
    let mut child = command(root, arguments)
        .envs(variables.iter().copied())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .context("cannot run cargo")?;
    let mut tally = Tally::default();
    let stdout = child.stdout.take().context("stdout was asked for")?;
    for line in std::io::BufReader::new(stdout).lines() {
        let line = line?;
        println!("{line}");
        tally.add(Tally::of(&line));
    }
    if !child.wait()?.success() && tally.failed == 0 {
        // It did not compile, or a test program was killed.
        bail!("cargo {} failed; see above", arguments.join(" "));
    }
    Ok(tally)
}

/// Runs cargo, which must succeed.
///
/// # Errors
///
/// Fails when it does not.
pub(crate) fn cargo(root: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> Result<()> {
    let status = command(root, arguments).envs(variables.iter().copied()).status();
    let status = status.context("cannot run cargo")?;
    ensure!(status.success(), "cargo {} ended with {status}", arguments.join(" "));
    Ok(())
}

/// cargo in the workspace, to be run.
pub(crate) fn command(root: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(root);
    // Cargo sets these for xtask itself; the inner cargo must find its own.
    command.env_remove("CARGO_MANIFEST_DIR").env_remove("CARGO_PKG_NAME");
    command
}

fn step(what: &str) {
    println!("\n=== {what} ===");
}

#[cfg(test)]
mod tests {
    use super::Tally;

    #[test]
    fn closing_lines_are_added_up() {
        let output = "test a ... ok\n\
            test result: ok. 12 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.1s\n\
            test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out";
        let tally = Tally::of(output);
        assert_eq!((tally.passed, tally.failed), (15, 2));
    }
}
