//! Pods that capture themselves: weir on the node leaves them alone, and is ready.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use weir_tests::daemon::Instance;
use weir_tests::kube::cluster::{Cluster, SHOP, SOON, told};
use weir_tests::kube::object::{Owner, annotate, key, namespace, pod};
use weir_tests::kube::pod::{Layout, Pod};
use weir_tests::process::{Process, wait_until};
use weir_tests::weir::{Daemon, binary};

use crate::{INJECT, PORT, opted};

/// `weir run --sidecar` in a container of a pod.
struct Sidecar {
    process: Process,
    /// What it pins goes with this.
    _instance: Arc<Instance>,
}

// === impl Sidecar ===

impl Sidecar {
    /// Starts it and waits until it captures.
    fn start(cluster: &Cluster, pod: &Pod) -> Result<Self> {
        let id = format!("{:032x}{:032x}", fastrand::u128(..), fastrand::u128(..));
        let container = pod.cgroup().path().join(Layout::SystemdContainerd.container_dir(&id));
        std::fs::create_dir(&container)?;
        let mut command = pod.netns().command_in(&container, binary()?);
        command.args(["run", "--sidecar", "--pod-uid", pod.uid(), "--control"]);
        command.arg(cluster.dir().join(format!("{}.sock", &id[..8])));
        let instance = Instance::called(&format!("pod-{}", pod.uid()));
        let process = Process::start(&format!("sidecar-{}", &id[..8]), command, cluster.dir())?;
        let mut sidecar = Self { process, _instance: instance };
        let waited = wait_until("the sidecar to capture", SOON, || {
            ensure!(sidecar.process.running()?, "it ended");
            Ok(sidecar.process.log().contains("capturing"))
        });
        waited.with_context(|| format!("its log:\n{}", sidecar.process.log()))?;
        Ok(sidecar)
    }
}

/// A cluster whose namespace asks for all of its pods.
fn cluster() -> Result<Cluster> {
    let cluster = Cluster::new()?;
    cluster.api.annotate(&key(&namespace(SHOP)), INJECT, Some("enabled"));
    Ok(cluster)
}

/// A pod with the container that `weir inject --sidecar` adds.
fn injected(name: &str) -> Value {
    let mut object = pod(SHOP, name, Owner::Deployment);
    object["spec"]["initContainers"] = json!([{ "name": "weir", "image": "localhost/weir:0.1.0",
        "restartPolicy": "Always", "args": ["run", "--sidecar", "--admin=0.0.0.0:4191"] }]);
    object
}

/// Waits until `weir status` says that a pod captures itself; how it knows.
fn itself(weir: &Daemon, name: &str) -> Result<String> {
    let mut last = None;
    wait_until("the pod to be left to itself", SOON, || {
        last = told(weir, name)?;
        Ok(last.as_ref().is_some_and(|pod| pod["state"] == "captures_itself"))
    })
    .with_context(|| format!("{last:#?}; log:\n{}", weir.process.log()))?;
    let last = last.context("no pod")?;
    ensure!(last["missing"] == false, "{last:#}");
    last["why"].as_str().map(str::to_owned).with_context(|| format!("no reason in {last:#}"))
}

fn no_events(cluster: &Cluster, pod: &Pod) -> Result<()> {
    let mut events = cluster.api.events();
    events.retain(|it| it["regarding"]["uid"] == pod.uid());
    ensure!(events.is_empty(), "{events:#?}");
    Ok(())
}

/// The kubelet starts the sidecar once the sandbox is there: weir on the node has been faster, if it is
/// not told, and then the pod never starts.
#[test]
fn a_pod_with_a_sidecar_is_left_alone_and_missed_by_nobody() -> Result<()> {
    let cluster = cluster()?;
    let beside =
        cluster.start(&pod(SHOP, "beside", Owner::Deployment), Layout::SystemdContainerd)?;
    let by_container = cluster.start(&injected("contained"), Layout::SystemdContainerd)?;
    let mut object = pod(SHOP, "annotated", Owner::Deployment);
    annotate(&mut object, INJECT, Some("sidecar"));
    let by_word = cluster.start(&object, Layout::CgroupfsContainerd)?;
    let weir = cluster.weir()?.start()?;
    let why = itself(&weir, "contained")?;
    ensure!(why.contains("container \"weir\""), "{why}");
    let why = itself(&weir, "annotated")?;
    ensure!(why.contains("weir.dev/inject is sidecar"), "{why}");
    cluster.settle(&weir, &[&beside])?;
    let table = weir.ask(&["status"])?.ok()?.stdout;
    ensure!(table.contains("shop/contained: captures itself: "), "{table}");
    for pod in [&by_container, &by_word] {
        let ways = cluster.ways(pod, PORT)?;
        ways.assert_captured([false; 2]);
        let sidecar = Sidecar::start(&cluster, pod)?;
        ways.become_captured([true; 2])?;
        no_events(&cluster, pod)?;
        ensure!(cluster.ready()?.0, "not ready beside a sidecar");
        drop(sidecar);
    }
    Ok(())
}

/// As weir of before, or a person, has made it: captured by the node's until it is told.
#[test]
fn a_captured_pod_is_let_go_when_it_says_that_it_captures_itself() -> Result<()> {
    let cluster = cluster()?;
    let pod = cluster.start(&pod(SHOP, "cart", Owner::Deployment), Layout::SystemdContainerd)?;
    let weir = cluster.weir()?.start()?;
    cluster.settle(&weir, &[&pod])?;
    cluster.api.annotate(&key(pod.object()), INJECT, Some("sidecar"));
    itself(&weir, "cart")?;
    cluster.settle(&weir, &[])?;
    let _sidecar = Sidecar::start(&cluster, &pod)?;
    cluster.ways(&pod, PORT)?.become_captured([true; 2])?;
    cluster.settle(&weir, &[])
}

/// Its container has another name and image, and the annotation was not written.
#[test]
fn a_sidecar_that_nothing_tells_of_is_found_at_work() -> Result<()> {
    let cluster = cluster()?;
    let pod = cluster.start(&pod(SHOP, "cart", Owner::Deployment), Layout::SystemdContainerd)?;
    let sidecar = Sidecar::start(&cluster, &pod)?;
    let weir = cluster.weir()?.start()?;
    let why = itself(&weir, "cart")?;
    ensure!(why.contains("a sidecar runs in it"), "{why}");
    cluster.settle(&weir, &[])?;
    cluster.ways(&pod, PORT)?.assert_captured([true; 2]);
    no_events(&cluster, &pod)?;
    // It stays the sidecar's while that is started again.
    drop(sidecar);
    cluster.seen(&weir)?;
    itself(&weir, "cart")?;
    let _again = Sidecar::start(&cluster, &pod)?;
    cluster.settle(&weir, &[])
}

/// What it says helps: who is in the way, and what to write where.
#[test]
fn a_sidecar_in_a_pod_that_the_node_captures_says_what_to_do() -> Result<()> {
    let cluster = Cluster::new()?;
    let pod = cluster.start(&opted("cart", Owner::Deployment), Layout::SystemdContainerd)?;
    let weir = cluster.weir()?.start()?;
    cluster.settle(&weir, &[&pod])?;
    let error = match Sidecar::start(&cluster, &pod) {
        Ok(_) => anyhow::bail!("two weirs capture one pod"),
        Err(error) => format!("{error:#}"),
    };
    ensure!(error.contains("annotate the pod weir.dev/inject: sidecar"), "{error}");
    cluster.settle(&weir, &[&pod])
}
