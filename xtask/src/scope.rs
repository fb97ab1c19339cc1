//! A part of the work in a cgroup of its own, so that afterwards nothing of it is left, however it
//! ended: Ctrl-C, a panic, `kill -9`.
//!
//! `xtask` starts itself a second time inside. The outer process lets Ctrl-C pass, waits for the
//! inner one, and then removes what the inner one or its children left.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitPidFlag, waitpid};
use weir_tests::cgroup::{self, Cgroup};
use weir_tests::netns;
use weir_tests::process::wait_until;

/// Says to the inner process that it is the inner one.
const MARK: &str = "WEIR_XTASK_INNER";

/// How long the last processes may take to go.
const GRACE: Duration = Duration::from_secs(10);

/// How the inner process ended, and what it left.
pub(crate) struct Ended {
    /// Its exit status.
    pub(crate) status: ExitStatus,
    /// What was there afterwards and not before; it is removed already where that was possible.
    pub(crate) leftovers: Vec<String>,
}

/// Whether this is the inner process.
pub(crate) fn is_inner() -> bool {
    std::env::var_os(MARK).is_some()
}

/// Makes the inner process end by Ctrl-C again: it has inherited the outer one's patience.
///
/// # Errors
///
/// Fails when the kernel does not take the mask.
pub(crate) fn accept_interrupts() -> Result<()> {
    interrupts().thread_unblock().context("cannot unblock signals")
}

/// Runs this program again with the same arguments in a new cgroup.
///
/// # Errors
///
/// Fails without root, and when the program cannot be started.
pub(crate) fn enclose(role: &str) -> Result<Ended> {
    let before = State::read()?;
    interrupts().thread_block().context("cannot block signals")?;
    let group = Cgroup::new(role)?;
    let files = tempfile::Builder::new().prefix("weir-xtask-").tempdir()?;
    // Servers with users of their own look for their files in there.
    std::fs::set_permissions(files.path(), std::fs::Permissions::from_mode(0o755))?;
    // Orphans come to us and not to process 1, which does not collect them in every container.
    prctl::set_child_subreaper(true).context("cannot become the parent of orphans")?;
    let mut inner = Command::new(std::env::current_exe()?);
    inner.args(std::env::args_os().skip(1));
    let mut inner = group.wrap(&inner);
    inner.env(MARK, "1").env("TMPDIR", files.path());
    let status = inner.status().context("cannot start the inner part")?;
    // Servers die after they were told to, not while.
    let _listed_below =
        wait_until("the end of all processes", GRACE, || Ok(group.processes().is_empty()));
    let processes = group.processes();
    drop(group);
    collect_orphans();
    let mut leftovers: Vec<String> = processes.iter().map(|pid| format!("process {pid}")).collect();
    leftovers.extend(State::read()?.beyond(&before));
    Ok(Ended { status, leftovers })
}

// === impl Ended ===

impl Ended {
    /// Says what was left, and ends this process as the inner one ended if that was no success.
    ///
    /// # Errors
    ///
    /// Fails when something was left.
    pub(crate) fn settle(self) -> Result<()> {
        for leftover in &self.leftovers {
            eprintln!("left behind: {leftover}");
        }
        if !self.status.success() {
            std::process::exit(self.code());
        }
        ensure!(self.leftovers.is_empty(), "it went well, but left something behind: see above");
        println!("nothing left behind: no process, cgroup, network namespace, pin or ip rule");
        Ok(())
    }

    /// Exit code as a shell shows it.
    pub(crate) fn code(&self) -> i32 {
        self.status.code().unwrap_or_else(|| 128 + self.status.signal().unwrap_or_default())
    }
}

/// What weir or a test can leave on a machine.
struct State {
    netns: BTreeSet<String>,
    cgroups: BTreeSet<PathBuf>,
    pins: BTreeSet<PathBuf>,
    rules: BTreeSet<String>,
}

// === impl State ===

impl State {
    fn read() -> Result<Self> {
        let rules = netns::ip(&["rule", "list"])? + &netns::ip(&["-6", "rule", "list"])?;
        Ok(Self {
            netns: netns::existing()?.into_iter().collect(),
            cgroups: named(&cgroup::mount_point()?, |name| name.contains("weir")),
            pins: named("/sys/fs/bpf/weir".as_ref(), |_| true),
            rules: rules.lines().map(str::to_owned).collect(),
        })
    }

    /// What is here and was not, unless its maker lives: that is another run beside this one, which
    /// must be left alone. Namespaces and cgroups are removed on the way.
    fn beyond(self, before: &Self) -> Vec<String> {
        let mut found = Vec::new();
        for name in self.netns.difference(&before.netns).filter(|name| !has_live_maker(name)) {
            found.push(format!("network namespace {name}"));
            let _reported_anyway = netns::ip(&["netns", "delete", name]);
        }
        let cgroups = self.cgroups.difference(&before.cgroups);
        for path in cgroups.filter(|path| !has_live_maker(&path.to_string_lossy())) {
            found.push(format!("cgroup {}", path.display()));
            let _reported_anyway = cgroup::remove(path);
        }
        let pins = self.pins.difference(&before.pins);
        let pins = pins.filter(|path| !has_live_maker(&path.to_string_lossy()));
        found.extend(pins.map(|path| format!("pin {}", path.display())));
        found.extend(self.rules.difference(&before.rules).map(|rule| format!("ip rule {rule}")));
        found
    }
}

// === helpers ===

/// weir and its tests put their process id into the names of what they make: `weirt-PID-0-client`,
/// `weir-exec-PID`.
fn has_live_maker(name: &str) -> bool {
    let maker = name.split('-').find(|part| part.parse::<u32>().is_ok());
    maker.is_some_and(|pid| Path::new("/proc").join(pid).exists())
}

fn collect_orphans() {
    // The cgroup is empty: all that is left to be collected is dead, or about to be.
    let _none_left = wait_until("orphans", GRACE, || {
        Ok(matches!(waitpid(None, Some(WaitPidFlag::WNOHANG)), Err(nix::errno::Errno::ECHILD)))
    });
}

fn interrupts() -> SigSet {
    [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect()
}

fn named(dir: &Path, wanted: impl Fn(&str) -> bool) -> BTreeSet<PathBuf> {
    let Ok(entries) = std::fs::read_dir(dir) else { return BTreeSet::new() };
    entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.file_name().and_then(|name| name.to_str()).is_some_and(&wanted))
        .collect()
}
