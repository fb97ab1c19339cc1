//! The command line: one file per verb. Results go to stdout; logs and progress go to stderr.

mod by;
pub mod capture_args;
mod check;
mod completions;
mod connections;
mod control;
mod detach;
mod endpoints;
mod exec;
mod exit;
mod explain;
mod filters;
mod flags;
mod inject;
mod log_level;
mod man;
#[cfg(feature = "node")]
mod node;
pub mod output;
mod ports;
mod routes;
mod run;
mod service_flags;
mod services;
mod sidecar;
mod stat;
mod status;
mod tap;
mod top;
mod ui;
mod version;
mod workload;

pub use check::{ProofFailure, ProofRun};
pub use exit::{Exit, with_exit};

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

/// See [`exit::Exit`].
const EXIT_CODES: &str = "\
Exit codes:
  0      success (also if the reader closes the pipe early)
  1      failure
  2      bad usage or bad input: flags, port lists, configuration, manifests
  3      a requirement is missing: root or capabilities, kernel, cgroup2
  4      no weir is running: the control socket is absent or refuses
  99     a condition of `weir exec --fail-if` holds, and the command has succeeded
  CODE   `weir exec` exits with the code of its command, or 128 + signal";

/// A transparent, eBPF-assisted proxy: captures TCP connections in the kernel, detects their
/// protocol, forwards them and reports metrics and records.
#[derive(Debug, Parser)]
#[command(
    name = "weir",
    version,
    long_version = version::long(),
    max_term_width = 100,
    after_help = EXIT_CODES
)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run one command and capture its connections
    Exec(capture_args::ExecArgs),
    /// Capture a cgroup until SIGTERM
    Run(capture_args::RunArgs),
    /// Capture the annotated pods of a Kubernetes node
    #[cfg(feature = "node")]
    Node(Box<node::Args>),
    /// List, add or remove workloads of a running weir
    Workload(workload::Args),
    /// Remove all kernel state of weir
    Detach(detach::Args),
    /// Show or change port states of a running weir
    Ports(ports::Args),
    /// Predict the decision for a connection to an address, and explain it
    Explain(explain::Args),
    /// Show the state of a running weir
    Status(status::Args),
    /// Show the services that a running weir knows
    Services(services::Args),
    /// Show the endpoints of services, with what each costs
    Endpoints(endpoints::Args),
    /// Show the routes that a running weir knows, and what of them is in force
    Routes(routes::Args),
    /// Show statistics per destination, endpoint or service
    Stat(stat::Args),
    /// Show the busiest destinations, endpoints or services, refreshed every interval
    Top(top::Args),
    /// Show the open connections
    Connections(connections::Args),
    /// Show connections and requests as they end
    Tap(tap::Args),
    /// Serve a page for the browser that shows a running weir
    Ui(ui::Args),
    /// Show or change the log filter of a running weir
    LogLevel(log_level::Args),
    /// Check the requirements on this machine, and capture a test connection
    Check(check::Args),
    /// Add weir's annotations, or its sidecar, to the pods of a Kubernetes manifest
    Inject(inject::InjectArgs),
    /// Remove the additions of `weir inject` from a Kubernetes manifest
    Uninject(inject::UninjectArgs),
    /// Print a shell completion script
    Completions(completions::Args),
    /// Print the manual page
    Man(man::Args),
}

/// Runs the verb that the process was started with.
#[must_use]
pub fn main() -> ExitCode {
    crate::check::proof::child();
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
        Verb::Services(args) => services::run(&args),
        Verb::Endpoints(args) => endpoints::run(&args),
        Verb::Routes(args) => routes::run(&args),
        Verb::Stat(args) => stat::run(&args),
        Verb::Top(args) => top::run(&args),
        Verb::Connections(args) => connections::run(&args),
        Verb::Tap(args) => tap::run(&args),
        Verb::Ui(args) => ui::run(&args),
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
