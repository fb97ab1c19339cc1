//! The table of settings, in the order in which help and documentation show them.

mod output;

pub(super) use self::output::OUTPUT_SETTINGS;
use super::{
    Change::{InPlace, Recapture},
    Connect, EngineName, Fail,
    Group::{Capture, Instance, Name, Place, Workload},
    Kind::{Bool, Choice, Cidrs, Count, Duration, DurationOrZero, Path, Ports, Size, Text},
    Setting, Switch,
    setting::choices,
};
use crate::{balance::Mode, learn::Learn};

const PORTS: &str = "Ports";
const FORWARDING: &str = "Forwarding";

/// The settings of what is captured and how it is served, each key in one row; [`output`] has the others.
pub(super) const SETTINGS: [Setting; 37] = [
    Setting {
        keys: &["workload.name"],
        kind: Text,
        name: "name",
        value: "NAME",
        group: Name,
        change: Recapture,
        help: "Name of the workload in metrics and records",
        ..Setting::NEW
    },
    Setting {
        keys: &["workload.cgroup"],
        kind: Path,
        name: "cgroup",
        value: "PATH",
        group: Place,
        change: Recapture,
        help: "Directory of the cgroup v2 to capture",
        ..Setting::NEW
    },
    Setting {
        keys: &["workload.netns"],
        kind: Path,
        name: "netns",
        value: "PATH",
        group: Place,
        change: Recapture,
        help: "Network namespace of its processes, such as /run/netns/NAME or /proc/PID/ns/net",
        default: Some("that of the processes in the cgroup"),
        ..Setting::NEW
    },
    Setting {
        keys: &["inbound.skip_ports"],
        kind: Ports,
        name: "skip-inbound-ports",
        value: "LIST",
        group: Workload,
        heading: PORTS,
        annotation: true,
        linkerd: true,
        sidecar: true,
        change: InPlace,
        help: "Inbound ports that are not captured",
        ..Setting::NEW
    },
    Setting {
        keys: &["outbound.skip_ports"],
        kind: Ports,
        name: "skip-outbound-ports",
        value: "LIST",
        group: Workload,
        heading: PORTS,
        annotation: true,
        linkerd: true,
        sidecar: true,
        change: InPlace,
        help: "Outbound ports that are not captured, such as 25,9000-9100",
        ..Setting::NEW
    },
    Setting {
        keys: &["outbound.opaque_ports", "inbound.opaque_ports"],
        kind: Ports,
        name: "opaque-ports",
        value: "LIST",
        group: Workload,
        heading: PORTS,
        annotation: true,
        linkerd: true,
        sidecar: true,
        change: InPlace,
        help: "Ports forwarded as raw TCP, both directions; +LIST adds to the default list",
        ..Setting::NEW
    },
    Setting {
        keys: &["outbound.include_ports"],
        kind: Ports,
        name: "include-outbound-ports",
        value: "LIST",
        group: Workload,
        heading: PORTS,
        change: InPlace,
        help: "Capture only these ports of outbound connections",
        ..Setting::NEW
    },
    Setting {
        keys: &["outbound.skip_cidrs"],
        kind: Cidrs,
        name: "skip-cidrs",
        value: "CIDRS",
        group: Workload,
        heading: PORTS,
        change: InPlace,
        help: "Destinations that are not captured, such as 10.0.0.0/8,fd00::/8",
        ..Setting::NEW
    },
    Setting {
        keys: &["outbound.capture_loopback"],
        kind: Bool,
        name: "capture-loopback",
        off: Some(("no-capture-loopback", "Do not capture connections to 127.0.0.0/8 and ::1")),
        group: Workload,
        heading: PORTS,
        change: InPlace,
        help: "Also capture connections to 127.0.0.0/8 and ::1",
        default: Some("exec yes, run no"),
        ..Setting::NEW
    },
    Setting {
        keys: &["inbound.capture"],
        kind: Bool,
        name: "capture-inbound",
        off: Some(("no-capture-inbound", "Do not capture inbound connections")),
        group: Workload,
        heading: PORTS,
        change: Recapture,
        help: "Also capture inbound connections",
        default: Some("exec no, else yes"),
        ..Setting::NEW
    },
    Setting {
        keys: &["inbound.include_ports"],
        kind: Ports,
        name: "include-inbound-ports",
        value: "LIST",
        group: Workload,
        heading: PORTS,
        change: InPlace,
        help: "Capture only these ports of inbound connections",
        ..Setting::NEW
    },
    Setting {
        keys: &["inbound.preserve_client_ip"],
        kind: Bool,
        name: "preserve-client-ip",
        group: Workload,
        heading: FORWARDING,
        annotation: true,
        change: Recapture,
        help: "Dial the application from the client's address instead of a local one",
        ..Setting::NEW
    },
    Setting {
        keys: &["workload.fail"],
        kind: Choice(choices::<Fail>),
        name: "fail",
        value: "POLICY",
        group: Workload,
        heading: FORWARDING,
        annotation: true,
        change: InPlace,
        help: "Policy for new connections while weir is not running",
        ..Setting::NEW
    },
    Setting {
        keys: &["workload.learn"],
        kind: Choice(choices::<Learn>),
        name: "learn",
        value: "MODE",
        group: Workload,
        heading: FORWARDING,
        change: Recapture,
        help: "Policy for destinations whose servers speak neither HTTP nor TLS",
        ..Setting::NEW
    },
    Setting {
        keys: &["outbound.balance"],
        kind: Choice(choices::<Mode>),
        name: "balance",
        value: "MODE",
        group: Workload,
        heading: FORWARDING,
        annotation: true,
        change: InPlace,
        help: "Whether weir chooses the endpoints of connections to services",
        default: Some("connections"),
        ..Setting::NEW
    },
    Setting {
        keys: &["outbound.engine"],
        kind: Choice(choices::<EngineName>),
        name: "engine",
        value: "ENGINE",
        group: Workload,
        heading: FORWARDING,
        annotation: true,
        change: Recapture,
        help: "HTTP engine of the workload's outbound connections",
        default: Some("that of --http-engine"),
        ..Setting::NEW
    },
    Setting {
        keys: &["balance.default"],
        kind: Choice(choices::<Mode>),
        help: "The same for services and workloads that ask for nothing",
        ..Setting::NEW
    },
    Setting {
        keys: &["balance.node"],
        kind: Text,
        help: "Name of this machine in lists of endpoints",
        default: Some("node: --node-name; with --sidecar NODE_NAME; else none"),
        ..Setting::NEW
    },
    Setting {
        keys: &["balance.zone"],
        kind: Text,
        name: "zone",
        value: "ZONE",
        group: Capture,
        heading: FORWARDING,
        help: "Availability zone of this machine",
        default: Some("that of the endpoints on this node"),
        ..Setting::NEW
    },
    Setting {
        keys: &["balance.objects_dir"],
        kind: Path,
        name: "objects-dir",
        value: "DIR",
        group: Capture,
        heading: FORWARDING,
        help: "Follow the Services and EndpointSlices (*.yaml, *.yml, *.json) in this directory",
        ..Setting::NEW
    },
    Setting {
        keys: &["detect.timeout"],
        kind: Duration,
        name: "detect-timeout",
        value: "DURATION",
        group: Capture,
        heading: FORWARDING,
        change: InPlace,
        help: "How long `--http-engine terminate` waits for more bytes when the first ones are \
               ambiguous (ms, s, m, h)",
        ..Setting::NEW
    },
    Setting {
        keys: &["detect.peek_limit"],
        kind: Size { from: 64, to: 1 << 20 },
        name: "detect-peek-limit",
        value: "SIZE",
        group: Capture,
        heading: FORWARDING,
        change: InPlace,
        help: "Bytes after which undetected connections are raw TCP (B, KiB, MiB)",
        ..Setting::NEW
    },
    Setting {
        keys: &["forward.connect"],
        kind: Choice(choices::<Connect>),
        name: "connect",
        value: "WHEN",
        group: Capture,
        heading: FORWARDING,
        help: "When connect(2) of a captured connection succeeds",
        ..Setting::NEW
    },
    Setting {
        keys: &["forward.connect_timeout"],
        kind: Duration,
        change: InPlace,
        help: "How long an upstream server may take to accept a connection",
        ..Setting::NEW
    },
    Setting {
        keys: &["forward.half_closed_idle"],
        kind: Duration,
        change: InPlace,
        help: "How long a connection may be silent after one side has closed",
        ..Setting::NEW
    },
    Setting {
        keys: &["forward.max_connections"],
        kind: Count { from: 1, to: 10_000_000 },
        help: "Proxied connections at a time; close to it, new connections go direct",
        ..Setting::NEW
    },
    Setting {
        keys: &["http.engine"],
        kind: Choice(choices::<EngineName>),
        name: "http-engine",
        value: "ENGINE",
        group: Capture,
        heading: FORWARDING,
        change: InPlace,
        help: "HTTP engine",
        ..Setting::NEW
    },
    Setting {
        keys: &["http.max_head_bytes"],
        kind: Size { from: 8 << 10, to: 64 << 20 },
        change: InPlace,
        help: "Largest head of a request or response that the terminating engine accepts",
        ..Setting::NEW
    },
    Setting {
        keys: &["http.max_headers"],
        kind: Count { from: 16, to: 32_768 },
        change: InPlace,
        help: "Largest number of header fields that the terminating engine accepts",
        ..Setting::NEW
    },
    Setting {
        keys: &["http.max_concurrent_streams"],
        kind: Count { from: 1, to: u32::MAX as usize },
        change: InPlace,
        help: "HTTP/2 streams that a client of the terminating engine may have open at a time",
        ..Setting::NEW
    },
    Setting {
        keys: &["runtime.sk_msg"],
        kind: Choice(choices::<Switch>),
        name: "sk-msg",
        value: "SWITCH",
        group: Capture,
        heading: FORWARDING,
        help: "Redirect payload between sockets in the kernel; docs/ARCHITECTURE.md has the limits",
        ..Setting::NEW
    },
    Setting {
        keys: &["runtime.workers"],
        kind: Count { from: 0, to: 1024 },
        name: "workers",
        value: "N",
        group: Capture,
        heading: FORWARDING,
        help: "Worker threads; 0 for one per CPU",
        ..Setting::NEW
    },
    Setting {
        keys: &["runtime.instance"],
        kind: Text,
        name: "instance",
        value: "NAME",
        group: Instance,
        help: "Name of the directory below weir/ in the bpffs for pinned state; only one process \
               may use it",
        default: Some("default; with --sidecar pod-UID"),
        ..Setting::NEW
    },
    Setting {
        keys: &["drain.deadline"],
        kind: DurationOrZero,
        name: "drain-deadline",
        value: "DURATION",
        group: Capture,
        heading: FORWARDING,
        help: "How long open connections may continue after SIGTERM (ms, s, m, h)",
        ..Setting::NEW
    },
    Setting {
        keys: &["budget.dialling"],
        kind: Count { from: 1, to: 1 << 20 },
        help: "Connections of a workload that are accepted and not yet dialled; more wait in the \
               kernel's queue",
        ..Setting::NEW
    },
    Setting {
        keys: &["budget.memory"],
        kind: Size { from: 0, to: usize::MAX },
        help: "Bytes that all workloads may keep of what their peers have sent; 0 for a quarter of \
               the memory that the process may use, at most 256 MiB",
        ..Setting::NEW
    },
    Setting {
        keys: &["budget.stat_rows"],
        kind: Count { from: 16, to: 1 << 20 },
        help: "Rows of `weir stat`",
        ..Setting::NEW
    },
];
