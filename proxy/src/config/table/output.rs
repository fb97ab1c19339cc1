//! Settings of what weir tells: records, spans, its log, metrics and the control socket.

use super::super::{
    BpfLog,
    Change::InPlace,
    DestinationLabel,
    Group::{Capture, Workload},
    Kind::{Address, Bool, Choice, Count, DurationOrZero, Path, Ratio, Size, Text, Url},
    LogFormat, RecordFormat, Setting,
    setting::choices,
};

const OUTPUT: &str = "Output";

/// Each key in one row.
pub(in super::super) const OUTPUT_SETTINGS: [Setting; 17] = [
    Setting {
        keys: &["record.file"],
        kind: Path,
        name: "record",
        value: "FILE",
        group: Capture,
        heading: OUTPUT,
        help: "Write a record of each connection and request to this file; - is stdout",
        ..Setting::NEW
    },
    Setting {
        keys: &["workload.record_format"],
        kind: Choice(choices::<RecordFormat>),
        name: "record-format",
        value: "FORMAT",
        group: Workload,
        heading: OUTPUT,
        annotation: true,
        change: InPlace,
        help: "Format of records; docs/TRACING.md has the fields of each",
        default: Some("json"),
        ..Setting::NEW
    },
    Setting {
        keys: &["record.format"],
        kind: Choice(choices::<RecordFormat>),
        help: "The same for workloads that ask for nothing",
        ..Setting::NEW
    },
    Setting {
        keys: &["record.max_size"],
        kind: Size { from: 0, to: usize::MAX },
        name: "record-max-size",
        value: "SIZE",
        group: Capture,
        heading: OUTPUT,
        help: "Rename the record file to FILE.1 once it has this size, such as 100MiB; 0 for never",
        default: Some("0"),
        ..Setting::NEW
    },
    Setting {
        keys: &["record.keep"],
        kind: Count { from: 1, to: 1000 },
        help: "Renamed record files that are kept, FILE.1 the newest",
        ..Setting::NEW
    },
    Setting {
        keys: &["otlp.endpoint"],
        kind: Url,
        name: "otlp-endpoint",
        value: "URL",
        group: Capture,
        heading: OUTPUT,
        help: "Export spans of traced requests with OTLP/HTTP to this collector, such as \
               http://127.0.0.1:4318",
        default: Some("OTEL_EXPORTER_OTLP_ENDPOINT"),
        ..Setting::NEW
    },
    Setting {
        keys: &["otlp.failures"],
        kind: Bool,
        help: "Also export failed requests that are not sampled",
        ..Setting::NEW
    },
    Setting {
        keys: &["otlp.slow"],
        kind: DurationOrZero,
        help: "Also export requests that are not sampled and take at least this long; 0s for none",
        ..Setting::NEW
    },
    Setting {
        keys: &["otlp.ratio"],
        kind: Ratio,
        help: "Part of requests without a traceparent that is exported: 0 to 1",
        ..Setting::NEW
    },
    Setting {
        keys: &["log.format"],
        kind: Choice(choices::<LogFormat>),
        name: "log-format",
        value: "FORMAT",
        group: Capture,
        heading: OUTPUT,
        help: "Format of weir's log on stderr",
        ..Setting::NEW
    },
    Setting {
        keys: &["log.level"],
        kind: Text,
        name: "log-level",
        value: "FILTER",
        group: Capture,
        heading: OUTPUT,
        change: InPlace,
        help: "Log filter, such as debug or weir=debug,h2=warn",
        default: Some("exec warn, run info"),
        ..Setting::NEW
    },
    Setting {
        keys: &["log.bpf"],
        kind: Choice(choices::<BpfLog>),
        name: "bpf-log",
        value: "LEVEL",
        group: Capture,
        heading: OUTPUT,
        help: "Log level of the BPF programs; all levels but off cost time in every hook",
        ..Setting::NEW
    },
    Setting {
        keys: &["admin.address"],
        kind: Address,
        name: "admin",
        value: "ADDR:PORT",
        group: Capture,
        heading: OUTPUT,
        help: "Serve /live, /ready and /metrics at this address, such as 127.0.0.1:4191",
        default: Some("none"),
        ..Setting::NEW
    },
    Setting {
        keys: &["admin.ui"],
        kind: Bool,
        help: "Also serve the page of `weir ui` at the admin address, below /ui/, to clients on this \
               machine",
        ..Setting::NEW
    },
    Setting {
        keys: &["admin.destinations"],
        kind: Count { from: 0, to: 1000 },
        name: "destination-metrics",
        value: "N",
        group: Capture,
        heading: OUTPUT,
        help: "Metrics by destination, for each workload and direction of the N with the most requests; \
               0 for none",
        ..Setting::NEW
    },
    Setting {
        keys: &["admin.destination_label"],
        kind: Choice(choices::<DestinationLabel>),
        help: "What these call a destination: the host that clients ask for, or the service",
        ..Setting::NEW
    },
    Setting {
        keys: &["admin.control_socket"],
        kind: Path,
        name: "control",
        value: "PATH",
        group: Capture,
        heading: OUTPUT,
        default: Some("exec one of its own, else /run/weir/control.sock"),
        help: "Control socket for `weir ports`, `explain`, `status` and `stat`",
        ..Setting::NEW
    },
];
