//! Development tasks of weir, one file per verb.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::{Parser, Subcommand};

mod ebpf;

/// Development tasks of weir
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Build the BPF object, or check that the committed one belongs to the sources
    Ebpf(ebpf::Args),
}

fn main() -> Result<()> {
    match Cli::parse().verb {
        Verb::Ebpf(args) => ebpf::run(&root(), &args),
    }
}

/// The workspace's folder.
fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_path_buf()
}
