//! `weir completions`: a script for the shell.

use clap_complete::Shell;

use super::{Exit, output::write_stdout};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  weir completions bash > /etc/bash_completion.d/weir\n  weir completions zsh > ~/.zfunc/_weir"
)]
pub(super) struct Args {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

pub(super) fn run(args: &Args) -> anyhow::Result<Exit> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut super::command(), "weir", &mut script);
    write_stdout(&script)?;
    Ok(Exit::Success)
}
