//! The control socket with real clients: requests, limits, and who may connect.

use std::{
    fs,
    io::Read,
    io::Write,
    net::{Ipv6Addr, SocketAddr},
    os::unix::{
        fs::{DirBuilderExt, PermissionsExt},
        net::UnixStream as StdStream,
    },
    path::PathBuf,
    sync::Mutex,
};

use futures_util::future::BoxFuture;
use socket2::{Domain, SockAddr, Socket, Type};

use super::*;
use crate::{
    admin::{
        client::{ClientError, ask},
        protocol::{
            Call, Explain, ExplainRequest, Explanation, GetConnections, GetStatus, KernelCounters,
            LogLevel, PortsDifference, PortsList, PortsReport, Status, WorkloadAdd, WorkloadStatus,
        },
    },
    config::{Fail, WorkloadSettings},
    decision::{Direction, PortState, Source},
    learn::Learn,
    ports::{
        Cidr, CidrList, PolicyInput, PortChange, PortList, PortPolicy, PortSet, PortsReset,
        PortsSet,
    },
    telemetry::{
        OpenConnections,
        stats::{By, StatsSnapshot},
        tap::TapFilter,
    },
    workloads::Handover,
};

/// A weir that has ports and nothing else.
#[derive(Default)]
struct Fake(Mutex<PortPolicy>);

impl ControlHandler for Fake {
    fn status(&self) -> Status {
        Status {
            version: "0.1.0".into(),
            pid: 42,
            uptime: Duration::from_millis(1500),
            phase: "running".into(),
            workloads: vec![WorkloadStatus {
                name: "shop".into(),
                cgroup: "/sys/fs/cgroup/shop".into(),
                netns: None,
                fail: Fail::Open,
                inbound: true,
                preserve_client_ip: false,
                learn: Learn::Opaque,
                phase: "capturing".into(),
                why: None,
                open_connections: 3,
                budget: Vec::new(),
                connect: "hold".to_owned(),
                listeners: vec!["127.0.0.1:40000".parse().unwrap()],
                engine: String::new(),
                hooks: vec!["connect4".into()],
            }],
            admin: None,
            sk_msg: "off".into(),
            open_connections: 3,
            resident_bytes: None,
            kernel_bytes: None,
            node: false,
            pods: Vec::new(),
            source_problem: None,
            spans: None,
        }
    }

    fn ports(&self, _: Option<&str>) -> Result<PortsReport, ControlError> {
        let hits = |_, port| u64::from(port == 4406) * 7;
        Ok(PortsReport::new(&self.0.lock().unwrap(), &hits, &|_, _| None))
    }

    fn set_ports(
        &self,
        _: Option<&str>,
        change: PortsSet,
        _: Caller,
    ) -> BoxFuture<'_, Result<Vec<PortChange>, ControlError>> {
        Box::pin(async move {
            let mut policy = self.0.lock().unwrap();
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
            let mut policy = self.0.lock().unwrap();
            let configured =
                PortPolicy::new(PolicyInput::default(), PolicyInput::default(), Source::Config);
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
        let configured =
            PortPolicy::new(PolicyInput::default(), PolicyInput::default(), Source::Config);
        Ok(PortsDifference::of(&self.0.lock().unwrap(), &configured, &|_, _| None))
    }

    fn explain(
        &self,
        _: Option<&str>,
        _: SocketAddr,
        _: Direction,
    ) -> BoxFuture<'_, Result<Explanation, ControlError>> {
        Box::pin(async { Err(ControlError::failed("map is gone")) })
    }

    fn services(&self, _: Option<&str>) -> crate::service::ServicesReport {
        crate::service::ServicesReport::default()
    }

    fn routes(&self) -> crate::service::RoutesReport {
        crate::service::RoutesReport::default()
    }

    fn explain_request(
        &self,
        _: Option<&str>,
        _: &ExplainRequest,
    ) -> Result<Option<crate::service::RequestReport>, ControlError> {
        Ok(None)
    }

    fn used_services(&self) -> crate::service::ServicesReport {
        crate::service::ServicesReport::default()
    }

    fn stat(&self, _: Option<&str>, _: By) -> Result<StatsSnapshot, ControlError> {
        Ok(StatsSnapshot::default())
    }

    fn sample_stat(&self, _: Option<&str>, _: By) -> Result<StatsSnapshot, ControlError> {
        Ok(StatsSnapshot::default())
    }

    fn reset_stat(&self, _: Option<&str>, _: By) -> Result<StatsSnapshot, ControlError> {
        Ok(StatsSnapshot::default())
    }

    fn connections(
        &self,
        _: Option<&str>,
        _: TapFilter,
        limit: usize,
    ) -> BoxFuture<'_, Result<OpenConnections, ControlError>> {
        let open = OpenConnections { open: limit as u64, connections: Vec::new() };
        Box::pin(async move { Ok(open) })
    }

    fn tap(&self, _: Option<&str>, _: TapFilter) -> Result<Tap, ControlError> {
        Err(ControlError::refused("nothing to tap"))
    }

    fn log_level(&self) -> String {
        "info".into()
    }

    fn set_log_level(&self, filter: &str, _: Caller) -> Result<String, ControlError> {
        Err(ControlError::refused(format!("no filter: {filter}")))
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

struct Served {
    directory: tempfile::TempDir,
    handler: Arc<Fake>,
    _task: tokio::task::JoinHandle<()>,
}

impl Served {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let handler = Arc::new(Fake(Mutex::new(PortPolicy::new(
            PolicyInput::default(),
            PolicyInput::default(),
            Source::Config,
        ))));
        fs::DirBuilder::new().mode(0o700).create(directory.path().join("run")).unwrap();
        let socket = ControlSocket::bind(&directory.path().join("run/control.sock")).unwrap();
        let task = tokio::spawn(socket.serve(handler.clone()));
        Self { directory, handler, _task: task }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("run/control.sock")
    }

    async fn ask<C: Call>(&self, call: C) -> Result<C::Reply, ClientError>
    where
        C::Reply: 'static,
    {
        let path = self.path();
        tokio::task::spawn_blocking(move || ask(&path, None, &call)).await.unwrap()
    }

    /// Sends bytes, closes the sending side and returns all that comes back.
    async fn raw(&self, bytes: Vec<u8>) -> String {
        let path = self.path();
        tokio::task::spawn_blocking(move || {
            let mut stream = StdStream::connect(path).unwrap();
            // The server may have closed before it has read everything.
            let _ = stream.write_all(&bytes);
            let _ = stream.shutdown(std::net::Shutdown::Write);
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer);
            String::from_utf8(answer).unwrap()
        })
        .await
        .unwrap()
    }
}

fn skip(list: &str) -> PortsSet {
    PortsSet {
        direction: Some(Direction::Outbound),
        ports: PortList::parse(list).unwrap().set,
        state: PortState::Skip,
        lifetime_s: None,
    }
}

#[tokio::test]
async fn requests_are_answered() {
    let served = Served::start();
    assert_eq!(served.ask(GetStatus).await.unwrap(), served.handler.status());
    let changes = served.ask(skip("80,4406")).await.unwrap();
    assert_eq!(changes.len(), 1);
    assert_eq!(changes[0].ports.to_string(), "80,4406");
    let report = served.ask(PortsList).await.unwrap();
    assert!(report.rules.iter().any(|rule| rule.ports.contains(4406) && rule.hits == 7));
    let error = served.ask(LogLevel { filter: Some("x".into()) }).await.unwrap_err();
    assert_eq!(error.to_string(), "weir refused: no filter: x");
    let explain = Explain { address: "[::1]:1".parse().unwrap(), direction: Direction::Outbound };
    assert!(served.ask(explain).await.unwrap_err().to_string().contains("map is gone"));
}

#[tokio::test]
async fn garbage_gets_an_error_and_changes_nothing() {
    let served = Served::start();
    let before = served.handler.0.lock().unwrap().clone();
    let set = r#"{"version":1,"command":{"ports_set":{"ports":"80","state":"skip"}}}"#;
    for (bytes, part) in [
        (b"garbage\n".to_vec(), "invalid request"),
        (b"\x00\xff\xfe\n".to_vec(), "invalid request"),
        (b"{\"version\":1}\n".to_vec(), "missing field `command`"),
        (b"{\"version\":2,\"command\":\"status\"}\n".to_vec(), "uses 1"),
        (b"{\"version\":1,\"command\":\"reboot\"}\n".to_vec(), "unknown command `reboot`"),
        (set.replace("80", "25,[4222]").into_bytes(), "incomplete request"),
        (
            set.replace("80", "25,[4222]").into_bytes().into_iter().chain([b'\n']).collect(),
            "column 4: unexpected '['",
        ),
        (
            set.replace("80", "+80").into_bytes().into_iter().chain([b'\n']).collect(),
            "'+' is not allowed here",
        ),
        (
            set.replace("skip", "drop").into_bytes().into_iter().chain([b'\n']).collect(),
            "known are detect, opaque, skip",
        ),
        (set.as_bytes()[..40].to_vec(), "incomplete request"),
        (vec![b'x'; MAX_REQUEST + 10], "longer than"),
        (format!("garbage\n{set}\n").into_bytes(), "invalid request"),
    ] {
        let answer = served.raw(bytes).await;
        assert!(answer.contains(part), "{part}: {answer}");
        assert_eq!(answer.lines().count(), 1, "closed after an error: {answer}");
        assert_eq!(*served.handler.0.lock().unwrap(), before, "{part}");
    }
    assert!(served.ask(GetStatus).await.is_ok(), "still serving");
}

/// Every other port is the longest list that there is: neighbours are written as a range.
fn longest(prefixes: u16) -> WorkloadSettings {
    let ports: PortList = (1..=u16::MAX).step_by(2).collect::<PortSet>().into();
    let prefix =
        |n| Cidr { address: Ipv6Addr::new(0xfd01, 1, 2, 3, 4, 5, 6, n).into(), length: 128 };
    let mut settings = WorkloadSettings::default();
    let (outbound, inbound) = (&mut settings.outbound, &mut settings.inbound);
    outbound.skip_cidrs = CidrList((0..=prefixes).map(prefix).collect());
    for list in [
        &mut outbound.skip_ports,
        &mut outbound.opaque_ports,
        &mut outbound.include_ports,
        &mut inbound.skip_ports,
        &mut inbound.opaque_ports,
        &mut inbound.include_ports,
    ] {
        *list = ports.clone();
    }
    settings
}

#[tokio::test]
async fn the_longest_lists_fit_into_a_request() {
    let served = Served::start();
    let mut settings = longest(u16::MAX);
    settings.workload.name = "understood".into();
    let error = served.ask(WorkloadAdd(settings)).await.unwrap_err();
    assert_eq!(error.to_string(), "weir refused: understood");
}

#[tokio::test]
async fn what_fits_into_no_request_is_refused_by_the_client() {
    let served = Served::start();
    let mut settings = longest(0);
    settings.workload.name = "x".repeat(MAX_REQUEST);
    let error = served.ask(WorkloadAdd(settings)).await.unwrap_err();
    assert!(matches!(error, ClientError::TooLong(bytes) if bytes > MAX_REQUEST), "{error}");
    assert!(error.to_string().contains("shorten its lists"), "{error}");
}

#[tokio::test]
async fn the_socket_is_private() {
    let served = Served::start();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&served.path()), 0o600);
}

/// Guards against directories that a mistyped path leaves behind.
#[tokio::test]
async fn a_path_without_its_directory_is_refused_and_makes_none() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("mistyped/control.sock");
    let error = ControlSocket::bind(&path).unwrap_err();
    assert!(matches!(error, ControlSocketError::NoDirectory { .. }), "{error}");
    assert!(!path.parent().unwrap().exists());
}

#[test]
fn a_caller_may_what_its_user_may() {
    let reader = Some(Reader { uid: 4711, gid: 4711 });
    let own = nix::unistd::geteuid().as_raw();
    for (uid, reader, reads, changes) in [
        (0, None, true, true),
        (own, reader, true, true),
        (4711, reader, true, false),
        (4712, reader, false, false),
        (4711, None, false, false),
    ] {
        let caller = Caller::new(uid, Some(1), reader);
        assert_eq!(caller.permit(false).is_ok(), reads, "{uid}");
        assert_eq!(caller.permit(true).is_ok(), changes, "{uid}");
    }
    let refused = Caller::new(4711, Some(1), reader).permit(true).unwrap_err();
    assert_eq!(refused.code, ErrorCode::Denied);
}

#[tokio::test]
async fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control.sock");
    // It was never listened at: a child of another test would have a listener open for a while.
    let stale = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
    stale.bind(&SockAddr::unix(&path).unwrap()).unwrap();
    drop(stale);
    assert!(matches!(ask(&path, None, &GetStatus), Err(ClientError::NotRunning { .. })));

    let socket = ControlSocket::bind(&path).unwrap();
    let error = ControlSocket::bind(&path).unwrap_err();
    assert!(matches!(error, ControlSocketError::InUse(_)), "{error}");
    drop(socket);
    assert!(!path.exists(), "removed at the end");

    fs::write(&path, "precious").unwrap();
    let error = ControlSocket::bind(&path).unwrap_err();
    assert!(matches!(error, ControlSocketError::NotASocket(_)), "{error}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
}

#[tokio::test(start_paused = true)]
async fn a_silent_client_is_dropped() {
    let served = Served::start();
    let mut stream = UnixStream::connect(served.path()).await.unwrap();
    stream.write_all(b"{\"version\":1,").await.unwrap();
    let before = tokio::time::Instant::now();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    assert!(answer.is_empty());
    assert!(before.elapsed() >= DEADLINE);
}

proptest::proptest! {
    #[test]
    fn any_line_is_understood_or_refused(line: Vec<u8>, list in ".{0,12}") {
        let _ = Request::parse(&line);
        let list = serde_json::to_string(&list).unwrap();
        let request =
            format!(r#"{{"version":1,"command":{{"ports_set":{{"ports":{list},"state":"skip"}}}}}}"#);
        let parsed = Request::parse(request.as_bytes());
        let list: String = serde_json::from_str(&list).unwrap();
        let good = PortList::parse(&list).is_ok_and(|list| !list.append);
        proptest::prop_assert_eq!(parsed.is_ok(), good);
    }
}

/// Guards against a reply that is longer than a client reads.
#[tokio::test]
async fn no_client_gets_more_connections_than_fit_into_a_reply() {
    let served = Served::start();
    let ask = |limit| served.ask(GetConnections { filter: TapFilter::default(), limit });
    assert_eq!(ask(3).await.unwrap().open, 3);
    assert_eq!(ask(usize::MAX).await.unwrap().open, GetConnections::MOST as u64);
}
