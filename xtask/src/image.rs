//! `cargo xtask image`: a weir that needs nothing but a kernel, and around it an OCI image archive,
//! made without a container daemon. For this machine's architecture only.

mod archive;

use std::env::consts::ARCH;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use object::Endianness;
use object::Object as _;
use object::elf::{FileHeader64, PT_INTERP};
use object::read::elf::{ElfFile, ProgramHeader as _};

use crate::test::cargo;

/// Where the binary is in the image. deploy/Dockerfile has it there too.
const PROGRAM: &str = "usr/local/bin/weir";
/// What the image is called where it was pushed to no registry; the chart's default.
const NAME: &str = "localhost/weir";

/// Static, and with names for stack traces, but no lines, which would be most of it.
const FLAGS: [&str; 2] = ["-Ctarget-feature=+crt-static", "-Cstrip=debuginfo"];

/// What is compiled in (`[features]` of `proxy/Cargo.toml`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Parts {
    /// Everything.
    All,
    /// All but `weir node`, with its client for the Kubernetes API.
    WithoutNode,
}

/// Flags of `cargo xtask image`.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  cargo xtask image --output weir.tar\n  \
    ctr --namespace k8s.io images import weir.tar")]
pub(crate) struct Args {
    /// The archive [default: target/image/weir.tar]
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub(crate) fn run(root: &Path, args: &Args) -> Result<()> {
    let output = args.output.clone().unwrap_or_else(default_output);
    pack(&build(root, Parts::All)?, &output)?;
    println!("{}: {NAME}:{}", output.display(), env!("CARGO_PKG_VERSION"));
    Ok(())
}

/// Where the archive goes without an option.
pub(crate) fn default_output() -> PathBuf {
    weir_tests::weir::target_dir().join("image/weir.tar")
}

/// Makes the archive.
///
/// # Errors
///
/// Fails when the binary is not static or was not stripped, and when the archive cannot be written.
pub(crate) fn pack(binary: &Path, output: &Path) -> Result<()> {
    let bytes = fs::read(binary).with_context(|| format!("cannot read {}", binary.display()))?;
    ensure_fit(&bytes).with_context(|| format!("{} will not do", binary.display()))?;
    let archive = archive::archive(&archive::Image {
        program: &bytes,
        path: PROGRAM,
        name: NAME,
        version: env!("CARGO_PKG_VERSION"),
        architecture: architecture(ARCH)?,
    })?;
    let parent = output.parent().filter(|parent| !parent.as_os_str().is_empty());
    parent.map_or(Ok(()), fs::create_dir_all)?;
    fs::write(output, archive).with_context(|| format!("cannot write {}", output.display()))
}

/// Builds the binary that is in the image and returns where it is. The tests run it too.
///
/// glibc's target, linked statically: it is the one target that a Rust toolchain on Debian has
/// without a download. Names are looked up by the resolver that glibc has in itself since 2.34;
/// nothing else of weir asks the name service switch.
///
/// With a target, because the flags must not reach procedural macros, which are libraries of the
/// compiler and cannot be static. The paths of this machine stay out of the binary.
///
/// # Errors
///
/// Fails when weir does not compile.
pub(crate) fn build(root: &Path, parts: Parts) -> Result<PathBuf> {
    let target = format!("{ARCH}-unknown-linux-gnu");
    let cargo_home = std::env::var("CARGO_HOME")
        .or_else(|_| std::env::var("HOME").map(|home| home + "/.cargo"))
        .unwrap_or_default();
    let mut flags = FLAGS.map(str::to_owned).to_vec();
    for (from, to) in [(root.display().to_string(), "/weir"), (cargo_home, "/cargo")] {
        if !from.is_empty() {
            flags.push(format!("--remap-path-prefix={from}={to}"));
        }
    }
    let mut arguments = vec!["build", "--release", "--target", &target, "--package", "weir"];
    if parts == Parts::WithoutNode {
        arguments.extend(["--no-default-features", "--features", "dns,otlp"]);
    }
    let (flags, commit) = (flags.join("\u{1f}"), commit(root));
    let variables = [("CARGO_ENCODED_RUSTFLAGS", flags.as_str()), ("WEIR_COMMIT", &commit)];
    cargo(root, &arguments, &variables)?;
    Ok(weir_tests::weir::target_dir().join(target).join("release/weir"))
}

/// The commit that is built, for `weir --version`; empty without git, as from a tarball.
fn commit(root: &Path) -> String {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").arg("-C").arg(root).args(arguments).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        output.status.success().then(|| text.trim().to_owned())
    };
    let Some(commit) = git(&["rev-parse", "HEAD"]) else { return String::new() };
    match git(&["status", "--porcelain", "--untracked-files=no"]) {
        Some(changes) if changes.is_empty() => commit,
        _ => format!("{commit}, modified"),
    }
}

/// Whether a binary needs no libraries.
///
/// # Errors
///
/// Fails when it cannot be read, or is no program of Linux.
pub(crate) fn is_static(binary: &Path) -> Result<bool> {
    let bytes = fs::read(binary).with_context(|| format!("cannot read {}", binary.display()))?;
    let file = ElfFile::<FileHeader64<Endianness>>::parse(&*bytes)
        .with_context(|| format!("{} is no 64-bit ELF file", binary.display()))?;
    Ok(!interpreted(&file))
}

/// A binary that asks for an interpreter needs the libraries of a distribution.
fn ensure_fit(binary: &[u8]) -> Result<()> {
    let file = ElfFile::<FileHeader64<Endianness>>::parse(binary).context("no 64-bit ELF file")?;
    ensure!(!interpreted(&file), "it is linked dynamically (PT_INTERP)");
    let lines = file.section_by_name(".debug_info").is_some();
    ensure!(!lines, "it has debug information (.debug_info)");
    Ok(())
}

/// True for one that is started by the dynamic linker.
fn interpreted(file: &ElfFile<'_, FileHeader64<Endianness>>) -> bool {
    let mut headers = file.elf_program_headers().iter();
    headers.any(|header| header.p_type(file.endian()) == PT_INTERP)
}

/// As Go's GOARCH has it, and with it the image specification.
fn architecture(rust: &str) -> Result<&'static str> {
    Ok(match rust {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => bail!("no image is made for {other}: weir is tried on x86_64 and aarch64 only"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dynamic_binary_is_refused() {
        let own = fs::read(std::env::current_exe().unwrap()).unwrap();
        assert!(ensure_fit(&own).unwrap_err().to_string().contains("PT_INTERP"));
        assert!(ensure_fit(b"#!/bin/sh\n").is_err());
    }

    #[test]
    fn the_dockerfile_makes_the_same_image() {
        let dockerfile = fs::read_to_string(crate::root().join("deploy/Dockerfile")).unwrap();
        let lines: Vec<&str> = dockerfile.lines().collect();
        assert!(lines.contains(&"FROM scratch"));
        let last = lines.iter().rposition(|line| line.starts_with("FROM ")).unwrap();
        let expected = [
            format!("COPY --from=build /weir /{PROGRAM}"),
            format!("ENV PATH=/{}", Path::new(PROGRAM).parent().unwrap().display()),
            "USER 0:0".to_owned(),
            format!("ENTRYPOINT [\"/{PROGRAM}\"]"),
        ];
        for line in &expected {
            assert!(lines[last..].contains(&line.as_str()), "{line}");
        }
        assert!(dockerfile.contains(&format!("RUSTFLAGS=\"{}\"", FLAGS.join(" "))));
        assert!(dockerfile.contains("--locked --release "));
    }
}
