//! Pods that ask for what cannot be done: they keep running as they were made, and an Event says so.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use weir_tests::kube::cluster::{Cluster, SHOP, SOON, told};
use weir_tests::kube::object::{Owner, annotate, key, set_host_network};
use weir_tests::kube::pod::{Layout, Pod};
use weir_tests::process::wait_until;
use weir_tests::weir::Daemon;
use weir_tests::wire::Wire;

use crate::{CLIENT_IP, FAIL, INJECT, OPAQUE, PORT, SKIP_INBOUND, SKIP_OUTBOUND, opted};

/// Events about a pod, for one reason.
fn events(cluster: &Cluster, pod: &Pod, reason: &str) -> Vec<Value> {
    let mut events = cluster.api.events();
    events.retain(|it| it["regarding"]["uid"] == pod.uid() && it["reason"] == reason);
    events
}

/// Waits for an event, which must be as `kubectl describe pod` and people need it; its note.
fn wait_event(cluster: &Cluster, weir: &Daemon, pod: &Pod, reason: &str) -> Result<String> {
    wait_until(
        &format!("an event {reason}"),
        SOON,
        || Ok(!events(cluster, pod, reason).is_empty()),
    )
    .with_context(|| format!("{:#?}; log:\n{}", cluster.api.events(), weir.process.log()))?;
    let event = events(cluster, pod, reason).pop().context("no event")?;
    let object = pod.object();
    for (field, wanted) in [
        ("/type", "Warning".into()),
        ("/reportingController", "weir.dev/node".into()),
        ("/metadata/namespace", object["metadata"]["namespace"].clone()),
        ("/regarding/kind", "Pod".into()),
        ("/regarding/apiVersion", "v1".into()),
        ("/regarding/name", object["metadata"]["name"].clone()),
        ("/regarding/namespace", object["metadata"]["namespace"].clone()),
    ] {
        ensure!(event.pointer(field) == Some(&wanted), "{field} is not {wanted}: {event:#}");
    }
    event["note"].as_str().map(str::to_owned).context("no note")
}

/// Waits until `weir status` says that a pod is refused; why.
fn refusal(weir: &Daemon, pod: &Pod) -> Result<String> {
    let name = pod.object()["metadata"]["name"].as_str().unwrap_or_default();
    let mut last = None;
    wait_until("the pod to be refused", SOON, || {
        last = told(weir, name)?;
        Ok(last.as_ref().is_some_and(|pod| pod["state"] == "refused"))
    })
    .with_context(|| format!("{last:#?}; log:\n{}", weir.process.log()))?;
    let last = last.context("no pod")?;
    ensure!(last["namespace"] == SHOP && last["uid"] == pod.uid(), "{last:#}");
    last["why"].as_str().map(str::to_owned).with_context(|| format!("no reason in {last:#}"))
}

#[test]
fn a_pod_in_the_nodes_network_is_refused() -> Result<()> {
    let cluster = Cluster::new()?;
    let mut object = opted("ingress", Owner::DaemonSet);
    set_host_network(&mut object);
    let pod = cluster.start(&object, Layout::SystemdContainerd)?;
    let beside = cluster.start(&opted("cart", Owner::Deployment), Layout::SystemdContainerd)?;
    let weir = cluster.weir()?.start()?;
    let why = refusal(&weir, &pod)?;
    ensure!(why.to_lowercase().contains("host"), "{why}");
    let note = wait_event(&cluster, &weir, &pod, "WeirHostNetwork")?;
    ensure!(note.to_lowercase().contains("host"), "{note}");
    // It is not missing: it is not to be captured.
    cluster.settle(&weir, &[&beside])?;
    cluster.ways(&pod, PORT)?.assert_captured([false; 2]);
    // What has not opted in is not worth a word.
    cluster.api.annotate(&key(&object), INJECT, None);
    wait_until("the refusal to be taken back", SOON, || Ok(told(&weir, "ingress")?.is_none()))?;
    cluster.api.nothing_forbidden()
}

/// The list with the mistake, and its column as weir counts them, from 1.
#[test]
fn a_bad_annotation_captures_nothing_and_is_told_with_its_place() -> Result<()> {
    let cluster = Cluster::new()?;
    let cases: [(&str, &str, &[&str]); 6] = [
        (SKIP_INBOUND, "80,,443", &["column 4"]),
        (SKIP_OUTBOUND, "4406,99999", &["column 6", "99999"]),
        (OPAQUE, "+3306,mysql", &["column 7", "mysql"]),
        (FAIL, "maybe", &["maybe", "open", "closed"]),
        (CLIENT_IP, "yes please", &["yes please", "true", "false"]),
        (INJECT, "enable", &["enable", "enabled", "disabled"]),
    ];
    let mut pods = Vec::new();
    for (number, (name, value, _)) in cases.iter().enumerate() {
        let mut object = opted(&format!("bad-{number}"), Owner::Deployment);
        annotate(&mut object, name, Some(value));
        pods.push(cluster.start(&object, Layout::ALL[number % Layout::ALL.len()])?);
    }
    let beside = cluster.start(&opted("good", Owner::Deployment), Layout::SystemdContainerd)?;
    let weir = cluster.weir()?.start()?;
    for ((name, value, words), pod) in cases.iter().zip(&pods) {
        let why = refusal(&weir, pod)?;
        let note = wait_event(&cluster, &weir, pod, "WeirBadAnnotation")?;
        for word in words.iter().copied().chain([*name]) {
            ensure!(why.contains(word), "{name}: {value:?}: no {word:?} in status: {why}");
            ensure!(note.contains(word), "{name}: {value:?}: no {word:?} in event: {note}");
        }
        cluster.ways(pod, PORT)?.assert_captured([false; 2]);
    }
    cluster.settle(&weir, &[&beside])?;
    cluster.ways(&beside, PORT)?.assert_captured([true; 2]);
    // The table is for people.
    let table = weir.ask(&["status"])?.ok()?.stdout;
    ensure!(table.contains("bad-0") && table.contains("80,,443"), "{table}");

    for ((name, ..), pod) in cases.iter().zip(&pods) {
        let value = if *name == INJECT { Some("enabled") } else { None };
        cluster.api.annotate(&key(pod.object()), name, value);
    }
    cluster.settle(&weir, &pods.iter().chain([&beside]).collect::<Vec<_>>())?;
    for pod in &pods {
        cluster.ways(pod, PORT)?.assert_captured([true; 2]);
    }
    cluster.api.nothing_forbidden()
}

/// Not half captured: not with the ports of before either.
#[test]
fn an_annotation_that_becomes_bad_ends_the_capture() -> Result<()> {
    let cluster = Cluster::new()?;
    let mut object = opted("cart", Owner::Deployment);
    annotate(&mut object, SKIP_INBOUND, Some("9100"));
    let pod = cluster.start(&object, Layout::CgroupfsContainerd)?;
    let ways = cluster.ways(&pod, PORT)?;
    let weir = cluster.weir()?.start()?;
    cluster.settle(&weir, &[&pod])?;
    let wires = ways.open()?;
    for list in ["9100,9000-", "9100-9000"] {
        cluster.api.annotate(&key(&object), SKIP_INBOUND, Some(list));
        ways.become_captured([false; 2]).context(list)?;
        let why = refusal(&weir, &pod)?;
        ensure!(why.contains(list) && why.contains("column"), "{why}");
        cluster.settle(&weir, &[])?;
        wires.iter().try_for_each(|wire| wire.up("still").and_then(|()| wire.down("there")))?;
        cluster.api.annotate(&key(&object), SKIP_INBOUND, Some("9100"));
        cluster.settle(&weir, &[&pod])?;
        ways.assert_captured([true; 2]);
    }
    wires.into_iter().try_for_each(Wire::finish)?;
    // One event for each mistake, however often the pod's status has changed since.
    cluster.api.annotate(&key(&object), SKIP_INBOUND, Some("xyzzy"));
    wait_until("the third event", SOON, || {
        let notes = events(&cluster, &pod, "WeirBadAnnotation");
        Ok(notes.iter().any(|it| it["note"].as_str().is_some_and(|it| it.contains("xyzzy"))))
    })?;
    for _ in 0..20 {
        cluster.api.change(&key(&object), |pod| {
            let count = &mut pod["status"]["containerStatuses"][0]["restartCount"];
            *count = (count.as_u64().unwrap_or_default() + 1).into();
        });
    }
    cluster.seen(&weir)?;
    let events = events(&cluster, &pod, "WeirBadAnnotation");
    let told: u64 = events.iter().map(|it| it["series"]["count"].as_u64().unwrap_or(1)).sum();
    ensure!(told <= 4, "told {told} times: {events:#?}");
    Ok(())
}
