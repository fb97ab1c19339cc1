//! A weir that starts again keeps the programs that the one before has left attached, where they are
//! the same: to load them again takes tens of milliseconds for each workload, in which its
//! connections go direct.

use std::net::{SocketAddr, TcpListener};

use anyhow::{Result, ensure};
use weir_tests::left::nothing_left;
use weir_tests::peer::plain;
use weir_tests::pods::{CLIENT, POD, Pods};
use weir_tests::site::{Site, join};
use weir_tests::weir::{Daemon, Run};

const PORT: u16 = 9000;

fn at(ip: &str) -> SocketAddr {
    SocketAddr::new(ip.parse().expect("an address of this harness"), PORT)
}

/// Kills weir and starts it again, which must find its workload again.
fn restart(pods: &Pods, mut daemon: Daemon, flags: &[&str]) -> Result<Daemon> {
    daemon.process.kill_hard()?;
    let flags = [&["--standby"], flags].concat();
    Run::new(&pods.node, pods.dir()).flags(&flags).after(&daemon).start()
}

/// Connections into and out of pod A must go through weir.
fn check(pods: &Pods, inside: &TcpListener, outside: &TcpListener) -> Result<()> {
    let captured = |from: &Site, to: &str, listener: &TcpListener| -> Result<bool> {
        let wire = join(from, at(to), listener)?;
        let captured = wire.client.local_addr()? != plain(wire.server.peer_addr()?);
        wire.up("ping")?;
        wire.down("pong")?;
        wire.finish()?;
        Ok(captured)
    };
    for (pod, client) in POD.into_iter().zip(CLIENT) {
        ensure!(captured(&pods.client_a, pod, inside)?, "into {pod}: direct");
        ensure!(captured(&pods.pod_a, client, outside)?, "to {client}: direct");
    }
    Ok(())
}

#[test]
fn the_same_programs_stay_and_others_take_their_place() -> Result<()> {
    let pods = Pods::new()?;
    let (inside, outside) = (pods.pod_a.listen(at("::"))?, pods.client_a.listen(at("::"))?);
    let daemon = Run::new(&pods.node, pods.dir()).flags(&["--standby"]).start()?;
    daemon.add("a", pods.pod_a.cgroup(), &pods.pod_a.netns, &[])?;
    check(&pods, &inside, &outside)?;
    let first = daemon.instance().programs();
    ensure!(first.len() >= 4, "{first:?}");

    let daemon = restart(&pods, daemon, &[])?;
    check(&pods, &inside, &outside)?;
    assert_eq!(daemon.instance().programs(), first, "programs were loaded again");

    // These have log statements in them: they are others.
    let daemon = restart(&pods, daemon, &["--bpf-log", "error"])?;
    check(&pods, &inside, &outside)?;
    let both = daemon.instance().programs();
    assert_eq!(both.len(), 2 * first.len(), "{both:?} after {first:?}");

    let mut daemon = restart(&pods, daemon, &["--bpf-log", "error"])?;
    check(&pods, &inside, &outside)?;
    assert_eq!(daemon.instance().programs(), both, "programs were loaded again");
    daemon.stop()?;
    daemon.instance().detach(&[])?.ok()?;
    nothing_left(daemon.instance(), &pods.namespaces())
}

/// Without inbound capture there is one program less; with it again, all are needed anew.
#[test]
fn a_program_that_is_missing_is_attached_again() -> Result<()> {
    let pods = Pods::new()?;
    let (inside, outside) = (pods.pod_a.listen(at("::"))?, pods.client_a.listen(at("::"))?);
    let run = |flags: &[&str]| {
        let pod = &pods.pod_a;
        let run = Run::new(&pods.node, pods.dir()).flags(flags);
        run.workload("a", pod.cgroup(), Some(&pod.netns))
    };
    let mut daemon = run(&["--no-capture-inbound"]).start()?;
    let first = daemon.instance().programs();
    daemon.process.kill_hard()?;
    let mut daemon = run(&[]).after(&daemon).start()?;
    check(&pods, &inside, &outside)?;
    let more = daemon.instance().programs();
    ensure!(more.len() > first.len(), "{more:?} after {first:?}");
    daemon.stop()?;
    daemon.instance().detach(&[])?.ok()?;
    nothing_left(daemon.instance(), &pods.namespaces())
}
