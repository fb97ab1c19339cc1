//! weir is killed, started again and replaced, with and without an API server.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use weir_tests::kube::cluster::{Cluster, SOON, captured};
use weir_tests::kube::object::{Owner, key};
use weir_tests::kube::pod::{Layout, Pod};
use weir_tests::left::{nothing_left, pinned_workloads};
use weir_tests::load::{Half, Plan};
use weir_tests::metrics;
use weir_tests::process::wait_until;

use crate::{PORT, SKIP_INBOUND, SKIP_OUTBOUND, opted};

fn start(cluster: &Cluster, name: &str, layout: Layout) -> Result<Pod> {
    cluster.start(&opted(name, Owner::Deployment), layout)
}

#[test]
fn after_kill_9_all_is_found_again_and_what_went_meanwhile_is_cleaned_up() -> Result<()> {
    let cluster = Cluster::new()?;
    let stays = start(&cluster, "stays", Layout::SystemdContainerd)?;
    let changes = start(&cluster, "changes", Layout::CgroupfsContainerd)?;
    let goes = start(&cluster, "goes", Layout::SystemdCrio)?;
    let vanishes = start(&cluster, "vanishes", Layout::CgroupfsCrio)?;
    let [staying, changing] =
        [&stays, &changes].map(|pod| cluster.ways(pod, PORT).expect("a free port"));
    let mut weir = cluster.weir()?.start()?;
    cluster.settle(&weir, &[&stays, &changes, &goes, &vanishes])?;
    weir.ask(&["ports", "skip", "9001", "--workload", &stays.workload()])?.ok()?;

    weir.process.kill_hard()?;
    staying.assert_captured([false; 2]);
    cluster.api.annotate(&key(changes.object()), SKIP_INBOUND, Some("9000"));
    cluster.api.remove(&key(goes.object()));
    // This one takes its cgroup along.
    cluster.api.remove(&key(vanishes.object()));
    let group = vanishes.cgroup().path().to_owned();
    drop(vanishes);
    ensure!(!group.exists(), "{} is there", group.display());
    let comes = start(&cluster, "comes", Layout::Nested)?;

    let mut weir = cluster.weir()?.after(&weir).start()?;
    cluster.settle(&weir, &[&stays, &changes, &comes])?;
    staying.assert_captured([true; 2]);
    changing.become_captured([false, true])?;
    cluster.ways(&comes, PORT)?.assert_captured([true; 2]);
    wait_until("the pins of those that went to go", SOON, || {
        Ok(pinned_workloads(weir.instance())? == 3)
    })
    .with_context(|| format!("{:?} are pinned", pinned_workloads(weir.instance())))?;
    cluster.api.nothing_forbidden()?;
    weir.stop()?;
    weir.instance().detach(&[])?.ok()?;
    nothing_left(weir.instance(), &[stays.netns(), changes.netns(), goes.netns(), comes.netns()])
}

/// The API server is often what is down when a node starts again.
#[test]
fn without_the_server_a_start_takes_up_what_was_captured() -> Result<()> {
    let cluster = Cluster::new()?;
    let pod = start(&cluster, "cart", Layout::SystemdContainerd)?;
    let goes = start(&cluster, "goes", Layout::SystemdContainerd)?;
    let ways = cluster.ways(&pod, PORT)?;
    let mut weir = cluster.weir()?.start()?;
    cluster.settle(&weir, &[&pod, &goes])?;
    cluster.api.annotate(&key(pod.object()), SKIP_OUTBOUND, Some("9000"));
    ways.become_captured([true, false])?;
    weir.process.kill_hard()?;
    cluster.api.go_away();
    let weir = cluster.weir()?.after(&weir).start()?;
    ways.become_captured([true, false])?;
    ensure!(!cluster.ready()?.0, "ready without a list");
    ensure!(captured(&weir)?.contains(&goes.workload()), "let go without a list");
    cluster.api.remove(&key(goes.object()));
    cluster.api_comes_back()?;
    cluster.settle(&weir, &[&pod])?;
    ways.assert_captured([true, false]);
    Ok(())
}

/// Nothing is lost, and nothing passes weir by.
#[test]
fn upgrades_under_traffic_cut_nothing() -> Result<()> {
    let cluster = Cluster::new()?;
    let pods = [
        start(&cluster, "server", Layout::SystemdContainerd)?,
        start(&cluster, "client", Layout::CgroupfsContainerd)?,
    ];
    let binary = Path::new(env!("CARGO_BIN_EXE_weir-load"));
    let mut weir = cluster.weir()?.flags(&["--drain-deadline", "5m"]).start()?;
    cluster.settle(&weir, &pods.iter().collect::<Vec<_>>())?;
    let (host, dir) = (&cluster.host.netns, cluster.dir());
    let [server, client] = &pods;
    let halves = [
        (server.netns(), host, server.addresses().pod.as_str(), "inbound"),
        (host, client.netns(), client.addresses().host.as_str(), "outbound"),
    ];
    let mut loads = Vec::new();
    for (to, from, address, way) in halves {
        let servers = Half::serve(binary, to, &format!("servers-{way}"), dir)?;
        let place = (&*format!("clients-{way}"), dir);
        loads.push((Half::visit(binary, from, place, &[address], &Plan::default())?, servers));
    }
    let mut go_on = |count: usize| -> Result<()> {
        for (clients, _) in &mut loads {
            let before = clients.count()?;
            wait_until("connections to go on", SOON, || Ok(clients.count()? >= before + count))?;
        }
        Ok(())
    };
    go_on(100)?;
    let mut retired = Vec::new();
    for _ in 0..3 {
        let run = cluster.weir()?.flags(&["--drain-deadline", "5m", "--upgrade"]);
        let next = run.in_place_of(&weir).start().context("upgrade")?;
        retired.push(std::mem::replace(&mut weir, next));
        go_on(100)?;
        cluster.settle(&weir, &pods.iter().collect::<Vec<_>>())?;
    }
    let mut stale = weir.stale()?;
    for (clients, servers) in loads {
        clients.stop()?;
        let trips = clients.finish()?;
        let bad = trips.iter().find(|trip| !trip.is_well());
        ensure!(bad.is_none(), "of {} connections: {bad:#?}", trips.len());
        let direct = trips.iter().filter(|trip| trip.proxied() == Some(false)).count() as u64;
        ensure!(direct <= stale, "{direct} went direct, {stale} because weir stood still");
        stale -= direct;
        servers.stop()?;
        servers.finish()?;
    }
    for mut old in retired {
        let status = old.process.wait(Duration::from_secs(60))?;
        ensure!(status.success(), "{status}: {}", old.process.log());
    }
    weir.stop()?;
    weir.instance().detach(&[])?.ok()?;
    nothing_left(weir.instance(), &[server.netns(), client.netns(), &cluster.node])
}

/// SIGTERM and a start, as a rolling update without `--upgrade` is: the successor goes on.
#[test]
fn after_sigterm_a_start_captures_again() -> Result<()> {
    let cluster = Cluster::new()?;
    let pod = start(&cluster, "cart", Layout::SystemdContainerd)?;
    let ways = cluster.ways(&pod, PORT)?;
    let mut weir = cluster.weir()?.start()?;
    for _ in 0..2 {
        cluster.settle(&weir, &[&pod])?;
        ways.assert_captured([true; 2]);
        weir.stop()?;
        ways.assert_captured([false; 2]);
        weir = cluster.weir()?.after(&weir).start()?;
    }
    cluster.settle(&weir, &[&pod])
}

/// A kubelet starts again what ends before it was told to, and that would take over in turn.
#[test]
fn one_that_lingers_stays_after_it_was_replaced_until_it_is_told_to_go() -> Result<()> {
    let cluster = Cluster::new()?;
    let pod = start(&cluster, "cart", Layout::SystemdContainerd)?;
    let ways = cluster.ways(&pod, PORT)?;
    let mut old = cluster.weir()?.flags(&["--linger"]).start()?;
    cluster.settle(&old, &[&pod])?;
    let mut new = cluster.weir()?.flags(&["--upgrade"]).in_place_of(&old).start()?;
    wait_until("the old one to have drained", SOON, || Ok(old.process.log().contains("drained;")))?;
    ensure!(old.process.running()?, "it has ended: {}", old.process.log());
    // Both are in one namespace here: the old one has kept the address.
    ensure!(metrics::get(&cluster.node, "/live")?.0 == 200, "it does not answer the kubelet");
    let (ready, said) = cluster.ready()?;
    ensure!(!ready && said.contains("draining"), "{said}");
    ways.assert_captured([true; 2]);
    old.stop()?;
    ways.assert_captured([true; 2]);
    new.stop()
}
