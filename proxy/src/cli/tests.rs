//! Golden files for help and tables, and rules that hold for every verb.

mod documented;

use super::*;
use crate::{
    admin::protocol::{
        Explanation, KernelCounters, PodState, PodStatus, PortsChanged, PortsDifference,
        PortsReport, Seen, SpanExport, Status, Step, WorkloadStatus,
    },
    budget::Figures,
    config::Fail,
    decision::{Direction, PortState, Source, Treatment},
    learn::Learn,
    ports::{PolicyInput, PortList, PortPolicy, PortSet},
};

#[test]
fn the_command_line_is_well_formed() {
    command().debug_assert();
}

#[test]
fn help_is_as_documented() {
    let mut all = String::new();
    let mut render = |command: &mut clap::Command| {
        let name = command.get_bin_name().unwrap_or("weir").to_owned();
        all.push_str(&format!("=== {name}\n{}\n", command.render_long_help()));
    };
    let mut root = command().term_width(100);
    root.build();
    render(&mut root);
    for verb in root.get_subcommands_mut() {
        render(verb);
        for inner in verb.get_subcommands_mut() {
            if inner.get_name() != "help" {
                render(inner);
            }
        }
    }
    insta::assert_snapshot!("help", all);
}

#[test]
fn every_verb_has_an_example() {
    for verb in command().get_subcommands() {
        let help = verb.get_after_help().map(ToString::to_string).unwrap_or_default();
        assert!(help.contains("Example"), "{}", verb.get_name());
    }
}

#[test]
fn completions_and_manual_pages_can_be_made() {
    let directory = tempfile::tempdir().unwrap();
    clap_mangen::generate_to(command(), directory.path()).unwrap();
    assert!(directory.path().join("weir-ports-skip.1").exists());
    let mut script = Vec::new();
    clap_complete::generate(clap_complete::Shell::Bash, &mut command(), "weir", &mut script);
    assert!(script.len() > 1000);
}

fn set(list: &str) -> PortSet {
    PortList::parse(list).unwrap().set
}

#[test]
fn port_tables_and_changes_read_well() {
    let mut policy = PortPolicy::new(
        PolicyInput { skip: set("4406"), opaque: set("25,3306"), include: PortSet::default() },
        PolicyInput::default(),
        Source::Config,
    );
    let changes = policy.set(Direction::Outbound, &set("80-82,3306"), PortState::Skip, Source::Cli);
    let hits = |_, port| if port == 4406 { 12 } else { 0 };
    let configured = policy.clone();
    policy.set(Direction::Outbound, &set("8000-8003"), PortState::Skip, Source::Cli);
    let left = |_, port| (8002..9000).contains(&port).then_some(570);
    let temporary = PortsReport::new(&policy, &hits, &left);
    let diff = PortsDifference::of(&policy, &configured, &left);
    insta::assert_snapshot!(
        "ports_temporary",
        format!("{}\n{}", ports::list_table(&temporary), ports::diff_text(&diff))
    );
    let report = PortsReport::new(&configured, &hits, &|_, _| None);
    insta::assert_snapshot!(
        "ports",
        format!(
            "{}\n{}",
            ports::list_table(&report),
            ports::changes_text(&PortsChanged::group(&changes))
        )
    );
    insta::assert_snapshot!("ports_json", serde_json::to_string_pretty(&report).unwrap());
}

fn figures(budget: &str, used: u64, limit: u64, exceeded: u64) -> Figures {
    Figures { budget: budget.into(), used, limit, exceeded }
}

fn pod(name: &str, state: PodState, why: &str) -> PodStatus {
    PodStatus {
        namespace: "shop".into(),
        name: name.into(),
        uid: "0ff2a1b8".into(),
        state,
        why: Some(why.into()),
        missing: state == PodState::Waiting,
    }
}

/// What a pod is captured by is not `weir workload add`.
#[test]
fn without_a_workload_the_advice_is_what_this_weir_is_told_by() {
    let status = |node| Status {
        version: "0.1.0".into(),
        pid: 1,
        uptime: std::time::Duration::ZERO,
        phase: "running".into(),
        workloads: Vec::new(),
        admin: None,
        sk_msg: "off".into(),
        open_connections: 0,
        resident_bytes: None,
        kernel_bytes: None,
        node,
        pods: Vec::new(),
        source_problem: None,
        spans: None,
    };
    let table = |node| {
        let kernel = KernelCounters { workloads: Default::default() };
        status::table(&status::Report { status: status(node), kernel })
    };
    assert!(table(false).contains("none; add one with `weir workload add`"));
    let node = table(true);
    assert!(node.contains("weir.dev/inject: enabled") && !node.contains("workload add"), "{node}");
}

#[test]
fn explanations_and_status_read_well() {
    let explanation = Explanation {
        address: "10.1.2.3:4406".parse().unwrap(),
        direction: Direction::Outbound,
        verdict: "skip".into(),
        source: Source::Cli,
        why: "port is skipped".into(),
        reason: Some("skip_port".into()),
        steps: vec![
            Step { test: "loopback?".into(), result: "no".into(), decisive: false },
            Step { test: "port skipped?".into(), result: "yes (cli)".into(), decisive: true },
        ],
        service: None,
        seen: vec![Seen {
            treatment: Some(Treatment::Tcp),
            source: Some(Source::Detected),
            reason: None,
            why: "server spoke first".into(),
            connections: 3,
        }],
    };
    let status = Status {
        version: "0.1.0".into(),
        pid: 4711,
        uptime: std::time::Duration::from_secs(3700),
        phase: "running".into(),
        workloads: vec![WorkloadStatus {
            name: "shop".into(),
            cgroup: "/sys/fs/cgroup/shop".into(),
            netns: Some("/run/netns/shop".into()),
            fail: Fail::Closed,
            inbound: true,
            preserve_client_ip: true,
            learn: Learn::Bypass,
            phase: "capturing".into(),
            why: None,
            open_connections: 12,
            budget: vec![
                figures("connections", 12, 65_536, 0),
                figures("memory", 3 << 20, 8 << 20, 7),
                figures("stat_rows", 12, 1024, 0),
            ],
            connect: "hold".into(),
            listeners: vec!["127.0.0.1:40000".parse().unwrap(), "[::1]:40001".parse().unwrap()],
            engine: String::new(),
            hooks: vec!["connect4".into(), "connect6".into()],
        }],
        admin: Some("127.0.0.1:4191".parse().unwrap()),
        sk_msg: "off".into(),
        open_connections: 12,
        resident_bytes: Some(9 << 20),
        kernel_bytes: Some(7 << 20),
        node: true,
        pods: vec![
            pod("web-0", PodState::Waiting, "its cgroup does not exist yet"),
            pod("db-0", PodState::CapturesItself, "its container \"weir\" runs weir --sidecar"),
        ],
        source_problem: Some("cannot follow pods: connection refused".into()),
        spans: Some(SpanExport {
            url: "http://127.0.0.1:4318/v1/traces".into(),
            exported: 512,
            dropped: 7,
            rejected: 0,
            failed: 40,
            problem: Some("cannot connect: Connection refused (os error 111)".into()),
        }),
    };
    let counts = [("redirected".to_owned(), 7), ("stale".to_owned(), 0)];
    let counts = [("outbound".to_owned(), counts.into())];
    let kernel = KernelCounters { workloads: [("shop".to_owned(), counts.into())].into() };
    insta::assert_snapshot!(
        "explain_and_status",
        format!(
            "{}\n{}",
            explain::text(&explanation),
            status::table(&status::Report { status, kernel })
        )
    );
}
