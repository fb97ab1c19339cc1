//! The verbs that talk to a running weir, as a user runs them: the real binary, the real socket,
//! and a weir behind it that has ports and statistics and nothing else.

#![expect(clippy::unwrap_used, reason = "a failed expectation is a failed test")]

use std::{
    io::{BufRead, BufReader, Read},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use assert_cmd::cargo::CommandCargoExt;
use futures_util::future::BoxFuture;
use weir::{
    admin::{
        control::{Caller, ControlHandler, ControlSocket},
        protocol::{
            ControlError, ExplainRequest, Explanation, KernelCounters, PortsChanged,
            PortsDifference, PortsReport, Status, WorkloadStatus,
        },
    },
    config::{Config, WorkloadSettings},
    decision::{Detection, Direction, Source, Why, state_name},
    ports::{PortChange, PortPolicy, PortsReset, PortsSet},
    telemetry::{
        CloseReason, ConnectionInfo, OpenConnections, Telemetry,
        record::Record,
        stats::{By, StatsSnapshot},
        tap::{Tap, TapFilter},
    },
    workloads::Handover,
};

struct Weir {
    policy: Mutex<PortPolicy>,
    telemetry: Telemetry,
}

impl ControlHandler for Weir {
    fn status(&self) -> Status {
        Status {
            version: "test".into(),
            pid: 1,
            uptime: Duration::ZERO,
            phase: "running".into(),
            workloads: Vec::new(),
            admin: None,
            sk_msg: "off".into(),
            open_connections: 0,
            resident_bytes: None,
            kernel_bytes: None,
            node: false,
            pods: Vec::new(),
            source_problem: None,
            spans: None,
        }
    }

    fn ports(&self, _: Option<&str>) -> Result<PortsReport, ControlError> {
        Ok(PortsReport::new(&self.policy.lock().unwrap(), &|_, _| 0, &|_, _| None))
    }

    fn set_ports(
        &self,
        _: Option<&str>,
        change: PortsSet,
        _: Caller,
    ) -> BoxFuture<'_, Result<Vec<PortChange>, ControlError>> {
        Box::pin(async move {
            let mut policy = self.policy.lock().unwrap();
            Ok(change
                .directions()
                .flat_map(|d| policy.set(d, &change.ports, change.state, Source::Cli))
                .collect())
        })
    }

    fn reset_ports(
        &self,
        _: Option<&str>,
        reset: PortsReset,
        _: Caller,
    ) -> BoxFuture<'_, Result<Vec<PortChange>, ControlError>> {
        Box::pin(async move {
            let mut policy = self.policy.lock().unwrap();
            let configured = Config::default().own.port_policy(Source::Config);
            let mut changes = Vec::new();
            for direction in reset.directions() {
                let ports: Vec<_> = policy.run_time_ports(direction).collect();
                let put_back = |port| policy.put_back(direction, port, None, &configured);
                changes.extend(ports.into_iter().filter_map(put_back));
            }
            Ok(changes)
        })
    }

    fn ports_diff(&self, _: Option<&str>) -> Result<Vec<PortsDifference>, ControlError> {
        let configured = Config::default().own.port_policy(Source::Config);
        Ok(PortsDifference::of(&self.policy.lock().unwrap(), &configured, &|_, _| None))
    }

    fn explain(
        &self,
        _: Option<&str>,
        address: SocketAddr,
        direction: Direction,
    ) -> BoxFuture<'_, Result<Explanation, ControlError>> {
        let status = self.policy.lock().unwrap().get(direction, address.port());
        Box::pin(async move {
            Ok(Explanation {
                address,
                direction,
                verdict: state_name(status.state).into(),
                source: status.source,
                why: "a test says so".into(),
                reason: None,
                steps: Vec::new(),
                service: None,
                seen: Vec::new(),
            })
        })
    }

    fn services(&self, _: Option<&str>) -> weir::service::ServicesReport {
        weir::service::ServicesReport::default()
    }

    fn routes(&self) -> weir::service::RoutesReport {
        weir::service::RoutesReport::default()
    }

    fn explain_request(
        &self,
        _: Option<&str>,
        _: &ExplainRequest,
    ) -> Result<Option<weir::service::RequestReport>, ControlError> {
        Ok(None)
    }

    fn used_services(&self) -> weir::service::ServicesReport {
        let endpoint = |address: &str, chosen, requests| {
            serde_json::json!({
                "address": address, "state": "used", "in_flight": 0, "chosen": chosen,
                "requests": requests, "share": 0.0, "failed": 0, "weight": 1,
            })
        };
        let service = serde_json::json!({
            "service": "shop/cart", "source": "config", "port": "", "addresses": ["10.96.0.1:80"],
            "mode": "connections", "why": "default", "choices": {}, "fallbacks": 0,
            "endpoints": [endpoint("10.1.0.1:80", 3, 90), endpoint("10.1.0.2:80", 1, 10)],
        });
        serde_json::from_value(serde_json::json!({"sources": [], "services": [service]})).unwrap()
    }

    fn stat(&self, _: Option<&str>, by: By) -> Result<StatsSnapshot, ControlError> {
        Ok(self.telemetry.stats_by(by))
    }

    fn sample_stat(&self, _: Option<&str>, by: By) -> Result<StatsSnapshot, ControlError> {
        Ok(self.telemetry.sample_stats(by))
    }

    fn reset_stat(&self, workload: Option<&str>, by: By) -> Result<StatsSnapshot, ControlError> {
        Ok(self.telemetry.reset_stats(workload, by))
    }

    fn connections(
        &self,
        workload: Option<&str>,
        filter: TapFilter,
        limit: usize,
    ) -> BoxFuture<'_, Result<OpenConnections, ControlError>> {
        let open = self.telemetry.connections(workload, &filter, limit);
        Box::pin(async move { Ok(open) })
    }

    fn tap(&self, workload: Option<&str>, filter: TapFilter) -> Result<Tap, ControlError> {
        let tap = self.telemetry.tap(workload.map(str::to_owned), filter);
        tap.map_err(|error| ControlError::refused(error.to_string()))
    }

    fn log_level(&self) -> String {
        "info".into()
    }

    fn set_log_level(&self, filter: &str, _: Caller) -> Result<String, ControlError> {
        Ok(filter.into())
    }

    fn kernel_counters(&self) -> Result<KernelCounters, ControlError> {
        Ok(KernelCounters::default())
    }

    fn workloads(&self) -> Vec<WorkloadStatus> {
        self.status().workloads
    }

    fn add_workload(
        &self,
        settings: WorkloadSettings,
        _: Caller,
    ) -> BoxFuture<'_, Result<WorkloadStatus, ControlError>> {
        Box::pin(async move { Err(ControlError::refused(settings.workload.name)) })
    }

    fn remove_workload(&self, name: &str, _: Caller) -> Result<(), ControlError> {
        Err(ControlError::refused(name))
    }

    fn hand_over(&self) -> BoxFuture<'_, Result<Handover, ControlError>> {
        Box::pin(async { Err(ControlError::refused("nothing to hand over")) })
    }

    fn retire(&self, schema: &str) -> BoxFuture<'_, Result<(), ControlError>> {
        let schema = schema.to_owned();
        Box::pin(async move { Err(ControlError::refused(schema)) })
    }
}

struct Running {
    directory: tempfile::TempDir,
    handler: Arc<Weir>,
    _runtime: tokio::runtime::Runtime,
}

impl Running {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let handler = Arc::new(Weir {
            policy: Mutex::new(Config::default().own.port_policy(Source::Config)),
            telemetry: Telemetry::new(None),
        });
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.unwrap();
        let socket = {
            let _entered = runtime.enter();
            ControlSocket::bind(&path(directory.path())).unwrap()
        };
        runtime.spawn(socket.serve(handler.clone()));
        Self { directory, handler, _runtime: runtime }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::cargo_bin("weir").unwrap();
        command.args(args).arg("--control").arg(path(self.directory.path()));
        command
    }

    /// A connection that has ended.
    fn connection(&self, destination: &str, reason: CloseReason) {
        let guard = self.handler.telemetry.open(ConnectionInfo {
            workload: "shop".into(),
            share: self.handler.telemetry.share(&"shop".into()),
            direction: Direction::Outbound,
            client: "10.0.0.9:40000".parse().unwrap(),
            destination: destination.parse().unwrap(),
            process: None,
            tapped: None,
        });
        guard.detected(Detection::Tcp(Why::ServerFirst), None, Duration::ZERO);
        guard.close(reason);
    }

    #[track_caller]
    fn weir(&self, args: &[&str]) -> String {
        let Output { status, stdout, stderr } = self.command(args).output().unwrap();
        let stderr = String::from_utf8(stderr).unwrap();
        assert!(status.success(), "{args:?}: {stderr}");
        String::from_utf8(stdout).unwrap()
    }
}

/// `weir tap` that has begun to show what ends.
struct Tapping(Child, BufReader<std::process::ChildStderr>);

impl Tapping {
    fn start(weir: &Running, args: &[&str]) -> Self {
        let mut command = weir.command(&["tap"]);
        command.args(args).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        stderr.read_line(&mut line).unwrap();
        assert_eq!(line, "showing new records\n");
        Self(child, stderr)
    }

    /// Exit code, stdout and the rest of stderr.
    fn end(mut self) -> (Option<i32>, String, String) {
        let (mut stdout, mut stderr) = (String::new(), String::new());
        self.0.stdout.take().unwrap().read_to_string(&mut stdout).unwrap();
        self.1.read_to_string(&mut stderr).unwrap();
        (self.0.wait().unwrap().code(), stdout, stderr)
    }
}

fn path(directory: &Path) -> PathBuf {
    directory.join("control.sock")
}

#[test]
fn ports_are_changed_and_the_change_is_explained() {
    let weir = Running::start();
    assert_eq!(
        weir.weir(&["ports", "skip", "3306, 4406-4407", "--outbound"]),
        "outbound 3306: opaque (default) -> skip (cli)\n\
         outbound 4406-4407: detect (default) -> skip (cli)\n"
    );
    assert_eq!(weir.weir(&["ports", "skip", "4406", "--outbound"]), "");
    assert!(weir.weir(&["explain", "10.0.0.1:4406"]).contains("10.0.0.1:4406: skip (cli)"));
    let inbound = weir.weir(&["explain", "10.0.0.1:4406", "--inbound"]);
    assert!(inbound.contains("detect (default)"), "{inbound}");
    assert!(weir.weir(&["ports", "list"]).contains("3306,4406-4407"));
    let changes = weir.weir(&["ports", "detect", "4406", "-o", "json"]);
    let changes: Vec<PortsChanged> = serde_json::from_str(&changes).unwrap();
    assert_eq!(changes.len(), 1, "inbound was in that state already");
    let all = weir.weir(&["ports", "skip", "0-65535"]);
    assert!(all.contains("inbound 0-24,26-586,"), "{all}");
    let list = weir.weir(&["ports", "list"]);
    let words: Vec<_> = list.split_whitespace().collect();
    assert!(words.join(" ").contains("inbound 0-65535 skip cli yes 0"), "{list}");
}

#[test]
fn statistics_and_status_are_printed_in_both_formats() {
    let weir = Running::start();
    weir.connection("10.0.0.1:80", CloseReason::Finished);
    assert!(weir.weir(&["stat"]).contains("10.0.0.1:80  -     tcp       detected"));
    let stats: StatsSnapshot = serde_json::from_str(&weir.weir(&["stat", "-o", "json"])).unwrap();
    assert_eq!(stats, weir.handler.telemetry.stats());
    let by_endpoint = weir.weir(&["stat", "--by", "endpoint"]);
    let row = "10.0.0.1:80  10.0.0.1:80  -     tcp       detected";
    assert!(by_endpoint.contains(row), "{by_endpoint}");
    let by_endpoint = weir.weir(&["stat", "--by", "endpoint", "-o", "json"]);
    let by_endpoint: StatsSnapshot = serde_json::from_str(&by_endpoint).unwrap();
    assert_eq!(by_endpoint, weir.handler.telemetry.stats_by(By::Endpoint));
    assert!(weir.weir(&["status"]).contains("phase        running"));
    let status: serde_json::Value =
        serde_json::from_str(&weir.weir(&["status", "-o", "json"])).unwrap();
    assert_eq!(status["status"]["pid"], 1);
}

#[test]
fn services_are_shown_with_their_skew() {
    let weir = Running::start();
    let stat = weir.weir(&["stat", "--by", "service"]);
    let words: Vec<_> = stat.split_whitespace().collect();
    assert_eq!(words[..5], ["SERVICE", "MODE", "ENDPOINTS", "CHOSEN", "REQ"]);
    assert_eq!(
        words[5..13],
        ["SKEW", "REQ", "SKEW", "BALANCED", "shop/cart", "connections", "2", "4"]
    );
    assert_eq!(words[13..], ["100", "1.50", "1.80", "1.00"]);
    let stat = weir.weir(&["stat", "--by", "service", "-o", "json"]);
    let stat: serde_json::Value = serde_json::from_str(&stat).unwrap();
    assert_eq!(stat["services"][0]["request_skew"], 1.8);
    let top = ["top", "--by", "service", "--interval", "100ms", "-c1", "-o", "json"];
    let top: serde_json::Value = serde_json::from_str(&weir.weir(&top)).unwrap();
    assert_eq!((&top["in_use"], &top["services"]), (&0.into(), &serde_json::json!([])));
    for flags in [&["stat", "--workload", "shop"][..], &["top", "--sort", "bytes"]] {
        let output = weir.command(flags).args(["--by", "service"]).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{flags:?}");
    }
}

#[test]
fn a_tap_shows_what_ends_and_fits() {
    let weir = Running::start();
    weir.connection("10.0.0.1:80", CloseReason::ClientReset);
    let lines = Tapping::start(&weir, &["--port", "80-81", "--failed", "--count", "2"]);
    let json = Tapping::start(&weir, &["--to", "10.0.0.2", "-c1", "-o", "json"]);
    weir.connection("10.0.0.1:80", CloseReason::Finished);
    weir.connection("10.0.0.1:443", CloseReason::ClientReset);
    weir.connection("10.0.0.1:80", CloseReason::UpstreamReset);
    weir.connection("10.0.0.2:81", CloseReason::ClientReset);
    weir.connection("10.0.0.1:80", CloseReason::ClientReset);

    let (code, stdout, stderr) = lines.end();
    assert_eq!((code, &*stderr), (Some(0), ""));
    let lines: Vec<_> = stdout.lines().collect();
    assert_eq!(lines.len(), 2, "{stdout}");
    assert!(lines[0].contains("10.0.0.1:80 tcp (detected: server spoke first)"), "{stdout}");
    assert!(lines[0].contains("upstream_reset: ECONNRESET"), "{stdout}");
    assert!(lines[1].contains("10.0.0.2:81"), "{stdout}");
    let (code, stdout, _) = json.end();
    assert_eq!((code, stdout.lines().count()), (Some(0), 1));
    let Record::Connection(seen) = serde_json::from_str(&stdout).unwrap() else { panic!() };
    assert_eq!(seen.destination.to_string(), "10.0.0.2:81");
}

#[test]
fn a_tap_of_another_workload_sees_nothing_and_ends_with_weir() {
    let weir = Running::start();
    let tap = Tapping::start(&weir, &["--workload", "bank"]);
    weir.connection("10.0.0.1:80", CloseReason::Finished);
    drop(weir);
    let (code, stdout, stderr) = tap.end();
    assert_eq!((code, &*stdout), (Some(1), ""));
    assert!(stderr.contains("weir has exited"), "{stderr}");
}

/// A reader that does not read is told what it has missed, and nothing waits for it meanwhile.
#[test]
fn a_tap_that_stands_still_holds_nobody_up() {
    use std::io::Write;
    const CONNECTIONS: u64 = 20_000;
    let weir = Running::start();
    let mut stream = std::os::unix::net::UnixStream::connect(path(weir.directory.path())).unwrap();
    stream.write_all(b"{\"version\":1,\"command\":{\"tap\":{}}}\n").unwrap();
    let mut lines = BufReader::new(stream).lines();
    assert_eq!(lines.next().unwrap().unwrap(), r#"{"version":1,"ok":"tapping"}"#);
    for _ in 0..CONNECTIONS {
        weir.connection("10.0.0.1:80", CloseReason::Finished);
    }
    let (mut seen, mut missed) = (0, 0);
    while seen + missed < CONNECTIONS {
        let line: serde_json::Value =
            serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        match line["ok"]["missed"]["records"].as_u64() {
            Some(records) => missed += records,
            None => {
                assert_eq!(line["ok"]["record"]["kind"], "connection", "{line}");
                seen += 1;
            }
        }
    }
    assert!(seen >= 1024 && missed > 0, "{seen} seen, {missed} missed");
}

#[test]
fn taps_that_are_too_many_or_make_no_sense_are_refused() {
    let weir = Running::start();
    let taps: Vec<_> = (0..8).map(|_| Tapping::start(&weir, &[])).collect();
    let refused = |args: &[&str]| {
        let output = weir.command(args).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, stderr) = refused(&["tap"]);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("8 taps are already running"), "{stderr}");
    for (flags, says) in [
        (["--status", "404,ok"], "column 5: \"ok\" is not a status code"),
        (["--port", "80,443]"], "column 7"),
        (["--port", "+80"], "'+' is not allowed here"),
        (["--to", "10.0.0.1/8"], "did you mean 10.0.0.0/8"),
        (["--protocol", "quic"], "the protocols are skip"),
        (["--slower-than", "5"], "5"),
        (["--count", "0"], "0"),
    ] {
        let (code, stderr) = refused(&["tap", flags[0], flags[1]]);
        assert_eq!(code, Some(2), "{flags:?}: {stderr}");
        assert!(stderr.contains(says), "{flags:?}: {stderr}");
    }
    for tap in taps {
        let Tapping(mut child, _) = tap;
        child.kill().unwrap();
        child.wait().unwrap();
    }
    weir.connection("10.0.0.1:80", CloseReason::Finished);
}

#[test]
fn top_shows_what_has_happened_since_it_looked_last() {
    let weir = Running::start();
    weir.connection("10.0.0.9:9", CloseReason::Finished);
    let mut command = weir.command(&["top", "--interval", "100ms", "-o", "json"]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let tops = lines.map(|line| serde_json::from_str::<serde_json::Value>(&line.unwrap()).unwrap());
    // Each one is asked for after a connection: the next one or the one behind it has it.
    let shown = tops.map(|top| {
        weir.connection("10.0.0.1:80", CloseReason::Finished);
        top["rows"].as_array().unwrap().clone()
    });
    let rows = shown.take(100).find(|rows| !rows.is_empty()).expect("a row");
    assert_eq!(rows.len(), 1, "what is idle is not shown: {rows:#?}");
    assert_eq!(rows[0]["destination"], "10.0.0.1:80");
    assert!(rows[0]["connections"].as_f64().unwrap() > 0.0, "{rows:#?}");
    child.kill().unwrap();
    child.wait().unwrap();
    let table = weir.weir(&["top", "--interval", "100ms", "--count", "2"]);
    let heads = table.lines().filter(|line| line.starts_with("DESTINATION")).count();
    assert_eq!(heads, 2, "{table}");
}

#[test]
fn the_log_level_is_shown_and_changed() {
    let weir = Running::start();
    assert_eq!(weir.weir(&["log-level"]), "info\n");
    assert_eq!(weir.weir(&["log-level", "weir=debug"]), "weir=debug\n");
    assert_eq!(weir.weir(&["log-level", "-o", "json"]), "\"info\"\n");
}
