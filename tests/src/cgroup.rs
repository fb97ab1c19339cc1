//! Cgroups (version 2) of a test: made next to the root, filled by the processes themselves,
//! emptied and removed on drop.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::process::wait_until;

/// What every cgroup of this harness is called at the beginning.
pub const PREFIX: &str = "weirt-";

/// A shell line that moves itself into the cgroup `$0` and becomes the command behind it.
pub(crate) const JOIN: &str = r#"echo $$ > "$0/cgroup.procs" && exec "$@""#;

/// A cgroup with a unique name; on drop its processes are killed and it is removed.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
}

// === impl Cgroup ===

impl Cgroup {
    /// Makes a cgroup directly under the root of the hierarchy.
    ///
    /// # Errors
    ///
    /// Fails without root or without a cgroup2 mount.
    pub fn new(role: &str) -> Result<Self> {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{number}-{role}", std::process::id());
        let path = mount_point()?.join(name);
        fs::create_dir(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self { path })
    }

    /// A cgroup somewhere below this one. It goes with this one, or before.
    ///
    /// # Errors
    ///
    /// Fails when it cannot be made.
    pub fn below(&self, path: &str) -> Result<Self> {
        let path = self.path.join(path);
        fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self { path })
    }

    /// Its directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Wraps a command so that it moves into the cgroup before it begins.
    #[must_use]
    pub fn wrap(&self, command: &Command) -> Command {
        within(&self.path, command)
    }

    /// Process ids in it and below it.
    #[must_use]
    pub fn processes(&self) -> Vec<u32> {
        processes_below(&self.path)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.path) {
            eprintln!("cgroup left behind: {error:#}");
        }
    }
}

/// A command that moves into a cgroup before it begins. What it has in its environment is lost.
#[must_use]
pub fn within(cgroup: &Path, command: &Command) -> Command {
    let mut wrapped = Command::new("sh");
    wrapped.args(["-c", JOIN]).arg(cgroup);
    wrapped.arg(command.get_program()).args(command.get_args());
    wrapped
}

/// Where cgroup2 is mounted, read from mountinfo (proc(5)): not every machine has it at the same
/// place.
///
/// # Errors
///
/// Fails when there is no such mount.
pub fn mount_point() -> Result<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").context("cannot read mountinfo")?;
    table
        .lines()
        .find_map(|line| {
            let (mount, kind) = line.split_once(" - ")?;
            let found = kind.starts_with("cgroup2 ");
            found.then(|| mount.split(' ').nth(4).map(PathBuf::from)).flatten()
        })
        .context("no cgroup2 is mounted; mount one: mount -t cgroup2 none /sys/fs/cgroup")
}

/// Kills what lives in a cgroup and below it, and removes the directories.
///
/// # Errors
///
/// Fails when processes do not go away within five seconds.
pub fn remove(path: &Path) -> Result<()> {
    if !path.exists() {
        return Ok(());
    }
    let kill_file = path.join("cgroup.kill");
    let at_once = kill_file.exists();
    if at_once {
        fs::write(kill_file, "1")
            .with_context(|| format!("cannot kill the processes in {}", path.display()))?;
    }
    // A process that has just gone keeps its cgroup busy for a moment.
    let mut result = Ok(());
    let _told_by_result = wait_until("the cgroup to be free", Duration::from_secs(30), || {
        if !at_once {
            // Before Linux 5.14: one by one, and again those that were started meanwhile.
            for pid in processes_below(path) {
                let _gone_already = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
            }
        }
        result = remove_tree(path);
        Ok(result.is_ok())
    });
    result
}

fn remove_tree(path: &Path) -> Result<()> {
    for child in directories(path) {
        remove_tree(&child)?;
    }
    fs::remove_dir(path).with_context(|| format!("cannot remove {}", path.display()))
}

fn processes_below(path: &Path) -> Vec<u32> {
    let own = fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
    let mut all: Vec<u32> = own.lines().filter_map(|line| line.parse().ok()).collect();
    all.extend(directories(path).iter().flat_map(|child| processes_below(child)));
    all
}

fn directories(path: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(path) else { return Vec::new() };
    entries.filter_map(Result::ok).map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
}
