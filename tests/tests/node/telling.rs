//! What weir tells of pods: readiness, status and metrics.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use weir_tests::kube::cluster::{Cluster, SHOP, SOON, captured, told};
use weir_tests::kube::object::{Owner, key, pod};
use weir_tests::kube::pod::Layout;
use weir_tests::kube::server::{Call, Trouble};
use weir_tests::kube::store::Kind;
use weir_tests::metrics::Metrics;
use weir_tests::process::wait_until;

use crate::{INJECT, PORT, opted};

#[test]
fn ready_means_that_every_pod_that_should_be_is_captured() -> Result<()> {
    let cluster = Cluster::new()?;
    let [first, second] = ["first", "second"].map(|name| opted(name, Owner::Deployment));
    cluster.api.put(&first);
    cluster.api.put(&second);
    cluster.api.put(&pod(SHOP, "other", Owner::None));
    for _ in 0..2 {
        cluster.api.spoil(Call::List(Kind::Pod), Trouble::Refused(503, None));
    }
    let weir = cluster.weir()?.start()?;
    wait_until("a list that fails", SOON, || Ok(cluster.api.count(Call::List(Kind::Pod)) > 0))?;
    let mut before = Vec::new();
    wait_until("both pods to be missed", SOON, || {
        let (ready, body) = cluster.ready()?;
        ensure!(!ready, "ready: {body}; {before:?}");
        before.push(body.clone());
        Ok(told(&weir, "first")?.is_some()
            && told(&weir, "second")?.is_some()
            && body.contains('2'))
    })
    .with_context(|| format!("{before:?}; log:\n{}", weir.process.log()))?;

    let first = cluster.run(&first, Layout::SystemdContainerd)?;
    wait_until("one pod to be missed", SOON, || {
        let (ready, body) = cluster.ready()?;
        ensure!(!ready, "ready with one that is missing: {body}");
        Ok(captured(&weir)?.contains(&first.workload()) && body.contains('1'))
    })?;
    let second = cluster.run(&second, Layout::SystemdContainerd)?;
    cluster.settle(&weir, &[&first, &second])?;
    // One that waits and goes before it has come is not missed.
    let third = opted("third", Owner::Job);
    cluster.api.put(&third);
    wait_until("the third to be missed", SOON, || Ok(!cluster.ready()?.0))?;
    cluster.api.remove(&key(&third));
    cluster.settle(&weir, &[&first, &second])
}

#[test]
fn status_knows_every_pod_that_opted_in() -> Result<()> {
    let cluster = Cluster::new()?;
    let cart = cluster.start(&opted("cart", Owner::Deployment), Layout::SystemdContainerd)?;
    cluster.api.put(&opted("waits", Owner::Deployment));
    cluster.api.put(&pod(SHOP, "silent", Owner::Deployment));
    let mut weir = cluster.weir()?.start()?;
    wait_until("both to be told", SOON, || {
        let state = |name| -> Result<Value> {
            Ok(told(&weir, name)?.map(|pod| pod["state"].clone()).unwrap_or_default())
        };
        Ok(state("cart")? == "captured" && state("waits")? == "waiting")
    })?;
    let said = told(&weir, "waits")?.context("not told")?;
    ensure!(said["namespace"] == SHOP && said["why"].is_string(), "{said:#}");
    let said = told(&weir, "cart")?.context("not told")?;
    ensure!(said["uid"] == cart.uid(), "{said:#}");
    ensure!(told(&weir, "silent")?.is_none(), "a pod that did not opt in is told of");
    let table = weir.ask(&["status"])?.ok()?.stdout;
    for word in ["cart", "waits", "waiting"] {
        ensure!(table.contains(word), "no {word} in:\n{table}");
    }
    weir.stop()
}

/// Labels are those of the cluster, and go with the pod.
#[test]
fn metrics_have_the_clusters_names_and_forget_pods_that_went() -> Result<()> {
    let cluster = Cluster::new()?;
    let names = [
        ("cart-6d4cf56db6-x7k2p", Owner::Deployment, "Deployment", "cart"),
        ("db-0", Owner::StatefulSet, "StatefulSet", "db"),
        ("logs-4zqvt", Owner::DaemonSet, "DaemonSet", "logs"),
        ("report-29401260-l8s5w", Owner::Job, "CronJob", "report"),
        ("shell", Owner::None, "Pod", "shell"),
    ];
    let mut pods = Vec::new();
    for (name, owner, ..) in names {
        pods.push(cluster.start(&opted(name, owner), Layout::CgroupfsContainerd)?);
    }
    let weir = cluster.weir()?.start()?;
    cluster.settle(&weir, &pods.iter().collect::<Vec<_>>())?;
    for (pod, (name, _, kind, workload)) in pods.iter().zip(names) {
        cluster.ways(pod, PORT)?.assert_captured([true; 2]);
        let (pod_label, owner_label) =
            (format!("pod=\"{name}\""), format!("workload_name=\"{workload}\""));
        let kind = format!("workload_kind=\"{kind}\"");
        let labels = ["namespace=\"shop\"", &pod_label, &owner_label, &kind];
        wait_until("the connections to be counted", SOON, || {
            let metrics = Metrics::scrape(&cluster.node)?;
            // In and out, each with two ends.
            Ok(metrics.sum("tcp_open_total", &labels) >= 4.0)
        })
        .with_context(|| {
            let text = Metrics::scrape(&cluster.node).map(|it| it.text().to_owned());
            let text = text.unwrap_or_default();
            let lines: Vec<&str> = text.lines().filter(|line| line.contains(name)).collect();
            format!("{labels:?}: {}", lines.join("\n"))
        })?;
        // Every series of the workload has them.
        let metrics = Metrics::scrape(&cluster.node)?;
        let name = format!("workload=\"shop.{name}\"");
        let of = metrics.text().lines().filter(|line| line.contains(&name));
        let bare = of.filter(|line| labels.iter().any(|label| !line.contains(label)));
        ensure!(bare.clone().count() == 0, "without labels: {:#?}", bare.collect::<Vec<_>>());
    }
    let [gone, opted_out, rest @ ..] = &pods[..] else { unreachable!() };
    cluster.api.remove(&key(gone.object()));
    cluster.api.annotate(&key(opted_out.object()), INJECT, None);
    cluster.settle(&weir, &rest.iter().collect::<Vec<_>>())?;
    for pod in [gone, opted_out] {
        let name = pod.object()["metadata"]["name"].as_str().unwrap_or_default();
        let left = || -> Result<Vec<String>> {
            let metrics = Metrics::scrape(&cluster.node)?;
            let of = metrics.text().lines().filter(|line| line.contains(&format!("\"{name}\"")));
            Ok(of.map(str::to_owned).collect())
        };
        wait_until("the series to go", SOON, || Ok(left()?.is_empty()))
            .with_context(|| format!("left of {name}: {:#?}", left()))?;
    }
    let metrics = Metrics::scrape(&cluster.node)?;
    ensure!(metrics.sum("tcp_open_total", &["pod=\"shell\""]) >= 4.0, "the others stay");
    Ok(())
}

/// 253 bytes are allowed for a pod's name and 63 for its namespace's, and 63 for a workload's.
#[test]
fn long_names_are_shortened_and_stay_apart() -> Result<()> {
    let cluster = Cluster::new()?;
    let long = "a-name-that-goes-on-and-on-".repeat(8);
    let mut pods = Vec::new();
    for end in ["one", "two"] {
        let object = opted(&format!("{long}{end}"), Owner::None);
        pods.push(cluster.start(&object, Layout::SystemdContainerd)?);
    }
    let weir = cluster.weir()?.start()?;
    wait_until("both to be captured", SOON, || Ok(captured(&weir)?.len() == 2))?;
    let names = captured(&weir)?;
    ensure!(
        names.iter().all(|name| name.len() <= 63 && name.starts_with("shop.a-name")),
        "{names:?}"
    );
    for pod in &pods {
        cluster.ways(pod, PORT)?.assert_captured([true; 2]);
        let name = pod.object()["metadata"]["name"].as_str().unwrap_or_default();
        let said = told(&weir, name)?.context("not told")?;
        ensure!(said["state"] == "captured", "{said:#}");
    }
    cluster.api.remove(&key(pods[0].object()));
    wait_until("one to be let go", SOON, || Ok(captured(&weir)?.len() == 1))?;
    cluster.ways(&pods[1], PORT)?.assert_captured([true; 2]);
    // As found again after a start.
    let mut weir = weir;
    weir.process.kill_hard()?;
    let weir = cluster.weir()?.after(&weir).start()?;
    wait_until("the other to be captured", SOON, || {
        Ok(captured(&weir)?.len() == 1 && cluster.ready()?.0)
    })?;
    cluster.ways(&pods[1], PORT)?.assert_captured([true; 2]);
    Ok(())
}
