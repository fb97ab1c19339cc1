//! `weir run` and `weir node`: starting them with flags, asking them, and taking away everything
//! that they pinned.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::Lab;
use crate::cgroup::{self, Cgroup};
use crate::netns::Netns;
use crate::process::{Finished, Process, run, wait_until};
use crate::record::Records;
use crate::site::PATIENCE;
use crate::weir::{LIMIT, binary};

/// How long weir may take until it captures. Five tests at once on two cores load programs slowly.
const READY: Duration = Duration::from_secs(60);

/// A name for what weir pins, that no other test has; on drop everything pinned under it goes.
#[derive(Debug)]
pub struct Instance {
    name: String,
    programs: Mutex<BTreeSet<u32>>,
}

/// The command line of a weir that is not started yet.
#[derive(Clone, Debug)]
pub struct Run<'a> {
    verb: &'static str,
    node: &'a Netns,
    dir: PathBuf,
    instance: Arc<Instance>,
    control: PathBuf,
    records: PathBuf,
    flags: Vec<OsString>,
    variables: Vec<(OsString, OsString)>,
}

/// A running weir. Its end is first the process's, then that of what the instance pinned,
/// unless another daemon of the same instance goes on.
#[derive(Debug)]
pub struct Daemon {
    /// The process.
    pub process: Process,
    control: PathBuf,
    records: PathBuf,
    instance: Arc<Instance>,
}

// === impl Instance ===

impl Instance {
    /// A new name.
    #[must_use]
    pub fn new() -> Arc<Self> {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}{}-{number}", cgroup::PREFIX, std::process::id());
        Arc::new(Self { name, programs: Mutex::default() })
    }

    /// One that weir itself gives its name.
    #[must_use]
    pub fn called(name: &str) -> Arc<Self> {
        Arc::new(Self { name: name.to_owned(), programs: Mutex::default() })
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `weir detach` for this instance; its exit code is not judged.
    ///
    /// # Errors
    ///
    /// Fails when it cannot be started or takes too long.
    pub fn detach(&self, flags: &[&str]) -> Result<Finished> {
        let mut command = Command::new(binary()?);
        command.args(["detach", "--instance", &self.name]).args(flags);
        run(&mut command, LIMIT)
    }

    /// The ids of all BPF programs that daemons of this instance were seen to hold.
    #[must_use]
    pub fn programs(&self) -> BTreeSet<u32> {
        self.programs.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn remember_programs(&self, pid: u32) -> Result<()> {
        let held = programs_of(pid)?;
        self.programs.lock().unwrap_or_else(PoisonError::into_inner).extend(held);
        Ok(())
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        if let Err(error) = self.detach(&["--force"]) {
            eprintln!("pins left behind: {error:#}");
        }
    }
}

/// The ids of the BPF programs that a process holds, itself or through links (proc(5), fdinfo).
fn programs_of(pid: u32) -> Result<BTreeSet<u32>> {
    let dir = format!("/proc/{pid}/fdinfo");
    let entries = std::fs::read_dir(&dir).with_context(|| format!("cannot read {dir}"))?;
    // A descriptor may be closed between the list and the look.
    let texts = entries.filter_map(|entry| std::fs::read_to_string(entry.ok()?.path()).ok());
    Ok(texts
        .flat_map(|text| {
            let ids = text.lines().filter_map(|line| line.strip_prefix("prog_id:"));
            ids.filter_map(|id| id.trim().parse().ok()).collect::<Vec<u32>>()
        })
        .collect())
}

// === impl Run ===

impl<'a> Run<'a> {
    /// `weir run` in a namespace, with an instance, a control socket and records of its own.
    #[must_use]
    pub fn new(node: &'a Netns, dir: &Path) -> Self {
        Self::with("run", node, dir)
    }

    /// `weir node`, likewise.
    #[must_use]
    pub fn node(node: &'a Netns, dir: &Path) -> Self {
        Self::with("node", node, dir)
    }

    fn with(verb: &'static str, node: &'a Netns, dir: &Path) -> Self {
        let (control, records) = paths(dir);
        let (dir, instance) = (dir.to_owned(), Instance::new());
        let (flags, variables) = (Vec::new(), Vec::new());
        Self { verb, node, dir, instance, control, records, flags, variables }
    }

    /// As another daemon's successor: with its instance, and a control socket and records of its
    /// own.
    #[must_use]
    pub fn after(mut self, daemon: &Daemon) -> Self {
        self.instance = Arc::clone(&daemon.instance);
        self
    }

    /// As another daemon's successor, at the same control socket.
    #[must_use]
    pub fn in_place_of(mut self, daemon: &Daemon) -> Self {
        self.control.clone_from(&daemon.control);
        self.after(daemon)
    }

    /// With an instance that there is already.
    #[must_use]
    pub fn instance(mut self, instance: &Arc<Instance>) -> Self {
        self.instance = Arc::clone(instance);
        self
    }

    /// Its workload: the cgroup, and the namespace it is in unless that is weir's own.
    #[must_use]
    pub fn workload(mut self, name: &str, cgroup: &Cgroup, netns: Option<&Netns>) -> Self {
        self.flags.extend(["--name".into(), name.into()]);
        self.flags.extend(["--cgroup".into(), cgroup.path().into()]);
        if let Some(netns) = netns {
            self.flags.extend(["--netns".into(), netns.path().into()]);
        }
        self
    }

    /// More flags.
    #[must_use]
    pub fn flags(mut self, flags: &[impl AsRef<OsStr>]) -> Self {
        self.flags.extend(flags.iter().map(|flag| flag.as_ref().to_owned()));
        self
    }

    /// With a variable in its environment.
    #[must_use]
    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.into(), value.into()));
        self
    }

    /// The command line.
    ///
    /// # Errors
    ///
    /// Fails when there is no binary.
    pub fn command(&self) -> Result<Command> {
        let mut command = self.node.command(binary()?);
        command.args([self.verb, "--instance", self.instance.name()]);
        command.arg("--control").arg(&self.control).arg("--record").arg(&self.records);
        command.args(&self.flags).envs(self.variables.iter().cloned());
        Ok(command)
    }

    /// Starts it and waits until it captures.
    ///
    /// # Errors
    ///
    /// Fails with its log when it ends or does not get ready.
    pub fn start(self) -> Result<Daemon> {
        let name = self.control.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let process = Process::start(&name, self.command()?, &self.dir)?;
        let Self { control, records, instance, .. } = self;
        let mut daemon = Daemon { process, control, records, instance };
        daemon.wait_ready()?;
        Ok(daemon)
    }

    /// Runs it to its end, which must come soon: it is expected to refuse. Its exit code is not
    /// judged.
    ///
    /// # Errors
    ///
    /// Fails when it goes on.
    pub fn refused(self) -> Result<Finished> {
        run(&mut self.command()?, READY)
    }
}

fn paths(dir: &Path) -> (PathBuf, PathBuf) {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    (dir.join(format!("weir-run-{number}.sock")), dir.join(format!("daemon-{number}.json")))
}

// === impl Daemon ===

impl Daemon {
    /// Starts `weir run` for a cgroup in the client's namespace and waits until it captures.
    ///
    /// # Errors
    ///
    /// Fails with the daemon's log when it ends or does not get ready.
    pub fn start(lab: &Lab, cgroup: &Cgroup, flags: &[&str]) -> Result<Self> {
        Run::new(&lab.client, lab.dir()).workload("client", cgroup, None).flags(flags).start()
    }

    /// Runs a verb against this daemon's control socket, in the client's namespace; its exit code is
    /// not judged.
    ///
    /// # Errors
    ///
    /// Fails when it cannot be started or takes too long.
    pub fn verb(&self, lab: &Lab, arguments: &[&str]) -> Result<Finished> {
        self.ask_with(lab.client.command(binary()?), arguments)
    }

    /// As [`Daemon::verb`], from where the test itself is.
    ///
    /// # Errors
    ///
    /// Fails when it cannot be started or takes too long.
    pub fn ask(&self, arguments: &[impl AsRef<OsStr>]) -> Result<Finished> {
        self.ask_with(Command::new(binary()?), arguments)
    }

    /// What a verb says with `-o json`.
    ///
    /// # Errors
    ///
    /// Fails when the verb does.
    pub fn json(&self, arguments: &[&str]) -> Result<serde_json::Value> {
        let said = self.ask(&[arguments, &["-o", "json"]].concat())?.ok()?.stdout;
        serde_json::from_str(&said).with_context(|| format!("not JSON: {said}"))
    }

    /// Adds a workload at run time.
    ///
    /// # Errors
    ///
    /// Fails when weir refuses.
    pub fn add(&self, name: &str, cgroup: &Cgroup, netns: &Netns, flags: &[&str]) -> Result<()> {
        let (cgroup, netns) = (cgroup.path().display().to_string(), netns.path());
        let netns = netns.display().to_string();
        let line = ["workload", "add", name, "--cgroup", &cgroup, "--netns", &netns];
        self.ask(&[&line, flags].concat())?.ok()?;
        self.instance.remember_programs(self.process.pid())
    }

    /// The control socket.
    #[must_use]
    pub fn control(&self) -> &Path {
        &self.control
    }

    /// How many connections its instance has let pass, in all its lives, because the heartbeat was
    /// too old: on a machine that stands still for two seconds that is right.
    ///
    /// # Errors
    ///
    /// Fails when it does not answer.
    pub fn stale(&self) -> Result<u64> {
        self.decisions("stale")
    }

    /// How often the kernel has counted this reason, for all workloads of its instance.
    ///
    /// # Errors
    ///
    /// Fails when it does not answer.
    pub fn decisions(&self, reason: &str) -> Result<u64> {
        let status = self.json(&["status"])?;
        let workloads = status["kernel"]["workloads"].as_object().context("no counters")?;
        let directions = workloads.values().flat_map(|it| [&it["outbound"], &it["inbound"]]);
        Ok(directions.filter_map(|reasons| reasons[reason].as_u64()).sum())
    }

    /// What names its pins.
    #[must_use]
    pub fn instance(&self) -> &Arc<Instance> {
        &self.instance
    }

    /// The file of its records.
    #[must_use]
    pub fn records_file(&self) -> &Path {
        &self.records
    }

    /// What it has recorded so far.
    ///
    /// # Errors
    ///
    /// Fails when there is no file yet.
    pub fn records(&self) -> Result<Records> {
        Records::read(&self.records)
    }

    /// What it has recorded once there are so many connections to a port.
    ///
    /// # Errors
    ///
    /// Fails with the records when there are not in time.
    pub fn records_of(&self, port: u16, connections: usize) -> Result<Records> {
        let mut records = Records::default();
        // A record is written when the connection has ended on both sides.
        let waited = wait_until("the records", PATIENCE, || {
            records = self.records()?;
            Ok(records.connections(port).len() >= connections)
        });
        waited.with_context(|| format!("{connections} expected of port {port}: {records:#?}"))?;
        Ok(records)
    }

    /// Ends it with SIGTERM, which must be a success.
    ///
    /// # Errors
    ///
    /// Fails with its log.
    pub fn stop(&mut self) -> Result<()> {
        self.instance.remember_programs(self.process.pid())?;
        self.process.signal(nix::sys::signal::Signal::SIGTERM)?;
        let status = self.process.wait(LIMIT)?;
        if !status.success() {
            bail!("weir ended with {status}:\n{}", self.process.log());
        }
        Ok(())
    }

    fn ask_with(&self, mut command: Command, arguments: &[impl AsRef<OsStr>]) -> Result<Finished> {
        command.args(arguments).arg("--control").arg(&self.control);
        run(&mut command, LIMIT)
    }

    fn wait_ready(&mut self) -> Result<()> {
        wait_until("weir to get ready", READY, || {
            if !self.process.running()? {
                bail!("weir ended");
            }
            // A predecessor may be the one that answers.
            let pid = self.process.pid();
            Ok(self.control.exists()
                && self.json(&["status"]).is_ok_and(|said| said["status"]["pid"] == pid))
        })
        .and_then(|()| self.instance.remember_programs(self.process.pid()))
        .with_context(|| format!("log of weir:\n{}", self.process.log()))
    }
}
