//! A weir that is being replaced does not take back what its successor has. Found by chaos: an
//! episode without descriptors that ended in that moment put the predecessor's listeners in the place
//! of the successor's; what connected then was cut at the predecessor's drain deadline.

use std::net::SocketAddr;
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use weir_tests::pods::{POD, Pods};
use weir_tests::process::{Process, run as run_command, wait_until};
use weir_tests::site::{PATIENCE, join};
use weir_tests::weir::Run;

const PORT: u16 = 9000;
/// Far more connections than there are descriptors for.
const CROWD: usize = 100;

/// Sets the soft limit of descriptors (prlimit(1)); the hard one stays.
fn limit(process: &Process, soft: usize) -> Result<()> {
    let (pid, flag) = (process.pid().to_string(), format!("--nofile={soft}:"));
    run_command(Command::new("prlimit").args(["--pid", &pid, &flag]), PATIENCE)?.ok().map(drop)
}

fn highest_descriptor(pid: u32) -> Result<usize> {
    std::fs::read_dir(format!("/proc/{pid}/fd"))?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .max()
        .context("no descriptors")
}

#[test]
fn the_end_of_an_episode_without_descriptors_leaves_the_successor_its_slots() -> Result<()> {
    let pods = Pods::new()?;
    let pod = &pods.pod_a;
    let run = || {
        let run = Run::new(&pods.node, pods.dir());
        run.workload("pod-a", pod.cgroup(), Some(&pod.netns))
    };
    let to = |port| -> Result<SocketAddr> { Ok(SocketAddr::new(POD[0].parse()?, port)) };
    let listener = pod.listen(SocketAddr::new("::".parse()?, PORT))?;
    let old = run().start()?;
    limit(&old.process, highest_descriptor(old.process.pid())? + 1)?;
    let crowd = (0..CROWD).map(|_| pods.client_a.connect(to(PORT)?).map_err(Into::into));
    let crowd = crowd.collect::<Result<Vec<_>>>()?;
    wait_until("an episode", PATIENCE, || Ok(old.process.log().contains("out of descriptors")))?;
    drop((crowd, listener));

    limit(&old.process, 4096)?;
    let (new, stopped) = thread::scope(|scope| {
        let old = &old;
        let stopper = scope.spawn(|| -> Result<()> {
            let log = || std::fs::read_dir(pods.dir()).into_iter().flatten().flatten();
            let is_said = || {
                let texts = log().filter_map(|entry| std::fs::read_to_string(entry.path()).ok());
                texts.into_iter().any(|text| text.contains("taking over"))
            };
            wait_until("the successor's question", PATIENCE, || Ok(is_said()))?;
            old.process.signal(Signal::SIGSTOP)?;
            // The successor fills the slots and asks for the rest; the episode is overdue then.
            thread::sleep(Duration::from_secs(3));
            old.process.signal(Signal::SIGCONT)
        });
        let new = run().flags(&["--upgrade"]).after(old).start();
        (new, stopper.join().expect("it does not panic"))
    });
    stopped?;
    let new = new?;

    let port = PORT + 1;
    let listener = pod.listen(SocketAddr::new("::".parse()?, port))?;
    let wire = join(&pods.client_a, to(port)?, &listener)?;
    wire.up("ping")?;
    wire.finish()?;
    let records = new.records_of(port, 1)?;
    ensure!(records.connections(port)[0].text("direction") == "inbound", "{records:#?}");
    Ok(())
}
