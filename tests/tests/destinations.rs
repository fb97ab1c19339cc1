//! What the destination's address alone decides: class E, and addresses of the workload's own
//! namespace.

use std::io::ErrorKind;
use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use weir_tests::peer::Peer;
use weir_tests::pods::{POD, Pods};
use weir_tests::process::wait_until;
use weir_tests::site::{PATIENCE, join};
use weir_tests::visits::{Outcome, visit};
use weir_tests::weir::{Daemon, Run};

/// Of a server in the pod itself.
const LOCAL_PORT: u16 = 9100;

/// weir on the node, for pod A.
fn capture(pods: &Pods, flags: &[&str]) -> Result<Daemon> {
    let (pod, run) = (&pods.pod_a, Run::new(&pods.node, pods.dir()));
    run.workload("pod-a", pod.cgroup(), Some(&pod.netns)).flags(flags).start()
}

/// 240.0.0.0/4 is plain unicast for Linux, and pods are numbered from it.
#[test]
fn addresses_of_class_e_are_captured() -> Result<()> {
    let pods = Pods::new()?;
    let _daemon = capture(&pods, &[])?;
    let (pod, client) = (&pods.pod_a.netns, &pods.client_a.netns);
    pod.cable_as("eth8", ["240.9.0.1/24", "fd99::1/64"], client, ["240.9.0.2/24", "fd99::2/64"])?;
    let server = Peer::whoami(client, 0)?;
    let cgroup = pods.pod_a.cgroup().path();
    wait_until("the route to be known", PATIENCE, || {
        let went = visit(pod, cgroup, ("240.9.0.2", server.port()), "240.9.0.2")?;
        ensure!(went == Outcome::Proxied || went == Outcome::Direct, "{went:?}");
        Ok(went == Outcome::Proxied)
    })
}

/// A redirect that accepts for a port without a listener would hide it from a client that tries one
/// address after the other.
#[test]
fn a_local_port_without_a_listener_refuses_as_without_weir() -> Result<()> {
    let pods = Pods::new()?;
    let daemon = capture(&pods, &["--capture-loopback"])?;
    for ip in ["127.0.0.1", "127.1.2.3", "::1", POD[0], POD[1]] {
        let to = SocketAddr::new(ip.parse()?, LOCAL_PORT);
        let error = pods.pod_a.connect(to).err().with_context(|| format!("{to} accepted"))?;
        ensure!(error.kind() == ErrorKind::ConnectionRefused, "{to}: {error}");
    }
    let listener = pods.pod_a.listen(SocketAddr::new("::".parse()?, LOCAL_PORT))?;
    for ip in ["127.0.0.1", "::1"] {
        let to = SocketAddr::new(ip.parse()?, LOCAL_PORT);
        let wire = join(&pods.pod_a, to, &listener)?;
        wire.up("ping\n")?;
        wire.down("pong\n")?;
        wire.finish()?;
    }
    wait_until("both to be captured", PATIENCE, || {
        let records = daemon.records()?;
        let captured = records.connections(LOCAL_PORT).into_iter();
        Ok(captured.filter(|record| record.text("treatment") == "tcp").count() == 2)
    })
}
