//! The flags of the verbs that capture, and how they change a configuration.

use std::{ffi::OsString, net::SocketAddr, path::PathBuf, time::Duration};

use clap::ArgAction;

use super::output::Format;
use crate::{
    config::{
        BpfLog, Config, ConfigError, Connect, EngineName, Fail, Inbound, LogFormat, Outbound,
        RecordFormat, Switch, Workload, WorkloadSettings,
    },
    learn::Learn,
    ports::{CidrList, PortList},
    units::{parse_duration, parse_size},
};

/// Flags that each workload has for itself: of `weir exec`, `weir run` and `weir workload add`.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct PortFlags {
    /// Outbound ports that are not captured, such as 25,9000-9100
    #[arg(long, value_name = "LIST", value_parser = PortList::parse, allow_hyphen_values = true, help_heading = "Ports")]
    pub skip_outbound_ports: Option<PortList>,

    /// Inbound ports that are not captured
    #[arg(long, value_name = "LIST", value_parser = PortList::parse, allow_hyphen_values = true, help_heading = "Ports")]
    pub skip_inbound_ports: Option<PortList>,

    /// Ports forwarded as raw TCP, both directions; +LIST adds to the default list
    /// [default: 25,587,3306,4444,5432,6379,9300,11211]
    #[arg(long, value_name = "LIST", value_parser = PortList::parse, allow_hyphen_values = true, help_heading = "Ports")]
    pub opaque_ports: Option<PortList>,

    /// Capture only these ports of outbound connections
    #[arg(long, value_name = "LIST", value_parser = PortList::parse, allow_hyphen_values = true, help_heading = "Ports")]
    pub include_outbound_ports: Option<PortList>,

    /// Destinations that are not captured, such as 10.0.0.0/8,fd00::/8
    #[arg(long, value_name = "CIDRS", value_parser = CidrList::parse, help_heading = "Ports")]
    pub skip_cidrs: Option<CidrList>,

    /// Also capture connections to 127.0.0.0/8 and ::1 [default: exec yes, run no]
    #[arg(long, action = ArgAction::SetTrue, overrides_with = "no_capture_loopback", help_heading = "Ports")]
    pub capture_loopback: bool,

    /// Do not capture connections to 127.0.0.0/8 and ::1
    #[arg(long, action = ArgAction::SetTrue, overrides_with = "capture_loopback", help_heading = "Ports")]
    pub no_capture_loopback: bool,

    /// Also capture inbound connections [default: exec no, else yes]
    #[arg(long, action = ArgAction::SetTrue, overrides_with = "no_capture_inbound", help_heading = "Ports")]
    pub capture_inbound: bool,

    /// Do not capture inbound connections
    #[arg(long, action = ArgAction::SetTrue, overrides_with = "capture_inbound", help_heading = "Ports")]
    pub no_capture_inbound: bool,

    /// Capture only these ports of inbound connections
    #[arg(long, value_name = "LIST", value_parser = PortList::parse, allow_hyphen_values = true, help_heading = "Ports")]
    pub include_inbound_ports: Option<PortList>,

    /// Dial the application from the client's address instead of a local one
    #[arg(long, help_heading = "Forwarding")]
    pub preserve_client_ip: bool,

    /// Policy for new connections while weir is not running [default: open]
    #[arg(long, value_name = "POLICY", value_enum, help_heading = "Forwarding")]
    pub fail: Option<Fail>,

    /// Policy for destinations whose servers speak neither HTTP nor TLS [default: opaque]
    #[arg(long, value_name = "MODE", value_enum, help_heading = "Forwarding")]
    pub learn: Option<Learn>,
}

/// Flags of a workload that is there already: of `weir run` and `weir workload add`.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct WorkloadFlags {
    /// Directory of the cgroup v2 to capture
    #[arg(long, value_name = "PATH")]
    pub cgroup: Option<PathBuf>,

    /// Network namespace of its processes, such as /run/netns/NAME or /proc/PID/ns/net
    /// [default: that of the processes in the cgroup]
    #[arg(long, value_name = "PATH")]
    pub netns: Option<PathBuf>,

    /// Flags shared with `weir exec`.
    #[command(flatten)]
    pub ports: PortFlags,
}

/// Flags that `weir exec` and `weir run` share. Each overrides the configuration file.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct CaptureArgs {
    /// How long `--http-engine terminate` waits for more bytes when the first ones are ambiguous
    /// (ms, s, m, h) [default: 50ms]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, help_heading = "Forwarding")]
    pub detect_timeout: Option<Duration>,

    /// Bytes after which undetected connections are raw TCP (B, KiB, MiB) [default: 8KiB]
    #[arg(long, value_name = "SIZE", value_parser = parse_size, help_heading = "Forwarding")]
    pub detect_peek_limit: Option<usize>,

    /// When connect(2) of a captured connection succeeds [default: hold]
    #[arg(long, value_name = "WHEN", value_enum, help_heading = "Forwarding")]
    pub connect: Option<Connect>,

    /// HTTP engine [default: passthrough]
    #[arg(long, value_name = "ENGINE", value_enum, help_heading = "Forwarding")]
    pub http_engine: Option<EngineName>,

    /// Redirect payload between sockets in the kernel; docs/ARCHITECTURE.md has the limits
    /// [default: off]
    #[arg(long, value_name = "SWITCH", value_enum, help_heading = "Forwarding")]
    pub sk_msg: Option<Switch>,

    /// Worker threads; 0 for one per CPU [default: 0]
    #[arg(long, value_name = "N", help_heading = "Forwarding")]
    pub workers: Option<usize>,

    /// How long open connections may continue after SIGTERM (ms, s, m, h) [default: 30s]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, help_heading = "Forwarding")]
    pub drain_deadline: Option<Duration>,

    /// Write a record of each connection and request to this file; - is stdout
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub record: Option<PathBuf>,

    /// Format of records [default: json]
    #[arg(long, value_name = "FORMAT", value_enum, help_heading = "Output")]
    pub record_format: Option<RecordFormat>,

    /// Format of weir's log on stderr [default: text]
    #[arg(long, value_name = "FORMAT", value_enum, help_heading = "Output")]
    pub log_format: Option<LogFormat>,

    /// Log filter, such as debug or weir=debug,h2=warn [default: exec warn, run info]
    #[arg(long, value_name = "FILTER", help_heading = "Output")]
    pub log_level: Option<String>,

    /// Log level of the BPF programs; all levels but off cost time in every hook [default: off]
    #[arg(long, value_name = "LEVEL", value_enum, help_heading = "Output")]
    pub bpf_log: Option<BpfLog>,

    /// Serve /live, /ready and /metrics at this address, such as 127.0.0.1:4191 [default: none]
    #[arg(long, value_name = "ADDR:PORT", help_heading = "Output")]
    pub admin: Option<SocketAddr>,

    /// Control socket for `weir ports`, `explain`, `status` and `stat`
    /// [default: /run/weir/control.sock]
    #[arg(long, value_name = "PATH", help_heading = "Output")]
    pub control: Option<PathBuf>,
}

/// `weir exec`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  weir exec -- curl -s http://example.com/
  weir exec --record calls.json -- ./integration-test
  weir exec --skip-outbound-ports 4406 --opaque-ports +9000 -- ./server

weir exits with the exit code of the command, or 128 + signal. When the command exits, weir prints a
table of destinations to stderr.")]
pub struct ExecArgs {
    /// Flags of the workload.
    #[command(flatten)]
    pub ports: PortFlags,

    /// Flags shared with `weir run`.
    #[command(flatten)]
    pub capture: CaptureArgs,

    /// Format of the final table on stderr
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value_t)]
    pub output: Format,

    /// Do not print the final table
    #[arg(short, long)]
    pub quiet: bool,

    /// The command and its arguments, after --
    #[arg(required = true, last = true, value_name = "CMD")]
    pub command: Vec<OsString>,
}

/// `weir run`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  weir run --cgroup /sys/fs/cgroup/system.slice/shop.service --admin 127.0.0.1:4191
  weir run --config /etc/weir.toml --opaque-ports +9000
  weir run --config /etc/weir.toml --print-config
  weir run --sidecar --admin 0.0.0.0:4191

SIGTERM and SIGINT drain: new connections go direct, open ones may finish. SIGHUP reopens the record
file and reloads the configuration.")]
pub struct RunArgs {
    /// Flags of the workload.
    #[command(flatten)]
    pub workload: WorkloadFlags,

    /// Start without workloads; add them with `weir workload add`
    #[arg(long, conflicts_with_all = ["cgroup", "netns"])]
    pub standby: bool,

    /// Capture the Kubernetes pod in which weir runs as a container, except weir's own connections
    #[arg(long, conflicts_with_all = ["cgroup", "netns", "standby"])]
    pub sidecar: bool,

    /// UID of that pod [default: POD_UID in the environment, or the pod whose cgroup has weir]
    #[arg(long, value_name = "UID", requires = "sidecar")]
    pub pod_uid: Option<String>,

    /// Name of the directory below weir/ in the bpffs for pinned state; only one process may use it
    /// [default: default; with --sidecar pod-UID]
    #[arg(long, value_name = "NAME")]
    pub instance: Option<String>,

    /// Take over from the running weir without failed connections
    #[arg(long)]
    pub upgrade: bool,

    /// Name of the workload in metrics and records [default: default]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,

    /// Configuration file (TOML); flags take precedence
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Print the effective configuration and exit
    #[arg(long)]
    pub print_config: bool,

    /// Flags shared with `weir exec`.
    #[command(flatten)]
    pub capture: CaptureArgs,
}

// === impl PortFlags ===

impl PortFlags {
    /// Puts the flags that were given over settings whose lists are resolved.
    pub fn apply(&self, workload: &mut Workload, outbound: &mut Outbound, inbound: &mut Inbound) {
        let opaque = &self.opaque_ports;
        list(&mut outbound.skip_ports, &self.skip_outbound_ports);
        list(&mut inbound.skip_ports, &self.skip_inbound_ports);
        list(&mut outbound.opaque_ports, opaque);
        list(&mut inbound.opaque_ports, opaque);
        list(&mut outbound.include_ports, &self.include_outbound_ports);
        list(&mut inbound.include_ports, &self.include_inbound_ports);
        value(&mut outbound.skip_cidrs, &self.skip_cidrs);
        if self.capture_loopback || self.no_capture_loopback {
            outbound.capture_loopback = self.capture_loopback;
        }
        if self.capture_inbound || self.no_capture_inbound {
            inbound.capture = self.capture_inbound;
        }
        inbound.preserve_client_ip |= self.preserve_client_ip;
        value(&mut workload.fail, &self.fail);
        value(&mut workload.learn, &self.learn);
    }
}

// === impl WorkloadFlags ===

impl WorkloadFlags {
    /// Puts the flags that were given over settings whose lists are resolved.
    pub fn apply(&self, settings: &mut WorkloadSettings) {
        self.apply_to(&mut settings.workload, &mut settings.outbound, &mut settings.inbound);
    }

    fn apply_to(&self, workload: &mut Workload, outbound: &mut Outbound, inbound: &mut Inbound) {
        option(&mut workload.cgroup, &self.cgroup);
        option(&mut workload.netns, &self.netns);
        self.ports.apply(workload, outbound, inbound);
    }
}

// === impl CaptureArgs ===

impl CaptureArgs {
    /// Puts the flags that were given over a configuration.
    pub fn apply(&self, config: &mut Config) {
        value(&mut config.detect.timeout, &self.detect_timeout);
        value(&mut config.detect.peek_limit, &self.detect_peek_limit);
        value(&mut config.forward.connect, &self.connect);
        value(&mut config.http.engine, &self.http_engine);
        value(&mut config.runtime.sk_msg, &self.sk_msg);
        value(&mut config.runtime.workers, &self.workers);
        value(&mut config.drain.deadline, &self.drain_deadline);
        option(&mut config.record.file, &self.record);
        value(&mut config.record.format, &self.record_format);
        value(&mut config.log.format, &self.log_format);
        value(&mut config.log.level, &self.log_level);
        value(&mut config.log.bpf, &self.bpf_log);
        option(&mut config.admin.address, &self.admin);
        value(&mut config.admin.control_socket, &self.control);
    }
}

/// A flag that begins with `+` adds to what the file (or the default) says.
fn list(target: &mut PortList, flag: &Option<PortList>) {
    if let Some(flag) = flag {
        *target = flag.resolve(&target.set).into();
    }
}

fn value<T: Clone>(target: &mut T, flag: &Option<T>) {
    if let Some(flag) = flag {
        target.clone_from(flag);
    }
}

fn option<T: Clone>(target: &mut Option<T>, flag: &Option<T>) {
    if flag.is_some() {
        target.clone_from(flag);
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
        config.workload.name = "exec".into();
        config.outbound.capture_loopback = true;
        config.log.level = "warn".into();
        // The command is over by then: what a server keeps half-open is not waited for.
        config.drain.deadline = Duration::from_millis(500);
        // A server would see weir's address instead of its clients'.
        config.inbound.capture = false;
        self.ports.apply(&mut config.workload, &mut config.outbound, &mut config.inbound);
        self.capture.apply(&mut config);
        config.validate()?;
        Ok(config)
    }
}

// === impl RunArgs ===

impl RunArgs {
    /// The effective configuration: defaults, then the file, then the flags.
    ///
    /// # Errors
    /// If the file or a value is wrong.
    pub fn config(&self) -> Result<Config, ConfigError> {
        let mut config = match &self.config {
            Some(path) => Config::load(path)?,
            None => Config::default(),
        };
        self.workload.apply_to(&mut config.workload, &mut config.outbound, &mut config.inbound);
        value(&mut config.workload.name, &self.name);
        value(&mut config.runtime.instance, &self.instance);
        self.capture.apply(&mut config);
        config.validate()?;
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::ports::{DEFAULT_OPAQUE_PORTS, PortSet};

    #[derive(Parser)]
    struct Run {
        #[command(flatten)]
        args: RunArgs,
    }

    fn run(args: &[&str]) -> Config {
        Run::parse_from([&["weir"], args].concat()).args.config().unwrap()
    }

    #[test]
    fn the_documented_default_list_is_the_real_one() {
        let defaults: PortSet = DEFAULT_OPAQUE_PORTS.into_iter().collect();
        let help = <Run as clap::CommandFactory>::command()
            .term_width(1000)
            .render_long_help()
            .to_string();
        assert!(help.contains(&format!("[default: {defaults}]")), "{help}");
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
        assert_eq!(config.outbound.skip_ports.to_string(), "1,7");
        assert_eq!(config.outbound.opaque_ports.to_string(), "3");
        assert!(config.outbound.capture_loopback);
        assert!(!run(&["--config", path, "--no-capture-loopback"]).outbound.capture_loopback);
        let last = run(&["--no-capture-loopback", "--capture-loopback"]);
        assert!(last.outbound.capture_loopback, "the last one counts");
        assert_eq!(run(&["--opaque-ports", "+9"]).inbound.opaque_ports.set.len(), 9);
    }
}
