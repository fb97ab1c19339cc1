//! Pods that come late and pods that go.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use weir_tests::kube::cluster::{Cluster, Runtime, SOON, captured, told};
use weir_tests::kube::object::{Owner, key, set_ended, uid};
use weir_tests::kube::pod::{Layout, Pod};
use weir_tests::left::{in_namespace, pinned_workloads};
use weir_tests::netns::is_the_machines;
use weir_tests::process::wait_until;
use weir_tests::site::join;
use weir_tests::weir::Daemon;

use crate::{INJECT, PORT, opted};

/// Nothing of a pod is left in its namespace; weir does not mention it, and has as much pinned as for
/// the other pods.
fn forgotten(weir: &Daemon, pod: &Pod, others: usize) -> Result<()> {
    let left = || -> Result<Vec<String>> {
        let mut left = in_namespace(pod.netns())?;
        left.extend(captured(weir)?.into_iter().filter(|name| *name == pod.workload()));
        let pinned = pinned_workloads(weir.instance())?;
        left.extend((pinned != others).then(|| format!("{pinned} workloads are pinned")));
        Ok(left)
    };
    wait_until("nothing to be left of the pod", SOON, || Ok(left()?.is_empty()))
        .with_context(|| format!("left of {}: {:#?}", pod.workload(), left()))
}

#[test]
fn pods_that_go_are_let_go_and_leave_nothing() -> Result<()> {
    let cluster = Cluster::new()?;
    let names = [
        ("deleted", Layout::SystemdContainerd),
        ("succeeded", Layout::CgroupfsContainerd),
        ("failed", Layout::SystemdCrio),
        ("opted-out", Layout::CgroupfsCrio),
        ("stays", Layout::Nested),
    ];
    let mut pods = Vec::new();
    for (name, layout) in names {
        pods.push(cluster.start(&opted(name, Owner::Job), layout)?);
    }
    let weir = cluster.weir()?.start()?;
    cluster.settle(&weir, &pods.iter().collect::<Vec<_>>())?;
    let pinned = pinned_workloads(weir.instance())?;
    ensure!(pinned == pods.len(), "{pinned} workloads are pinned");
    let [deleted, succeeded, failed, opted_out, stays] = &pods[..] else { unreachable!() };
    let ways = cluster.ways(opted_out, PORT)?;
    let others = cluster.ways(stays, PORT)?;

    cluster.api.remove(&key(deleted.object()));
    deleted.kill()?;
    cluster.settle(&weir, &[succeeded, failed, opted_out, stays])?;
    forgotten(&weir, deleted, 4)?;
    for (pod, phase) in [(succeeded, "Succeeded"), (failed, "Failed")] {
        pod.kill()?;
        cluster.api.change(&key(pod.object()), |pod| set_ended(pod, phase));
    }
    cluster.settle(&weir, &[opted_out, stays])?;
    forgotten(&weir, succeeded, 2)?;
    forgotten(&weir, failed, 2)?;
    cluster.api.annotate(&key(opted_out.object()), INJECT, None);
    cluster.settle(&weir, &[stays])?;
    forgotten(&weir, opted_out, 1)?;
    ways.assert_captured([false; 2]);
    others.assert_captured([true; 2]);
    cluster.api.nothing_forbidden()
}

/// The kubelet tells the API server of a pod before the runtime has made its cgroup.
#[test]
fn a_pod_is_captured_once_it_is_there() -> Result<()> {
    let cluster = Cluster::new()?;
    let weir = cluster.weir()?.start()?;
    cluster.settle(&weir, &[])?;
    let mut object = opted("late", Owner::Deployment);
    object["status"]["phase"] = json!("Pending");
    cluster.api.put(&object);
    wait_until("the pod to be waited for", SOON, || {
        Ok(told(&weir, "late")?.is_some_and(|pod| pod["state"] == "waiting"))
    })
    .with_context(|| format!("told {:?}; log:\n{}", told(&weir, "late"), weir.process.log()))?;
    // It is not late yet: it was not started.
    ensure!(cluster.ready()?.0, "{:?}", cluster.ready());
    let pod = cluster.run(&object, Layout::SystemdContainerd)?;
    cluster.settle(&weir, &[&pod])?;
    cluster.api.change(&key(&object), |pod| pod["status"]["phase"] = json!("Running"));
    cluster.ways(&pod, PORT)?.assert_captured([true; 2]);
    // It has waited quietly: that a pod is not there yet is no fault.
    ensure!(cluster.api.events().is_empty(), "{:#?}", cluster.api.events());
    // And one that the API server calls running, with a runtime that is behind.
    let object = opted("later", Owner::StatefulSet);
    cluster.api.put(&object);
    wait_until("the pod to be waited for", SOON, || {
        Ok(told(&weir, "later")?.is_some_and(|pod| pod["state"] == "waiting"))
    })?;
    let (ready, body) = cluster.ready()?;
    ensure!(!ready && body.contains('1'), "ready {ready}: {body}");
    let later = cluster.run(&object, Layout::CgroupfsCrio)?;
    cluster.settle(&weir, &[&pod, &later])?;
    cluster.ways(&later, PORT)?.assert_captured([true; 2]);
    let said = told(&weir, "later")?.context("weir does not mention it")?;
    ensure!(said["state"] == "captured" && said["uid"] == later.uid(), "{said:#}");
    Ok(())
}

/// A container runtime puts a process into a pod's cgroup before it enters the pod's namespaces: its
/// namespace is the node's then, which must not be taken for the pod's.
#[test]
fn a_process_on_its_way_into_a_pod_is_not_the_pod() -> Result<()> {
    let cluster = Cluster::new()?;
    let weir = cluster.weir()?.start()?;
    cluster.settle(&weir, &[])?;
    let elsewhere = if is_the_machines() { Runtime::InTheMachines } else { Runtime::BesideWeir };
    for (name, layout, runtime) in [
        ("containerd", Layout::SystemdContainerd, Runtime::BesideWeir),
        ("crio", Layout::CgroupfsCrio, elsewhere),
    ] {
        let object = opted(name, Owner::Deployment);
        let _on_its_way = cluster.begin(&object, layout, runtime)?;
        cluster.api.put(&object);
        cluster.seen(&weir)?;
        let said = told(&weir, name)?.context("weir does not mention it")?;
        ensure!(said["state"] == "waiting", "{said:#}");
        ensure!(!captured(&weir)?.iter().any(|workload| workload.ends_with(name)));
        ensure!(in_namespace(&cluster.node)?.is_empty(), "{:?}", in_namespace(&cluster.node));
        // It is still on its way when others are there.
        let pod = cluster.run(&object, layout)?;
        let ways = cluster.ways(&pod, PORT)?;
        ways.become_captured([true; 2])?;
        wait_until("the pod to be captured", SOON, || {
            Ok(told(&weir, name)?.is_some_and(|pod| pod["state"] == "captured"))
        })?;
        ensure!(cluster.api.events().iter().all(|event| !event.to_string().contains(name)));
    }
    Ok(())
}

/// A pod of a StatefulSet comes again under its old name.
#[test]
fn another_pod_of_the_same_name_is_captured_in_its_place() -> Result<()> {
    let cluster = Cluster::new()?;
    let first = cluster.start(&opted("db-0", Owner::StatefulSet), Layout::SystemdContainerd)?;
    let weir = cluster.weir()?.start()?;
    cluster.settle(&weir, &[&first])?;
    let mut object = first.object().clone();
    for _ in 0..3 {
        object["metadata"]["uid"] = json!(uid());
        let next = cluster.run(&object, Layout::SystemdContainerd)?;
        // The server tells of a deletion and an addition.
        cluster.api.put(&object);
        let ways = cluster.ways(&next, PORT)?;
        ways.become_captured([true; 2])?;
        cluster.settle(&weir, &[&next])?;
        let said = told(&weir, "db-0")?.context("weir does not mention it")?;
        ensure!(said["uid"] == next.uid(), "{said:#}");
    }
    cluster.ways(&first, PORT)?.become_captured([false; 2])
}

/// A pod that ends knows it before any list of endpoints does: its clients are told with the next
/// response, and served until the end.
#[test]
fn clients_of_a_pod_that_is_deleted_are_asked_to_leave_at_once() -> Result<()> {
    let cluster = Cluster::new()?;
    let pod = cluster.start(&opted("ends", Owner::Deployment), Layout::SystemdContainerd)?;
    let weir = cluster.weir()?.start()?;
    cluster.settle(&weir, &[&pod])?;
    let address = SocketAddr::new(pod.addresses().pod.parse()?, PORT);
    let listener = pod.site().listen(address)?;
    let asks_to_leave = || -> Result<bool> {
        let wire = join(&cluster.host, address, &listener)?;
        (&wire.client).write_all(b"GET / HTTP/1.1\r\nHost: shop\r\n\r\n")?;
        read_to(&wire.server, "\r\n\r\n")?;
        (&wire.server).write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")?;
        Ok(read_to(&wire.client, "ok")?.contains("connection: close"))
    };
    ensure!(!asks_to_leave()?);
    cluster.api.change(&key(pod.object()), |pod| {
        pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        pod["metadata"]["deletionGracePeriodSeconds"] = json!(30);
    });
    wait_until("a response that asks the client to leave", SOON, asks_to_leave)?;
    cluster.settle(&weir, &[&pod])
}

/// Everything up to and with an ending.
fn read_to(mut stream: &TcpStream, end: &str) -> Result<String> {
    let (mut text, mut part) = (String::new(), [0; 1000]);
    while !text.ends_with(end) {
        let n = stream.read(&mut part)?;
        ensure!(n > 0, "it ends after {text:?}");
        text.push_str(std::str::from_utf8(&part[..n])?);
    }
    Ok(text)
}
