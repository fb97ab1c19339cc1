//! weir dies: what it carried dies with it, and the next connection goes direct.

use std::time::Duration;

use anyhow::Result;
use nix::sys::signal::Signal;
use weir_tests::Lab;
use weir_tests::cgroup::Cgroup;
use weir_tests::peer::Peer;
use weir_tests::visits::{Outcome, Visitor, now};
use weir_tests::weir::{Daemon, Instance, Run};

const VISIT: Duration = Duration::from_secs(6);

#[test]
fn connections_go_direct_after_kill_9_and_are_captured_after_a_new_start() -> Result<()> {
    let lab = Lab::new()?;
    let cgroup = Cgroup::new("kill")?;
    let peer = Peer::whoami(&lab.server, 9000)?;
    let mut daemon = Daemon::start(&lab, &cgroup, &[])?;
    let mut visitor = Visitor::start(&lab, &cgroup, peer.port(), VISIT)?;
    visitor.wait_for(40)?;
    let alive = now()?;
    daemon.process.kill_hard()?;
    let dead = now()?;
    visitor.wait_for(120)?;
    let restart = now()?;
    let successor = Run::new(&lab.client, lab.dir())
        .after(&daemon)
        .workload("client", &cgroup, None)
        .start()?;
    let again = now()?;
    let visits = visitor.finish()?;
    let stale = successor.stale()?;
    // A connection that is under way when weir dies may die with it.
    visits.assert_all_proxied(0, visits.settled_before(alive), stale);
    visits.assert_all_direct(dead, visits.settled_before(restart));
    visits.assert_all_proxied(again, u64::MAX, stale);
    Ok(())
}

#[test]
fn connections_go_direct_after_sigterm_and_none_fails() -> Result<()> {
    let lab = Lab::new()?;
    let cgroup = Cgroup::new("term")?;
    let peer = Peer::whoami(&lab.server, 9000)?;
    let mut daemon = Daemon::start(&lab, &cgroup, &[])?;
    let mut visitor = Visitor::start(&lab, &cgroup, peer.port(), VISIT)?;
    visitor.wait_for(40)?;
    let alive = now()?;
    let stale = daemon.stale()?;
    daemon.process.signal(Signal::SIGTERM)?;
    let status = daemon.process.wait(Duration::from_secs(15))?;
    assert!(status.success(), "{status}: {}", daemon.process.log());
    let ended = now()?;
    let visits = visitor.finish()?;
    visits.assert_no_error();
    visits.assert_all_proxied(0, visits.settled_before(alive), stale);
    visits.assert_all_direct(ended, u64::MAX);
    Ok(())
}

/// The heartbeat's turn: the listener is there, but it is not accepted from.
#[test]
fn connections_go_direct_while_weir_is_stopped() -> Result<()> {
    let lab = Lab::new()?;
    let cgroup = Cgroup::new("stop")?;
    let peer = Peer::whoami(&lab.server, 9000)?;
    let daemon = Daemon::start(&lab, &cgroup, &[])?;
    daemon.process.signal(Signal::SIGSTOP)?;
    // Longer than the heartbeat may be old; what connects before that waits for SIGCONT.
    std::thread::sleep(Duration::from_secs(5));
    let from = now()?;
    let visits = Visitor::start(&lab, &cgroup, peer.port(), Duration::from_secs(1))?.finish()?;
    visits.assert_all_direct(from, u64::MAX);
    daemon.process.signal(Signal::SIGCONT)?;
    let mut visitor = Visitor::start(&lab, &cgroup, peer.port(), VISIT)?;
    visitor.wait_for_last(40, &Outcome::Proxied)?;
    visitor.finish()?.assert_no_error();
    Ok(())
}

#[test]
fn two_weirs_can_follow_each_other_on_one_cgroup() -> Result<()> {
    let lab = Lab::new()?;
    let cgroup = Cgroup::new("twice")?;
    let peer = Peer::whoami(&lab.server, 9000)?;
    let instance = Instance::new();
    for _ in 0..3 {
        let run = Run::new(&lab.client, lab.dir()).instance(&instance);
        let mut daemon = run.workload("client", &cgroup, None).start()?;
        let from = now()?;
        let time = Duration::from_secs(1);
        let visits = Visitor::start(&lab, &cgroup, peer.port(), time)?.finish()?;
        visits.assert_all_proxied(from, u64::MAX, daemon.stale()?);
        daemon.process.kill_hard()?;
    }
    Ok(())
}
