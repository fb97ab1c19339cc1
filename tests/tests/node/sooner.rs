//! How soon a new pod is captured: what weir is told of cgroups, not what it finds when it looks again.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use weir_tests::kube::cluster::{Cluster, SOON, told};
use weir_tests::kube::object::{Owner, qos};
use weir_tests::kube::pod::Layout;
use weir_tests::process::wait_until;

use crate::opted;

/// How many pods come one after the other.
const PODS: usize = 20;
/// How often the two ends of the time are looked for.
const LOOK: Duration = Duration::from_millis(1);

/// Waits until a process of a pod is in a network namespace that none of `others` is.
fn sandbox(pod: &Path, others: &[PathBuf], stop: &AtomicBool) -> Option<Instant> {
    let namespace = |path: &Path| std::fs::read_link(path).ok();
    let others: Vec<_> = others.iter().filter_map(|path| namespace(path)).collect();
    while !stop.load(Ordering::Relaxed) {
        let containers = std::fs::read_dir(pod).into_iter().flatten().flatten();
        let processes = containers.flat_map(|container| {
            let procs = std::fs::read_to_string(container.path().join("cgroup.procs"));
            procs.unwrap_or_default().lines().map(str::to_owned).collect::<Vec<_>>()
        });
        let mut processes = processes;
        if processes.any(|pid| {
            namespace(Path::new(&format!("/proc/{pid}/ns/net")))
                .is_some_and(|it| !others.contains(&it))
        }) {
            return Some(Instant::now());
        }
        thread::sleep(LOOK);
    }
    None
}

/// Prints the median and the maximum: `cargo test -p weir-tests --test node sooner -- --nocapture`.
#[test]
fn pods_that_come_one_by_one_are_captured() -> Result<()> {
    let cluster = Cluster::new()?;
    let weir = cluster.weir()?.start()?;
    wait_until("weir to know its pods", SOON, || Ok(cluster.ready()?.0))?;
    let machine = Path::new("/proc/self/ns/net").to_owned();
    let (mut took, mut pods) = (Vec::new(), Vec::new());
    for number in 0..PODS {
        let (name, layout) = (format!("pod-{number}"), Layout::ALL[number % Layout::ALL.len()]);
        let object = opted(&name, Owner::Deployment);
        cluster.api.put(&object);
        wait_until("the pod to be waited for", SOON, || {
            Ok(told(&weir, &name)?.is_some_and(|pod| pod["state"] == "waiting"))
        })?;
        let uid = object["metadata"]["uid"].as_str().context("no UID")?;
        let group = cluster.root().path().join(layout.pod_dir(qos(&object), uid));
        let others = [machine.clone()];
        let stop = AtomicBool::new(false);
        let line = format!("workload=\"shop.{name}\"");
        let is_captured = || {
            let log = weir.process.log();
            log.lines().any(|it| it.contains(&line) && it.contains("captured"))
        };
        let (begun, ended, pod) = thread::scope(|scope| {
            let begun = scope.spawn(|| sandbox(&group, &others, &stop));
            let ended = scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    if is_captured() {
                        return Some(Instant::now());
                    }
                    thread::sleep(LOOK);
                }
                None
            });
            let pod = cluster.idle(&object, layout);
            let waited = pod.and_then(|pod| {
                wait_until("the pod to be captured", SOON, || Ok(is_captured()))?;
                Ok(pod)
            });
            if waited.is_err() {
                stop.store(true, Ordering::Relaxed);
            }
            (begun.join(), ended.join(), waited)
        });
        let pod = pod.with_context(|| format!("log of weir:\n{}", weir.process.log()))?;
        let begun = begun.ok().flatten().context("no sandbox")?;
        let ended = ended.ok().flatten().context("not captured")?;
        took.push(ended.saturating_duration_since(begun));
        pods.push(pod);
    }
    cluster.settle(&weir, &pods.iter().collect::<Vec<_>>())?;
    took.sort();
    ensure!(took.len() == PODS, "{took:?}");
    println!("captured after {:?} in the median, {:?} at most", took[PODS / 2], took[PODS - 1]);
    Ok(())
}
