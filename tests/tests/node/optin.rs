//! Which pods are captured: by their own annotation, by their namespace's, by Linkerd's.

use anyhow::Result;
use weir_tests::kube::cluster::{Cluster, SHOP};
use weir_tests::kube::object::{Owner, Qos, annotate, key, namespace, pod, set_qos};
use weir_tests::kube::pod::{Layout, Pod};
use weir_tests::left::nothing_left;

use crate::{INJECT, OTHER, PORT, SKIP_INBOUND, SKIP_OUTBOUND, opted};

/// Every driver and runtime, every quality of service, and a pod beside them that has not opted in.
#[test]
fn pods_that_opt_in_are_captured_in_every_layout() -> Result<()> {
    let cluster = Cluster::new()?;
    let owners = [Owner::Deployment, Owner::StatefulSet, Owner::DaemonSet, Owner::Job, Owner::None];
    let kinds = Layout::ALL.into_iter().zip(owners).zip(Qos::ALL.into_iter().cycle());
    let mut pods = Vec::new();
    for (number, ((layout, owner), qos)) in kinds.enumerate() {
        let mut object = opted(&format!("pod-{number}"), owner);
        set_qos(&mut object, qos);
        pods.push(cluster.start(&object, layout)?);
    }
    let other = cluster.start(&pod(SHOP, "other", Owner::None), Layout::SystemdContainerd)?;
    let ways = pods.iter().map(|pod| cluster.ways(pod, PORT)).collect::<Result<Vec<_>>>()?;
    let beside = cluster.ways(&other, PORT)?;
    ways.iter().for_each(|ways| ways.assert_captured([false; 2]));
    let mut weir = cluster.weir()?.start()?;
    cluster.settle(&weir, &pods.iter().collect::<Vec<_>>())?;
    ways.iter().for_each(|ways| ways.assert_captured([true; 2]));
    beside.assert_captured([false; 2]);
    // A pod of another node is none of weir's business.
    let mut elsewhere = opted("elsewhere", Owner::None);
    elsewhere["spec"]["nodeName"] = "worker-2".into();
    let elsewhere = cluster.start(&elsewhere, Layout::CgroupfsCrio)?;
    cluster.seen(&weir)?;
    cluster.ways(&elsewhere, PORT)?.assert_captured([false; 2]);
    cluster.settle(&weir, &pods.iter().collect::<Vec<_>>())?;

    cluster.api.nothing_forbidden()?;
    weir.stop()?;
    weir.instance().detach(&[])?.ok()?;
    let namespaces: Vec<_> = pods.iter().map(Pod::netns).chain([&cluster.node]).collect();
    nothing_left(weir.instance(), &namespaces)
}

/// The namespace says what its pods do not say themselves, for as long as it says it.
#[test]
fn a_namespaces_annotation_is_a_default_that_a_pods_own_overrides() -> Result<()> {
    let cluster = Cluster::new()?;
    let shop = key(&namespace(SHOP));
    let silent = cluster.start(&pod(SHOP, "silent", Owner::Deployment), Layout::SystemdCrio)?;
    let mut refuses = pod(SHOP, "refuses", Owner::Deployment);
    annotate(&mut refuses, INJECT, Some("disabled"));
    let refuses = cluster.start(&refuses, Layout::CgroupfsContainerd)?;
    let mut elsewhere = pod("other", "silent", Owner::None);
    elsewhere["metadata"]["namespace"] = "other".into();
    cluster.api.put(&namespace("other"));
    let elsewhere = cluster.start(&elsewhere, Layout::SystemdContainerd)?;
    let weir = cluster.weir()?.start()?;
    let [ways, refused, others] =
        [&silent, &refuses, &elsewhere].map(|pod| cluster.ways(pod, PORT).expect("a free port"));
    cluster.settle(&weir, &[])?;
    ways.assert_captured([false; 2]);

    cluster.api.annotate(&shop, INJECT, Some("enabled"));
    cluster.settle(&weir, &[&silent])?;
    ways.assert_captured([true; 2]);
    refused.assert_captured([false; 2]);
    others.assert_captured([false; 2]);

    cluster.api.annotate(&shop, SKIP_INBOUND, Some("9000"));
    ways.become_captured([false, true])?;
    // A pod's own list stands in the place of the namespace's, and goes again.
    cluster.api.annotate(&key(silent.object()), SKIP_INBOUND, Some("9001"));
    ways.become_captured([true, true])?;
    cluster.ways(&silent, OTHER)?.become_captured([false, true])?;
    cluster.api.annotate(&key(silent.object()), SKIP_INBOUND, None);
    ways.become_captured([false, true])?;
    cluster.api.annotate(&shop, SKIP_INBOUND, None);
    ways.become_captured([true, true])?;

    cluster.api.annotate(&key(refuses.object()), INJECT, None);
    cluster.settle(&weir, &[&silent, &refuses])?;
    refused.assert_captured([true; 2]);
    // Each pod for itself keeps what it has asked for itself.
    cluster.api.annotate(&key(refuses.object()), INJECT, Some("enabled"));
    cluster.api.annotate(&shop, INJECT, None);
    cluster.settle(&weir, &[&refuses])?;
    ways.assert_captured([false; 2]);
    refused.assert_captured([true; 2]);
    cluster.api.nothing_forbidden()
}

#[test]
fn linkerds_annotations_count_when_asked_for() -> Result<()> {
    const THEIRS: &str = "linkerd.io/inject";
    let cluster = Cluster::new()?;
    let mut moving = pod(SHOP, "moving", Owner::Deployment);
    annotate(&mut moving, THEIRS, Some("enabled"));
    annotate(&mut moving, "config.linkerd.io/skip-outbound-ports", Some("9000"));
    let moving = cluster.start(&moving, Layout::SystemdContainerd)?;
    let mut both = pod(SHOP, "both", Owner::Deployment);
    annotate(&mut both, THEIRS, Some("enabled"));
    annotate(&mut both, INJECT, Some("disabled"));
    let both = cluster.start(&both, Layout::SystemdContainerd)?;
    let [ways, others] = [&moving, &both].map(|pod| cluster.ways(pod, PORT).expect("a free port"));
    let mut weir = cluster.weir()?.start()?;
    cluster.seen(&weir)?;
    cluster.settle(&weir, &[])?;
    ways.assert_captured([false; 2]);
    weir.stop()?;

    let weir = cluster.weir()?.flags(&["--linkerd-annotations"]).after(&weir).start()?;
    cluster.settle(&weir, &[&moving])?;
    ways.assert_captured([true, false]);
    others.assert_captured([false; 2]);
    // weir's own name for the same thing wins.
    cluster.api.annotate(&key(moving.object()), SKIP_OUTBOUND, Some("9001"));
    ways.become_captured([true, true])?;
    cluster.api.annotate(&key(both.object()), INJECT, None);
    cluster.settle(&weir, &[&moving, &both])
}
