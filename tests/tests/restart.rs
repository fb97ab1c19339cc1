//! A weir that starts again keeps the programs that the one before has left attached, where they are
//! the same: to load them again takes tens of milliseconds for each workload, in which its
//! connections go direct. What it was told is kept too, whatever its length.

use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use weir_tests::left::nothing_left;
use weir_tests::pods::{CLIENT, POD, Pods};
use weir_tests::site::{Site, is_captured};
use weir_tests::weir::{Daemon, Run};

const PORT: u16 = 9000;

fn at(ip: &str) -> SocketAddr {
    with_port(ip, PORT)
}

fn with_port(ip: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip.parse().expect("an address of this harness"), port)
}

/// Kills weir and starts it again, which must find its workload again.
fn restart(pods: &Pods, mut daemon: Daemon, flags: &[&str]) -> Result<Daemon> {
    daemon.process.kill_hard()?;
    let flags = [&["--standby"], flags].concat();
    Run::new(&pods.node, pods.dir()).flags(&flags).after(&daemon).start()
}

/// Whether a new connection to a listener goes through weir.
fn captured(from: &Site, to: &str, listener: &TcpListener) -> Result<bool> {
    is_captured(from, with_port(to, listener.local_addr()?.port()), listener)
}

/// Connections into and out of pod A must go through weir.
fn check(pods: &Pods, inside: &TcpListener, outside: &TcpListener) -> Result<()> {
    for (pod, client) in POD.into_iter().zip(CLIENT) {
        ensure!(captured(&pods.client_a, pod, inside)?, "into {pod}: direct");
        ensure!(captured(&pods.pod_a, client, outside)?, "to {client}: direct");
    }
    Ok(())
}

/// Programs that go with the process: on weir's own cgroup, and the one that tells it of options.
const OF_PROCESS: usize = 2;

/// The workloads' programs were not loaded again.
#[track_caller]
fn assert_kept(before: &BTreeSet<u32>, daemon: &Daemon) {
    let now = daemon.instance().programs();
    let again: Vec<_> = now.difference(before).collect();
    assert!(again.len() <= OF_PROCESS, "programs were loaded again: {again:?}");
}

#[test]
fn the_same_programs_stay_and_others_take_their_place() -> Result<()> {
    let pods = Pods::new()?;
    let (inside, outside) = (pods.pod_a.listen(at("::"))?, pods.client_a.listen(at("::"))?);
    let daemon = Run::new(&pods.node, pods.dir()).flags(&["--standby"]).start()?;
    daemon.add("a", pods.pod_a.cgroup(), &pods.pod_a.netns, &[])?;
    check(&pods, &inside, &outside)?;
    let first = daemon.instance().programs();
    ensure!(first.len() >= 4, "{first:?}");

    let daemon = restart(&pods, daemon, &[])?;
    check(&pods, &inside, &outside)?;
    assert_kept(&first, &daemon);

    // These have log statements in them: they are others.
    let daemon = restart(&pods, daemon, &["--bpf-log", "error"])?;
    check(&pods, &inside, &outside)?;
    let both = daemon.instance().programs();
    // All of them, and those of the process of the start before.
    assert_eq!(both.len(), 2 * first.len() + OF_PROCESS, "{both:?} after {first:?}");

    let mut daemon = restart(&pods, daemon, &["--bpf-log", "error"])?;
    check(&pods, &inside, &outside)?;
    assert_kept(&both, &daemon);
    daemon.stop()?;
    daemon.instance().detach(&[])?.ok()?;
    nothing_left(daemon.instance(), &pods.namespaces())
}

/// Without inbound capture there is one program less; with it again, all are needed anew.
#[test]
fn a_program_that_is_missing_is_attached_again() -> Result<()> {
    let pods = Pods::new()?;
    let (inside, outside) = (pods.pod_a.listen(at("::"))?, pods.client_a.listen(at("::"))?);
    let run = |flags: &[&str]| {
        let pod = &pods.pod_a;
        let run = Run::new(&pods.node, pods.dir()).flags(flags);
        run.workload("a", pod.cgroup(), Some(&pod.netns))
    };
    let mut daemon = run(&["--no-capture-inbound"]).start()?;
    let first = daemon.instance().programs();
    daemon.process.kill_hard()?;
    let mut daemon = run(&[]).after(&daemon).start()?;
    check(&pods, &inside, &outside)?;
    let more = daemon.instance().programs();
    ensure!(more.len() > first.len(), "{more:?} after {first:?}");
    daemon.stop()?;
    daemon.instance().detach(&[])?.ok()?;
    nothing_left(daemon.instance(), &pods.namespaces())
}

/// Guards against a start that uses whatever is pinned under a name of weir's: it captured nothing,
/// or read a value past its end.
#[test]
fn pins_that_are_something_else_are_made_anew() -> Result<()> {
    let pods = Pods::new()?;
    let (inside, outside) = (pods.pod_a.listen(at("::"))?, pods.client_a.listen(at("::"))?);
    let run = || {
        let pod = &pods.pod_a;
        let run = Run::new(&pods.node, pods.dir());
        run.workload("a", pod.cgroup(), Some(&pod.netns))
    };
    let mut daemon = run().start()?;
    let root = Path::new("/sys/fs/bpf/weir").join(daemon.instance().name());
    let mut schemas = fs::read_dir(&root)?.filter_map(Result::ok).map(|entry| entry.path());
    let schema = schemas.find(|path| path.join("maps").is_dir()).context("no schema")?;
    let map = |name: &str| schema.join("maps").join(name);
    let link = |name: &str| schema.join("1").join(name);
    type Spoil<'a> = (&'static str, &'a dyn Fn() -> std::io::Result<()>);
    let spoils: [Spoil<'_>; 5] = [
        ("another map", &|| fs::rename(map("WAYS"), map("PENDING"))),
        ("a directory", &|| {
            fs::remove_file(map("WAYS")).and_then(|()| fs::create_dir(map("WAYS")))
        }),
        ("missing maps", &|| {
            fs::remove_file(map("PENDING")).and_then(|()| fs::remove_file(map("WORKLOADS")))
        }),
        ("a map for a link", &|| fs::rename(map("WAYS"), link("connect4"))),
        ("a link for a map", &|| fs::rename(link("connect4"), map("HEARTBEAT"))),
    ];
    for (what, spoil) in spoils {
        daemon.process.kill_hard()?;
        spoil().with_context(|| what.to_owned())?;
        daemon = run().after(&daemon).start().context(what)?;
        check(&pods, &inside, &outside).context(what)?;
        ensure!(daemon.process.log().contains("recreated"), "{what}: {}", daemon.process.log());
    }
    daemon.stop()?;
    daemon.instance().detach(&[])?.ok()?;
    nothing_left(daemon.instance(), &pods.namespaces())
}

/// No two of 10,000 ports are neighbours: there is no shorter way to write them. Guards against
/// "settings take 4092 bytes, the list took 60,541".
#[test]
fn ten_thousand_scattered_ports_are_kept() -> Result<()> {
    let list = (20_001..40_000).step_by(2).map(|port: u16| port.to_string());
    let list = list.collect::<Vec<_>>().join(",");
    // Of a network for benchmarks (RFC 2544), where no host is.
    let prefixes = (0..5_000).map(|n: u32| (Ipv4Addr::new(198, 18, 0, 0).to_bits() + n).into());
    let prefixes = prefixes.map(|it: Ipv4Addr| it.to_string()).collect::<Vec<_>>().join(",");
    let flags = ["--skip-outbound-ports", &list, "--skip-cidrs", &prefixes];
    let pods = Pods::new()?;
    let (a, b) = ((&pods.pod_a, &pods.client_a), (&pods.pod_b, &pods.client_b));
    let listeners = |client: &Site| -> Result<[TcpListener; 2]> {
        Ok([client.listen(with_port("::", 39_999))?, client.listen(with_port("::", 39_998))?])
    };
    let (to_a, to_b) = (listeners(a.1)?, listeners(b.1)?);
    let check = |daemon: &Daemon| -> Result<()> {
        for ((pod, _), listeners, name) in [(a, &to_a, "a"), (b, &to_b, "b")] {
            let [listed, unlisted] = listeners;
            ensure!(!captured(pod, CLIENT[0], listed)?, "{name}: a listed port is proxied");
            ensure!(captured(pod, CLIENT[0], unlisted)?, "{name}: a port beside goes direct");
            let report = daemon.json(&["ports", "list", "--workload", name])?;
            let rules = report["rules"].as_array().context("no rules")?;
            // One that was hit has a row of its own.
            let of = |wanted: &dyn Fn(u64) -> bool| {
                rules.iter().find(|rule| {
                    rule["state"] == "skip" && rule["hits"].as_u64().is_some_and(wanted)
                })
            };
            let hit = of(&|hits| hits > 0).context("no hit")?;
            let quiet = of(&|hits| hits == 0).context("no rule")?;
            let shown = format!("{},{}", quiet["ports"], hit["ports"]).replace('"', "");
            ensure!(shown == list, "{name}: {shown}");
        }
        Ok(())
    };
    let run = || {
        let run = Run::new(&pods.node, pods.dir()).flags(&flags);
        run.workload("a", a.0.cgroup(), Some(&a.0.netns))
    };
    let mut daemon = run().start()?;
    daemon.add("b", b.0.cgroup(), &b.0.netns, &flags)?;
    check(&daemon)?;
    let programs = daemon.instance().programs();
    daemon.process.kill_hard()?;
    // `a` is given again, `b` is found again.
    let mut daemon = run().after(&daemon).start()?;
    check(&daemon)?;
    assert_kept(&programs, &daemon);
    daemon.stop()?;
    daemon.instance().detach(&[])?.ok()?;
    nothing_left(daemon.instance(), &pods.namespaces())
}
