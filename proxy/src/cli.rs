//! The command line: one file per verb. stdout is data, stderr is narration.

pub mod capture_args;
mod check;
mod completions;
mod control;
mod detach;
mod exec;
mod exit;
mod explain;
mod inject;
mod log_level;
mod man;
#[cfg(feature = "node")]
mod node;
pub mod output;
mod ports;
mod predecessor;
mod reload;
mod run;
mod session;
mod sidecar;
mod stat;
mod status;
mod tap;
mod top;
mod workload;

pub use check::{ProofFailure, ProofRun};
pub use exit::{Exit, with_exit};

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

/// See [`exit::Exit`].
const EXIT_CODES: &str = "\
Exit codes:
  0      success (a reader that closes the pipe early is one too)
  1      failure
  2      bad usage or bad input: flags, port lists, configuration, manifests
  3      a requirement is missing: root or capabilities, kernel, cgroup2
  4      no weir is running: nobody behind the control socket
  CODE   `weir exec` ends with its command's own code, or 128 + signal";

/// A transparent, eBPF-assisted proxy: captures TCP connections in the kernel, finds out which
/// protocol each one speaks, forwards it and reports what it saw.
#[derive(Debug, Parser)]
#[command(name = "weir", version, max_term_width = 100, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run one command with its connections captured
    Exec(capture_args::ExecArgs),
    /// Capture a cgroup until told to stop
    Run(capture_args::RunArgs),
    /// Capture the annotated pods of a Kubernetes node
    #[cfg(feature = "node")]
    Node(Box<node::Args>),
    /// Show, add or remove what a running weir captures
    Workload(workload::Args),
    /// Take away everything that weir has left in the kernel
    Detach(detach::Args),
    /// Show or change what ports get, in a running weir
    Ports(ports::Args),
    /// Say what a connection to an address gets, and why
    Explain(explain::Args),
    /// Say what is running
    Status(status::Args),
    /// Show numbers per destination
    Stat(stat::Args),
    /// Show the busiest destinations, again and again
    Top(top::Args),
    /// Show connections and requests as they end
    Tap(tap::Args),
    /// Show or change what a running weir writes to its log
    LogLevel(log_level::Args),
    /// Check that this machine can run weir, and prove it
    Check(check::Args),
    /// Add weir's annotations, or its sidecar, to the pods of a Kubernetes manifest
    Inject(inject::InjectArgs),
    /// Take out of a Kubernetes manifest what weir inject has added
    Uninject(inject::UninjectArgs),
    /// Print a shell completion script
    Completions(completions::Args),
    /// Print the manual page
    Man(man::Args),
}

/// Runs the verb that the process was started with.
#[must_use]
pub fn main() -> ExitCode {
    crate::capture::proof::child();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        // Help and version are "errors" with code 0; a closed pipe under them is no failure.
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let outcome = match cli.verb {
        Verb::Exec(args) => exec::run(&args),
        Verb::Run(args) => run::run(&args),
        #[cfg(feature = "node")]
        Verb::Node(args) => node::run(&args),
        Verb::Workload(args) => workload::run(&args),
        Verb::Detach(args) => detach::run(&args),
        Verb::Ports(args) => ports::run(&args),
        Verb::Explain(args) => explain::run(&args),
        Verb::Status(args) => status::run(&args),
        Verb::Stat(args) => stat::run(&args),
        Verb::Top(args) => top::run(&args),
        Verb::Tap(args) => tap::run(&args),
        Verb::LogLevel(args) => log_level::run(&args),
        Verb::Check(args) => check::run(&args, Some(check::interception)),
        Verb::Inject(args) => inject::inject(&args),
        Verb::Uninject(args) => inject::uninject(&args),
        Verb::Completions(args) => completions::run(&args),
        Verb::Man(args) => man::run(&args),
    };
    exit::settle(outcome)
}

/// The whole command line, for completions, manual pages and tests.
fn command() -> clap::Command {
    Cli::command()
}

#[cfg(test)]
mod tests;
