//! Development tasks of weir, one file per verb.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

mod bench;
mod chaos;
mod demo;
mod deploy;
mod docs;
mod ebpf;
mod fuzz;
mod image;
mod package;
mod packages;
mod picture;
mod recording;
mod scope;
mod setup;
mod test;
mod tidy;
mod venv;
mod vm;

/// Development tasks of weir
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Benchmarks; needs root
    Bench(bench::Args),
    /// Randomised fault injection; checks every connection; needs root
    Chaos(chaos::Args),
    /// Live demo with real servers and clients; needs root
    Demo,
    /// Write the tables of settings in the documentation, or check them
    Docs(docs::Args),
    /// Build the BPF object, or check that the committed one matches the sources
    Ebpf(ebpf::Args),
    /// Run the fuzz targets
    Fuzz(fuzz::Args),
    /// Build a static weir, and an OCI image archive around it
    Image(image::Args),
    /// Render the plain Kubernetes manifests from the Helm chart
    Manifests(deploy::Args),
    /// Make a Debian package, or check one in a fresh Debian root
    Package(package::Args),
    /// Draw the picture of the life of a connection, docs/connection.svg
    Picture,
    /// Record the demo as a moving picture, docs/demo.svg; needs root
    Recording,
    /// Install the Debian packages that the demo and the tests need
    Setup(setup::Args),
    /// Leak test: many connections through one weir; needs root
    Soak(chaos::SoakArgs),
    /// Run all tests; needs root
    Test(test::Args),
    /// Check the rules of the repository: layers, file lengths, comments, tables in the documentation
    Tidy,
    /// Run the end-to-end tests on Debian's kernels in virtual machines; needs root
    Vm(vm::Args),
}

fn main() -> ExitCode {
    if let Some(code) = ebpf::rustc() {
        return code;
    }
    match run(Cli::parse().verb) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Not by returning it: that would add a stack trace where RUST_BACKTRACE is set.
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(verb: Verb) -> Result<()> {
    match verb {
        Verb::Bench(args) => bench::run(&root(), &args),
        Verb::Chaos(args) => chaos::run(&root(), &args),
        Verb::Demo => demo::run(&root()),
        Verb::Docs(args) => docs::run(&root(), &args),
        Verb::Ebpf(args) => ebpf::run(&root(), &args),
        Verb::Fuzz(args) => fuzz::run(&root(), &args),
        Verb::Image(args) => image::run(&root(), &args),
        Verb::Manifests(args) => deploy::run(&root(), &args),
        Verb::Package(args) => package::run(&root(), &args),
        Verb::Picture => picture::run(&root()),
        Verb::Recording => recording::run(&root()),
        Verb::Setup(args) => setup::run(&args),
        Verb::Soak(args) => chaos::soak(&root(), &args),
        Verb::Test(args) => test::run(&root(), &args),
        Verb::Tidy => tidy::run(&root()),
        Verb::Vm(args) => vm::run(&root(), &args),
    }
}

/// The workspace's folder.
fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_path_buf()
}
