//! A hundred pods come, change and go, while connections run through some of them. Nothing is lost
//! and nothing is left behind.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use weir_tests::kube::cluster::{Cluster, SHOP, SOON, captured};
use weir_tests::kube::object::{Owner, Qos, annotate, key, namespace, pod, set_ended, set_qos};
use weir_tests::kube::pod::{Layout, Pod};
use weir_tests::left::{in_namespace, nothing_left};
use weir_tests::load::{Half, Kind, Plan};
use weir_tests::netns::Netns;
use weir_tests::process::wait_until;
use weir_tests::soak::Holdings;
use weir_tests::weir::Daemon;

use crate::{CLIENT_IP, INJECT, OPAQUE, SKIP_INBOUND, SKIP_OUTBOUND};

/// Pods with servers, and as many with clients.
const BUSY: usize = 3;
/// All pods.
const PODS: usize = 100;
/// A busy machine with two cores needs that long for a hundred.
const LONG: Duration = Duration::from_secs(180);

/// Descriptors that weir keeps for next connections, and those of the next watch.
const SPARE: usize = 16 + PROGRAMS_AHEAD;
/// Descriptors of the programs that are loaded ahead for the next pods: four for each of four.
const PROGRAMS_AHEAD: usize = 16;

const OWNERS: [Owner; 4] = [Owner::Deployment, Owner::StatefulSet, Owner::DaemonSet, Owner::Job];

/// The first `BUSY` opt in themselves; of the others every second leaves it to the namespace.
fn object(number: usize) -> Value {
    let mut object = pod(SHOP, &format!("pod-{number:03}"), OWNERS[number % OWNERS.len()]);
    set_qos(&mut object, Qos::ALL[number % 3]);
    if number < 2 * BUSY || number.is_multiple_of(2) {
        annotate(&mut object, INJECT, Some("enabled"));
    }
    object
}

fn layout(number: usize) -> Layout {
    Layout::ALL[number % Layout::ALL.len()]
}

/// Waits until weir captures as many as there are pods, and each of them.
fn settle(cluster: &Cluster, weir: &Daemon, pods: &[Pod]) -> Result<()> {
    wait_until(&format!("{} pods to be captured", pods.len()), LONG, || {
        Ok(captured(weir)?.len() == pods.len() && cluster.ready()?.0)
    })
    .with_context(|| format!("captured {:?}; {:?}", captured(weir), cluster.ready()))?;
    cluster.settle(weir, &pods.iter().collect::<Vec<_>>())
}

/// From the host into the first pods, and from the next ones to the host.
struct Traffic {
    clients: Vec<Half>,
    servers: Vec<Half>,
}

// === impl Traffic ===

impl Traffic {
    fn begin(cluster: &Cluster, pods: &[Pod]) -> Result<Self> {
        let binary = Path::new(env!("CARGO_BIN_EXE_weir-load"));
        let (inside, outside) = pods.split_at(BUSY);
        let (host, dir) = (&cluster.host.netns, cluster.dir());
        let serve = |netns: &Netns, name: &str| Half::serve(binary, netns, name, dir);
        let visit = |netns: &Netns, name: &str, to: &[&str]| {
            Half::visit(binary, netns, (name, dir), to, &plan())
        };
        let mut servers = vec![serve(host, "servers-host")?];
        for pod in inside {
            servers.push(serve(pod.netns(), &format!("servers-{}", pod.uid()))?);
        }
        let addresses: Vec<&str> = inside.iter().map(|pod| &*pod.addresses().pod).collect();
        let mut clients = vec![visit(host, "clients-host", &addresses)?];
        for pod in outside {
            let (name, to) = (format!("clients-{}", pod.uid()), &*pod.addresses().host);
            clients.push(visit(pod.netns(), &name, &[to])?);
        }
        Ok(Self { clients, servers })
    }

    fn go_on(&mut self) -> Result<()> {
        for clients in &mut self.clients {
            let before = clients.count()?;
            wait_until("connections to go on", SOON, || Ok(clients.count()? >= before + 20))?;
        }
        Ok(())
    }

    /// All connections were well, and all went through weir but for `stale`, which the kernel has let
    /// pass because weir stood still.
    fn finish(self, stale: u64) -> Result<()> {
        self.clients.iter().try_for_each(Half::stop)?;
        let trips = self.clients.into_iter().map(Half::finish).collect::<Result<Vec<_>>>()?;
        for servers in self.servers {
            servers.stop()?;
            servers.finish()?;
        }
        for of_one in &trips {
            ensure!(of_one.len() >= 100, "{} connections are no traffic", of_one.len());
        }
        let trips = trips.concat();
        let bad: Vec<_> = trips.iter().filter(|trip| !trip.is_well()).take(5).collect();
        ensure!(bad.is_empty(), "of {} connections: {bad:#?}", trips.len());
        let direct = trips.iter().filter(|trip| trip.proxied() == Some(false)).count();
        ensure!(direct as u64 <= stale, "{direct} of {} went direct, {stale} may", trips.len());
        Ok(())
    }
}

fn plan() -> Plan {
    let clients = Kind::ORDERLY.map(|kind| (kind, 1)).to_vec();
    Plan { limit: Duration::from_secs(900), clients, rest: 100, bits: 16, ..Plan::default() }
}

/// One change of each pod's annotations, drawn by lot.
fn shuffle(cluster: &Cluster, pods: &[Pod]) {
    for (number, pod) in pods.iter().enumerate() {
        // The last one ends the capture and begins another: not where connections shall go on.
        let choice = if number < 2 * BUSY { 3 } else { 4 };
        let (name, values): (&str, &[Option<&str>]) = match fastrand::usize(..choice) {
            0 => (SKIP_INBOUND, &[Some("80,443"), Some("9000-9050"), None]),
            1 => (SKIP_OUTBOUND, &[Some("4406"), Some("+25"), None]),
            2 => (OPAQUE, &[Some("+5000"), Some("9100-9102"), None]),
            _ => (CLIENT_IP, &[Some("true"), Some("false"), None]),
        };
        let value = values[fastrand::usize(..values.len())];
        cluster.api.annotate(&key(pod.object()), name, value);
    }
}

#[test]
fn a_hundred_pods_come_change_and_go_under_traffic() -> Result<()> {
    let cluster = Cluster::new()?;
    let shop = key(&namespace(SHOP));
    cluster.api.annotate(&shop, INJECT, Some("enabled"));
    let mut weir = cluster.weir()?.flags(&["--drain-deadline", "5m"]).start()?;
    cluster.settle(&weir, &[])?;
    let before = Holdings::of(&weir, &[&cluster.node])?;

    // Some are there, then the others come, told before they are and the other way round.
    let mut pods = Vec::new();
    for number in 0..2 * BUSY {
        pods.push(cluster.start(&object(number), layout(number))?);
    }
    settle(&cluster, &weir, &pods)?;
    let mut traffic = Traffic::begin(&cluster, &pods)?;
    for number in 2 * BUSY..PODS {
        let object = object(number);
        let tell = |now: bool| {
            if now {
                cluster.api.put(&object);
            }
        };
        tell(number.is_multiple_of(3));
        pods.push(cluster.idle(&object, layout(number))?);
        tell(!number.is_multiple_of(3));
    }
    settle(&cluster, &weir, &pods)?;
    traffic.go_on()?;

    // They change: those that are busy all the time, the others more often than weir can look.
    for round in 0..5 {
        shuffle(&cluster, &pods);
        cluster.api.annotate(&shop, OPAQUE, (round % 2 == 0).then_some("+7000"));
        if round == 2 {
            cluster.api.wait_watched()?;
            cluster.api.tear_watches();
        }
        traffic.go_on()?;
    }
    settle(&cluster, &weir, &pods)?;

    // Two thirds go, in all ways there are, and others come.
    let mut rest = pods.split_off(2 * BUSY);
    fastrand::shuffle(&mut rest);
    let stay = rest.split_off(2 * rest.len() / 3);
    let mut opted_out = Vec::new();
    for (number, gone) in rest.into_iter().enumerate() {
        let key = key(gone.object());
        match number % 4 {
            0 => cluster.api.remove(&key),
            1 => {
                gone.kill()?;
                cluster.api.change(&key, |pod| set_ended(pod, "Succeeded"));
            }
            2 => {
                // Its cgroup and namespace are gone before weir is told.
                drop(gone);
                cluster.api.remove(&key);
                continue;
            }
            _ => cluster.api.annotate(&key, INJECT, Some("disabled")),
        }
        opted_out.push(gone);
    }
    pods.extend(stay);
    for number in PODS..PODS + 10 {
        pods.push(cluster.idle(&object(number), layout(number))?);
        cluster.api.put(pods[pods.len() - 1].object());
    }
    settle(&cluster, &weir, &pods)?;
    for pod in &opted_out {
        wait_until("nothing to be left", SOON, || Ok(in_namespace(pod.netns())?.is_empty()))
            .with_context(|| format!("{}: {:?}", pod.workload(), in_namespace(pod.netns())))?;
    }
    traffic.go_on()?;

    traffic.finish(weir.stale()?)?;
    for pod in &pods {
        cluster.api.remove(&key(pod.object()));
    }
    cluster.settle(&weir, &[])?;
    // Maps, too: workloads that are gone have no entries.
    let mut holdings = before.clone();
    wait_until("weir to give back what it had", SOON, || {
        holdings = Holdings::of(&weir, &[&cluster.node])?;
        let open = |held: &Holdings| held.descriptors + held.kept;
        Ok(holdings.entries == before.entries && open(&holdings) <= open(&before) + SPARE)
    })
    .with_context(|| format!("before: {before}\nafter: {holdings}"))?;
    cluster.api.nothing_forbidden()?;
    weir.stop()?;
    weir.instance().detach(&[])?.ok()?;
    let all = pods.iter().chain(&opted_out).map(Pod::netns).chain([&cluster.node]);
    nothing_left(weir.instance(), &all.collect::<Vec<_>>())
}
