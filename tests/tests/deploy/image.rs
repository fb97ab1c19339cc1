//! The image does its work in a container as the DaemonSet's, with nothing but what the manifest gives
//! it: a part of the capabilities, a cgroup namespace, a read-only `/proc/sys` and root.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use weir_tests::Lab;
use weir_tests::left::leavings;
use weir_tests::netns::Netns;
use weir_tests::peer::plain;
use weir_tests::pods::{CLIENT, POD, Pods};
use weir_tests::process::{Process, run, wait_until};
use weir_tests::record::Records;
use weir_tests::site::{PATIENCE, join};
use weir_tests::weir::{Instance, binary};
use weir_tests::wire::Wire;

use crate::container::{Container, Image};

const LIMIT: Duration = Duration::from_secs(60);
const PORT: u16 = 9000;

/// `weir run` for pod A in a container, once it answers.
fn start(
    container: &Container<'_>,
    pods: &Pods,
    node: &Netns,
    files: (&str, &Path),
    instance: &Instance,
) -> Result<Process> {
    let (name, dir) = files;
    // The hierarchy is mounted elsewhere inside.
    let group = pods.pod_a.cgroup().path().file_name().context("a cgroup has a name")?;
    let group = format!("/sys/fs/cgroup/{}", group.to_string_lossy());
    let records = format!("/run/weir/{name}.json");
    let arguments = [
        "run",
        "--upgrade",
        "--instance",
        instance.name(),
        "--cgroup",
        &group,
        "--preserve-client-ip",
        "--control",
        "/run/weir/control.sock",
        "--record",
        &records,
        "--admin",
        "127.0.0.1:4191",
    ];
    let mut process = Process::start(name, container.command(node, &arguments)?, pods.dir())?;
    let mut status = std::process::Command::new(binary()?);
    status.args(["status", "-o", "json", "--control"]).arg(dir.join("control.sock"));
    let waited = wait_until("weir to answer", PATIENCE * 3, || {
        if !process.running()? {
            bail!("it ended");
        }
        let said = run(&mut status, LIMIT)?.stdout;
        let said: serde_json::Value = serde_json::from_str(&said).unwrap_or_default();
        Ok(said["status"]["pid"] == process.pid())
    });
    waited.with_context(|| format!("log:\n{}", process.log()))?;
    Ok(process)
}

/// A connection from pod A's client, through weir, of which the pod sees the client's own address.
fn visit(pods: &Pods, listener: &std::net::TcpListener) -> Result<Wire> {
    let wire = join(&pods.client_a, SocketAddr::new(POD[0].parse()?, PORT), listener)?;
    let (seen, own) = (plain(wire.server.peer_addr()?), plain(wire.client.local_addr()?));
    ensure!(seen.ip().to_string() == CLIENT[0], "the pod sees {seen}");
    ensure!(wire.went_through_weir()?, "{own} went direct");
    Ok(wire)
}

fn connections(dir: &Path, name: &str) -> usize {
    let records = Records::read(&dir.join(format!("{name}.json"))).unwrap_or_default();
    records.connections(PORT).len()
}

#[test]
fn the_image_runs_weir_check() -> Result<()> {
    let lab = Lab::new()?;
    let image = Image::unpack()?;
    let container = image.container("check", &lab.subdir("run")?)?;
    let mut command = container.command(&lab.client, &["check", "-o", "json"])?;
    let finished = run(&mut command, LIMIT)?.ok()?;
    let report: serde_json::Value = serde_json::from_str(&finished.stdout)?;
    ensure!(report["ready"] == true, "{report:#}");
    let findings = report["findings"].as_array().context("no findings")?;
    let level = |name: &str| {
        findings.iter().find(|finding| finding["name"] == name).map(|found| found["level"].clone())
    };
    for name in ["capabilities", "servers from before", "cgroup2", "bpffs", "interception proof"] {
        ensure!(level(name) == Some("ok".into()), "{name}: {report:#}");
    }
    Ok(())
}

#[test]
fn the_image_captures_with_the_rights_of_the_manifest() -> Result<()> {
    let (pods, image, instance) = (Pods::new()?, Image::unpack()?, Instance::new());
    let dir = tempfile::tempdir()?;
    let container = image.container("node", dir.path())?;
    let listener = pods.pod_a.listen(SocketAddr::new("::".parse()?, PORT))?;
    let mut weir = start(&container, &pods, &pods.node, ("weir", dir.path()), &instance)?;
    let wire = visit(&pods, &listener).with_context(|| weir.log())?;
    wire.up("ping")?;
    wire.down("pong")?;
    wire.finish()?;
    wait_until("the record", PATIENCE, || Ok(connections(dir.path(), "weir") == 1))?;
    weir.signal(Signal::SIGTERM)?;
    ensure!(weir.wait(LIMIT)?.success(), "{}", weir.log());
    instance.detach(&[])?.ok()?;
    let left = leavings(&instance, &pods.namespaces())?;
    ensure!(left.is_empty(), "left behind: {left:#?}");
    Ok(())
}

/// What the DaemonSet's rolling update does: the new pod starts beside the old one, in a network
/// namespace of its own, and finds it by what both have mounted from the node.
#[test]
fn the_image_takes_over_from_the_one_before() -> Result<()> {
    let (pods, image, instance) = (Pods::new()?, Image::unpack()?, Instance::new());
    let dir = tempfile::tempdir()?;
    let containers = (image.container("old", dir.path())?, image.container("new", dir.path())?);
    let surge = Netns::new("surge")?;
    let listener = pods.pod_a.listen(SocketAddr::new("::".parse()?, PORT))?;
    let mut old = start(&containers.0, &pods, &pods.node, ("old", dir.path()), &instance)?;
    let before = visit(&pods, &listener).with_context(|| old.log())?;
    before.up("ping")?;
    let mut new = start(&containers.1, &pods, &surge, ("new", dir.path()), &instance)?;
    let after = visit(&pods, &listener).with_context(|| new.log())?;
    after.up("ping")?;
    before.down("pong")?;
    before.finish()?;
    ensure!(old.wait(LIMIT)?.success(), "{}", old.log());
    after.down("pong")?;
    after.finish()?;
    wait_until("the records", PATIENCE, || {
        Ok((connections(dir.path(), "old"), connections(dir.path(), "new")) == (1, 1))
    })?;
    new.signal(Signal::SIGTERM)?;
    ensure!(new.wait(LIMIT)?.success(), "{}", new.log());
    instance.detach(&[])?.ok()?;
    let left = leavings(&instance, &pods.namespaces())?;
    ensure!(left.is_empty(), "left behind: {left:#?}");
    Ok(())
}
