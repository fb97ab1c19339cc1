//! The arguments of `weir exec` and `weir run`, and how they change a configuration.

use std::{ffi::OsString, path::PathBuf, time::Duration};

use super::{
    flags::{Flags, OfCapture, OfInstance, OfName, OfPlace, OfWorkload},
    output::Format,
    service_flags::ServiceFlags,
};
use crate::{
    config::{Config, ConfigError, WorkloadSettings},
    host::Named,
    telemetry::conditions::Condition,
};

/// Flags that each workload has for itself: of `weir exec`, `run`, `node` and `workload add`.
pub type PortFlags = Flags<OfWorkload>;

/// Flags that `weir exec`, `run` and `node` share.
pub type CaptureArgs = Flags<OfCapture>;

/// Flags of a workload that is there already: of `weir run` and `weir workload add`.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct WorkloadFlags {
    /// Which processes.
    #[command(flatten)]
    place: Flags<OfPlace>,

    /// Flags shared with `weir exec`.
    #[command(flatten)]
    ports: PortFlags,
}

/// Format of a summary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum SummaryFormat {
    /// Human-readable.
    Text,
    /// Machine-readable.
    Json,
}

/// `weir exec`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  weir exec -- curl -s http://example.com/
  weir exec --record calls.json -- ./integration-test
  weir exec --skip-outbound-ports 4406 --opaque-ports +9000 -- ./server
  weir exec --summary out.json --har out.har --fail-if 'failures>0' -- make test
  sudo weir exec --netns shop -- curl -s http://10.0.0.2/

What follows the command is the command's, also without --. Under sudo the command runs as the user
who called sudo; --user root keeps root. WEIR_CONTROL in its environment is the session's control
socket: `weir status` or `weir tap` in the command ask this weir.

Conditions: [host(NAME)] requests|connections|failures|p50|p90|p95|p99|max, then >, >=, <, <=, =
or !=, then a number, or a duration for latencies.

weir exits with the exit code of the command, or 128 + signal. When the command exits, weir prints a
table of destinations to stderr.")]
pub struct ExecArgs {
    /// Flags of the workload.
    #[command(flatten)]
    pub ports: PortFlags,

    /// Flags shared with `weir run`.
    #[command(flatten)]
    pub capture: CaptureArgs,

    /// Services.
    #[command(flatten)]
    pub services: ServiceFlags,

    /// Run the command as this user [default: the caller of sudo, else weir's own]
    #[arg(long, value_name = "USER[:GROUP]")]
    pub user: Option<String>,

    /// Run the command in this network namespace, as `ip netns exec` does
    #[arg(long, value_name = "NAME|PATH")]
    pub netns: Option<String>,

    /// Write the summary to this file or open descriptor; nothing of weir's goes to stderr then
    #[arg(long, value_name = "FILE|FD", conflicts_with = "quiet")]
    pub summary: Option<OsString>,

    /// Format of the summary [default: json for FILE.json, else as --output]
    #[arg(long, value_name = "FORMAT", value_enum, requires = "summary")]
    pub summary_format: Option<SummaryFormat>,

    /// Write HTTP requests to this file as an HTTP Archive (HAR 1.2), for a browser's network panel
    #[arg(long, value_name = "FILE")]
    pub har: Option<PathBuf>,

    /// Exit with code 99 if this holds and the command has succeeded, such as 'failures>0' or
    /// 'host(api.example)p99>200ms'; repeatable
    #[arg(long, value_name = "CONDITION")]
    pub fail_if: Vec<Condition>,

    /// Format of the final table on stderr
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value_t)]
    pub output: Format,

    /// Do not print the final table
    #[arg(short, long)]
    pub quiet: bool,

    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "CMD")]
    pub command: Vec<OsString>,
}

/// `weir run`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  weir run --cgroup /sys/fs/cgroup/system.slice/shop.service --admin 127.0.0.1:4191
  weir run --unit shop.service --record /var/log/weir/shop.json
  weir run --config /etc/weir.toml --opaque-ports +9000
  weir run --config /etc/weir.toml --print-config
  weir run --sidecar --admin 0.0.0.0:4191

SIGTERM and SIGINT drain: new connections go direct, open ones may finish. SIGHUP reopens the record
file and reloads the configuration.")]
pub struct RunArgs {
    /// Flags of the workload.
    #[command(flatten)]
    pub workload: WorkloadFlags,

    /// Capture the cgroup of this running systemd unit, such as shop.service
    #[arg(long, value_name = "UNIT", conflicts_with_all = ["cgroup", "pid", "container"])]
    pub unit: Option<String>,

    /// Capture the cgroup that this process is in
    #[arg(long, value_name = "PID", conflicts_with_all = ["cgroup", "container"])]
    pub pid: Option<u32>,

    /// Capture the cgroup of this running container of Docker or Podman
    #[arg(long, value_name = "NAME|ID", conflicts_with = "cgroup")]
    pub container: Option<String>,

    /// Start without workloads; add them with `weir workload add`
    #[arg(long, conflicts_with_all = ["cgroup", "netns", "unit", "pid", "container"])]
    pub standby: bool,

    /// Capture the Kubernetes pod in which weir runs as a container, except weir's own connections
    #[arg(long, conflicts_with_all = ["cgroup", "netns", "standby", "unit", "pid", "container"])]
    pub sidecar: bool,

    /// UID of that pod [default: POD_UID in the environment, or the pod whose cgroup has weir]
    #[arg(long, value_name = "UID", requires = "sidecar")]
    pub pod_uid: Option<String>,

    /// Where the kernel side is kept.
    #[command(flatten)]
    pub instance: Flags<OfInstance>,

    /// Take over from the running weir without failed connections
    #[arg(long)]
    pub upgrade: bool,

    /// The workload's name.
    #[command(flatten)]
    pub name: Flags<OfName>,

    /// Configuration file (TOML); flags take precedence
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Print the effective configuration and exit
    #[arg(long)]
    pub print_config: bool,

    /// Flags shared with `weir exec`.
    #[command(flatten)]
    pub capture: CaptureArgs,

    /// Services.
    #[command(flatten)]
    pub services: ServiceFlags,
}

// === impl WorkloadFlags ===

impl WorkloadFlags {
    /// Puts the flags that were given over settings whose lists are resolved.
    ///
    /// # Errors
    /// Where a value does not fit.
    pub fn apply(&self, settings: &mut WorkloadSettings) -> Result<(), ConfigError> {
        self.place.apply(settings)?;
        self.ports.apply(settings)
    }
}

// === impl ExecArgs ===

impl ExecArgs {
    /// The effective configuration. The caller fills in the cgroup that it makes.
    ///
    /// # Errors
    /// If a flag's value is out of range.
    pub fn config(&self) -> Result<Config, ConfigError> {
        let mut config = Config::default();
        config.own.workload.name = "exec".into();
        config.own.outbound.capture_loopback = true;
        config.process.log.level = "warn".into();
        // The command is over by then: what a server keeps half-open is not waited for.
        config.process.drain.deadline = Duration::from_millis(500);
        // A server would see weir's address instead of its clients'.
        config.own.inbound.capture = false;
        self.ports.apply(&mut config)?;
        self.capture.apply(&mut config)?;
        self.services.apply(&mut config)?;
        config.validate()?;
        Ok(config)
    }
}

// === impl RunArgs ===

impl RunArgs {
    /// What is to be captured, where not its cgroup is given.
    pub(super) fn named(&self) -> Option<Named> {
        let unit = self.unit.clone().map(Named::Unit);
        let container = || self.container.clone().map(Named::Container);
        unit.or(self.pid.map(Named::Process)).or_else(container)
    }

    /// The effective configuration: defaults, then the file, then the flags.
    ///
    /// # Errors
    /// If the file or a value is wrong.
    pub fn config(&self) -> Result<Config, ConfigError> {
        let mut config = match &self.config {
            Some(path) => Config::load(path)?,
            None => Config::default(),
        };
        self.workload.apply(&mut config.own)?;
        self.name.apply(&mut config)?;
        self.instance.apply(&mut config)?;
        self.capture.apply(&mut config)?;
        self.services.apply(&mut config)?;
        config.validate()?;
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::config::{Kind, Setting};

    #[derive(Parser)]
    struct Run {
        #[command(flatten)]
        args: RunArgs,
    }

    fn run(args: &[&str]) -> Config {
        Run::parse_from([&["weir"], args].concat()).args.config().unwrap()
    }

    /// Each flag means what its key in the file means.
    #[test]
    fn flags_and_the_file_mean_the_same() {
        for setting in Setting::all().filter(|setting| !setting.name.is_empty()) {
            let text = setting.sample();
            let given = match (setting.kind, text.as_str()) {
                (Kind::Bool, "true") => format!("--{}", setting.name),
                (Kind::Bool, _) => format!("--no-{}", setting.name),
                _ => format!("--{}={text}", setting.name),
            };
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), setting.file(&text)).unwrap();
            let path = file.path().to_str().unwrap();
            assert_eq!(run(&[&given]), run(&["--config", path]), "{given}");
        }
    }

    #[test]
    fn flags_win_over_the_file_and_plus_adds_to_it() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(
            file.path(),
            "[outbound]\nskip_ports = \"1\"\nopaque_ports = \"+2\"\ncapture_loopback = true",
        )
        .unwrap();
        let path = file.path().to_str().unwrap();
        let config = run(&["--config", path, "--skip-outbound-ports", "+7", "--opaque-ports=3"]);
        assert_eq!(config.own.outbound.skip_ports.to_string(), "1,7");
        assert_eq!(config.own.outbound.opaque_ports.to_string(), "3");
        assert!(config.own.outbound.capture_loopback);
        assert!(!run(&["--config", path, "--no-capture-loopback"]).own.outbound.capture_loopback);
        let last = run(&["--no-capture-loopback", "--capture-loopback"]);
        assert!(last.own.outbound.capture_loopback, "the last one counts");
        assert_eq!(run(&["--opaque-ports", "+9"]).own.inbound.opaque_ports.set.len(), 9);
    }
}
