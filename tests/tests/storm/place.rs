//! Where the storm rages: a pod whose connections weir captures both ways, its client host, load in
//! both directions, and what is done to weir meanwhile.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use weir_tests::left::nothing_left;
use weir_tests::load::{Half, Plan};
use weir_tests::pods::{CLIENT, POD, Pods};
use weir_tests::process::{Process, wait_until};
use weir_tests::visits::now;
use weir_tests::weir::{Daemon, Run};

use crate::journal::{Event, Journal, Way, What};

/// Connections, of each direction, between two blows.
const BETWEEN: usize = 200;
/// How long they may take, on a machine that has other things to do.
const SOON: Duration = Duration::from_secs(60);
/// What makes a weir behave as one with another layout of the maps.
const SCHEMA: &str = "WEIR_BPF_SCHEMA";

const KEEP: &str = "STORM_KEEP";

/// Load, and the weir that has to bear it.
pub(crate) struct Storm {
    loads: Vec<Load>,
    daemon: Daemon,
    retired: Vec<Daemon>,
    events: Vec<Event>,
    flags: Vec<String>,
    doomed: usize,
    pods: Pods,
}

/// One direction.
struct Load {
    way: Way,
    clients: Half,
    servers: Half,
}

// === impl Storm ===

impl Storm {
    /// Starts weir, then the servers and the clients, and waits until all goes well.
    pub(crate) fn begin(flags: &[&str]) -> Result<Self> {
        let pods = Pods::new()?;
        let flags: Vec<String> = flags.iter().map(|&flag| flag.to_owned()).collect();
        let begin = now()?;
        let daemon = run(&pods, &flags).start()?;
        let started = Event { what: What::Started, begin, end: now()? };
        let (pod, host) = (&pods.pod_a.netns, &pods.client_a.netns);
        let mut loads = Vec::new();
        let binary = Path::new(env!("CARGO_BIN_EXE_weir-load"));
        for (way, from, to, addresses) in
            [(Way::Outbound, pod, host, CLIENT), (Way::Inbound, host, pod, POD)]
        {
            let name = |half: &str| format!("{half}-{way:?}").to_lowercase();
            let servers = Half::serve(binary, to, &name("servers"), pods.dir())?;
            let place = (&*name("clients"), pods.dir());
            let clients = Half::visit(binary, from, place, &addresses, &Plan::default())?;
            loads.push(Load { way, clients, servers });
        }
        let (retired, events) = (Vec::new(), vec![started]);
        let mut storm = Self { loads, daemon, retired, events, flags, doomed: 0, pods };
        storm.go_on()?;
        Ok(storm)
    }

    /// Waits until many more connections have come and gone.
    pub(crate) fn go_on(&mut self) -> Result<()> {
        for load in &mut self.loads {
            let before = load.clients.count()?;
            let what = format!("{:?} connections to go on", load.way);
            wait_until(&what, SOON, || Ok(load.clients.count()? >= before + BETWEEN))?;
        }
        Ok(())
    }

    /// Puts a successor in weir's place; how long that took.
    pub(crate) fn upgrade(&mut self, schema: Option<&str>) -> Result<Duration> {
        let (begin, clock) = (now()?, Instant::now());
        let daemon = successor(&self.pods, &self.flags, &self.daemon, schema).start()?;
        self.happened(What::Upgraded, begin)?;
        self.retired.push(std::mem::replace(&mut self.daemon, daemon));
        Ok(clock.elapsed())
    }

    /// Starts a successor and kills it after so long.
    pub(crate) fn doomed_upgrade(&mut self, schema: Option<&str>, life: Duration) -> Result<()> {
        let run = successor(&self.pods, &self.flags, &self.daemon, schema);
        self.doomed += 1;
        let name = format!("doomed-{}", self.doomed);
        let begin = now()?;
        let mut process = Process::start(&name, run.command()?, self.pods.dir())?;
        std::thread::sleep(life);
        process.kill_hard()?;
        self.happened(What::Doomed, begin)
    }

    /// Starts another weir if the one that there is has retired.
    pub(crate) fn start_unless_running(&mut self) -> Result<()> {
        let running = self.daemon.process.running()?
            && self.daemon.json(&["status"]).is_ok_and(|said| said["status"]["phase"] == "running");
        if running {
            return Ok(());
        }
        let begin = now()?;
        let daemon = run(&self.pods, &self.flags).after(&self.daemon).start()?;
        self.happened(What::Started, begin)?;
        self.retired.push(std::mem::replace(&mut self.daemon, daemon));
        Ok(())
    }

    /// `kill -9`, until the kernel has taken everything back.
    pub(crate) fn kill(&mut self) -> Result<()> {
        let begin = now()?;
        self.daemon.process.kill_hard()?;
        self.happened(What::Killed, begin)
    }

    /// SIGTERM, until the process has ended well.
    pub(crate) fn terminate(&mut self) -> Result<()> {
        let begin = now()?;
        self.daemon.stop()?;
        self.happened(What::Terminated, begin)
    }

    /// Starts another weir after one that is gone.
    pub(crate) fn start(&mut self) -> Result<()> {
        let begin = now()?;
        self.daemon = run(&self.pods, &self.flags).after(&self.daemon).start()?;
        self.happened(What::Started, begin)
    }

    /// SIGSTOP.
    pub(crate) fn stop(&mut self) -> Result<()> {
        let begin = now()?;
        self.daemon.process.signal(Signal::SIGSTOP)?;
        self.happened(What::Stopped, begin)
    }

    /// SIGCONT.
    pub(crate) fn resume(&mut self) -> Result<()> {
        let begin = now()?;
        self.daemon.process.signal(Signal::SIGCONT)?;
        self.happened(What::Continued, begin)?;
        // It beats again before long; connections that hung in it end before that.
        wait_until("weir to answer", SOON, || Ok(self.daemon.json(&["status"]).is_ok()))
    }

    fn happened(&mut self, what: What, begin: u64) -> Result<()> {
        self.events.push(Event { what, begin, end: now()? });
        Ok(())
    }

    /// Waits until the weirs that have retired have ended well.
    pub(crate) fn retired_have_ended(&mut self) -> Result<()> {
        for mut daemon in self.retired.drain(..) {
            let status = daemon.process.wait(SOON)?;
            ensure!(status.success(), "weir ended with {status}:\n{}", daemon.process.log());
        }
        Ok(())
    }

    /// Lets the connections come to an end, then weir, and looks what is left.
    pub(crate) fn finish(mut self) -> Result<Journal> {
        for load in &self.loads {
            load.clients.stop()?;
        }
        let mut journal = Journal::new(std::mem::take(&mut self.events));
        for Load { way, clients, servers } in self.loads.drain(..) {
            let trips = clients.finish().with_context(|| format!("{way:?} clients"))?;
            servers.stop()?;
            let served = servers.finish().with_context(|| format!("{way:?} servers"))?;
            journal.add(way, trips, served);
        }
        let ended = self.ended();
        journal.read_records(self.pods.dir())?;
        // Whatever became of weir, what the clients saw is to be told.
        journal.cleared = ended;
        Ok(journal)
    }

    fn ended(&mut self) -> Result<()> {
        self.retired_have_ended()?;
        self.daemon.stop()?;
        self.daemon.instance().detach(&[])?.ok()?;
        nothing_left(self.daemon.instance(), &self.pods.namespaces())
    }
}

impl Drop for Storm {
    /// Keeps all logs in the directory that `STORM_KEEP` names, to look for a cause.
    fn drop(&mut self) {
        let Some(to) = std::env::var_os(KEEP) else { return };
        let kept = std::fs::create_dir_all(&to).and_then(|()| {
            for entry in std::fs::read_dir(self.pods.dir())?.filter_map(Result::ok) {
                if entry.file_type()?.is_file() {
                    std::fs::copy(entry.path(), Path::new(&to).join(entry.file_name()))?;
                }
            }
            Ok(())
        });
        if let Err(error) = kept {
            eprintln!("logs not kept: {error}");
        }
    }
}

// === helpers ===

fn run<'a>(pods: &'a Pods, flags: &[String]) -> Run<'a> {
    let pod = &pods.pod_a;
    let run = Run::new(&pods.node, pods.dir()).flags(flags);
    run.workload("pod-a", pod.cgroup(), Some(&pod.netns))
}

fn successor<'a>(
    pods: &'a Pods,
    flags: &[String],
    daemon: &Daemon,
    schema: Option<&str>,
) -> Run<'a> {
    let run = run(pods, flags).flags(&["--upgrade"]);
    let run = if fastrand::bool() { run.after(daemon) } else { run.in_place_of(daemon) };
    match schema {
        Some(schema) => run.variable(SCHEMA, schema),
        None => run,
    }
}
