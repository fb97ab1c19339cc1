//! Workloads that come and go while weir runs: `weir workload add|list|remove` and `--workload`.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::net::UnixStream;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use weir_tests::Lab;
use weir_tests::cgroup::Cgroup;
use weir_tests::left::nothing_left;
use weir_tests::pods::{CLIENT, POD, Pods};
use weir_tests::process::{Process, patience, wait_until};
use weir_tests::record::{Record, Records};
use weir_tests::site::{PATIENCE, Site, is_captured, join};
use weir_tests::weir::{Daemon, Run};
use weir_tests::wire::Wire;

const PORT: u16 = 9000;

fn at(ip: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip.parse().expect("an address of this harness"), port)
}

/// weir without a workload.
fn standby(pods: &Pods) -> Result<Daemon> {
    Run::new(&pods.node, pods.dir()).flags(&["--standby"]).start()
}

fn add(daemon: &Daemon, name: &str, pod: &Site, flags: &[&str]) -> Result<()> {
    daemon.add(name, pod.cgroup(), &pod.netns, flags)
}

/// The names that `weir workload list` shows, sorted.
fn names(daemon: &Daemon) -> Result<Vec<String>> {
    let report = daemon.json(&["workload", "list"])?;
    let rows = report["workloads"].as_array().or_else(|| report.as_array());
    let rows = rows.with_context(|| format!("no list of workloads in {report:#}"))?;
    let mut names: Vec<String> =
        rows.iter().filter_map(|row| row["name"].as_str().map(str::to_owned)).collect();
    names.sort();
    Ok(names)
}

/// A server that is always the same, and the client that goes to it.
struct Path<'a> {
    client: &'a Site,
    to: SocketAddr,
    listener: TcpListener,
}

// === impl Path ===

impl<'a> Path<'a> {
    fn new(client: &'a Site, server: &Site, ip: &str, port: u16) -> Result<Self> {
        let listener = server.listen(at("::", port))?;
        Ok(Self { client, to: at(ip, port), listener })
    }

    fn open(&self) -> Result<Wire> {
        join(self.client, self.to, &self.listener)
    }

    /// Whether a new connection goes through weir.
    fn captured(&self) -> Result<bool> {
        is_captured(self.client, self.to, &self.listener)
    }
}

/// Into and out of a pod, from and to its client host.
fn paths<'a>(client: &'a Site, pod: &'a Site, port: u16) -> Result<[Path<'a>; 2]> {
    Ok([Path::new(client, pod, POD[0], port)?, Path::new(pod, client, CLIENT[0], port)?])
}

#[track_caller]
fn assert_captured(paths: &[Path<'_>; 2], expected: bool) {
    for (path, way) in paths.iter().zip(["inbound", "outbound"]) {
        let captured = path.captured().expect("connections work, captured or not");
        assert_eq!(captured, expected, "{way}: is it captured?");
    }
}

// === Coming and going ===

#[test]
fn workloads_are_added_listed_and_removed() -> Result<()> {
    let pods = Pods::new()?;
    let mut daemon = standby(&pods)?;
    let a = paths(&pods.client_a, &pods.pod_a, PORT)?;
    let b = paths(&pods.client_b, &pods.pod_b, PORT)?;
    assert_eq!(names(&daemon)?, [""; 0]);
    assert_captured(&a, false);
    add(&daemon, "a", &pods.pod_a, &[])?;
    assert_eq!(names(&daemon)?, ["a"]);
    assert_captured(&a, true);
    assert_captured(&b, false);
    add(&daemon, "b", &pods.pod_b, &[])?;
    assert_eq!(names(&daemon)?, ["a", "b"]);
    assert_captured(&a, true);
    assert_captured(&b, true);
    daemon.ask(&["workload", "remove", "a"])?.ok()?;
    assert_eq!(names(&daemon)?, ["b"]);
    assert_captured(&a, false);
    assert_captured(&b, true);
    // The name and the place are free again.
    add(&daemon, "a", &pods.pod_a, &[])?;
    assert_captured(&a, true);
    daemon.stop()?;
    assert_captured(&a, false);
    assert_captured(&b, false);
    daemon.instance().detach(&[])?.ok()?;
    nothing_left(daemon.instance(), &pods.namespaces())
}

/// The table is for people: it has the names and where the workloads are.
#[test]
fn the_list_names_cgroup_and_namespace() -> Result<()> {
    let pods = Pods::new()?;
    let daemon = standby(&pods)?;
    add(&daemon, "shop", &pods.pod_a, &[])?;
    let table = daemon.ask(&["workload", "list"])?.ok()?.stdout;
    let (cgroup, netns) = (pods.pod_a.cgroup().path(), pods.pod_a.netns.path());
    for word in ["shop".into(), cgroup.display().to_string(), netns.display().to_string()] {
        assert!(table.contains(&word), "no {word} in:\n{table}");
    }
    let json = daemon.json(&["workload", "list"])?.to_string();
    assert!(json.contains(&cgroup.display().to_string()), "{json}");
    Ok(())
}

/// What is open when a neighbour goes stays open, and so does what is open in the one that goes
/// until it ends by itself: removing drains.
#[test]
fn removing_one_leaves_the_connections_of_the_other_alone() -> Result<()> {
    let pods = Pods::new()?;
    let daemon = standby(&pods)?;
    add(&daemon, "a", &pods.pod_a, &[])?;
    add(&daemon, "b", &pods.pod_b, &[])?;
    let a = paths(&pods.client_a, &pods.pod_a, PORT)?;
    let b = paths(&pods.client_b, &pods.pod_b, PORT)?;
    let open: Vec<Wire> = b.iter().map(Path::open).collect::<Result<_>>()?;
    open.iter().try_for_each(|wire| wire.up("before\n"))?;
    daemon.ask(&["workload", "remove", "a"])?.ok()?;
    assert_captured(&a, false);
    assert_captured(&b, true);
    for wire in open {
        wire.down("after")?;
        wire.up("after")?;
        wire.finish()?;
    }
    // Two from before, two from after; what went direct may have a record too.
    let captured = |records: &Records| -> Vec<Record> {
        let all = records.connections(PORT).into_iter();
        all.filter(|record| record.text("treatment") != "skip").cloned().collect()
    };
    wait_until("the records of four connections", PATIENCE, || {
        Ok(captured(&daemon.records()?).len() >= 4)
    })?;
    for record in captured(&daemon.records()?) {
        assert_eq!(record.text("workload"), "b", "{record:#?}");
        assert_eq!(record.text("error"), "", "{record:#?}");
    }
    Ok(())
}

// === Each its own ===

/// The state that `explain` gives an address.
fn explained(daemon: &Daemon, workload: &str, inbound: bool, to: SocketAddr) -> Result<String> {
    let to = to.to_string();
    let mut line = vec!["explain", &to, "--workload", workload];
    line.extend(inbound.then_some("--inbound"));
    Ok(daemon.ask(&line)?.ok()?.stdout)
}

#[test]
fn ports_belong_to_one_workload() -> Result<()> {
    let pods = Pods::new()?;
    let daemon = standby(&pods)?;
    add(&daemon, "a", &pods.pod_a, &["--opaque-ports", "9001"])?;
    add(&daemon, "b", &pods.pod_b, &["--skip-inbound-ports", "9001"])?;
    let a = paths(&pods.client_a, &pods.pod_a, PORT)?;
    let b = paths(&pods.client_b, &pods.pod_b, PORT)?;
    // Where no socket listens there would be nothing to explain.
    let _others =
        [&pods.pod_a, &pods.pod_b].map(|pod| pod.listen(at("::", 9001)).expect("a free port"));
    daemon.ask(&["ports", "skip", "9000", "--workload", "a"])?.ok()?;
    assert_captured(&a, false);
    assert_captured(&b, true);
    for (workload, inbound, port, state) in [
        ("a", true, 9000, "skip"),
        ("a", false, 9000, "skip"),
        ("b", true, 9000, "detect"),
        ("b", false, 9000, "detect"),
        ("a", true, 9001, "opaque"),
        ("a", false, 9001, "opaque"),
        ("b", true, 9001, "skip"),
        ("b", false, 9001, "detect"),
    ] {
        let ip = if inbound { POD[0] } else { CLIENT[0] };
        let why = explained(&daemon, workload, inbound, at(ip, port))?;
        let first = why.lines().next().unwrap_or_default();
        assert!(first.contains(state), "{workload}, inbound {inbound}, {port}: {state} in:\n{why}");
    }
    let rules = |workload: &str| -> Result<String> {
        Ok(daemon.json(&["ports", "list", "--workload", workload])?["rules"].to_string())
    };
    assert!(rules("a")?.contains("9000"), "{}", rules("a")?);
    assert!(!rules("b")?.contains("9000"), "{}", rules("b")?);
    daemon.ask(&["ports", "detect", "9000", "--workload", "a"])?.ok()?;
    assert_captured(&a, true);
    Ok(())
}

#[test]
fn stat_counts_each_workload_by_itself() -> Result<()> {
    let pods = Pods::new()?;
    let daemon = standby(&pods)?;
    add(&daemon, "a", &pods.pod_a, &[])?;
    add(&daemon, "b", &pods.pod_b, &[])?;
    let [_, a] = paths(&pods.client_a, &pods.pod_a, 9001)?;
    let [_, b] = paths(&pods.client_b, &pods.pod_b, 9002)?;
    ensure!(a.captured()? && b.captured()?, "both are captured");
    daemon.records_of(9001, 1)?;
    daemon.records_of(9002, 1)?;
    let of = |workload: &str| -> Result<String> {
        Ok(daemon.json(&["stat", "--workload", workload])?.to_string())
    };
    assert!(of("a")?.contains(&a.to.to_string()) && !of("a")?.contains(&b.to.to_string()));
    assert!(of("b")?.contains(&b.to.to_string()) && !of("b")?.contains(&a.to.to_string()));
    Ok(())
}

#[test]
fn an_unknown_workload_is_named_with_those_that_exist() -> Result<()> {
    let pods = Pods::new()?;
    let daemon = standby(&pods)?;
    add(&daemon, "shop", &pods.pod_a, &[])?;
    for line in [
        &["ports", "skip", "80", "--workload", "shpo"][..],
        &["ports", "list", "--workload", "shpo"],
        &["explain", "10.77.0.1:80", "--workload", "shpo"],
        &["stat", "--workload", "shpo"],
        &["workload", "remove", "shpo"],
    ] {
        refused(&daemon, line, &["shpo", "shop"])?;
    }
    Ok(())
}

// === Wrong input ===

/// A verb that must be refused, with a message that has all the words, and without an effect.
fn refused(daemon: &Daemon, line: &[&str], words: &[&str]) -> Result<()> {
    let state = || -> Result<(Vec<String>, Value)> {
        Ok((names(daemon)?, daemon.json(&["ports", "list"]).unwrap_or_default()))
    };
    let before = state()?;
    let finished = daemon.ask(line)?;
    ensure!([1, 2].contains(&finished.code()), "{line:?}: {}", finished.code());
    ensure!(finished.stdout.is_empty(), "{line:?}: stdout is for data: {}", finished.stdout);
    for word in words {
        ensure!(finished.stderr.contains(word), "{line:?}: no {word:?} in: {}", finished.stderr);
    }
    ensure!(!finished.stderr.contains("panicked"), "{}", finished.stderr);
    let after = state()?;
    ensure!(before == after, "{line:?} changed {before:?} to {after:?}");
    Ok(())
}

#[test]
fn wrong_workloads_are_refused_and_change_nothing() -> Result<()> {
    let pods = Pods::new()?;
    let (daemon, free) = (standby(&pods)?, Cgroup::new("free")?);
    add(&daemon, "shop", &pods.pod_a, &[])?;
    let text = |path: &std::path::Path| path.display().to_string();
    let (taken, free) = (text(pods.pod_a.cgroup().path()), text(free.path()));
    let (netns, other) = (text(&pods.pod_a.netns.path()), text(&pods.pod_b.netns.path()));
    let plain = text(pods.dir());
    let file = pods.dir().join("no-netns");
    std::fs::write(&file, "")?;
    let file = text(&file);
    let long = "n".repeat(64);
    let cases: &[(&str, &str, &str, &[&str])] = &[
        ("shop", &free, &other, &["shop"]),
        ("again", &taken, &netns, &["shop", &taken]),
        ("gone", "/sys/fs/cgroup/no-such-group", &netns, &["/sys/fs/cgroup/no-such-group"]),
        ("plain", &plain, &netns, &[&plain, "cgroup"]),
        ("new", &free, &file, &[&file, "namespace"]),
        ("new", &free, "/run/netns/no-such-netns", &["/run/netns/no-such-netns"]),
        (&long, &free, &other, &["63"]),
        ("", &free, &other, &["63"]),
        ("a/b", &free, &other, &["a/b"]),
        ("..", &free, &other, &[".."]),
    ];
    for (name, cgroup, netns, words) in cases {
        let line = ["workload", "add", name, "--cgroup", cgroup, "--netns", netns];
        refused(&daemon, &line, words)?;
    }
    let list = ["workload", "add", "new", "--cgroup", &free, "--skip-inbound-ports", "80,,443"];
    refused(&daemon, &list, &["80,,443", "column", "4"])?;
    // What there was works as before.
    assert_captured(&paths(&pods.client_a, &pods.pod_a, PORT)?, true);
    Ok(())
}

/// The map of skipped prefixes takes 65,536. More come over the control socket only: no command line
/// is that long. Guards against entries that are left under a number which the next workload gets.
#[test]
fn lists_that_have_no_room_are_refused_and_leave_nothing() -> Result<()> {
    let pods = Pods::new()?;
    let mut daemon = standby(&pods)?;
    let inside = paths(&pods.client_a, &pods.pod_a, PORT)?;
    let prefixes: Vec<_> = (0..=65_536).map(|n| Ipv4Addr::from_bits(n).to_string()).collect();
    let request = json!({"version": 1, "command": {"workload_add": {
        "workload": {
            "name": "large",
            "cgroup": pods.pod_a.cgroup().path(),
            "netns": pods.pod_a.netns.path(),
        },
        "outbound": {"skip_ports": PORT.to_string(), "skip_cidrs": prefixes.join(",")},
        "inbound": {"skip_ports": PORT.to_string()},
    }}});
    let mut control = UnixStream::connect(daemon.control())?;
    control.set_read_timeout(Some(patience(PATIENCE)))?;
    writeln!(control, "{request}")?;
    let mut answer = String::new();
    BufReader::new(control).read_line(&mut answer)?;
    for word in ["skipped prefixes", "limit", "shorten"] {
        ensure!(answer.contains(word), "no {word:?} in: {answer}");
    }
    assert_eq!(names(&daemon)?, [""; 0]);
    assert_captured(&inside, false);
    add(&daemon, "a", &pods.pod_a, &[])?;
    assert_captured(&inside, true);
    daemon.stop()?;
    daemon.instance().detach(&[])?.ok()?;
    nothing_left(daemon.instance(), &pods.namespaces())
}

#[test]
fn without_a_running_weir_the_verbs_say_so() -> Result<()> {
    let pods = Pods::new()?;
    let control = pods.dir().join("nobody.sock").display().to_string();
    for line in [
        &["workload", "list"][..],
        &["workload", "remove", "shop"],
        &["workload", "add", "shop", "--cgroup", "/sys/fs/cgroup"],
    ] {
        let line = [line, &["--control", &control]].concat();
        let finished = weir_tests::weir::verb(&pods.node, &line)?;
        assert_eq!(finished.code(), 4, "{line:?}: {}", finished.stderr);
        assert!(finished.stderr.contains("nobody.sock"), "{}", finished.stderr);
    }
    Ok(())
}

/// By what an operator knows of it; the cgroup is what is captured.
#[test]
fn a_unit_and_a_process_stand_for_their_cgroups() -> Result<()> {
    let lab = Lab::new()?;
    let above = Cgroup::new("named")?;
    let name = format!("weirt-{}-shop", std::process::id());
    let unit = above.below(&format!("{name}.service"))?;
    let mut command = lab.client.command("sleep");
    command.arg("1000");
    let mut sleep = Process::start("sleep", unit.wrap(&command), lab.dir())?;
    wait_until("the process to be in its cgroup", PATIENCE, || {
        ensure!(sleep.running()?, "it ended: {}", sleep.log());
        Ok(!unit.processes().is_empty())
    })?;
    let pid = unit.processes()[0].to_string();
    for flags in [["--unit", &name], ["--pid", &pid]] {
        let mut daemon = Run::new(&lab.client, lab.dir()).flags(&flags).start()?;
        let listed = daemon.json(&["workload", "list"])?;
        assert_eq!(listed[0]["cgroup"], unit.path().display().to_string(), "{flags:?}");
        daemon.stop()?;
    }
    for (flags, words) in [
        (["--unit", "weirt-none"], "no unit \"weirt-none.service\""),
        (["--pid", "4194305"], "no process 4194305"),
        (["--container", "weirt-none"], "no running container"),
    ] {
        let refused = Run::new(&lab.client, lab.dir()).flags(&flags).refused()?;
        assert_eq!(refused.code(), 2, "{}", refused.stderr);
        assert!(refused.stderr.contains(words), "{}", refused.stderr);
    }
    Ok(())
}
