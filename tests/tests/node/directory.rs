//! `weir node --pods-dir`: manifests in a directory stand for pods, without an API server.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use weir_tests::kube::cluster::{Cluster, SHOP, SOON, captured, told};
use weir_tests::kube::object::{Owner, annotate, pod};
use weir_tests::kube::pod::{Layout, Pod};
use weir_tests::left::nothing_left;
use weir_tests::process::wait_until;

use crate::{INJECT, PORT, SKIP_INBOUND, opted};

/// A directory as the kubelet's for static pods.
fn manifests(cluster: &Cluster) -> Result<PathBuf> {
    let dir = cluster.dir().join("manifests");
    fs::create_dir(&dir)?;
    Ok(dir)
}

/// A manifest as people write it; more annotations are whole lines.
fn yaml(pod: &Pod, more: &str) -> String {
    let name = pod.object()["metadata"]["name"].as_str().unwrap_or_default();
    format!(
        "# a static pod\napiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\n  \
         namespace: {SHOP}\n  uid: {}\n  annotations:\n    weir.dev/inject: enabled\n{more}\
         spec:\n  containers:\n  - name: app\n    image: registry.example/app:1\n",
        pod.uid()
    )
}

/// As editors and configuration management do: complete at once.
fn replace(path: &Path, text: &str) -> Result<()> {
    let beside = path.with_extension("tmp");
    fs::write(&beside, text)?;
    fs::rename(&beside, path).with_context(|| format!("cannot replace {}", path.display()))
}

#[test]
fn files_come_change_and_go() -> Result<()> {
    let cluster = Cluster::new()?;
    let dir = manifests(&cluster)?;
    let cart = cluster.run(&opted("cart", Owner::None), Layout::SystemdContainerd)?;
    let shell = cluster.run(&opted("shell", Owner::None), Layout::CgroupfsCrio)?;
    let ways = cluster.ways(&cart, PORT)?;
    fs::write(dir.join("cart.yaml"), yaml(&cart, ""))?;
    fs::write(dir.join("notes.txt"), "weir.dev/inject: enabled\n")?;
    let mut weir = cluster.weir_on(&dir).start()?;
    cluster.settle(&weir, &[&cart])?;
    ways.assert_captured([true; 2]);

    // JSON, as the API server would have it.
    replace(&dir.join("shell.json"), &shell.object().to_string())?;
    cluster.settle(&weir, &[&cart, &shell])?;
    let skip = format!("    {SKIP_INBOUND}: \"9000\"\n");
    replace(&dir.join("cart.yaml"), &yaml(&cart, &skip))?;
    ways.become_captured([false, true])?;
    // In place, as `echo >` does, through states that are no manifest.
    fs::write(dir.join("cart.yaml"), yaml(&cart, ""))?;
    ways.become_captured([true; 2])?;
    fs::rename(dir.join("shell.json"), dir.join("shell.yml"))?;
    cluster.settle(&weir, &[&cart, &shell])?;
    fs::remove_file(dir.join("shell.yml"))?;
    cluster.settle(&weir, &[&cart])?;
    cluster.ways(&shell, PORT)?.assert_captured([false; 2]);
    fs::rename(dir.join("cart.yaml"), dir.join("cart.yaml.off"))?;
    cluster.settle(&weir, &[])?;
    ways.assert_captured([false; 2]);

    weir.stop()?;
    weir.instance().detach(&[])?.ok()?;
    nothing_left(weir.instance(), &[cart.netns(), shell.netns(), &cluster.node])
}

/// Where there is no UID in the cgroup's name, the manifest names the cgroup.
#[test]
fn a_manifest_can_name_the_cgroup() -> Result<()> {
    let cluster = Cluster::new()?;
    let dir = manifests(&cluster)?;
    let pod = cluster.run(&pod(SHOP, "plain", Owner::None), Layout::CgroupfsContainerd)?;
    let cgroup = pod.cgroup().path().display();
    let text = format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: plain\n  namespace: {SHOP}\n  \
         annotations:\n    {INJECT}: enabled\n    weir.dev/cgroup: {cgroup}\n\
         spec:\n  containers: []\n"
    );
    fs::write(dir.join("plain.yaml"), text)?;
    let weir = cluster.weir_on(&dir).start()?;
    cluster.settle(&weir, &[&pod])?;
    cluster.ways(&pod, PORT)?.assert_captured([true; 2]);
    Ok(())
}

#[test]
fn a_bad_file_is_named_with_its_place_and_disturbs_no_other() -> Result<()> {
    let cluster = Cluster::new()?;
    let dir = manifests(&cluster)?;
    let cart = cluster.run(&opted("cart", Owner::None), Layout::SystemdContainerd)?;
    let ways = cluster.ways(&cart, PORT)?;
    fs::write(dir.join("cart.yaml"), yaml(&cart, ""))?;
    let bad = [
        ("broken.yaml", "apiVersion: v1\nkind: Pod\nmetadata:\n  name: [a\n", "line 4 column 9"),
        ("wrong.json", "{\"kind\": \"Pod\",\n \"metadata\": oops}\n", "line 2 column 14"),
        ("kind.yaml", "apiVersion: v1\nkind: Service\nmetadata:\n  name: a\n", "line 2 column 1"),
        ("anonymous.yaml", "apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\n", "uid"),
    ];
    for (name, text, _) in bad {
        fs::write(dir.join(name), text)?;
    }
    let weir = cluster.weir_on(&dir).start()?;
    wait_until("the good one to be captured", SOON, || {
        Ok(captured(&weir)?.contains(&cart.workload()))
    })?;
    ways.assert_captured([true; 2]);
    for (name, _, word) in bad {
        let said = || {
            let log = weir.process.log();
            // One line may tell of several.
            log.split([';', '\n']).any(|part| part.contains(name) && part.contains(word))
        };
        wait_until(&format!("{name} to be named"), SOON, || Ok(said()))
            .with_context(|| format!("{word:?} of {name}, in:\n{}", weir.process.log()))?;
    }
    // One that was good and becomes bad: what was captured by it is captured no more than before.
    let mut second = opted("second", Owner::None);
    annotate(&mut second, INJECT, Some("enabled"));
    let second = cluster.run(&second, Layout::SystemdContainerd)?;
    replace(&dir.join("broken.yaml"), &yaml(&second, ""))?;
    wait_until("the mended one to be captured", SOON, || {
        Ok(captured(&weir)?.contains(&second.workload()))
    })?;
    // Bad annotations are as they are in a cluster, but without an API server to send an event to.
    replace(&dir.join("broken.yaml"), &yaml(&second, &format!("    {SKIP_INBOUND}: 80,,443\n")))?;
    wait_until("the pod to be refused", SOON, || {
        Ok(told(&weir, "second")?.is_some_and(|pod: Value| {
            pod["state"] == "refused"
                && pod["why"].as_str().is_some_and(|why| why.contains("column 4"))
        }))
    })
    .with_context(|| format!("{:#?}; log:\n{}", told(&weir, "second"), weir.process.log()))?;
    ensure!(captured(&weir)?.len() == 1, "{:?}", captured(&weir)?);
    ways.assert_captured([true; 2]);
    Ok(())
}

#[test]
fn a_directory_that_is_not_there_is_refused() -> Result<()> {
    let cluster = Cluster::new()?;
    let missing = cluster.dir().join("no-such-directory");
    let finished = cluster.weir_on(&missing).refused()?;
    ensure!(finished.code() != 0, "{}", finished.stdout);
    ensure!(finished.stderr.contains("no-such-directory"), "{}", finished.stderr);
    Ok(())
}
