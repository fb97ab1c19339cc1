//! `weir man`: manual pages out of the same definitions as the help.

use std::path::PathBuf;

use anyhow::Context;

use super::{Exit, output::write_stdout};
use crate::config::tables;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  weir man | man -l -\n  weir man --dir /usr/local/share/man/man1"
)]
pub(super) struct Args {
    /// Write one page per verb into this directory instead of weir(1) to stdout
    #[arg(long, value_name = "PATH")]
    dir: Option<PathBuf>,
    /// Print the tables of settings for the documentation (`cargo xtask docs`)
    #[arg(long, hide = true)]
    tables: bool,
}

pub(super) fn run(args: &Args) -> anyhow::Result<Exit> {
    if args.tables {
        let text = tables().map(|(name, table)| format!("<!-- table {name} -->\n{table}"));
        write_stdout(text.concat().as_bytes())?;
        return Ok(Exit::Success);
    }
    if let Some(dir) = &args.dir {
        clap_mangen::generate_to(super::command(), dir).with_context(|| {
            format!(
                "cannot write manual pages to {}; check that the directory exists",
                dir.display()
            )
        })?;
        return Ok(Exit::Success);
    }
    let mut page = Vec::new();
    clap_mangen::Man::new(super::command()).render(&mut page)?;
    write_stdout(&page)?;
    Ok(Exit::Success)
}
