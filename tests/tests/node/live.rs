//! Annotations of captured pods that change: they count for new connections, and what is open goes
//! on.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use weir_tests::kube::cluster::{Cluster, SOON};
use weir_tests::kube::object::{Owner, key};
use weir_tests::kube::pod::{Layout, Pod};
use weir_tests::left::{in_namespace, nothing_left};
use weir_tests::peer::plain;
use weir_tests::process::wait_until;
use weir_tests::weir::Daemon;
use weir_tests::wire::{Wire, noise};

use crate::{CLIENT_IP, FAIL, OPAQUE, PORT, SKIP_INBOUND, SKIP_OUTBOUND, opted};

/// What `weir status` says of a pod's capture.
fn workload(weir: &Daemon, pod: &Pod) -> Result<Option<Value>> {
    let status = weir.json(&["status"])?;
    let rows = status["status"]["workloads"].as_array().context("no workloads")?;
    Ok(rows.iter().find(|row| row["name"] == pod.workload()).cloned())
}

fn wait_for(weir: &Daemon, pod: &Pod, field: &str, wanted: &Value) -> Result<()> {
    wait_until(&format!("{field} to be {wanted}"), SOON, || {
        Ok(workload(weir, pod)?.is_some_and(|row| row[field] == *wanted))
    })
    .with_context(|| format!("it is {:?}; log:\n{}", workload(weir, pod), weir.process.log()))
}

#[test]
fn skipped_ports_change_while_connections_are_open() -> Result<()> {
    let cluster = Cluster::new()?;
    let pod = cluster.start(&opted("cart", Owner::Deployment), Layout::SystemdContainerd)?;
    let ways = cluster.ways(&pod, PORT)?;
    let weir = cluster.weir()?.start()?;
    cluster.settle(&weir, &[&pod])?;
    let (wires, bytes) = (ways.open()?, noise(100_000));
    let go_on =
        || wires.iter().try_for_each(|wire| wire.up(&bytes).and_then(|()| wire.down(&bytes)));
    go_on()?;
    let steps = [
        (SKIP_INBOUND, Some("9000"), [false, true]),
        (SKIP_OUTBOUND, Some("8000-9100"), [false, false]),
        (SKIP_INBOUND, Some("80, 443"), [true, false]),
        (SKIP_OUTBOUND, None, [true, true]),
        (SKIP_INBOUND, None, [true, true]),
    ];
    for (name, list, expected) in steps {
        cluster.api.annotate(&key(pod.object()), name, list);
        ways.become_captured(expected).with_context(|| format!("{name}: {list:?}"))?;
        go_on()?;
    }
    wires.into_iter().try_for_each(Wire::finish)?;
    cluster.settle(&weir, &[&pod])
}

#[test]
fn opaque_ports_change() -> Result<()> {
    let cluster = Cluster::new()?;
    let pod = cluster.start(&opted("cart", Owner::Deployment), Layout::CgroupfsContainerd)?;
    let ways = cluster.ways(&pod, PORT)?;
    let weir = cluster.weir()?.start()?;
    cluster.settle(&weir, &[&pod])?;
    let state = |port: &str| -> Result<String> {
        let report = weir.json(&["ports", "list", "--workload", &pod.workload()])?;
        let rules = report["rules"].as_array().context("no rules")?;
        let has = |rule: &&Value| {
            rule["ports"].as_str().is_some_and(|list| list.split(',').any(|it| it == port))
        };
        let of = rules.iter().find(has).and_then(|rule| rule["state"].as_str());
        Ok(of.unwrap_or("detect").to_owned())
    };
    // 3306 is on the default list: one with `+` adds to it, one without takes its place.
    for (list, ours, default) in [
        (Some("+9000"), "opaque", "opaque"),
        (Some("9000"), "opaque", "detect"),
        (Some("9001"), "detect", "detect"),
        (None, "detect", "opaque"),
    ] {
        cluster.api.annotate(&key(pod.object()), OPAQUE, list);
        wait_until(&format!("opaque ports {list:?}"), SOON, || {
            Ok(state("9000")? == ours && state("3306")? == default)
        })
        .with_context(|| format!("9000 {:?}, 3306 {:?}", state("9000"), state("3306")))?;
        ways.assert_captured([true; 2]);
    }
    Ok(())
}

/// Closed means that connections are refused without weir, open that they go direct.
#[test]
fn the_fail_policy_changes() -> Result<()> {
    let cluster = Cluster::new()?;
    let pod = cluster.start(&opted("cart", Owner::Deployment), Layout::SystemdCrio)?;
    let ways = cluster.ways(&pod, PORT)?;
    let mut weir = cluster.weir()?.start()?;
    cluster.settle(&weir, &[&pod])?;
    cluster.api.annotate(&key(pod.object()), FAIL, Some("closed"));
    wait_for(&weir, &pod, "fail", &"closed".into())?;
    ways.assert_captured([true; 2]);
    weir.process.kill_hard()?;
    let refused = cluster.host.connect(ways.inbound()?);
    ensure!(refused.is_err(), "inbound, without weir: {refused:?}");
    let refused = pod.site().connect(ways.outbound()?);
    ensure!(refused.is_err(), "outbound, without weir: {refused:?}");

    let mut weir = cluster.weir()?.after(&weir).start()?;
    cluster.settle(&weir, &[&pod])?;
    ways.assert_captured([true; 2]);
    cluster.api.annotate(&key(pod.object()), FAIL, None);
    wait_for(&weir, &pod, "fail", &"open".into())?;
    weir.process.kill_hard()?;
    ways.assert_captured([false; 2]);
    weir.instance().detach(&[])?.ok().map(drop)
}

/// That one is fixed when capturing begins, so it begins anew, once what was captured before is
/// through: connections meanwhile go direct.
#[test]
fn the_clients_address_is_preserved_on_request() -> Result<()> {
    let cluster = Cluster::new()?;
    let pod = cluster.start(&opted("cart", Owner::Deployment), Layout::SystemdContainerd)?;
    let ways = cluster.ways(&pod, PORT)?;
    let mut weir = cluster.weir()?.start()?;
    cluster.settle(&weir, &[&pod])?;
    // The client's address as the application sees it, and whether weir was on the way.
    let seen = || -> Result<(bool, bool)> {
        let [inbound, outbound] = ways.open()?;
        let (own, peer) = (inbound.client.local_addr()?, plain(inbound.server.peer_addr()?));
        let proxied = inbound.went_through_weir()?;
        for wire in [inbound, outbound] {
            wire.up("ping")?;
            wire.down("pong")?;
            wire.finish()?;
        }
        Ok((own.ip() == peer.ip(), proxied))
    };
    ensure!(seen()? == (false, true), "at first the peer is local");
    let bytes = noise(50_000);
    for (value, preserved) in [(Some("true"), true), (Some("false"), false), (Some("true"), true)] {
        let wires = ways.open()?;
        cluster.api.annotate(&key(pod.object()), CLIENT_IP, value);
        // The capture that was is over, but for what it carries.
        wait_until("the change to be begun", SOON, || Ok(seen()? != (!preserved, true)))
            .with_context(|| format!("log:\n{}", weir.process.log()))?;
        wires.iter().try_for_each(|wire| wire.up(&bytes).and_then(|()| wire.down(&bytes)))?;
        wires.into_iter().try_for_each(Wire::finish)?;
        wait_until(&format!("preserve-client-ip {value:?}"), SOON, || {
            Ok(seen()? == (preserved, true))
        })
        .with_context(|| format!("log:\n{}", weir.process.log()))?;
        wait_for(&weir, &pod, "preserve_client_ip", &preserved.into())?;
        cluster.settle(&weir, &[&pod])?;
    }
    cluster.api.annotate(&key(pod.object()), crate::INJECT, Some("disabled"));
    cluster.settle(&weir, &[])?;
    wait_until(
        "the namespace to be as before",
        SOON,
        || Ok(in_namespace(pod.netns())?.is_empty()),
    )?;
    weir.stop()?;
    weir.instance().detach(&[])?.ok()?;
    nothing_left(weir.instance(), &[pod.netns(), &cluster.node])
}
