//! The verbs that talk to a running weir, as a user runs them: the real binary, the real socket,
//! and a weir behind it that has ports and statistics and nothing else.

#![expect(clippy::unwrap_used, reason = "a failed expectation is a failed test")]

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::{Arc, Mutex},
    time::Duration,
};

use assert_cmd::cargo::CommandCargoExt;
use futures_util::future::BoxFuture;
use weir::{
    admin::{
        control::{ControlHandler, ControlSocket},
        protocol::{
            ControlError, Explanation, KernelCounters, PortsChanged, PortsReport, PortsSet, Status,
            WorkloadStatus,
        },
    },
    config::{Config, WorkloadSettings},
    decision::{Decision, Direction, Source, Treatment, state_name},
    ports::{PortChange, PortPolicy},
    telemetry::{CloseReason, ConnectionInfo, Telemetry, stats::StatsSnapshot},
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
            pods: Vec::new(),
            source_problem: None,
        }
    }

    fn ports(&self, _: Option<&str>) -> Result<PortsReport, ControlError> {
        Ok(PortsReport::new(&self.policy.lock().unwrap(), &|_, _| 0))
    }

    fn set_ports(
        &self,
        _: Option<&str>,
        change: &PortsSet,
    ) -> Result<Vec<PortChange>, ControlError> {
        let mut policy = self.policy.lock().unwrap();
        Ok(change
            .directions()
            .flat_map(|d| policy.set(d, &change.ports, change.state, Source::Cli))
            .collect())
    }

    fn explain(
        &self,
        _: Option<&str>,
        address: SocketAddr,
        direction: Direction,
    ) -> Result<Explanation, ControlError> {
        let status = self.policy.lock().unwrap().get(direction, address.port());
        Ok(Explanation {
            address,
            direction,
            verdict: state_name(status.state).into(),
            source: status.source,
            why: "a test says so".into(),
            steps: Vec::new(),
            seen: Vec::new(),
        })
    }

    fn stat(&self, _: Option<&str>) -> Result<StatsSnapshot, ControlError> {
        Ok(self.telemetry.stats())
    }

    fn log_level(&self) -> String {
        "info".into()
    }

    fn set_log_level(&self, filter: &str) -> Result<String, ControlError> {
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
    ) -> BoxFuture<'_, Result<WorkloadStatus, ControlError>> {
        Box::pin(async move { Err(ControlError::refused(settings.workload.name)) })
    }

    fn remove_workload(&self, name: &str) -> Result<(), ControlError> {
        Err(ControlError::refused(name))
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
            policy: Mutex::new(Config::default().settings().port_policy(Source::Config)),
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

    #[track_caller]
    fn weir(&self, args: &[&str]) -> String {
        let Output { status, stdout, stderr } = Command::cargo_bin("weir")
            .unwrap()
            .args(args)
            .arg("--control")
            .arg(path(self.directory.path()))
            .output()
            .unwrap();
        let stderr = String::from_utf8(stderr).unwrap();
        assert!(status.success(), "{args:?}: {stderr}");
        String::from_utf8(stdout).unwrap()
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
    let guard = weir.handler.telemetry.open(ConnectionInfo {
        workload: "shop".into(),
        direction: Direction::Outbound,
        client: "10.0.0.9:40000".parse().unwrap(),
        destination: "10.0.0.1:80".parse().unwrap(),
    });
    guard.decided(Decision::detected(Treatment::Tcp, "server spoke first"), None, Duration::ZERO);
    guard.close(CloseReason::Finished);
    assert!(weir.weir(&["stat"]).contains("10.0.0.1:80  tcp       detected"));
    let stats: StatsSnapshot = serde_json::from_str(&weir.weir(&["stat", "-o", "json"])).unwrap();
    assert_eq!(stats, weir.handler.telemetry.stats());
    assert!(weir.weir(&["status"]).contains("phase        running"));
    let status: serde_json::Value =
        serde_json::from_str(&weir.weir(&["status", "-o", "json"])).unwrap();
    assert_eq!(status["status"]["pid"], 1);
}
